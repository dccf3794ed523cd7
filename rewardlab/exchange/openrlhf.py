"""OpenRLHF: a file with a `reward_func` that scores by a reward of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.exchange.function_files import (
    FolderReward,
    checked_folder,
    checked_unscored,
    filled_file,
    writer_of,
)
from rewardlab.exchange.queries import query_samples

__all__ = ["function_file", "rewards_of", "write_function"]

TEMPLATE = '''"""A rewardlab reward for OpenRLHF: give this file as --reward.remote_url.

Written by rewardlab {version}, which has to be installed where the rollout engines run.
"""

from rewardlab.exchange.function_files import FolderReward
from rewardlab.exchange.openrlhf import rewards_of

REWARD = {reward}
DEVICE = {device}
UNSCORED = {unscored}  # number that stands for a response without a score; None is an error
ENDS = {ends}  # marks that end the policy's responses, beside those of the reward's own tokenizer
TRUST = {trust}  # whether the folder may name code of others, which is run

folder = FolderReward(REWARD, DEVICE, UNSCORED, TRUST)


def reward_func(queries, prompts, labels):
    """Return the scores of queries, which are prompts with their responses."""
    return rewards_of(folder, queries, prompts, ENDS)
'''


def function_file(
    reward_folder: str | Path,
    device: str = "cpu",
    unscored: float | None = None,
    ends: Sequence[str] = (),
    trust: bool = False,
) -> str:
    """Return the text of a file with `reward_func(queries, prompts, labels)` for OpenRLHF 0.11.

    The file loads the reward at the first call. Queries hold prompt and response as the policy's
    chat template wrote them, and are not formatted a second time: the reward takes a prompt as it
    is where its own template has written it, and otherwise as the user's text.

    Args:
        reward_folder: a folder that `load_reward` opens; the file names its absolute path.
        device: where the reward scores, such as "cuda:0". The engine may have filled that one.
        unscored: number that stands for a response that the reward leaves unscored. By default
            that is an error, which OpenRLHF logs, so that the response has no reward.
        ends: marks that end the policy's responses, such as ["<|im_end|>"], beside those of the
            reward's own tokenizer.
        trust: as of `load_reward`.

    Raises:
        InputError: if the folder holds no reward, or one that does not score texts, or a setting
            is wrong.

    Example:
        >>> from rewardlab.rewards import Length
        >>> folder = getfixture("tmp_path") / "reward"
        >>> Length().save_pretrained(folder)
        >>> "def reward_func(queries, prompts, labels):" in function_file(folder)
        True
    """
    values = {
        "reward": str(checked_folder(reward_folder, "texts", trust)),
        "device": device,
        "unscored": checked_unscored(unscored),
        "ends": _checked_ends(ends),
        "trust": trust,
    }
    return filled_file(TEMPLATE, values)


def _checked_ends(ends: Sequence[str]) -> list[str]:
    """Refuse one text in place of a list, whose letters would be cut from responses."""
    if isinstance(ends, str) or not all(isinstance(end, str) and end for end in ends):
        raise InputError(
            'ends is a list of marks, such as ["<|im_end|>"], none of them empty; got '
            f"{ends!r:.100}."
        )
    return list(ends)


write_function = writer_of(function_file)
"""Write the file of `function_file(reward_folder, **options)`, and return its path."""


def rewards_of(
    folder: FolderReward, queries: Sequence[str], prompts: Sequence[str], ends: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what OpenRLHF takes from a reward function: tensors [B] of rewards and scores.

    Its logs get "disagreement", the standard deviation of the members, of a reward with several.

    Args:
        folder: the reward.
        queries: B prompts with their responses.
        prompts: B prompts, as the policy's template wrote them.
        ends: see `function_file`.

    Raises:
        InputError: if a query cannot be read or scored.
    """
    samples = query_samples(folder.reward(), queries, prompts, ends)
    answers = folder.answers(samples)
    logs = {}
    if answers.disagreement is not None:
        logs["disagreement"] = answers.disagreement
    scores = answers.judged.scores
    return {"rewards": scores, "scores": scores, "extra_logs": logs}
