"""Which layout the rows of a file of preferences have, and the pairs that they make."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

from rewardlab.storage.cells import messages_in
from rewardlab.storage.exchanges import UnusableError
from rewardlab.storage.judgments import FORMS, judged_form
from rewardlab.storage.pair_columns import pair_columns, with_answers, with_messages
from rewardlab.storage.records import Record

Row = dict[str, Any]

# What each layout is called, and how its columns are read.
LAYOUTS = {
    "texts": "prompt, chosen and rejected are texts",
    "messages": "chosen and rejected are messages, the last the answer, prompt what is before it",
    "dialogues": "chosen and rejected are dialogues in one text (hh-rlhf); they share the prompt",
    "listed answers": "each of the chosen answers against each of the rejected (RewardBench 2)",
    "rated completions": "each two completions of a prompt, the higher rating is chosen "
    "(UltraFeedback)",
    "ranked completions": "each two completions of a context, the lower rank is chosen (NeMo RL)",
    "rated responses": "each two responses to a prompt, the higher helpfulness is chosen "
    "(HelpSteer)",
    "text lines": "no pairs: single texts",
    **{form.name: f"two answers and a verdict ({form.title})" for form in FORMS},
}
_LISTS = "with a list of answers in a text; keep such tables as JSON lines or parquet"
ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")  # of UltraFeedback


class Laid(NamedTuple):
    """The pairs of a file before they are parsed.

    Attributes:
        records: rows with prompt, chosen and rejected, each with the place of the row it is from;
            or with a problem.
        layouts: number of rows of each layout, by its name in `LAYOUTS`.
        unusable: places of rows that make no pair, by the reason.
        equal: number of pairs of answers that the file calls equal, which make no pair.
    """

    records: list[Record]
    layouts: Counter[str]
    unusable: dict[str, list[str]]
    equal: int


class _Rated(NamedTuple):
    """An answer with what it is worth; higher is better."""

    place: str
    answer: Any
    worth: float


def laid_out(records: Sequence[Record]) -> Laid:
    """Return the rows of a file as pairs of prompt, chosen and rejected.

    Each row is told by its columns, whose names may have capitals. Where a row has chosen and
    rejected, these count, whatever else it has.

    Example:
        >>> answers = {"response_1": "a", "response_2": "b", "preference_strength": 2}
        >>> laid = laid_out([Record("line 1", {"prompt": "hi", **answers})])
        >>> laid.records[0].row, laid.layouts
        ({'prompt': 'hi', 'chosen': 'b', 'rejected': 'a'}, Counter({'helpsteer2-preference': 1}))
    """
    laid = Laid([], Counter(), defaultdict(list), 0)
    equal = 0
    rated_rows: list[Record] = []
    small = with_messages([record._replace(row=_small(record.row)) for record in records])
    if _are_lists_in_texts(small):
        small = [record._replace(problem=record.problem or _LISTS) for record in small]
    for record in small:
        if record.problem is not None:
            laid.records.append(record)
            continue
        try:
            layout = layout_of(record.row)
            laid.layouts[layout] += 1
            if layout == "rated responses":
                rated_rows.append(record)
                continue
            pairs, ties = _pairs(layout, record)
        except UnusableError as reason:
            laid.unusable[str(reason)].append(record.place)
            continue
        equal += ties
        laid.records.extend(pairs)
    pairs, ties = _of_rated_rows(rated_rows, laid.unusable)
    laid.records.extend(pairs)
    return laid._replace(equal=equal + ties)


def _are_lists_in_texts(records: Sequence[Record]) -> bool:
    """Tell whether all answers of a file are lists of texts that a table keeps as texts."""
    answers = []
    for record in records:
        answers += [record.row.get("chosen"), record.row.get("rejected")]
    return bool(answers) and all(map(_is_list_in_text, answers))


def _is_list_in_text(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("['", '["')) and value.endswith("]")


def layout_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row's layout, a key of `LAYOUTS`.

    Args:
        row: with the names of its columns in small letters.

    Raises:
        UnusableError: if the row fits two layouts that are read differently.

    Example:
        >>> layout_of({"prompt": "hi", "chosen": ["a"], "rejected": ["b", "c"]})
        'listed answers'
    """
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return _layout_of_pair(row)
    form = judged_form(frozenset(name for name, value in row.items() if value is not None))
    if form is not None:
        return form.name
    completions = row.get("completions")
    if isinstance(completions, list) and _are_mappings(completions):
        return _layout_of_completions(completions)
    if {"prompt", "response", "helpfulness"} <= row.keys():
        return "rated responses"
    if isinstance(row.get("text"), str) and "prompt" not in row:
        return "text lines"
    return "texts"


def _layout_of_pair(row: Mapping[str, Any]) -> str:
    """Return the layout of a row with chosen and rejected."""
    answers = [row.get("chosen"), row.get("rejected")]
    if any(map(is_listed, answers)):
        return "listed answers"
    if any(isinstance(answer, list | Mapping) for answer in answers):
        return "messages"
    has_prompt = any(row.get(name) is not None for name in pair_columns(row).prompt)
    return "texts" if has_prompt else "dialogues"


def _layout_of_completions(completions: Sequence[Mapping[str, Any]]) -> str:
    ranked = all("rank" in item for item in completions)
    rated = any("response" in item for item in completions)
    if ranked and rated:
        raise UnusableError(
            "whose completions have both ranks (NeMo RL) and responses (UltraFeedback); leave one"
        )
    return "ranked completions" if ranked else "rated completions"


def _small(row: Row) -> Row:
    """Return a row whose columns have small names, and messages in place of columns of them."""
    return {name: messages_in(value) for name, value in with_answers(row).items()}


