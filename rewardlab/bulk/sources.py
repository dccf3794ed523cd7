"""Where rows to be scored come from: tables, shards, folders of pictures, lines of text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from rewardlab.bulk.entries import Entry, Reading
from rewardlab.bulk.rows import entry_of_row, entry_of_shard
from rewardlab.conversations import Prompt, to_json
from rewardlab.data import read_prompts
from rewardlab.data.samples import open_samples
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint, fingerprint_of_files
from rewardlab.storage import as_samples
from rewardlab.storage.media_folder import MediaFolder
from rewardlab.storage.metadata import read_text
from rewardlab.storage.patterns import matching_files
from rewardlab.storage.picture_files import is_picture_name
from rewardlab.storage.prompts import holds_rows, text_lines
from rewardlab.storage.row_streams import RowStream, changed, file_state
from rewardlab.storage.shards import is_shard, shard_members, shard_samples
from rewardlab.storage.tables import is_dataset
from rewardlab.storage.video_files import is_medium_name
from rewardlab.types import Samples


class Source(ABC):
    """Rows that can be read again and again, in one order.

    Attributes:
        paths: the files and folders that hold them.
        schema: of pyarrow, of the rows' own columns; None where the source has none.
    """

    paths: Sequence[Path]
    schema: Any = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Entry]: ...

    @property
    def names(self) -> list[str] | None:
        """The names of all of the rows' own columns; None where they are not known before."""
        return None

    def fingerprint(self) -> str:
        """Return what names the files' contents."""
        return fingerprint(list(self.paths))


class TableSource(Source):
    """Rows of tables: JSON lines, CSV, parquet, folders of `datasets`.

    Args:
        paths: tables of one kind; each row says which it is of, where there are several.
        reading: which columns are prompt and output.
    """

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        self.paths = paths
        self.reading = reading
        self.streams = [RowStream(path) for path in paths]
        self.schema = self.streams[0].schema

    def __len__(self) -> int:
        return sum(map(len, self.streams))

    def __iter__(self) -> Iterator[Entry]:
        for stream in self.streams:
            origin = {"source": str(stream.path)} if len(self.streams) > 1 else {}
            for record in stream:
                yield entry_of_row(stream.path, record, self.reading, origin)

    @property
    def names(self) -> list[str] | None:
        names: dict[str, None] = {}
        for stream in self.streams:
            if stream.names is None:
                return None
            names.update(dict.fromkeys(stream.names))
        return list(names)

    def fingerprint(self) -> str:
        digests = [stream.digest for stream in self.streams if stream.digest is not None]
        if len(digests) < len(self.streams):
            return super().fingerprint()
        return fingerprint_of_files(digests)


class ShardSource(Source):
    """Samples of WebDataset's shards.

    Args:
        paths: tar files.
        reading: which members are prompt and output.
    """

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        self.paths = paths
        self.reading = reading
        self._states = list(map(file_state, paths))
        self.count = 0
        self.has_pictures = False
        for path in paths:
            members = shard_members(path, reading.members)
            self.count += len(members)
            for name in set().union(*members.values()):
                self.has_pictures = self.has_pictures or is_picture_name(f"a.{name}")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        for path, state in zip(self.paths, self._states, strict=True):
            if file_state(path) != state:
                raise changed(path)
            for sample in shard_samples(path, self.reading.members):
                yield entry_of_shard(sample, self.reading, self.has_pictures)


class SampleSource(Source):
    """A folder of pictures or videos, one picture or video, or samples in memory.

    Args:
        path: what it is.
        rows: one-row samples.
        skip_unreadable: see `Reading`.
    """

    def __init__(self, path: Path, rows: Dataset[Samples], skip_unreadable: bool) -> None:
        self.paths = [path]
        self.rows = rows
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        return len(self.rows)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Entry]:
        for number in range(len(self)):
            if isinstance(self.rows, MediaFolder):
                yield self._medium(self.rows, number)
            else:
                yield self._sample(number)

    def _medium(self, folder: MediaFolder, number: int) -> Entry:
        """Return a file of a folder, which is decoded when it is scored."""
        path = folder.paths[number]
        prompt = folder.prompts[number]
        load = partial(_pixels, folder, number)
        origin = {"file": str(path.relative_to(folder.folder))}
        return Entry(str(path), prompt, load, origin, {"prompt": to_json(prompt)})

    def _sample(self, number: int) -> Entry:
        sample = self.rows[number]
        prompt = sample.prompts[0]
        place = f"{self.paths[0]}, sample {number + 1}"
        columns: dict[str, Any] = {"prompt": to_json(prompt)}
        origin = {}
        output: str | Callable[[], Tensor]
        if isinstance(sample.outputs, Tensor):
            output = partial(_first, sample.outputs)
            origin = {"file": self.paths[0].name} if self.paths[0].is_file() else {}
        else:
            output = sample.outputs[0]
            columns["output"] = output
        facts = {name: column for name, column in sample.facts.items() if name != "row"}
        return Entry(place, prompt, output, origin, columns, facts)


