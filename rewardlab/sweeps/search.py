"""A search: each batch of points is chosen by what the batches before it came to.

A point depends on the search's settings and on the figures of earlier batches alone, so a search
that was killed goes on with the same points.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from rewardlab.errors import InputError
from rewardlab.sweeps.points import Settings, canonical, number_of, text_of
from rewardlab.sweeps.random_draws import DIGITS, check_spaces

KEYS = ("method", "count", "seed", "batch", "startup", "of")
METHODS = ("optuna",)
BATCH = 4  # points that are chosen together
STARTUP = 8  # random points before the first that is chosen
MOST = 10_000
TRIES = 20  # proposals for a point, as one may have been there
ENOUGH = 5  # tries by what is known, before random ones

State = Literal["finished", "pruned", "failed", "running"]


@dataclass(frozen=True)
class Search:
    """How points are chosen.

    Attributes:
        count: how many points.
        seed: another one gives other points.
        batch: how many are chosen together; only earlier batches are known then.
        startup: how many random points come first.
        spaces: of each key a list of choices, or a range {low, high, scale, integer}.
    """

    count: int
    seed: int
    batch: int
    startup: int
    spaces: Mapping[str, Any]

    def batch_of(self, number: int) -> int:
        """Return the number of the batch that a point is of."""
        return number // self.batch


class Trial(NamedTuple):
    """A point of a search, and what it came to.

    Attributes:
        settings: the text of each flag's value, by its dotted key.
        state: "finished", "pruned", "failed" or "running".
        value: the figure's mean over seeds, of one that is finished.
    """

    settings: Settings
    state: State
    value: float | None = None


def read_search(content: Any) -> Search | None:
    """Return what a sweep file's `search:` says, if it has one.

    Raises:
        InputError: naming what is wrong, or if Optuna is not installed.
    """
    if content is None:
        return None
    if not isinstance(content, Mapping) or not isinstance(content.get("of"), Mapping):
        raise InputError(
            "search: takes method: optuna, count: and of:, a range or a list of choices for each "
            f"key; got {content!r:.60}."
        )
    for key in content:
        if key not in KEYS:
            raise InputError(f"search: has no key {key!r}; its keys are {', '.join(KEYS)}.")
    if content.get("method", METHODS[0]) not in METHODS:
        raise InputError(f"search: method takes {METHODS[0]}; got {content['method']!r}.")
    if find_spec("optuna") is None:
        raise InputError(
            "search: needs Optuna, which is not installed: pip install 'rewardlab[optuna]'. "
            "random: draws points without it."
        )
    _check_spaces(content["of"])
    return Search(
        count=_whole(content, "count", None, 1),
        seed=_whole(content, "seed", 0, 0),
        batch=_whole(content, "batch", BATCH, 1),
        startup=_whole(content, "startup", STARTUP, 1),
        spaces=content["of"],
    )


def _whole(content: Mapping[str, Any], key: str, default: int | None, least: int) -> int:
    value = content.get(key, default)
    if type(value) is not int or not least <= value <= MOST:
        raise InputError(
            f"search: {key} is a whole number from {least} to {MOST:,}; got {value!r}."
        )
    return value


def _check_spaces(spaces: Mapping[str, Any]) -> None:
    if not spaces:
        raise InputError("search: of: names no key. Give a range or a list of choices of one.")
    check_spaces("search", spaces)
    for key, space in spaces.items():
        if isinstance(space, list):
            texts = [canonical(text_of(value)) for value in space]
            twice = [text for text in texts if texts.count(text) > 1]
            if twice:
                raise InputError(f"search: {key} has the choice {twice[0]} twice. Leave one out.")


def probes(search: Search) -> list[Settings]:
    """Return settings at the ends of every range, and with every choice, to be checked first.

    Example:
        >>> probes(Search(9, 0, 3, 3, {"a": {"low": 1, "high": 2}, "b": ["u", "v", "w"]}))
        [{'a': '1.0', 'b': 'u'}, {'a': '2.0', 'b': 'v'}, {'a': '1.0', 'b': 'w'}]
    """
    values = {key: _ends(space) for key, space in search.spaces.items()}
    settings = []
    for number in range(max(map(len, values.values()))):
        one = {key: texts[number % len(texts)] for key, texts in values.items()}
        settings.append(one)
    return settings


def _ends(space: Any) -> list[str]:
    if isinstance(space, list):
        return [text_of(value) for value in space]
    ends = [float(space["low"]), float(space["high"])]
    if space.get("integer"):
        ends = [math.ceil(ends[0]), math.floor(ends[1])]
    return list(dict.fromkeys(text_of(end) for end in ends))


def next_settings(
    search: Search, number: int, trials: Sequence[Trial], better: str
) -> Settings | None:
    """Return a point's settings, which no earlier point has; None if no new one was found.

    Optuna's TPE chooses, from a study that is made anew of the points so far.

    Args:
        search: how points are chosen.
        number: of the point, from 0 on.
        trials: the points before it, those of its own batch as "running".
        better: "higher" or "lower".

    Example:
        >>> search = Search(9, 0, 3, 1, {"a.x": {"low": 0, "high": 1}})
        >>> known = [Trial({"a.x": "0.25"}, "finished", 4.0)]
        >>> found = next_settings(search, 1, known, "higher")
        >>> found == next_settings(search, 1, known, "higher"), 0 <= float(found["a.x"]) <= 1
        (True, True)
    """
    earlier = {_values(trial.settings) for trial in trials}
    knows_none = all(trial.state != "finished" for trial in trials)
    for attempt in range(TRIES):
        is_random = number < search.startup or knows_none or attempt >= ENOUGH
        seed = _seed(f"{search.seed}/{number}/{attempt}")
        settings = _proposed(search, trials, better, seed, is_random)
        if _values(settings) not in earlier:
            return settings
    return None


def _values(settings: Settings) -> tuple[str, ...]:
    return tuple(canonical(text) for text in settings.values())


def _seed(name: str) -> int:
    """Return a seed of 32 bits, as Optuna's samplers take it."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")


