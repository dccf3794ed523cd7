"""`rewardlab evaluate`: what a reward scores right, on files of benchmarks and preferences."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from rewardlab.bulk.journal import JournalFile, Parts, check_job, part_of
from rewardlab.commands.flags import FlagParser, add_device_flags, check_numbers
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.score import open_scorer, origin_of
from rewardlab.data.samples import open_samples, with_prompts
from rewardlab.errors import InputError
from rewardlab.evaluation.benchmark_files import read_benchmark
from rewardlab.evaluation.benchmark_scores import (
    Part,
    ScoredFile,
    benchmark_figures,
    check_reward,
    plain_id,
    score_file,
)
from rewardlab.evaluation.named_biases import FEWEST, bias_audit
from rewardlab.evaluation.picture_biases import picture_audit
from rewardlab.provenance import device_facts, fingerprint, versions
from rewardlab.report.evaluate_page import evaluate_page, headline, left_out, units
from rewardlab.report.figures import MISSING, sig, with_interval
from rewardlab.rewards import Reward
from rewardlab.runs import layout
from rewardlab.storage import write_json
from rewardlab.storage.atomic import atomic_folder
from rewardlab.storage.metadata import read_text
from rewardlab.storage.records import parsed
from rewardlab.types import Samples

Figures = Mapping[str, Any]


def run(command: str, argv: Sequence[str]) -> int:
    """Read all files, score them, print the table, and write the folder whole or not at all.

    What is scored stands in `OUT.part` until the folder does.
    """
    flags = parse(argv)
    set_up_logs()
    files = [read_benchmark(path) for path in flags.files]
    pictures = read_pictures(flags)
    job = job_of(flags)
    if flags.out is not None and Path(flags.out).exists():
        return _show(flags.out, job)
    journal = JournalFile(None if flags.out is None else part_of(Path(flags.out)), job)
    with closing(journal):
        part = Parts(journal, flags.resume)
        reward = open_scorer(flags)
        if files:
            check_reward(reward, flags.reward)
        scored = [score_file(reward, file, flags.batch_size, part) for file in files]
        results = {
            "reward": {
                "location": flags.reward,
                "class": type(reward).__name__,
                "fingerprint": job["reward"]["fingerprint"],
            },
            "seed": flags.seed,
            "fingerprints": job["inputs"],
            "files": [benchmark_figures(of_file, flags.seed) for of_file in scored],
            "biases": _audit(reward, scored, pictures, flags, part),
        }
    print(as_table(results))
    if flags.out is None:
        print("Nothing was written; --out FOLDER keeps the page, the figures and the scores.")
        return 0
    write(flags.out, results, scored, {"command": ["rewardlab", command, *argv], "job": job})
    journal.remove()
    print(f"{flags.out}/{layout.EVALUATE_PAGE}")
    return 0


def job_of(flags: argparse.Namespace) -> dict[str, Any]:
    """Return what the scores depend on: the reward, how it is opened, the files and the audit."""
    prompts = None if flags.prompts is None else fingerprint(Path(flags.prompts))
    return {
        "reward": origin_of(flags),
        "inputs": {path: fingerprint(Path(path)) for path in inputs_of(flags)},
        "audit": {
            "count": flags.audit,
            "seed": flags.seed,
            "size": flags.size,
            "prompts": prompts,
        },
    }


def _show(out: str, job: Mapping[str, Any]) -> int:
    """Print the table of a folder that the same job wrote, to which nothing is left to do.

    Raises:
        InputError: if another job wrote it, or it is no folder of `evaluate`.
    """
    facts = Path(out) / layout.FACTS_FILE
    content = parsed(read_text(facts)) if facts.is_file() else None
    check_job(facts, content.get("job") if isinstance(content, dict) else None, job)
    print(as_table(parsed(read_text(Path(out) / layout.RESULTS_FILE))))
    part_of(Path(out)).unlink(missing_ok=True)
    print(f"{out}/{layout.EVALUATE_PAGE}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them, or if --out exists.
    """
    parser = FlagParser(prog="rewardlab evaluate", allow_abbrev=False)
    add = parser.add_argument
    add("reward", metavar="REWARD", help="a folder or an http(s):// URL")
    add("files", metavar="FILE", nargs="*", help="a local file of a benchmark, or of pairs")
    add("--samples", metavar="FOLDER", help="pictures for the audit of a reward of pictures")
    add("--size", type=int, help="side to which pictures are resized and cropped")
    add("--prompts", help="file with the prompt of each picture, one a line, or .jsonl")
    add("--out", help="a new folder; without it nothing is written")
    add("--audit", type=int, default=200, metavar="N", help="prompts of the bias audit; 0 for none")
    add("--seed", type=int, default=0, help="seed of the bootstraps, and of the audit's prompts")
    add("--batch-size", type=int, default=64, help="answers scored at once")
    add("--most-unscored", type=float, help="share of answers that may fail and be left out")
    add("--resume", action="store_true", help="go on from OUT.part")
    add_device_flags(parser)
    flags = parser.parse_args(argv)
    flags.max_length = None
    check_numbers(flags, audit=0, size=1)
    _check_inputs(flags)
    if flags.audit == 1:
        raise InputError(f"--audit is 0 or at least {FEWEST}, for an interval; got 1.")
    if len({Path(file).resolve() for file in flags.files}) < len(flags.files):
        raise InputError("A FILE is given twice. Give each once.")
    if flags.resume and flags.out is None:
        raise InputError("--resume goes on with a folder, so it needs --out. Name it.")
    if flags.out is not None and Path(flags.out).exists() and not flags.resume:
        raise InputError(f"{flags.out} exists and is never overwritten. Give another --out.")
    return flags


