"""Rows of two answers and a verdict, as benchmarks and collections of preferences write them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
WINNERS = {"model_a": 1, "model_b": 2, "tie": 0, "tie (bothbad)": 0}
_MOST_STRENGTH = 3  # of HelpSteer's verdicts, from -3 for the first answer to 3 for the second


class JudgedPair(NamedTuple):
    """A prompt with the better and the worse of two answers.

    Attributes:
        prompt: a text, a list of messages, or None where the answers' messages hold it.
        chosen: the better answer, a text or a list of messages.
        rejected: the other one.
        subset: name of the part of a benchmark that the row is of.
        row_id: its id.
    """

    prompt: Any
    chosen: Any
    rejected: Any
    subset: str
    row_id: Any


class JudgedForm(NamedTuple):
    """A form of rows with two answers.

    Attributes:
        name: a key, such as "judgebench".
        title: what people call it.
        told_by: columns that a row of this form has, in small letters. Of two forms that fit, the
            one with more columns is meant.
        shape: what a row should be, for messages.
        read: takes a row, whose columns are in small letters, and its number from 0; returns None
            where the row says that both are equal.
    """

    name: str
    title: str
    told_by: frozenset[str]
    shape: str
    read: Callable[[Row, int], JudgedPair | None]


def judged_form(columns: frozenset[str]) -> JudgedForm | None:
    """Return the form of rows with these columns, None if they are of no such form.

    Args:
        columns: names in small letters.

    Raises:
        UnusableError: if they fit two forms.

    Example:
        >>> judged_form(frozenset({"question", "response_a", "response_b", "label"})).title
        'JudgeBench'
    """
    forms = [form for form in FORMS if form.told_by <= columns]
    if not forms:
        return None
    most = max(len(form.told_by) for form in forms)
    likely = [form for form in forms if len(form.told_by) == most]
    if len(likely) > 1:
        names = " and ".join(form.title for form in likely)
        raise UnusableError(
            f"fits the forms of {names}; leave the columns of one of them, or write prompt, "
            "chosen and rejected"
        )
    return likely[0]


def _judgebench(row: Row, number: int) -> JudgedPair | None:
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


def _llmbar(row: Row, number: int) -> JudgedPair | None:
    """Return a row of LLMBar, Zeng et al., arXiv 2310.07641."""
    answers = (_text(row, "output_1"), _text(row, "output_2"))
    verdict = _vote(row, "label")
    subset = str(row.get("subset") or "all")
    return _decided(_text(row, "input"), answers, verdict, subset, row.get("id", number))


def _alpaca_eval(row: Row, number: int) -> JudgedPair | None:
    """Return a row of AlpacaEval's annotations: 1 for the first, 2 for the second, 1.5 for none."""
    if "label" in row:
        raise UnusableError("has both LLMBar's label and AlpacaEval's preference; leave one")
    answers = (_text(row, "output_1"), _text(row, "output_2"))
    preference = _number(row, "preference", 0, 2)
    verdict = 0 if preference in (0, 1.5) else 1 + (preference > 1.5)
    return _decided(_instruction(row), answers, verdict, "all", number)


def _pandalm(row: Row, number: int) -> JudgedPair | None:
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


def _helpsteer3(row: Row, number: int) -> JudgedPair | None:
    """Return a row of HelpSteer3-Preference, Wang et al., arXiv 2505.11475."""
    if any(name.startswith("annotator") for name in row):
        raise UnusableError("has both PandaLM's annotators and HelpSteer3's preference")
    answers = (_text(row, "response1"), _text(row, "response2"))
    verdict = _signed(row, "overall_preference")
    subset = str(row.get("domain") or "all")
    return _decided(_value(row, "context"), answers, verdict, subset, number)


def _helpsteer2(row: Row, number: int) -> JudgedPair | None:
    """Return a row of HelpSteer2-Preference, Wang et al., arXiv 2410.01257."""
    answers = (_text(row, "response_1"), _text(row, "response_2"))
    verdict = _signed(row, "preference_strength")
    return _decided(_value(row, "prompt"), answers, verdict, "all", number)


def _arena(row: Row, number: int) -> JudgedPair | None:
    """Return a battle of Chatbot Arena, Zheng et al., arXiv 2306.05685."""
    winner = str(_value(row, "winner")).strip()
    if winner not in WINNERS:
        raise UnusableError(f"has the winner {winner[:40]!r}, not model_a, model_b or tie")
    answers = (_value(row, "conversation_a"), _value(row, "conversation_b"))
    row_id = row.get("question_id", number)
    return _decided(None, answers, WINNERS[winner], "all", row_id)


