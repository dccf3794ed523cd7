"""Rewards from functions of texts: plain ones, and reward functions of TRL."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rewardlab.conversations import Conversation, Prompt, from_json, messages_of, to_json
from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Partial, Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.calls import answers_to, judged_values
from rewardlab.rewards.folders import check_trusted, read_settings, write_reward
from rewardlab.rewards.function_paths import import_path, imported, name_of
from rewardlab.rewards.unscored import Judged, partial_scores
from rewardlab.storage.records import read_records
from rewardlab.types import Samples, texts_of

UNSCORED = 0.05  # share of samples that may go unscored, where nothing else is said
OF_TRAINERS = ("trainer_state", "log_extra", "log_metric")  # what TRL passes beside columns


class TextFunction(Reward, Partial, Saved):
    """A reward from a function of one prompt and one response.

    A function that another program can import is saved by its import path. Loading it runs its
    module's code, so it needs `load_reward(path, trust=True)`.

    Args:
        function: takes a prompt, a text or a `Conversation`, and a response, and returns a number,
            or None where it cannot score. It may be async; then a batch's calls run at once.
        most_unscored: share of samples that it may leave unscored before a sentence ends the run.

    Raises:
        InputError: on use, if it returns anything else.

    Example:
        >>> def shares(prompt, response):
        ...     return len(set(prompt.split()) & set(response.split()))
        >>> TextFunction(shares)(Samples(["a big cat"], ["the big cat"])).tolist()
        [2.0]
    """

    takes_trust = True

    def __init__(self, function: Callable[..., Any], most_unscored: float = UNSCORED) -> None:
        super().__init__()
        _check(function, most_unscored)
        self.function = function
        self.most_unscored = most_unscored

    def judge(self, samples: Samples) -> Judged:
        """Return the function's numbers, and which samples it did not score."""
        name = name_of(self.function)
        texts = texts_of(samples, name)
        calls = []
        for prompt, response in zip(samples.prompts, texts, strict=True):
            calls.append(self.function(prompt, response))
        return judged_values(answers_to(calls), samples, name)

    def forward(self, samples: Samples) -> Tensor:
        """Return the function's numbers, float32 [B]."""
        return partial_scores(self, samples)

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no texts."""
        texts_of(samples, name_of(self.function))

    def check_savable(self) -> None:
        """Refuse a function that another program cannot import."""
        import_path(self.function)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the function's import path, not its code, and the share."""
        settings = {"function": import_path(self.function), "most_unscored": self.most_unscored}
        write_reward(folder, self, settings)

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> TextFunction:
        """Import the function that `save_pretrained` named, in eval mode.

        Raises:
            InputError: without trust, or if the function cannot be imported.
        """
        settings = read_settings(folder, "function", "most_unscored")
        settings["function"] = _trusted(folder, settings["function"], trust)
        return cls(**settings).eval()


