"""Rows of two answers and a verdict, as JudgeBench, PandaLM and LLMBar write them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.evaluation.rewardbench_rows import BenchRow
from rewardlab.storage.exchanges import UnusableError

Row = Mapping[str, Any]
# What JudgeBench's sources are called in its paper's table, by how they begin.
CATEGORIES = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
VERDICTS = {"A>B": 1, "B>A": 2, "A=B": 0, "A>>B": 1, "B>>A": 2}


class JudgedForm(NamedTuple):
    """A form of rows with two answers.

    Attributes:
        name: a key of `benchmark_files.TITLES`.
        told_by: columns that no other form has, in small letters.
        shape: what a row should be, for messages.
        read: takes a row, whose columns are in small letters, and its number from 0; returns None
            where the row says that both are equal.
    """

    name: str
    told_by: frozenset[str]
    shape: str
    read: Callable[[Row, int], BenchRow | None]


def _judgebench(row: Row, number: int) -> BenchRow | None:
    """Return a row of JudgeBench, Tan et al., arXiv 2410.12784."""
    label = str(_value(row, "label")).strip()
    if label not in VERDICTS:
        raise UnusableError(f'has the label {label[:40]!r}, not "A>B" or "B>A"')
    source = str(row.get("source") or "all")
    category = source
    for beginning, name in CATEGORIES.items():
        if source.startswith(beginning):
            category = name
    answers = (_text(row, "response_a"), _text(row, "response_b"))
    row_id = row.get("pair_id", number)
    return _decided(_text(row, "question"), answers, VERDICTS[label], category, row_id)


def _llmbar(row: Row, number: int) -> BenchRow | None:
    """Return a row of LLMBar, Zeng et al., arXiv 2310.07641."""
    answers = (_text(row, "output_1"), _text(row, "output_2"))
    verdict = _vote(row, "label")
    subset = str(row.get("subset") or "all")
    return _decided(_text(row, "input"), answers, verdict, subset, row.get("id", number))


def _pandalm(row: Row, number: int) -> BenchRow | None:
    """Return a row of PandaLM's test set, Wang et al., arXiv 2306.05087.

    The verdict is that of most annotators; where none has a majority the pair counts as equal. An
    empty input is written as NaN there.
    """
    names = [name for name in row if name.startswith("annotator")]
    if not names:
        raise UnusableError('has no "annotator1"')
    votes = Counter(_vote(row, name) for name in names)
    verdict, count = votes.most_common(1)[0]
    if 2 * count <= len(names):
        verdict = 0
    answers = (_text(row, "response1"), _text(row, "response2"))
    subset = str(row.get("motivation_app") or "all")
    return _decided(_instruction(row), answers, verdict, subset, row.get("idx", number))


def _instruction(row: Row) -> str:
    """Return the instruction with its input behind it, where there is one."""
    instruction = _text(row, "instruction")
    given = row.get("input")
    if not isinstance(given, str) or not given.strip():
        return instruction
    return f"{instruction}\n\n{given}"


def _decided(
    prompt: str, answers: Sequence[str], verdict: int, subset: str, row_id: Any
) -> BenchRow | None:
    """Return the better answer as right and the other as wrong; None for equal ones."""
    if verdict == 0:
        return None
    right, wrong = answers if verdict == 1 else answers[::-1]
    return BenchRow(prompt, [right], [wrong], False, subset, row_id)


def _vote(row: Row, name: str) -> int:
    """Return 1 or 2 for the better answer, 0 for equal ones."""
    value = _value(row, name)
    if str(value).strip() not in ("0", "1", "2", "0.0", "1.0", "2.0"):
        raise UnusableError(f'has the {name} {str(value)[:40]!r}, not 1 or 2, or 0 for "equal"')
    return int(float(value))


def _text(row: Row, name: str) -> str:
    value = _value(row, name)
    if not isinstance(value, str):
        raise UnusableError(f'has a "{name}" that is no text')
    return value


def _value(row: Row, name: str) -> Any:
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnusableError(f'has no "{name}"')
    return value


FORMS = (
    JudgedForm(
        "judgebench",
        frozenset({"response_a", "response_b"}),
        '{"question": "…", "response_A": "…", "response_B": "…", "label": "A>B", "source": "…"}',
        _judgebench,
    ),
    JudgedForm(
        "pandalm",
        frozenset({"response1", "response2"}),
        '{"instruction": "…", "input": "…", "response1": "…", "response2": "…", "annotator1": 1}',
        _pandalm,
    ),
    JudgedForm(
        "llmbar",
        frozenset({"output_1", "output_2"}),
        '{"input": "…", "output_1": "…", "output_2": "…", "label": 1}',
        _llmbar,
    ),
)
