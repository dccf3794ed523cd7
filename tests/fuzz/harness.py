"""Feed every reader odd and broken input, and say what it did with it.

Each case copies a sound example, damages one or two of its files, and reads it. A reader may
return a value, or refuse in one sentence by an InputError. Anything else is a fault: another
exception, more than the seconds or the memory that a case may take, a changed input, or another
value where only the form of the file changed.

    python tests/fuzz/harness.py --cases 20000 --seed 0
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from mutators import Mutator, mutators_for
from readers import READERS, Reader

from rewardlab.errors import InputError

SECONDS = 10.0  # of computing that a case may take
PATIENCE = 60.0  # seconds that it may wait besides, on a busy machine
MEMORY = 3 * 2**30  # bytes that the process may grow by
LONGEST = 4_000  # letters of a sentence


class TooSlowError(BaseException):
    """A case took more than SECONDS, or than PATIENCE of waiting."""


class Fault(NamedTuple):
    """A case that neither gave a value nor was refused in a sentence.

    Attributes:
        reader: name of the reader.
        case: its number, which with the seed gives the case again.
        damage: what was done to which file.
        kind: the exception, or what else is wrong.
        place: where it came from.
    """

    reader: str
    case: int
    damage: str
    kind: str
    place: str


class Example(NamedTuple):
    """A reader with its sound example.

    Attributes:
        reader: the reader.
        sound: folder of the example.
        copy: folder whose files are damaged, read and mended in turn.
        files: the files that are damaged, below the folder.
        value: what is read from the sound example.
    """

    reader: Reader
    sound: Path
    copy: Path
    files: list[Path]
    value: Any

    def mend(self, files: list[Path]) -> None:
        """Make files of the copy, or the whole copy, equal to the sound example again."""
        for file in files:
            shutil.copyfile(self.sound / file, self.copy / file)

    def copy_anew(self) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.sound, self.copy)


class Damage(NamedTuple):
    """What was done to which files, and whether the value that is read must stay."""

    words: str
    files: list[Path]
    keeps: bool


def make_example(reader: Reader, root: Path) -> Example:
    """Write a reader's sound example, and read it."""
    folder = root / "".join(letter if letter.isalnum() else "-" for letter in reader.name)
    sound = folder / "sound"
    sound.mkdir(parents=True)
    reader.write(sound)
    paths = [path for path in sorted(sound.rglob(reader.files)) if path.is_file()]
    files = [path.relative_to(sound) for path in paths]
    example = Example(reader, sound, folder / "copy", files, None)
    example.copy_anew()
    value = reader.read(example.copy)
    if reader.writes:
        example.copy_anew()
    return example._replace(value=value)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of each file of a folder."""
    files = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            facts = os.lstat(path)
            files[path] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return files


def damage(example: Example, rng: random.Random) -> Damage:
    """Damage one file of the copy, or two."""
    done = []
    paths = []
    keeps = True
    for _ in range(rng.choice([1, 1, 1, 2])):
        file = rng.choice(example.files)
        path = example.copy / file
        paths.append(file)
        if rng.random() < 0.02:
            path.unlink(missing_ok=True)
            done.append(f"missing {file.name}")
            keeps = False
            continue
        mutator = rng.choice(mutators_for(file.name))
        keeps = apply(mutator, path, rng) and keeps
        done.append(f"{mutator.name} {file.name}")
    return Damage(" + ".join(done), paths, keeps)


def apply(mutator: Mutator, path: Path, rng: random.Random) -> bool:
    """Change a file; return whether its reader must give the same value."""
    content = path.read_bytes() if path.is_file() else b""
    try:
        changed = mutator.apply(content, rng)
    except (ValueError, IndexError, KeyError, TypeError, RecursionError, AttributeError):
        changed = content[: len(content) // 2]  # a file that was damaged before has no such form
        path.write_bytes(changed)
        return False
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("yaml", "safetensors", "struct"):
            raise
        path.write_bytes(content[: len(content) // 2])
        return False
    path.write_bytes(changed)
    return mutator.keeps


def place_of(error: BaseException) -> str:
    """Return the innermost line of rewardlab that an exception passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/rewardlab/" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{frame.filename.split('/rewardlab/')[-1]}:{frame.lineno} {frame.name}"


