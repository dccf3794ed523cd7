"""Files of benchmarks and of preferences, told by their columns: right and wrong answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.evaluation.rewardbench import SECTIONS
from rewardlab.evaluation.rewardbench_rows import BenchRow, rows_of_records
from rewardlab.evaluation.rm_bench import STYLES
from rewardlab.storage.exchanges import UnusableError
from rewardlab.storage.judgments import JudgedForm, judged_form
from rewardlab.storage.pair_layouts import is_listed, laid_out
from rewardlab.storage.preferences import read_pair_file
from rewardlab.storage.records import Record, read_records, usable_rows
from rewardlab.storage.tables import is_dataset
from rewardlab.types import PreferencePairs

_log = logging.getLogger("rewardlab")
TITLES = {
    "rewardbench": "RewardBench",
    "rewardbench2": "RewardBench 2",
    "rm-bench": "RM-Bench",
    "judgebench": "JudgeBench",
    "pandalm": "PandaLM's form",
    "llmbar": "LLMBar's form",
    "preferences": "preference pairs",
}
_MOST_UNUSABLE = 0.1  # share of rows, above which the file is refused
_KNOWN = frozenset().union(*SECTIONS.values())


class BenchmarkFile(NamedTuple):
    """What a file asks of a reward.

    Attributes:
        path: the file or folder.
        form: a key of `TITLES`.
        rows: the questions, each with its right and its wrong answers.
        left_out: number of rows that ask nothing, by their reason.
    """

    path: str
    form: str
    rows: list[BenchRow]
    left_out: dict[str, int]


def read_benchmark(path: str | Path) -> BenchmarkFile:
    r"""Read a local file of a benchmark, or of preference pairs, whichever its columns say.

    | form | columns |
    |---|---|
    | RewardBench | prompt, chosen, rejected, subset (one of the benchmark's), id |
    | RewardBench 2 | prompt, chosen and rejected (lists), subset, id |
    | RM-Bench | prompt, chosen and rejected (three styles each), domain, id |
    | JudgeBench | question, response_A, response_B, label ("A>B" or "B>A"), source |
    | PandaLM | instruction, input, response1, response2, annotator1, … (0, 1 or 2) |
    | LLMBar | input, output_1, output_2, label (1 or 2) |
    | preferences | whatever `read_preferences` reads |

    Files are JSON lines, a JSON array, CSV, parquet, Arrow, or folders of `datasets`; see
    `read_records`. Pairs that people call equal ask nothing, and are counted as left out; so are
    rows of two answers that cannot be used, up to a tenth of all.

    Raises:
        InputError: if the file is missing, empty, of no known form, lacks a column, or holds
            pictures.

    Example:
        >>> path = getfixture("tmp_path") / "llmbar.json"
        >>> row = '{"input": "2+2?", "output_1": "5", "output_2": "4", "label": 2}'
        >>> _ = path.write_text(f"[{row}]")
        >>> file = read_benchmark(path)
        >>> file.form, file.rows[0].chosen, file.rows[0].rejected
        ('llmbar', ['4'], ['5'])
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Give a local file; nothing is downloaded.")
    file = _read(path)
    for row in file.rows:
        if _has_half_a_letter(row):
            raise InputError(
                f"{path}: the row with the id {row.row_id!r} has half a surrogate pair in a text, "
                "which is no character. Mend or remove it."
            )
    return file


def _has_half_a_letter(row: BenchRow) -> bool:
    """Tell whether a text of a row cannot be written in UTF-8."""
    text = "".join([str(row.prompt), *row.chosen, *row.rejected])
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read(path: Path) -> BenchmarkFile:
    """Return the file in the form that its columns say."""
    if path.is_dir() and not is_dataset(path):
        return _preferences(path)
    records = read_records(path, ("chosen", "rejected"))
    columns = _columns(path, records)
    if not columns & {"chosen", "rejected"}:
        return _compared(path, columns, records)
    if any(_lists_answers(record.row) for record in records):
        return _listed(path, records)
    if "subset" in columns:
        return _with_subsets(path, records)
    return _preferences(path)


def _compared(path: Path, columns: frozenset[str], records: Sequence[Record]) -> BenchmarkFile:
    """Return a file whose columns are not called chosen and rejected."""
    try:
        form = judged_form(columns)
        if form is not None and form.name in TITLES:
            return _judged(path, form)
        pairs = laid_out(records).records
    except UnusableError as reason:
        raise InputError(f"{path} {reason}.") from None
    if any("chosen" in pair.row for pair in pairs):
        return _preferences(path)
    raise _unknown(path, columns)


def _columns(path: Path, records: Sequence[Record]) -> frozenset[str]:
    """Return the names of the first row's columns in small letters."""
    for record in records:
        if record.problem is None and record.row:
            return frozenset(name.lower() for name in record.row)
    content = f"{len(records)} lines that are no rows" if records else "no rows"
    raise InputError(
        f"{path} holds {content}. Give a file of a benchmark or of preference pairs, such as lines "
        'of {"prompt": "…", "chosen": "…", "rejected": "…"}.'
    )


def _unknown(path: Path, columns: frozenset[str]) -> InputError:
    known = ", ".join(TITLES.values())
    return InputError(
        f"{path} is of no form that `evaluate` knows ({known}); its first row has the columns "
        f"{', '.join(sorted(columns))}. Rename them to prompt, chosen and rejected."
    )


def _lists_answers(row: Mapping[str, Any]) -> bool:
    """Tell whether a row lists several answers, right or wrong, as texts or as messages."""
    return is_listed(row.get("chosen")) or is_listed(row.get("rejected"))


def _listed(path: Path, records: Sequence[Record]) -> BenchmarkFile:
    """Return a file whose rows list answers: RM-Bench by its three styles, or RewardBench 2."""
    is_matrix = all(_is_matrix(record.row) for record in records if record.problem is None)
    if not is_matrix:
        return BenchmarkFile(str(path), "rewardbench2", rows_of_records(path, records), {})
    domains = []
    for record in records:
        row = {**record.row, "subset": record.row.get("domain") or "all"}
        domains.append(record._replace(row=row))
    return BenchmarkFile(str(path), "rm-bench", rows_of_records(path, domains), {})


def _is_matrix(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is one of RM-Bench, which has neither subsets nor numbers of answers."""
    if {"subset", "num_correct"} & row.keys():
        return False
    answers = [row.get("chosen"), row.get("rejected")]
    return all(isinstance(listed, list) and len(listed) == len(STYLES) for listed in answers)


def _with_subsets(path: Path, records: Sequence[Record]) -> BenchmarkFile:
    rows = rows_of_records(path, records)
    is_benchmark = any(row.subset in _KNOWN for row in rows)
    return BenchmarkFile(str(path), "rewardbench" if is_benchmark else "preferences", rows, {})


def _preferences(path: Path) -> BenchmarkFile:
    """Return pairs of any layout of preference data."""
    file = read_pair_file(path)
    pairs = file.pairs
    if isinstance(pairs.chosen.outputs, Tensor) or isinstance(pairs.rejected.outputs, Tensor):
        raise InputError(
            f"{path} holds pairs of pictures or videos, and `evaluate` reads texts. "
            "`rewardlab score` scores pictures."
        )
    rows = _rows_of_pairs(pairs)
    equal = file.equal + len(pairs) - len(rows)
    unusable = len(set().union(*file.skipped.values()))
    left_out = {"called equal": equal, "unusable": unusable}
    left_out = {reason: number for reason, number in left_out.items() if number}
    if not rows:
        raise InputError(f'{path} holds no pair that is decided: every "label" is 0.5.')
    return BenchmarkFile(str(path), "preferences", rows, left_out)


def _rows_of_pairs(pairs: PreferencePairs) -> list[BenchRow]:
    """Return pairs as rows; those with a label below one half are turned, ties left out."""
    labels = [1.0] * len(pairs)
    if "label" in pairs.chosen.facts:
        labels = pairs.chosen.facts["label"].tolist()
    rows = []
    for number, label in enumerate(labels):
        answers = [str(pairs.chosen.outputs[number]), str(pairs.rejected.outputs[number])]
        right, wrong = answers if label > 0.5 else answers[::-1]
        if label != 0.5:
            prompt = pairs.chosen.prompts[number]
            rows.append(BenchRow(prompt, [right], [wrong], False, "all", number))
    return rows


def _judged(path: Path, form: JudgedForm) -> BenchmarkFile:
    """Return a file whose rows have two answers and say which is better."""
    rows = []
    equal = 0
    faults: list[str] = []
    for number, record in enumerate(usable_rows(path, form.shape)):
        row = {name.lower(): value for name, value in record.row.items()}
        try:
            judged = form.read(row, number)
        except UnusableError as reason:
            faults.append(f"{record.place} {reason}")
            continue
        if judged is None:
            equal += 1
            continue
        prompt, chosen, rejected, subset, row_id = judged
        rows.append(BenchRow(prompt, [chosen], [rejected], False, subset, row_id))
    _check_faults(path, form, faults, len(rows) + equal)
    if not rows:
        raise InputError(f"{path} holds no pair that is decided: people call all of them equal.")
    left_out = {"called equal": equal, "unusable": len(faults)}
    left_out = {reason: number for reason, number in left_out.items() if number}
    return BenchmarkFile(str(path), form.name, rows, left_out)


def _check_faults(path: Path, form: JudgedForm, faults: Sequence[str], usable: int) -> None:
    """Warn of rows that cannot be used, as benchmarks have a few.

    Raises:
        InputError: if they are more than a tenth, since then the file is not what it seems.
    """
    if not faults:
        return
    if len(faults) > _MOST_UNUSABLE * (usable + len(faults)):
        raise InputError(
            f"{path}, {faults[0]}. A row of {form.title} should be {form.shape}; "
            f"{len(faults)} of {usable + len(faults)} rows are not."
        )
    _log.warning(
        "%s: %d of %d rows cannot be used and are left out; the first: %s",
        path,
        len(faults),
        usable + len(faults),
        faults[0],
    )