def _shp(row: Row, number: int) -> JudgedPair | None:
    """Return a row of Stanford Human Preferences, whose label 1 means the first answer."""
    answers = (_text(row, "human_ref_a"), _text(row, "human_ref_b"))
    verdict = 2 - _zero_or_one(row, "labels")
    subset = str(row.get("domain") or "all")
    return _decided(_text(row, "history"), answers, verdict, subset, row.get("post_id", number))


def _safe_rlhf(row: Row, number: int) -> JudgedPair | None:
    """Return a row of PKU-SafeRLHF by which answer helps more, Ji et al., arXiv 2406.15513."""
    answers = (_text(row, "response_0"), _text(row, "response_1"))
    verdict = 1 + _zero_or_one(row, "better_response_id")
    return _decided(_text(row, "prompt"), answers, verdict, "all", number)


def _instruction(row: Row) -> str:
    """Return the instruction with its input behind it, where there is one."""
    instruction = _text(row, "instruction")
    given = row.get("input")
    if not isinstance(given, str) or not given.strip():
        return instruction
    return f"{instruction}\n\n{given}"


def _decided(
    prompt: Any, answers: Sequence[Any], verdict: int, subset: str, row_id: Any
) -> JudgedPair | None:
    """Return the better answer as chosen and the other as rejected; None for equal ones."""
    if verdict == 0:
        return None
    chosen, rejected = answers if verdict == 1 else answers[::-1]
    return JudgedPair(prompt, chosen, rejected, subset, row_id)


def _vote(row: Row, name: str) -> int:
    """Return 1 or 2 for the better answer, 0 for equal ones."""
    value = _value(row, name)
    if str(value).strip() not in ("0", "1", "2", "0.0", "1.0", "2.0"):
        raise UnusableError(f'has the {name} {str(value)[:40]!r}, not 1 or 2, or 0 for "equal"')
    return int(float(value))


def _signed(row: Row, name: str) -> int:
    """Return 1 for a number below 0, 2 above it, and 0 for equal answers."""
    strength = _number(row, name, -_MOST_STRENGTH, _MOST_STRENGTH)
    if strength == 0:
        return 0
    return 1 if strength < 0 else 2


def _number(row: Row, name: str, least: float, most: float) -> float:
    """Return a number of a row, which may be a text of a table's cell."""
    value = _value(row, name)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most:
        raise UnusableError(f"has the {name} {str(value)[:40]!r}, not from {least} to {most}")
    return number


def _zero_or_one(row: Row, name: str) -> int:
    """Return 0 or 1, and nothing between them."""
    number = _number(row, name, 0, 1)
    if number not in (0, 1):
        raise UnusableError(f"has the {name} {number:g}, not 0 or 1")
    return int(number)


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
        "JudgeBench",
        frozenset({"response_a", "response_b"}),
        '{"question": "…", "response_A": "…", "response_B": "…", "label": "A>B", "source": "…"}',
        _judgebench,
    ),
    JudgedForm(
        "pandalm",
        "PandaLM",
        frozenset({"response1", "response2"}),
        '{"instruction": "…", "input": "…", "response1": "…", "response2": "…", "annotator1": 1}',
        _pandalm,
    ),
    JudgedForm(
        "llmbar",
        "LLMBar",
        frozenset({"output_1", "output_2"}),
        '{"input": "…", "output_1": "…", "output_2": "…", "label": 1}',
        _llmbar,
    ),
    JudgedForm(
        "alpaca_eval",
        "AlpacaEval",
        frozenset({"instruction", "output_1", "output_2", "preference"}),
        '{"instruction": "…", "output_1": "…", "output_2": "…", "preference": 1.0}',
        _alpaca_eval,
    ),
    JudgedForm(
        "helpsteer3",
        "HelpSteer3",
        frozenset({"context", "response1", "response2", "overall_preference"}),
        '{"context": […], "response1": "…", "response2": "…", "overall_preference": -2}',
        _helpsteer3,
    ),
    JudgedForm(
        "helpsteer2-preference",
        "HelpSteer2-Preference",
        frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
        '{"prompt": "…", "response_1": "…", "response_2": "…", "preference_strength": 1}',
        _helpsteer2,
    ),
    JudgedForm(
        "arena",
        "Chatbot Arena",
        frozenset({"conversation_a", "conversation_b", "winner"}),
        '{"conversation_a": […], "conversation_b": […], "winner": "model_a"}',
        _arena,
    ),
    JudgedForm(
        "shp",
        "SHP",
        frozenset({"history", "human_ref_a", "human_ref_b", "labels"}),
        '{"history": "…", "human_ref_A": "…", "human_ref_B": "…", "labels": 1}',
        _shp,
    ),
    JudgedForm(
        "pku-saferlhf",
        "PKU-SafeRLHF",
        frozenset({"prompt", "response_0", "response_1", "better_response_id"}),
        '{"prompt": "…", "response_0": "…", "response_1": "…", "better_response_id": 0}',
        _safe_rlhf,
    ),
)