class TRLFunction(Reward, Partial, Saved):
    """A reward from a reward function of TRL: `f(prompts, completions, **columns)`.

    The function gets a batch at once, and None for `trainer_state`; what it logs goes nowhere. The
    samples' facts are columns too. It is saved as `TextFunction` is, with its columns.

    Args:
        function: returns a number a completion, or None where it cannot score. It may be async.
        columns: further columns that the function reads, such as right answers: rows with "prompt"
            and these, as a list of mappings or a file of any form that `read_records` reads. Rows
            are found by their prompt.
        conversational: hand out lists of messages, as TRL does for conversational data. By default
            where a prompt is a conversation.
        most_unscored: share of samples that it may leave unscored before a sentence ends the run.

    Raises:
        InputError: if columns have no prompt, or one prompt twice with other values; on use, if
            the function needs a column that there is not, or a prompt has no row.

    Example:
        >>> def right(completions, answer, **columns):
        ...     return [float(text == right) for text, right in zip(completions, answer)]
        >>> reward = TRLFunction(right, [{"prompt": "2+2?", "answer": "4"}])
        >>> reward(Samples(["2+2?", "2+2?"], ["4", "5"])).tolist()
        [1.0, 0.0]
    """

    takes_trust = True

    def __init__(
        self,
        function: Callable[..., Any],
        columns: Any = None,
        conversational: bool | None = None,
        most_unscored: float = UNSCORED,
    ) -> None:
        super().__init__()
        _check(function, most_unscored)
        self.function = function
        self.columns = _rows_by_prompt(columns)
        self.conversational = conversational
        self.most_unscored = most_unscored

    def judge(self, samples: Samples) -> Judged:
        """Return the function's numbers, and which samples it did not score."""
        name = name_of(self.function)
        texts = texts_of(samples, name)
        prompts: list[Any] = list(samples.prompts)
        completions: list[Any] = list(texts)
        if self._converses(prompts):
            prompts = [messages_of(prompt) for prompt in prompts]
            completions = [[{"role": "assistant", "content": text}] for text in texts]
        columns = self._columns_of(samples)
        self._check_columns(columns)
        call = self.function(prompts=prompts, completions=completions, **columns)
        return judged_values(answers_to([call])[0], samples, name)

    def forward(self, samples: Samples) -> Tensor:
        """Return the function's numbers, float32 [B]."""
        return partial_scores(self, samples)

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no texts, and prompts that the columns do not have."""
        texts_of(samples, name_of(self.function))
        self._columns_of(samples)

    def check_savable(self) -> None:
        """Refuse a function that another program cannot import."""
        import_path(self.function)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the function's import path, not its code, and the columns."""
        rows = [{"prompt": to_json(prompt), **row} for prompt, row in self.columns.items()]
        settings = {
            "function": import_path(self.function),
            "columns": rows or None,
            "conversational": self.conversational,
            "most_unscored": self.most_unscored,
        }
        write_reward(folder, self, settings)

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> TRLFunction:
        """Import the function that `save_pretrained` named, in eval mode.

        Raises:
            InputError: without trust, or if the function cannot be imported.
        """
        names = ("function", "columns", "conversational", "most_unscored")
        settings = read_settings(folder, *names)
        settings["function"] = _trusted(folder, settings["function"], trust)
        return cls(**settings).eval()

    def _converses(self, prompts: Sequence[Prompt]) -> bool:
        """Tell whether the function gets messages."""
        if self.conversational is not None:
            return self.conversational
        return any(isinstance(prompt, Conversation) for prompt in prompts)

    def _columns_of(self, samples: Samples) -> dict[str, Any]:
        """Return what TRL passes beside prompts and completions, each a value a sample."""
        columns: dict[str, Any] = dict.fromkeys(OF_TRAINERS, _nothing)
        columns["trainer_state"] = None
        for name, values in samples.facts.items():
            columns[name] = values.tolist()
        if not self.columns:
            return columns
        rows = [self._row_of(prompt) for prompt in samples.prompts]
        for name in rows[0] if rows else ():
            columns[name] = [row[name] for row in rows]
        return columns

    def _row_of(self, prompt: Prompt) -> Mapping[str, Any]:
        if prompt not in self.columns:
            raise InputError(
                f"{name_of(self.function)} has further columns for {len(self.columns)} prompts, "
                f"and none for {str(prompt)[:100]!r}. Add a row with this prompt."
            )
        return self.columns[prompt]

    def _check_columns(self, columns: Mapping[str, Any]) -> None:
        """Refuse a function that needs a column which there is not."""
        needed = []
        for parameter in inspect.signature(self.function).parameters.values():
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if is_named and parameter.default is parameter.empty:
                needed.append(parameter.name)
        missing = [name for name in needed if name not in (*columns, "prompts", "completions")]
        if missing:
            raise InputError(
                f"{name_of(self.function)} reads the columns {', '.join(missing)}, which the "
                f"samples do not bring along; they have {sorted(columns)}. Give rows with prompt "
                "and these columns (columns=)."
            )


def _check(function: Any, most_unscored: float) -> None:
    """Refuse what cannot be called, and a share that is none."""
    if not callable(function) or isinstance(function, Reward):
        raise InputError(f"A function is wanted; got {str(function)[:60]!r}.")
    if not 0 <= most_unscored <= 1:
        raise InputError(
            f"most_unscored is a share of the samples, in [0, 1]; got {most_unscored!r}."
        )


def _trusted(folder: str | Path, path: str, trust: bool) -> Any:
    """Return the function that a folder names, if it is trusted."""
    check_trusted(folder, f"the function {path}; loading it would run its code", trust=trust)
    return imported(folder, path)


def _rows_by_prompt(columns: Any) -> dict[Prompt, dict[str, Any]]:
    """Return the further columns of each prompt.

    Raises:
        InputError: if a row has no prompt or other columns than the first, or two rows of a prompt
            differ.
    """
    rows: dict[Prompt, dict[str, Any]] = {}
    first: list[str] = []
    for number, row in enumerate(_listed_rows(columns), 1):
        values = {name: value for name, value in row.items() if name != "prompt"}
        first = first or sorted(values)
        if "prompt" not in row or sorted(values) != first:
            raise InputError(
                f"Row {number} of the columns should have prompt, {', '.join(first)}; it has "
                f"{sorted(row)}. Give every row the same columns."
            )
        prompt = from_json(row["prompt"])
        if rows.setdefault(prompt, values) != values:
            raise InputError(
                f"Row {number} of the columns has a prompt that came before with other values: "
                f"{str(prompt)[:60]!r}. Rows are found by their prompt, so leave one of them out."
            )
    return rows


def _listed_rows(columns: Any) -> Sequence[Mapping[str, Any]]:
    if columns is None:
        return []
    if isinstance(columns, str | Path):
        return [record.row for record in read_records(columns, ("prompt",))]
    return list(columns)


def _nothing(*_: Any, **__: Any) -> None:
    """Stand for what logs a figure."""
