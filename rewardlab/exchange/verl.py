"""verl: a file with a `compute_score` that scores by a reward of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardlab.conversations import Prompt, from_json
from rewardlab.errors import InputError
from rewardlab.exchange.function_files import (
    FolderReward,
    checked_folder,
    checked_unscored,
    filled_file,
    writer_of,
)
from rewardlab.types import Samples

__all__ = ["function_file", "score_of", "write_function"]

TEMPLATE = '''"""A rewardlab reward for verl: give this file as reward.custom_reward_function.path.

Written by rewardlab {version}, which has to be installed where verl's reward workers run.
"""

from rewardlab.exchange.function_files import FolderReward
from rewardlab.exchange.verl import score_of

REWARD = {reward}
DEVICE = {device}
UNSCORED = {unscored}  # number that stands for a response without a score; None is an error
PROMPT_KEY = {prompt_key}  # where extra_info holds the prompt; None scores without prompts
TRUST = {trust}  # whether the folder may name code of others, which is run

folder = FolderReward(REWARD, DEVICE, UNSCORED, TRUST)


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """Return the score of a response to the prompt that extra_info holds."""
    return score_of(folder, solution_str, extra_info, PROMPT_KEY)
'''


def function_file(
    reward_folder: str | Path,
    device: str = "cpu",
    unscored: float | None = None,
    prompt_key: str | None = "prompt",
    trust: bool = False,
) -> str:
    """Return the text of a file with verl's `compute_score`, for verl 0.9.

    verl hands `compute_score` a response without its prompt, so the data's `extra_info` has to hold
    it: {"extra_info": {"prompt": …}}, a text or a list of messages.

    Args:
        reward_folder: a folder that `load_reward` opens; the file names its absolute path.
        device: where the reward scores, such as "cuda:0".
        unscored: number that stands for a response that the reward leaves unscored. By default
            that is an error, which ends the run, since verl has no form for it.
        prompt_key: where `extra_info` holds the prompt, such as "question". None is for rewards
            that look at responses alone.
        trust: as of `load_reward`.

    Raises:
        InputError: if the folder holds no reward, or one that does not score texts, or a setting
            is wrong.

    Example:
        >>> from rewardlab.rewards import Length
        >>> folder = getfixture("tmp_path") / "reward"
        >>> Length().save_pretrained(folder)
        >>> "def compute_score(data_source, solution_str," in function_file(folder)
        True
    """
    values = {
        "reward": str(checked_folder(reward_folder, "texts", trust)),
        "device": device,
        "unscored": checked_unscored(unscored),
        "prompt_key": prompt_key,
        "trust": trust,
    }
    return filled_file(TEMPLATE, values)


write_function = writer_of(function_file)
"""Write the file of `function_file(reward_folder, **options)`, and return its path."""


def score_of(
    folder: FolderReward,
    response: str,
    extra_info: Mapping[str, Any] | None,
    prompt_key: str | None = "prompt",
) -> dict[str, float]:
    """Return what verl takes from `compute_score`: {"score": …}, and the members' disagreement.

    Args:
        folder: the reward.
        response: decoded without special tokens, as verl has it; it counts as finished.
        extra_info: the column of verl's data.
        prompt_key: see `function_file`.

    Raises:
        InputError: if there is no prompt, or the response cannot be scored.
    """
    prompt = _prompt_of(extra_info, prompt_key)
    answers = folder.answers(Samples([prompt], [response]))
    result = {"score": float(answers.judged.scores[0])}
    if answers.disagreement is not None:
        result["disagreement"] = float(answers.disagreement[0])
    return result


def _prompt_of(extra_info: Mapping[str, Any] | None, key: str | None) -> Prompt:
    """Return the prompt that the data hold."""
    if key is None:
        return ""
    value = None if extra_info is None else extra_info.get(key)
    if value is None:
        raise InputError(
            f"verl passes no prompt to compute_score, and extra_info has no {key!r}; it has "
            f"{sorted(extra_info or {})}. Put the prompt, a text or a list of messages, into "
            'the data\'s column extra_info: {"prompt": …}; or set PROMPT_KEY to the key that '
            "holds it."
        )
    if isinstance(value, np.ndarray):
        value = value.tolist()  # parquet gives an array
    return from_json(value)