def wrong_sentence(message: str) -> str | None:
    """Return what is wrong with an InputError's message, or None."""
    if "Traceback" in message or len(message) > LONGEST:
        return "is a traceback, or far too long"
    if len(message) < 20 or len(message.strip().splitlines()) > 3:
        return "is no sentence"
    return None


def stop(*_: Any) -> None:
    raise TooSlowError


def try_case(example: Example, number: int, seed: int) -> tuple[str, Fault | None]:
    """Run one case; return its outcome and the fault, if it is one."""
    reader = example.reader
    done = damage(example, random.Random(f"{seed} {reader.name} {number}"))
    before = snapshot(example.copy)
    outcome, kind, place = outcome_of(example, done.keeps)
    if snapshot(example.copy) != before:
        if not reader.writes:
            outcome, kind, place = "fault", "the input was changed", ""
        example.copy_anew()
    example.mend(done.files)
    fault = Fault(reader.name, number, done.words, kind, place) if outcome == "fault" else None
    return outcome, fault


def outcome_of(example: Example, keeps: bool) -> tuple[str, str, str]:
    """Read a damaged copy; return "value", "refused" or "fault", its kind and its place."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        value = example.reader.read(example.copy)
    except InputError as error:
        problem = wrong_sentence(str(error))
        if keeps:
            problem = f"refuses a legal form: {str(error)[:80]}"
        return (
            ("fault", f"InputError {problem}", place_of(error)) if problem else ("refused", "", "")
        )
    except TooSlowError as error:
        return "fault", f"took more than {SECONDS:g} s", place_of(error)
    except Exception as error:
        return "fault", f"{type(error).__name__}: {str(error)[:80]}", place_of(error)
    except SystemExit as error:
        return "fault", "SystemExit", place_of(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if keeps and repr(value) != repr(example.value):
        return "fault", "another value for the same content in another form", ""
    return "value", "", ""


def shares(cases: int, readers: list[Reader]) -> dict[str, int]:
    """Return how many cases each reader gets, at least one."""
    total = sum(reader.weight for reader in readers)
    return {reader.name: max(1, round(cases * reader.weight / total)) for reader in readers}


def limit_memory() -> None:
    """Let the process grow by MEMORY and no further."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(cases: int, seed: int, readers: list[Reader], only: int | None = None) -> dict[str, Any]:
    """Try all readers, print a line for each; return counts, faults and seconds."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGPROF, stop)
    faults: list[Fault] = []
    counts: dict[str, Counter[str]] = {}
    seconds: dict[str, float] = {}
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        examples = [make_example(reader, root) for reader in readers]
        limit_memory()
        for example in examples:
            name = example.reader.name
            start = time.perf_counter()
            counts[name] = Counter()
            numbers = range(shares(cases, readers)[name]) if only is None else [only]
            for number in numbers:
                outcome, fault = try_case(example, number, seed)
                counts[name][outcome] += 1
                if fault is not None:
                    faults.append(fault)
            seconds[name] = time.perf_counter() - start
            rate = counts[name].total() / seconds[name]
            print(f"{name:28} {rate:8.1f} cases/s  {dict(counts[name])}", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return {"counts": counts, "faults": faults, "seconds": seconds}


def say(outcome: dict[str, Any], most: int) -> None:
    """Print the faults by kind and place with an example each, and the counts."""
    kinds: dict[tuple[str, str, str], list[Fault]] = {}
    for fault in outcome["faults"]:
        kinds.setdefault((fault.reader, fault.kind[:30], fault.place), []).append(fault)
    for same in sorted(kinds.values(), key=len, reverse=True)[:most]:
        print(f"{len(same):5} × {same[0]}")
    total = sum(counts.total() for counts in outcome["counts"].values())
    summary = {"cases": total, "faults": len(outcome["faults"]), "kinds": len(kinds)}
    summary["refused"] = sum(counts["refused"] for counts in outcome["counts"].values())
    summary["seconds"] = round(sum(outcome["seconds"].values()), 1)
    print(json.dumps(summary))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", help="only readers whose name holds this")
    parser.add_argument("--only", type=int, help="only the case of this number")
    parser.add_argument("--most", type=int, default=60, help="kinds of faults that are printed")
    flags = parser.parse_args()
    readers = [reader for reader in READERS if (flags.reader or "") in reader.name]
    outcome = run(flags.cases, flags.seed, readers, flags.only)
    say(outcome, flags.most)
    return 1 if outcome["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