def _pixels(rows: Dataset[Samples], number: int) -> Tensor:
    pixels = rows[number].outputs
    assert isinstance(pixels, Tensor)
    return pixels[0]


def _first(pixels: Tensor) -> Tensor:
    return pixels[0]


class Prompted(Source):
    """Rows under the prompts of a file, one each.

    Args:
        source: the rows.
        file: of the prompts.

    Raises:
        InputError: if the numbers differ.
    """

    def __init__(self, source: Source, file: str | Path) -> None:
        self.source = source
        self.paths = [*source.paths, Path(file)]
        self.schema = source.schema
        self.prompts: list[Prompt] = read_prompts(file, strict=True)
        if len(self.prompts) != len(source):
            raise InputError(
                f"{file} holds {len(self.prompts)} prompts and {source.paths[0]} {len(source)} "
                "samples; one a sample is wanted, in their order."
            )

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Entry]:
        for entry, prompt in zip(self.source, self.prompts, strict=True):
            columns = {**entry.columns, "prompt": to_json(prompt)}
            yield replace(entry, prompt=prompt, columns=columns)


def open_source(
    samples: str | Path | Samples | Source | Sequence[str | Path],
    reading: Reading | None = None,
) -> Source:
    """Return the rows of files, folders, patterns or Samples in memory.

    Args:
        samples: tables (JSON lines, CSV, parquet, a folder of `datasets`), a text file with an
            output a line, shards (tar), a folder of pictures or videos, one that `save_samples`
            wrote, a picture or a video; or several tables, or shards, also as patterns (see
            `matching_files`). A Source is returned as it is.
        reading: how they are read.

    Raises:
        InputError: if something is not there, empty, or of another kind.

    Example:
        >>> path = getfixture("tmp_path") / "answers.jsonl"
        >>> _ = path.write_text('{"prompt": "2+2?", "response": "4", "id": 7}')
        >>> [(entry.prompt, entry.output) for entry in open_source(path)]
        [('2+2?', '4')]
    """
    reading = reading or Reading()
    if isinstance(samples, Source):
        return samples
    if isinstance(samples, Samples):
        return Memory(samples)
    names = [samples] if isinstance(samples, str | Path) else list(samples)
    paths = matching_files(names)
    source = _source(paths, reading)
    if reading.prompts is not None:
        source = Prompted(source, reading.prompts)
    return source


class Memory(SampleSource):
    """Samples in memory."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(Path("memory"), open_samples(samples), False)
        self.samples = samples

    def fingerprint(self) -> str:
        columns = [to_json(prompt) for prompt in self.samples.prompts]
        outputs = self.samples.outputs
        return fingerprint([columns, outputs, dict(self.samples.facts)])


def _source(paths: Sequence[Path], reading: Reading) -> Source:
    """Return the source of files of one kind."""
    shards = [path for path in paths if is_shard(path)]
    if len(shards) == len(paths):
        return ShardSource(paths, reading)
    if len(paths) > 1:
        return TableSource(_tables(paths), reading)
    path = paths[0]
    if path.is_dir() and not is_dataset(path):
        inside = sorted(file for file in path.iterdir() if is_shard(file))
        if inside and len(inside) == len(list(path.iterdir())):
            return ShardSource(inside, reading)
        rows = open_samples(path, reading.size, clip=reading.clip, checked=False)
        return SampleSource(path, rows, reading.skip_unreadable)
    if is_medium_name(path):
        rows = open_samples(as_samples("", [path], reading.size, reading.clip))
        return SampleSource(path, rows, reading.skip_unreadable)
    if holds_rows(path):
        return TableSource([path], reading)
    return SampleSource(path, open_samples(_lines(path)), reading.skip_unreadable)


def _tables(paths: Sequence[Path]) -> Sequence[Path]:
    """Refuse several paths that are not all tables."""
    for path in paths:
        if is_shard(path) or is_medium_name(path) or (path.is_dir() and not is_dataset(path)):
            other = next(beside for beside in paths if beside != path)
            raise InputError(
                f"Several SAMPLES are all tables, or all shards; {path} and {other} are not of one "
                "kind, or a folder of pictures, which is given alone. Score them apart."
            )
    return paths


def _lines(path: Path) -> Samples:
    """Return the samples of a text file with an output a line, without prompts."""
    outputs = text_lines(read_text(path))
    if not any(line.strip() for line in outputs):
        raise InputError(f"{path} holds no outputs. Write one a line, or give a .jsonl file.")
    return Samples([""] * len(outputs), outputs)
