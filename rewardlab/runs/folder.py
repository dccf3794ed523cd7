"""RunFolder: where a run keeps its config, its provenance, its stages and its figures."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from rewardlab.errors import InputError
from rewardlab.provenance import device_facts, fingerprint, versions
from rewardlab.runs import attempts
from rewardlab.runs.checks import FORM, NO_SETTINGS, check_run, read_config
from rewardlab.runs.damage import UNREADABLE, find_damage, read_object, set_aside, write_checksums
from rewardlab.runs.early_records import EARLY
from rewardlab.runs.identity import absolute, leaves, without
from rewardlab.runs.journal import Journal, read_diagnostics
from rewardlab.runs.layout import (
    CONFIG_FILE,
    DIAGNOSTICS_FILE,
    FACTS_FILE,
    LOCK_FILE,
    LOG_FILE,
    RESULTS_FILE,
    SCRATCH_FOLDER,
    SECONDS_FILE,
    STAGES_FOLDER,
    TIMING_FILE,
    name_of_title,
    stage_title,
)
from rewardlab.runs.leftovers import remove_partial_files, remove_partial_stages
from rewardlab.runs.locks import held_lock, locked
from rewardlab.runs.records import merge_record, read_record
from rewardlab.runs.stage import Stage
from rewardlab.storage.atomic import atomic_folder, write_atomically

log = logging.getLogger("rewardlab")
BOOKKEEPING = {CONFIG_FILE, FACTS_FILE, TIMING_FILE, LOG_FILE, DIAGNOSTICS_FILE}


class RunFolder:
    """A run's folder, open for writing by this process alone. Made by `RunFolder.open`.

    It holds `config.yaml` (resolved, absolute paths), `run.json` (versions, device, seeds, config
    hash, fingerprints), `stages/` (finished results), `results.json` (figures), `timing.json`
    (seconds, memory). Nothing in it is overwritten.

    Attributes:
        path: the folder.
        stages: where finished stages stand; several runs may share it.
        journal: writes log.txt and diagnostics.json.

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
        self.journal = Journal(path)
        self._sound: set[str] = set()  # titles of stages whose checksums were right

    @classmethod
    def check(cls, path: str | Path, config: Mapping[str, Any], resume: bool = False) -> bool:
        """Return whether the run stands already; write nothing.

        Raises:
            InputError: if it belongs to another config, needs `resume`, was made by a version whose
                stages have other names, is not a run folder, or its config.yaml is damaged.
        """
        return check_run(Path(path), config, resume)

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        resume: bool = False,
        stages_root: str | Path | None = None,
        plan: Sequence[str] = (),
    ) -> RunFolder:
        """Make a run's folder, or go on in one that the same config made.

        Args:
            path: the folder; made with its parents.
            config: plain data, interpolations resolved.
            resume: whether the run may stand already.
            stages_root: the folder of stages, if several runs share one.
            plan: names of the stages that the run will make, to say what is left.

        Raises:
            InputError: as `check`, or if another process works in the folder.
        """
        path = Path(path)
        stands = cls.check(path, config, resume)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, Path(stages_root) if stages_root else path / STAGES_FOLDER)
        run._keep_others_out()
        remove_partial_files(path)
        remove_partial_stages(run.stages)
        run._begin(config, stands)
        if stands:
            run._say_what_stands(plan)
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The config that the run was made with, as config.yaml holds it."""
        return read_config(self.path)

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

        A stage that is damaged, as its checksums tell, is set aside with a warning and made anew.
        """
        title = stage_title(name, fingerprint(key))
        target = self.stages / title
        with locked(self._lock_of(title), wait=True):  # another run may be making it
            if not self._stands(title):
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

    @contextmanager
    def attempt(self, command: Sequence[str]) -> Iterator[None]:
        """Note in run.json what was typed, when the block begins and ends, and how it ends.

        The status is "running" inside the block, and after it "finished", "interrupted" or
        "failed".

        Args:
            command: the command line.

        Example:
            >>> run = RunFolder.open(getfixture("tmp_path") / "noted", {"seed": 0})
            >>> with run.attempt(["rewardlab", "rounds"]):
            ...     run.record({})["status"]
            'running'
            >>> run.record({})["status"]
            'finished'
        """
        self.record(attempts.beginning(command, self._read(FACTS_FILE)))
        error: BaseException | None = None
        try:
            with self.journal.listening(command[1] if len(command) > 1 else ""):
                for record in EARLY.taken():
                    self.journal.filter(record)
                yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self.path.is_dir():  # unless it was abandoned
                self.record(attempts.ending(error))

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
        self._lock = held_lock(lock)
        if self._lock is None:
            raise InputError(
                f"Another process is working in {self.path}. Wait for it, or give another --out."
            )

    def _begin(self, config: Mapping[str, Any], stands: bool) -> None:
        """Write config and facts of a new run; note where an old one goes on elsewhere."""
        made_by = {"versions": versions(), "device": device_facts()}
        facts = self._read(FACTS_FILE) if stands else {}
        if facts:
            if {key: facts.get(key) for key in made_by} != made_by:
                self.record({"resumed": [*facts.get("resumed", []), made_by]})
            return
        tree = absolute(config)
        facts = {
            **made_by,
            "form": FORM,
            "seeds": _seeds(tree),
            "config": fingerprint(without(tree, NO_SETTINGS)),
            "stages": os.path.relpath(self.stages, self.path),
        }
        self.record(facts)
        if stands:  # and its run.json was damaged
            return
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / CONFIG_FILE, text)

    def _say_what_stands(self, plan: Sequence[str]) -> None:
        """Log which stages stand, which of those that were begun are made anew, and what is left.

        Checkpoints of stages that stand go.
        """
        titles = [title for title in self._read(TIMING_FILE) if name_of_title(title)]
        if not titles and self.stages.parent == self.path:  # timing.json may have been damaged
            titles = sorted(item.name for item in self.stages.glob("*-????????"))
        scratch = self.path / SCRATCH_FOLDER
        titles += sorted(item.name for item in scratch.glob("*-????????"))
        standing: list[str] = []
        anew: list[str] = []
        for title in dict.fromkeys(titles):
            with locked(self._lock_of(title), wait=False) as free:
                if not free:  # another run is making it
                    continue
                stands = self._stands(title)
                names = standing if stands else anew
                names.append(name_of_title(title))
                if stands:  # a kill may have come before its checkpoints went
                    shutil.rmtree(scratch / title, ignore_errors=True)
        if titles or plan:
            phrases = [_stand(standing), _made_anew(anew)]
            if plan:
                phrases.append(_left([name for name in plan if name not in {*standing, *anew}]))
            log.info("Going on in %s: %s.", self.path, "; ".join(phrases))

    def _lock_of(self, title: str) -> Path:
        self.stages.mkdir(parents=True, exist_ok=True)
        return self.stages / f".{title}.lock"

    def _stands(self, title: str) -> bool:
        """Tell whether a stage stands; set it aside, with a warning, if it is damaged."""
        target = self.stages / title
        if not target.exists():
            return False
        if title in self._sound:
            return True
        damage = find_damage(target)
        if damage is None:
            self._sound.add(title)
            return True
        aside = set_aside(target)
        log.warning(
            "The stage %s is damaged (%s): it is made anew, and the damaged one is kept as %s.",
            target,
            damage,
            aside.name,
        )
        return False

    def _fill(self, name: str, title: str, function: Callable[[Path], Any]) -> None:
        """Fill a stage's folder, note its seconds, and let its checkpoints go."""
        start = time.perf_counter()
        self.journal.line(f"{name} begins")
        with self._timed(title), atomic_folder(self.stages / title) as folder:
            with self.journal.listening(name):
                function(folder)
                self.journal.keep_with_stage(folder)
            earlier = self._seconds_so_far(title)
            seconds = {"seconds": earlier + time.perf_counter() - start}
            (folder / SECONDS_FILE).write_text(json.dumps(seconds) + "\n", encoding="ascii")
            write_checksums(folder)
        self._sound.add(title)
        log.info("  %-24s %6.1f s", name, time.perf_counter() - start)
        shutil.rmtree(self.path / SCRATCH_FOLDER / title, ignore_errors=True)

    def _note_reuse(self, title: str) -> None:
        """Write the seconds that a stage took in the run that made it; older versions kept none."""
        self.journal.note(read_diagnostics(self.stages / title))
        try:
            seconds = read_object(self.stages / title / SECONDS_FILE).get("seconds")
        except UNREADABLE:
            seconds = None
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
        return read_record(self.path / name)

    def _merge(self, name: str, more: Mapping[str, Any]) -> dict[str, Any]:
        return merge_record(self.path / name, more)


def _stand(names: Sequence[str]) -> str:
    """Return a phrase for the stages that stand."""
    if not names:
        return "no stage stands"
    verb = "stage stands" if len(names) == 1 else "stages stand"
    return f"{len(names)} {verb} ({', '.join(names)})"


def _made_anew(names: Sequence[str]) -> str:
    """Return a phrase for the stages that were begun, or damaged, and are made anew."""
    if not names:
        return "none of them is made anew"
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} {verb} made anew or from a checkpoint ({', '.join(names)})"


def _left(names: Sequence[str]) -> str:
    """Return a phrase for the stages that were not begun."""
    if not names:
        return "nothing else is left"
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} {verb} left ({', '.join(names)})"


def _seeds(tree: Any) -> dict[str, Any]:
    """Return every seed of a config, by its dotted key."""
    seeds = {}
    for key, value in leaves(tree):
        if key.split(".")[-1] in ("seed", "seed_everything"):
            seeds[key] = value
    return seeds


def _peak_memory() -> float:
    """Return this process's largest resident size so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