def _check_inputs(flags: argparse.Namespace) -> None:
    """Refuse flags that name no input, or inputs of two kinds."""
    if bool(flags.files) == (flags.samples is not None):
        raise InputError(
            "`evaluate` takes FILEs of benchmarks or preferences for a reward of texts, or "
            "--samples FOLDER for a reward of pictures, one of the two."
        )
    if flags.samples is not None and flags.audit == 0:
        raise InputError("--audit 0 leaves nothing to do with --samples, which is audited alone.")
    for name in ("size", "prompts"):
        if flags.samples is None and getattr(flags, name) is not None:
            raise InputError(f"--{name} is of pictures, and there is no --samples FOLDER.")


def inputs_of(flags: argparse.Namespace) -> list[str]:
    """Return the files and folders that are evaluated on."""
    return [*flags.files, *filter(None, [flags.samples])]


def read_pictures(flags: argparse.Namespace) -> Dataset[Samples] | None:
    """Return the pictures of --samples as one-row Samples, if it is given."""
    if flags.samples is None:
        return None
    rows = open_samples(flags.samples, flags.size)
    if flags.prompts is None:
        return rows
    return with_prompts(rows, flags.prompts, Path(flags.samples))


def _audit(
    reward: Reward,
    scored: Sequence[ScoredFile],
    pictures: Dataset[Samples] | None,
    flags: argparse.Namespace,
    part: Part,
) -> dict[str, Any] | None:
    """Return the audit of named biases on pictures, or on all files; None for --audit 0."""
    settings: dict[str, Any] = {"count": flags.audit, "seed": flags.seed, "part": part}
    settings["batch_size"] = flags.batch_size
    if pictures is not None:
        return picture_audit(reward, pictures, **settings)
    if flags.audit == 0:
        return None
    rows = []
    scores = []
    for of_file in scored:
        rows += of_file.file.rows
        scores += of_file.scores
    return bias_audit(reward, rows, scores, **settings)


def write(out: str, results: Figures, scored: Sequence[ScoredFile], made_by: Figures) -> None:
    """Write evaluate.html, results.json, run.json and rows.jsonl into a new folder."""
    facts = {**made_by, "versions": versions(), "device": device_facts()}
    page = evaluate_page(results, facts)
    with atomic_folder(out) as folder:
        (folder / layout.EVALUATE_PAGE).write_bytes(page.encode("utf-8", "replace"))
        write_json(folder / layout.RESULTS_FILE, results)
        write_json(folder / layout.FACTS_FILE, facts)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in score_rows(scored))
        (folder / layout.EVALUATE_ROWS).write_bytes(lines.encode("utf-8", "replace"))


def score_rows(scored: Sequence[ScoredFile]) -> list[dict[str, Any]]:
    """Return the scores of each row's answers, the right ones first."""
    rows = []
    for part in scored:
        for row, scores in zip(part.file.rows, part.scores, strict=True):
            line = {
                "file": part.file.path,
                "id": plain_id(row.row_id),
                "subset": row.subset,
                "scores": [*scores.chosen.tolist(), *scores.rejected.tolist()],
                "num_correct": len(row.chosen),
            }
            rows.append(line)
        for row_id in part.unscored:
            rows.append({"file": part.file.path, "id": row_id, "scores": None})
    return rows


def as_table(results: Figures) -> str:
    """Return what is printed: a line a file with its parts, and a line an edit."""
    lines = []
    for file in results["files"]:
        lines.append(headline(file))
        lines += _aligned(_parts(file))
        notes = [f"equal scores: {file['equal']}"] if file["equal"] else []
        if file["unscored"]:
            notes.append(f"rows not scored: {len(file['unscored'])}")
        if file["left_out"]:
            notes.append(f"left out: {left_out(file)}")
        if notes:
            lines.append(f"  {'; '.join(notes)}")
    if results["biases"] is not None:
        biases = results["biases"]
        lines.append(f"Named biases, in reference deviations, over {units(biases)}")
        rows = []
        for name, row in biases["edits"].items():
            effect = MISSING if row["mean"] is None else with_interval(row)
            size = [row["size"]] if "size" in row else []
            rows.append([name, *size, effect, row["verdict"]])
        lines += _aligned(rows)
    return "\n".join(lines)


def _parts(file: Figures) -> list[list[str]]:
    """Return what a file's figure is made of, and what else is measured on it."""
    rows = []
    for name, figure in (file["sections"] or {}).items():
        rows.append([name, with_interval(figure), ""])
    for name, figure in file["subsets"].items() if file["sections"] is None else ():
        rows.append([name, with_interval(figure), f"{figure['count']} rows"])
    if file["ties"] is not None and file["headline"]["name"] != "Ties":
        rows.append(["Ties", with_interval(file["ties"]), f"{file['ties']['count']} rows"])
    for level in ("hard", "normal", "easy", "style_gap") if file["styles"] is not None else ():
        rows.append([level.replace("_", " "), with_interval(file["styles"][level]), ""])
    rows.append(["calibration error", sig(file["calibration"]["error"]), ""])
    if file["length"]["prefers_longer"] is not None:
        right = sig(file["length"]["longer_is_right"])
        prefers = with_interval(file["length"]["prefers_longer"])
        rows.append(["prefers the longer", prefers, f"which is right in {right}"])
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other."""
    widths = []
    for column in zip(*rows, strict=True):
        widths.append(max(map(len, column)))
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(f"  {'  '.join(cells).rstrip()}")
    return lines
