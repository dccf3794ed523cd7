"""RunFolder: where a run keeps its config, its provenance, its stages and its figures."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from rewardlab.errors import InputError
from rewardlab.provenance import device_facts, fingerprint, versions
from rewardlab.runs.identity import absolute, first_difference, leaves
from rewardlab.runs.layout import (
    CONFIG_FILE,
    FACTS_FILE,
    LOCK_FILE,
    RESULTS_FILE,
    SCRATCH_FOLDER,
    SECONDS_FILE,
    STAGES_FOLDER,
    TIMING_FILE,
    stage_title,
)
from rewardlab.runs.locks import lock_file, locked
from rewardlab.runs.stage import Stage
from rewardlab.storage.atomic import atomic_folder, write_atomically

log = logging.getLogger("rewardlab")
BOOKKEEPING = {CONFIG_FILE, FACTS_FILE, TIMING_FILE}
FORM = 2  # of the stages' keys in rounds; 1 hashed the order of calls


class RunFolder:
    """A run's folder, open for writing by this process alone. Made by `RunFolder.open`.

    It holds `config.yaml` (resolved, absolute paths), `run.json` (versions, device, seeds, config
    hash, fingerprints), `stages/` (finished results), `results.json` (figures), `timing.json`
    (seconds, memory). Nothing in it is overwritten.

    Attributes:
        path: the folder.
        stages: where finished stages stand; several runs may share it.

    Example:
        >>> run = RunFolder.open(getfixture("tmp_path") / "run", {"seed": 0})
        >>> def write(folder):
        ...     return (folder / "a.txt").write_text("hello")
        >>> made = run.stage("greet", {"name": "you"}, write)
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
            InputError: if it belongs to another config, needs `resume`, was made by a version whose
                stages have other names, or is not a run folder.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"The run folder {path} is a file. Give another --out.")
        if not (path / CONFIG_FILE).exists():
            _check_empty(path)
            return False
        stored = yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8"))
        different = first_difference(stored, config)
        if different:
            raise InputError(
                f"{path} belongs to another config: {different}. Give another --out, or that "
                "config."
            )
        if not resume:
            raise InputError(
                f"{path} holds a run of this config already. Add --resume to go on, or give "
                "another --out."
            )
        _check_form(path, stored)
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
        run = cls(path, Path(stages_root) if stages_root else path / STAGES_FOLDER)
        run._keep_others_out()
        run._begin(config, stands)
        run._remove_partial_stages()
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The config that the run was made with, as config.yaml holds it."""
        text = (self.path / CONFIG_FILE).read_text(encoding="utf-8")
        content: dict[str, Any] = yaml.safe_load(text)
        return content

    def make(self, stage: Stage, function: Callable[[Path], Any]) -> Path:
        """Return the folder of a stage; run `function` to fill it unless it stands."""
        return self.stage(stage.name, stage.record, function)

    def stage(self, name: str, key: Mapping[str, Any], function: Callable[[Path], Any]) -> Path:
        """Return the folder of a finished stage; run `function` to make it unless it stands.

        Args:
            name: what people read.
            key: everything that the result depends on, as `fingerprint` takes it; the folder is
                `<name>-<8 digits of it>`.
            function: fills the temporary folder that it is given; if it raises, nothing stands.
        """
        title = stage_title(name, fingerprint(key))
        target = self.stages / title
        self.stages.mkdir(parents=True, exist_ok=True)
        with locked(self.stages / f".{title}.lock", wait=True):  # another run may be making it
            if not target.exists():
                self._fill(name, title, function)
            elif title not in self._read(TIMING_FILE):
                self._note_reuse(title)
        return target

    def scratch(self, name: str, key: Mapping[str, Any]) -> Path:
        """Return a folder for a long stage's own checkpoints.

        It outlives a kill and goes when the stage is finished.
        """
        folder = self.path / SCRATCH_FOLDER / stage_title(name, fingerprint(key))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def abandon(self) -> None:
        """Remove the folder if nothing was made in it yet, so that a refused input leaves nothing.

        Example:
            >>> run = RunFolder.open(getfixture("tmp_path") / "refused", {"seed": 0})
            >>> run.abandon()
            >>> run.path.exists()
            False
        """
        files = {item.name for item in self.path.rglob("*") if item.is_file()}
        made = {name for name in files if not name.endswith(".lock")}
        if not made - BOOKKEEPING:
            shutil.rmtree(self.path)

    def timing(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Merge figures into timing.json and return all of it."""
        return self._merge(TIMING_FILE, more or {})

    def results(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Merge figures into results.json, nested mappings by key, and return all of them."""
        return self._merge(RESULTS_FILE, figures)

    def record(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Merge facts, such as the fingerprints of inputs, into run.json and return all of them."""
        return self._merge(FACTS_FILE, facts)

    def _keep_others_out(self) -> None:
        """Lock the folder for as long as this object lives."""
        lock = self.path / LOCK_FILE
        handle = lock_file(lock, wait=False)
        if handle is not None:
            weakref.finalize(self, os.close, handle)
        elif lock.read_text() != str(os.getpid()):
            raise InputError(
                f"Another process is working in {self.path}. Wait for it, or give another --out."
            )

    def _begin(self, config: Mapping[str, Any], stands: bool) -> None:
        """Write config and facts of a new run; note where an old one goes on elsewhere."""
        made_by = {"versions": versions(), "device": device_facts()}
        if stands:
            facts = self._read(FACTS_FILE)
            if {key: facts.get(key) for key in made_by} != made_by:
                self.record({"resumed": [*facts.get("resumed", []), made_by]})
            return
        tree = absolute(config)
        facts = {
            **made_by,
            "form": FORM,
            "seeds": _seeds(tree),
            "config": fingerprint(tree),
            "stages": os.path.relpath(self.stages, self.path),
        }
        self.record(facts)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / CONFIG_FILE, text)

    def _remove_partial_stages(self) -> None:
        """Remove what killed runs left half made, unless another run is making it."""
        for partial in self.stages.glob(".*.partial"):
            lock = self.stages / f"{partial.name.rsplit('.', 2)[0]}.lock"
            with locked(lock, wait=False) as free:
                if free:
                    shutil.rmtree(partial, ignore_errors=True)

    def _fill(self, name: str, title: str, function: Callable[[Path], Any]) -> None:
        """Fill a stage's folder, note its seconds, and let its checkpoints go."""
        start = time.perf_counter()
        with self._timed(title), atomic_folder(self.stages / title) as folder:
            function(folder)
            earlier = self._seconds_so_far(title)
            seconds = {"seconds": earlier + time.perf_counter() - start}
            (folder / SECONDS_FILE).write_text(json.dumps(seconds) + "\n", encoding="ascii")
        log.info("  %-24s %6.1f s", name, time.perf_counter() - start)
        shutil.rmtree(self.path / SCRATCH_FOLDER / title, ignore_errors=True)

    def _note_reuse(self, title: str) -> None:
        """Write the seconds that a stage took in the run that made it; older versions kept none."""
        file = self.stages / title / SECONDS_FILE
        seconds = None
        if file.exists():
            seconds = json.loads(file.read_text(encoding="ascii"))["seconds"]
        self._merge(TIMING_FILE, {title: {"reused": True, "seconds_then": seconds}})

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        """Add the block's seconds and peak memory to timing.json, also when it fails."""
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self._seconds_so_far(title) + time.perf_counter() - start
            entry = {"seconds": seconds, "peak_memory_mib": _peak_memory()}
            if gpu:
                entry["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
            self._merge(TIMING_FILE, {title: entry})

    def _seconds_so_far(self, title: str) -> float:
        """Return what earlier tries at a stage took, which a kill or a failure ended."""
        seconds: float = self._read(TIMING_FILE).get(title, {}).get("seconds", 0.0)
        return seconds

    def _read(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.exists():
            return {}
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content

    def _merge(self, name: str, more: Mapping[str, Any]) -> dict[str, Any]:
        content = _merged(self._read(name), more)
        text = json.dumps(
            content, indent=1, sort_keys=True, default=_plain_data, ensure_ascii=False
        )
        write_atomically(self.path / name, text + "\n")
        merged: dict[str, Any] = json.loads(text)
        return merged


def _check_empty(path: Path) -> None:
    """Refuse a folder that holds other things than a run that was about to begin."""
    names = {item.name for item in path.glob("*")}
    foreign = sorted(names - {LOCK_FILE, FACTS_FILE})
    if foreign:
        raise InputError(
            f"{path} is not a run folder: it holds {foreign[0]} but no {CONFIG_FILE}. Give another "
            "--out."
        )


def _check_form(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse rounds whose stages an earlier version named, since none would be found again."""
    if "rounds" not in config:
        return
    facts = path / FACTS_FILE
    form = json.loads(facts.read_text(encoding="utf-8")).get("form", 1) if facts.exists() else 1
    if form != FORM:
        raise InputError(
            f"{path} was made by a version of rewardlab that named stages in another way (form "
            f"{form}, here {FORM}), so none of its stages would be found. Read it with `rewardlab "
            "report`, finish it with that version, or give another --out."
        )


def _seeds(tree: Any) -> dict[str, Any]:
    """Return every seed of a config, by its dotted key."""
    seeds = {}
    for key, value in leaves(tree):
        if key.split(".")[-1] in ("seed", "seed_everything"):
            seeds[key] = value
    return seeds


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    merged = dict(old)
    for key, value in new.items():
        merged[str(key)] = _merged(old.get(str(key)), value)
    return merged


def _plain_data(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else dict(value)


def _peak_memory() -> float:
    """Return this process's largest resident size so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