def _proposed(
    search: Search, trials: Sequence[Trial], better: str, seed: int, is_random: bool
) -> Settings:
    """Return what Optuna proposes, as texts of flags."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {key: _distribution(space) for key, space in search.spaces.items()}
    sampler: Any = optuna.samplers.RandomSampler(seed=seed)
    if not is_random:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
    direction: Literal["maximize", "minimize"] = "maximize" if better == "higher" else "minimize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    for trial in trials:
        study.add_trial(_frozen(trial, search, spaces))
    params = study.ask(spaces).params
    return {key: _text(params[key], search.spaces[key]) for key in search.spaces}


def _distribution(space: Any) -> Any:
    """Return Optuna's form of a space.

    Choices are texts, since it takes 1, 1.0 and True for one.
    """
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(space, list):
        return CategoricalDistribution([text_of(value) for value in space])
    is_log = space.get("scale") == "log"
    low = float(space["low"])
    high = float(space["high"])
    if space.get("integer"):
        return IntDistribution(math.ceil(low), math.floor(high), log=is_log)
    return FloatDistribution(low, high, log=is_log)


def _frozen(trial: Trial, search: Search, spaces: Mapping[str, Any]) -> Any:
    """Return a point as Optuna's own record.

    One that was pruned counts as worse than all that are finished; one that failed tells nothing.
    """
    from optuna.trial import TrialState, create_trial

    states = {
        "finished": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "running": TrialState.RUNNING,
    }
    params = {}
    for key, text in trial.settings.items():
        params[key] = _value(text, search.spaces[key])
    return create_trial(
        state=states[trial.state],
        value=trial.value,
        params=params,
        distributions=dict(spaces),
    )


def _value(text: str, space: Any) -> Any:
    """Return the value that a flag's text is in a space of Optuna's."""
    if isinstance(space, list):
        return text
    number = number_of(text)
    assert number is not None
    return int(number) if space.get("integer") else number


def _text(value: Any, space: Any) -> str:
    """Return a proposed value as the text of a flag, with few digits."""
    if isinstance(space, list) or space.get("integer"):
        return text_of(value)
    rounded = float(f"{value:.{DIGITS}g}")
    return text_of(min(max(rounded, float(space["low"])), float(space["high"])))
