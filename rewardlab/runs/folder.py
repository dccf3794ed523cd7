"""RunFolder: where a run keeps its config, its provenance, its stages and its figures; nothing in
it is overwritten.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from rewardlab.errors import InputError
from rewardlab.provenance import device_facts, fingerprint, versions
from rewardlab.storage.atomic import atomic_folder, write_atomically

log = logging.getLogger("rewardlab")
BOOKKEEPING = {"config.yaml", "run.json", "timing.json"}
SECONDS = "seconds.json"  # in a stage's folder: what it took, for runs that use it again


class RunFolder:
    """A run's folder, open for writing by this process alone. Made by `RunFolder.open`.

    It holds `config.yaml` (resolved, absolute paths), `run.json` (versions, device, seeds, config
    hash, fingerprints), `stages/` (finished results), `results.json` (figures), `timing.json`
    (seconds, memory).

    Attributes:
        path: the folder.
        stages: where finished stages stand; several runs may share it.

    Example:
        >>> run = RunFolder.open(getfixture("tmp_path") / "run", {"seed": 0})
        >>> made = run.stage("greet", {"name": "you"}, lambda folder: (folder / "a.txt").write_text("hello"))
        >>> (made / "a.txt").read_text(), run.results({"auc": 0.9})
        ('hello', {'auc': 0.9})
    """

    def __init__(self, path: Path, stages: Path) -> None:
        self.path = path
        self.stages = stages

    @classmethod
    def check(cls, path: str | Path, config: Mapping[str, Any], resume: bool = False) -> bool:
        """Return whether the run stands already; write nothing.

        Raises:
            InputError: if it belongs to another config, needs `resume`, or is not a run folder.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"The run folder {path} is a file. Give another --out.")
        if not (path / "config.yaml").exists():
            foreign = sorted(
                item.name for item in path.glob("*") if item.name not in (".lock", "run.json")
            )
            if foreign:
                raise InputError(
                    f"{path} is not a run folder: it holds {foreign[0]} but no config.yaml. Give another --out."
                )
            return False
        stored = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        different = first_difference(stored, config)
        if different:
            raise InputError(
                f"{path} belongs to another config: {different}. Give another --out, or that config."
            )
        if not resume:
            raise InputError(
                f"{path} holds a run of this config already. Add --resume to go on, or give another --out."
            )
        return True

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        resume: bool = False,
        stages_root: str | Path | None = None,
    ) -> RunFolder:
        """Make a run's folder, or go on in one that the same config made.

        Args:
            path: the folder; made with its parents.
            config: plain data, interpolations resolved.
            resume: whether the run may stand already.
            stages_root: the folder of stages, if several runs share one.

        Raises:
            InputError: as `check`, or if another process works in the folder.
        """
        path = Path(path)
        stands = cls.check(path, config, resume)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, Path(stages_root) if stages_root else path / "stages")
        run._hold()
        run._begin(config, stands)
        for partial in run.stages.glob(".*.partial"):  # left by runs that were killed
            with _holding(
                run.stages / f"{partial.name.rsplit('.', 2)[0]}.lock", wait=False
            ) as free:
                if free:
                    shutil.rmtree(partial, ignore_errors=True)
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The config that the run was made with, as config.yaml holds it."""
        content: dict[str, Any] = yaml.safe_load(
            (self.path / "config.yaml").read_text(encoding="utf-8")
        )
        return content

    def _hold(self) -> None:
        """Keep other processes out for as long as this object lives."""
        lock = self.path / ".lock"
        handle = _lock(lock, wait=False)
        if handle is not None:
            weakref.finalize(self, os.close, handle)
        elif lock.read_text() != str(os.getpid()):
            raise InputError(
                f"Another process is working in {self.path}. Wait for it, or give another --out."
            )

    def _begin(self, config: Mapping[str, Any], stands: bool) -> None:
        made_by = {"versions": versions(), "device": device_facts()}
        if stands:
            earlier = self._read("run.json")
            if {key: earlier.get(key) for key in made_by} != made_by:
                self.record({"resumed": [*earlier.get("resumed", []), made_by]})
            return
        tree = absolute(config)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        seeds = {
            key: value
            for key, value in _leaves(tree)
            if key.split(".")[-1] in ("seed", "seed_everything")
        }
        self.record(
            {
                **made_by,
                "seeds": seeds,
                "config": fingerprint(tree),
                "stages": os.path.relpath(self.stages, self.path),
            }
        )
        write_atomically(self.path / "config.yaml", text)

    def stage(self, name: str, key: Mapping[str, Any], function: Callable[[Path], Any]) -> Path:
        """Return the folder of a finished stage; run `function` to make it unless it stands.

        Args:
            name: what people read.
            key: everything that the result depends on, as `fingerprint` takes it; the folder is
                `<name>-<8 digits of it>`.
            function: fills the temporary folder that it is given; if it raises, nothing stands.
        """
        title = f"{name}-{fingerprint(key)[:8]}"
        target = self.stages / title
        self.stages.mkdir(parents=True, exist_ok=True)
        with _holding(self.stages / f".{title}.lock", wait=True):  # another run may be making it
            if not target.exists():
                start = time.perf_counter()
                with self._timed(title), atomic_folder(target) as folder:
                    function(folder)
                    earlier = self._read("timing.json").get(title, {}).get("seconds", 0.0)
                    seconds = {"seconds": earlier + time.perf_counter() - start}
                    (folder / SECONDS).write_text(json.dumps(seconds) + "\n", encoding="ascii")
                log.info("  %-24s %6.1f s", name, time.perf_counter() - start)
                shutil.rmtree(self.path / ".scratch" / title, ignore_errors=True)
            elif title not in self._read("timing.json"):
                known = target / SECONDS  # which stages of older versions lack
                then = (
                    json.loads(known.read_text(encoding="ascii"))["seconds"]
                    if known.exists()
                    else None
                )
                self._merge("timing.json", {title: {"reused": True, "seconds_then": then}})
        return target

    def abandon(self) -> None:
        """Remove the folder if nothing was made in it yet: an input that was refused leaves nothing
        behind.

        Example:
            >>> run = RunFolder.open(getfixture("tmp_path") / "refused", {"seed": 0})
            >>> run.abandon()
            >>> run.path.exists()
            False
        """
        files = [
            item
            for item in self.path.rglob("*")
            if item.is_file() and not item.name.endswith(".lock")
        ]
        if not {item.name for item in files} - BOOKKEEPING:
            shutil.rmtree(self.path)

    def scratch(self, name: str, key: Mapping[str, Any]) -> Path:
        """Return a folder for a long stage's own checkpoints, which outlives a kill and goes when
        the stage is finished.
        """
        folder = self.path / ".scratch" / f"{name}-{fingerprint(key)[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def timing(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Merge figures into timing.json and return all of it."""
        return self._merge("timing.json", more or {})

    def results(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Merge figures into results.json, nested mappings by key, and return all of them."""
        return self._merge("results.json", figures)

    def record(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Merge facts, such as the fingerprints of inputs, into run.json and return all of them."""
        return self._merge("run.json", facts)

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        """Add the block's seconds to timing.json, also when it fails, and note the process's peak
        memory.
        """
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            yield
        finally:
            earlier = self._read("timing.json").get(title, {}).get("seconds", 0.0)
            entry = {
                "seconds": earlier + time.perf_counter() - start,
                "peak_memory_mib": _peak_memory(),
            }
            if gpu:
                entry["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
            self._merge("timing.json", {title: entry})

    def _read(self, name: str) -> dict[str, Any]:
        file = self.path / name
        content: dict[str, Any] = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        )
        return content

    def _merge(self, name: str, more: Mapping[str, Any]) -> dict[str, Any]:
        merged = _merged(self._read(name), more)
        text = json.dumps(
            merged, indent=1, sort_keys=True, default=_plain_number, ensure_ascii=False
        )
        write_atomically(self.path / name, text + "\n")
        content: dict[str, Any] = json.loads(text)
        return content


def first_difference(stored: Any, given: Any) -> str | None:
    """Return a phrase for the first key in which two configs differ, or None. A path equals its
    absolute form.

    Example:
        >>> first_difference({"a": {"lr": 0.1}}, {"a": {"lr": 0.2}})
        'a.lr is 0.1 there and 0.2 here'
    """
    old = dict(_leaves(stored))
    new = dict(_leaves(given))
    for key in [*new, *(key for key in old if key not in new)]:
        before = old.get(key, "absent")
        after = new.get(key, "absent")
        if type(before) is not type(after) or (before != after and before != _absolute_text(after)):
            return f"{key} is {before} there and {after} here"
    return None


def absolute(tree: Any) -> Any:
    """Return plain data in which strings that name an existing file or folder are absolute paths.

    A bare name without a separator is left alone: it may as well be a model's name.

    Example:
        >>> absolute({"hub": "runwayml/sd", "prompts": ["a cat", 3]})
        {'hub': 'runwayml/sd', 'prompts': ['a cat', 3]}
    """
    if isinstance(tree, Mapping):
        return {str(key): absolute(value) for key, value in tree.items()}
    if isinstance(tree, Path):
        return str(tree.absolute())
    if isinstance(tree, str):
        return _absolute_text(tree) if _names_a_path(tree) else tree
    return [absolute(item) for item in tree] if isinstance(tree, Sequence) else tree


def _names_a_path(text: str) -> bool:
    name = text.removeprefix("local-dir:")
    try:
        return os.sep in name and len(name) < 4096 and Path(name).exists()
    except (OSError, ValueError):
        return False


def _absolute_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    scheme = "local-dir:" if value.startswith("local-dir:") else ""
    return scheme + os.path.abspath(value.removeprefix(scheme))


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted key. Empty collections count as values."""
    items: Any = None
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        items = enumerate(tree)
    if not items:
        yield (
            prefix,
            str(tree)
            if isinstance(tree, Path)
            else (list(tree) if isinstance(tree, tuple) else tree),
        )
        return
    for key, value in items:
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{str(key): _merged(old.get(str(key)), value) for key, value in new.items()}}


def _plain_number(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else dict(value)


def _peak_memory() -> float:
    """Return this process's largest resident size so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _lock(path: Path, wait: bool) -> int | None:
    """Return a handle that holds the lock until it is closed or the process ends; None if another
    process has it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    os.truncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


@contextmanager
def _holding(path: Path, wait: bool) -> Iterator[bool]:
    handle = _lock(path, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@torch.no_grad()
def export(part: Any, target: Path) -> bool:
    """Write a trained policy or reward into `target`, where other commands look for it; tell
    whether it can be saved.
    """
    if not callable(getattr(part, "save_pretrained", None)):
        return False
    try:
        with atomic_folder(target) as folder:
            part.save_pretrained(folder)
    except InputError as error:  # a part that is code alone; the run stands all the same
        log.warning("The %s is not exported: %s", target.name, error)
        return False
    return True
