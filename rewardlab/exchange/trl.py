"""TRL: our rewards as its reward functions, its functions as our rewards, and data for both.

The forms are those of TRL 1.16. Nothing here imports it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.exchange.answers import Answers, answers_of
from rewardlab.exchange.rows import preference_dataset, prompt_dataset, read_preferences
from rewardlab.exchange.turns import samples_of
from rewardlab.networks.text_format import TextFormat
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import CLASSIFIER, LANGUAGE, REWARD, read_config
from rewardlab.rewards.scoring import BATCH
from rewardlab.rewards.text_functions import TRLFunction
from rewardlab.storage.atomic import write_atomically

__all__ = [
    "as_reward",
    "preference_dataset",
    "prompt_dataset",
    "read_preferences",
    "reward_func",
    "write_chat",
]

RewardFunction = Callable[..., list[float | None]]
_used_names: set[str] = set()  # of this process: TRL keeps the figures of a function by its name


def reward_func(
    reward: Reward,
    name: str | None = None,
    batch_size: int = BATCH,
    end_tokens: Collection[int] | None = None,
) -> RewardFunction:
    """Return a reward as a reward function for TRL's GRPOTrainer and RLOOTrainer.

    The function takes prompts and completions, as texts or as lists of messages, and further
    columns. It returns a number a completion, or None where the reward leaves one unscored. It
    scores in batches, in eval mode and without gradients, on the reward's device. The reward's own
    chat template formats texts, not the policy's.

    Through `log_metric` it logs NAME/unscored, the share of completions without a score. For
    a reward with several members it logs NAME/disagreement, the mean over completions of the
    members' standard deviation, too; through `log_extra` each completion's own.

    Args:
        reward: any that scores texts. A reward itself is a module, which TRL takes for a
            transformers model.
        name: the name that TRL logs by; by default the class's, with a number from the second on.
        batch_size: completions scored at once.
        end_tokens: tokens of the policy that end a completion, such as [tokenizer.eos_token_id].
            With them a completion that was cut off is scored as one; without them every completion
            counts as finished.

    Raises:
        InputError: if `reward` is none, or `end_tokens` are no numbers; on use, if a completion
            cannot be scored and the reward may not leave it out.

    Example:
        >>> from rewardlab.rewards import Length
        >>> words = reward_func(Length(), name="words")
        >>> words.__name__, words(prompts=["Hi.", "Hi."], completions=["Hello to you", ""])
        ('words', [3.0, 0.0])
        >>> asked = [{"role": "user", "content": "Hi."}]
        >>> words([asked], [[{"role": "assistant", "content": "Ho"}]])
        [1.0]
    """
    if not isinstance(reward, Reward):
        raise InputError(
            f"reward_func takes a Reward; got a {type(reward).__name__}. Load a folder by "
            "rewardlab.load_reward(folder)."
        )
    _check_tokens(end_tokens)
    label = name or _unused_name(type(reward).__name__)

    def score(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        samples = samples_of(prompts, completions, completion_ids, end_tokens)
        answers = answers_of(reward, samples, batch_size)
        if log_metric is not None:
            _log_figures(answers, label, log_metric)
        if log_extra is not None and answers.disagreement is not None:
            log_extra(f"{label}/disagreement", answers.disagreements())
        return answers.values()

    score.__name__ = label
    score.__qualname__ = label
    _used_names.add(label)
    return score


def as_reward(
    function: Callable[..., Any],
    columns: Any = None,
    conversational: bool | None = None,
    most_unscored: float = 0.05,
) -> TRLFunction:
    """Return a reward function of TRL as a Reward, for our loops, mining, audits and commands.

    Args:
        function: takes prompts, completions and columns, and returns a number or None a completion;
            it may be async.
        columns: rows with "prompt" and the further columns that the function reads, as a list of
            mappings or a file of them.
        conversational: whether the function gets messages; by default where a prompt is a
            conversation.
        most_unscored: share of samples that the function may leave unscored.

    Example:
        >>> def brevity(completions, **columns):
        ...     return [-float(len(text)) for text in completions]
        >>> from rewardlab import as_samples
        >>> as_reward(brevity)(as_samples("Hi.", ["Hello", "Ho"])).tolist()
        [-5.0, -2.0]
    """
    return TRLFunction(function, columns, conversational, most_unscored)


def write_chat(folder: str | Path, chat: bool | Mapping[str, Any]) -> None:
    """Write into a folder of TRL's RewardTrainer in what form the reward saw texts in training.

    The folder does not say so itself. `load_reward` formats by the tokenizer's chat template where
    there is one. A reward that was trained on plain texts beside a template wants False; one of
    conversations whose template writes no end of a turn wants {"ending": "template"}, since TRL
    puts no end token there. The note is a file reward.json; the trainer's own files stay.

    Args:
        folder: holds a sequence classifier of transformers.
        chat: whether texts are formatted by the tokenizer's chat template, or the settings of a
            `TextFormat`.

    Raises:
        InputError: if it is no such folder, a reward.json is there already, or a setting is wrong.
    """
    folder = Path(folder)
    file = folder / REWARD
    if file.exists():
        raise InputError(
            f"{file} is there already: the folder is rewardlab's, which says how it formats texts. "
            "Load it with another format: LanguageReward(folder, chat=…)."
        )
    if read_config(folder)["class_path"] != CLASSIFIER:
        raise InputError(f"{folder} holds no sequence classifier, as TRL's RewardTrainer writes.")
    form = TextFormat.of(chat).settings()
    note = {"class_path": LANGUAGE, "init_args": {"chat": form}}
    write_atomically(file, json.dumps(note, indent=2) + "\n")


def _check_tokens(tokens: Any) -> None:
    """Refuse end tokens that would count no completion as finished, or every one."""
    if tokens is None:
        return
    is_list = isinstance(tokens, Collection) and not isinstance(tokens, str) and len(tokens) > 0
    if not is_list or not all(type(token) is int for token in tokens):
        raise InputError(
            "end_tokens are the numbers of tokens, such as [tokenizer.eos_token_id]; got "
            f"{tokens!r:.60}. Has the tokenizer an end token?"
        )


def _log_figures(answers: Answers, label: str, log_metric: Callable[[str, float], None]) -> None:
    """Log what a batch's scores do not say."""
    log_metric(f"{label}/unscored", answers.judged.unscored / max(len(answers.judged.reasons), 1))
    if answers.disagreement is not None and answers.judged.scored.any():
        log_metric(f"{label}/disagreement", answers.disagreement.nanmean().item())


def _unused_name(kind: str) -> str:
    """Return a name that no function has: the class's, with a number from the second on."""
    if kind not in _used_names:
        return kind
    return next(f"{kind}_{number}" for number in count(2) if f"{kind}_{number}" not in _used_names)