def is_listed(value: Any) -> bool:
    """Tell whether a value lists answers, texts or lists of messages, instead of being one."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str | list)


def _are_mappings(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(item, Mapping) for item in values)


def _pairs(layout: str, record: Record) -> tuple[list[Record], int]:
    """Return the pairs of a row, and how many pairs of answers it calls equal."""
    row = record.row
    if layout in ("texts", "messages", "dialogues"):
        return [record._replace(row=pair_columns(row).renamed(row))], 0
    if layout == "listed answers":
        return list(_of_listed(record)), 0
    if layout == "text lines":
        raise UnusableError(
            'that is one "text"; whether two lines are a pair cannot be told. Write prompt, chosen '
            "and rejected"
        )
    if layout.endswith("completions"):
        prompt = _prompt_of_completions(layout, row)
        return _ranked(prompt, _rated_completions(layout, record))
    return _judged(layout, record)


def _of_listed(record: Record) -> Iterator[Record]:
    """Give each right answer of a row against each wrong one."""
    row = record.row
    right: Any = row.get("chosen")
    wrong: Any = row.get("rejected")
    if not (is_listed(right) and is_listed(wrong)):
        raise UnusableError("with a list of answers beside a single one, or none")
    for chosen, rejected in product(right, wrong):
        pair = {**row, "chosen": messages_in(chosen), "rejected": messages_in(rejected)}
        yield record._replace(row=pair_columns(pair).renamed(pair))


def _judged(name: str, record: Record) -> tuple[list[Record], int]:
    """Return the pair of two answers and a verdict."""
    form = next(form for form in FORMS if form.name == name)
    try:
        judged = form.read(record.row, 0)
    except UnusableError as reason:
        raise UnusableError(f"whose row {reason}") from None
    if judged is None:
        return [], 1
    pair = {"chosen": messages_in(judged.chosen), "rejected": messages_in(judged.rejected)}
    if judged.prompt is not None:
        pair = {"prompt": messages_in(judged.prompt), **pair}
    return [record._replace(row=pair)], 0


def _prompt_of_completions(layout: str, row: Row) -> Any:
    names = ("context", "prompt") if layout == "ranked completions" else ("instruction", "prompt")
    for name in names:
        if row.get(name) is not None:
            return messages_in(row[name])
    raise UnusableError(f'with completions and without "{names[0]}"')


def _rated_completions(layout: str, record: Record) -> list[_Rated]:
    """Return the completions of a row with what they are worth."""
    if len(record.row["completions"]) < 2:
        raise UnusableError("with a single completion, where two are compared")
    rated = []
    for item in record.row["completions"]:
        if layout == "ranked completions":
            answer = messages_in(item.get("completion"))
            worth = -_number(item.get("rank"))
        else:
            answer = messages_in(item.get("response"))
            worth = rating_of(item)
        if answer is None or math.isnan(worth):
            raise UnusableError("with a completion that has no text, or no rank or rating")
        rated.append(_Rated(record.place, answer, worth))
    return rated


def rating_of(completion: Mapping[str, Any]) -> float:
    """Return the rating of a completion of UltraFeedback's, NaN if it has none.

    That is the mean of its aspects' ratings, as "fine-grained_score" or made from "annotations";
    "overall_score", in which 10 often means 1, only where there is neither.

    Example:
        >>> rating_of({"annotations": {"honesty": {"Rating": "4"}, "helpfulness": {"Rating": "5"}}})
        4.5
    """
    fine = _number(completion.get("fine-grained_score"))
    if not math.isnan(fine):
        return fine
    annotations = completion.get("annotations")
    ratings = []
    if isinstance(annotations, Mapping):
        for aspect in ASPECTS:
            annotation = annotations.get(aspect)
            if isinstance(annotation, Mapping):
                ratings.append(_number(annotation.get("Rating", annotation.get("rating"))))
    ratings = [rating for rating in ratings if not math.isnan(rating)]
    if ratings:
        return sum(ratings) / len(ratings)
    return _number(completion.get("overall_score"))


def _number(value: Any) -> float:
    """Return a number, NaN where there is none, such as "N/A"."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _ranked(prompt: Any, rated: Sequence[_Rated]) -> tuple[list[Record], int]:
    """Return each two answers to a prompt, the better one first, and how many are equal."""
    pairs = []
    equal = 0
    for first, second in combinations(rated, 2):
        if first.worth == second.worth:
            equal += 1
            continue
        better, worse = (first, second) if first.worth > second.worth else (second, first)
        row = {"prompt": prompt, "chosen": better.answer, "rejected": worse.answer}
        pairs.append(Record(better.place, row))
    return pairs, equal


def _of_rated_rows(
    records: Sequence[Record], unusable: dict[str, list[str]]
) -> tuple[list[Record], int]:
    """Return the pairs of rows that each hold one response to a prompt."""
    groups: dict[str, list[_Rated]] = defaultdict(list)
    prompts = {}
    for record in records:
        worth = _number(record.row["helpfulness"])
        if math.isnan(worth):
            unusable['whose "helpfulness" is not a number'].append(record.place)
            continue
        prompt = messages_in(record.row["prompt"])
        key = json.dumps(prompt, sort_keys=True, default=str)
        prompts[key] = prompt
        groups[key].append(_Rated(record.place, messages_in(record.row["response"]), worth))
    pairs = []
    equal = 0
    for key, rated in groups.items():
        if len(rated) == 1:
            unusable["that is the only response to its prompt"].append(rated[0].place)
        group_pairs, ties = _ranked(prompts[key], rated)
        pairs += group_pairs
        equal += ties
    return pairs, equal
