"""What the files that other trainers load share: a reward that is loaded once, when it is asked."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import torch

from rewardlab.errors import InputError
from rewardlab.exchange.answers import Answers, answers_of
from rewardlab.exchange.joined_calls import JoinedCalls
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import load_reward
from rewardlab.rewards.remote import RemoteReward
from rewardlab.rewards.scoring import BATCH
from rewardlab.storage.atomic import write_atomically
from rewardlab.types import Samples
from rewardlab.version import __version__

Kind = Literal["texts", "images"]
PROBES = {
    "texts": Samples(["Say hi."], ["Hello."]),
    "images": Samples(["a cat"], torch.full((1, 3, 64, 64), 0.5)),
}
_log = logging.getLogger("rewardlab")


class FolderReward:
    """A reward in a folder that is loaded at the first call, in whichever process that is.

    Calls may come from many threads: those that arrive while others are scored are one batch. A
    copy in another process loads the reward anew.

    Args:
        folder: of the reward.
        device: where it scores.
        unscored: number that stands for a sample that the reward leaves unscored; None raises.
        trust: as of `load_reward`.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "cpu",
        unscored: float | None = None,
        trust: bool = False,
    ) -> None:
        self.folder = str(folder)
        self.device = device
        self.unscored = unscored
        self.trust = trust
        self._reward: Reward | None = None
        self._lock = Lock()
        self._answers = JoinedCalls(self._answered)

    def __reduce__(self) -> Any:
        return FolderReward, (self.folder, self.device, self.unscored, self.trust)

    def reward(self) -> Reward:
        """Return the reward, which the first call loads.

        Raises:
            InputError: as `load_reward`.
        """
        with self._lock:
            return self._loaded()

    def answers(self, samples: Samples) -> Answers:
        """Return scores and disagreements of samples; `unscored` stands where there is no score.

        Trainers may swallow errors, so each is logged too.

        Raises:
            InputError: if a sample is not scored, and no number stands for it.
        """
        try:
            answers = self._answers(samples)
        except InputError as error:
            _log.error("%s", error)
            raise
        return self._replaced(answers, samples)

    def _answered(self, samples: Samples) -> Answers:
        return answers_of(self.reward(), samples, BATCH)

    def _loaded(self) -> Reward:
        if self._reward is None:
            reward = load_reward(self.folder, trust=self.trust)
            self._reward = reward.to(torch.device(self.device)).eval()
        return self._reward

    def _replaced(self, answers: Answers, samples: Samples) -> Answers:
        """Return answers without a missing score."""
        if not answers.judged.unscored:
            return answers
        row = int((~answers.judged.scored).nonzero()[0])
        sentence = (
            f"{self.folder} did not score {answers.judged.unscored} of {len(samples)} samples; the "
            f"first, with the prompt {str(samples.prompts[row])[:100]!r}: "
            f"{answers.judged.reasons[row]}."
        )
        if self.unscored is None:
            sentence += (
                " The trainer has no form for a sample without a score. Mend the cause, or set "
                "UNSCORED in the file to the number that is to stand for it."
            )
            _log.error("%s", sentence)
            raise InputError(sentence)
        _log.warning("%s The score is set to %g.", sentence, self.unscored)
        scores = answers.judged.scores.nan_to_num(self.unscored)
        disagreement = answers.disagreement
        if disagreement is not None:
            disagreement = disagreement.nan_to_num(0.0)
        return Answers(answers.judged._replace(scores=scores), disagreement)


def checked_folder(folder: str | Path, kind: Kind, trust: bool = False) -> Path:
    """Return the absolute path of a reward's folder, once the reward was loaded and tried.

    Args:
        folder: of the reward.
        kind: what the trainer's policies make.
        trust: as of `load_reward`.

    Raises:
        InputError: if it holds no reward, or one that scores the other kind alone.
    """
    reward = load_reward(folder, trust=trust)
    is_remote = any(isinstance(part, RemoteReward) for part in reward.modules())
    other: Kind = "images" if kind == "texts" else "texts"
    if not is_remote and not _scores(reward, kind) and _scores(reward, other):
        raise InputError(
            f"The reward in {folder} scores {other}, and the trainer's policies make {kind}. "
            f"Give one that scores {kind}."
        )
    return Path(folder).resolve()


def checked_unscored(unscored: float | None) -> float | None:
    """Return the number that stands for a missing score, None for none.

    Raises:
        InputError: if it is no finite number.

    Example:
        >>> checked_unscored(-1.0)
        -1.0
    """
    is_number = isinstance(unscored, int | float) and not isinstance(unscored, bool)
    if unscored is not None and not (is_number and math.isfinite(unscored)):
        raise InputError(
            f"unscored is a finite number that stands for a missing score, or None for an error; "
            f"got {unscored!r:.60}."
        )
    return unscored


def _scores(reward: Reward, kind: Kind) -> bool:
    """Tell whether a reward scores a probe of a kind."""
    try:
        answers_of(reward, PROBES[kind], BATCH)
    except InputError:
        return False
    return True


def filled_file(template: str, values: Mapping[str, Any]) -> str:
    """Return the text of a function file: a template with values as Python writes them.

    Example:
        >>> filled_file("REWARD = {reward}\\n", {"reward": "runs/rm"})
        "REWARD = 'runs/rm'\\n"
    """
    written = {name: repr(value) for name, value in values.items()}
    return template.format(**written, version=__version__)


class WritesFunction(Protocol):
    """What writes a trainer's function file."""

    def __call__(self, reward_folder: str | Path, file: str | Path, **options: Any) -> Path: ...


def writer_of(function_file: Callable[..., str]) -> WritesFunction:
    """Return the function that writes what `function_file` of a trainer's module returns.

    Args:
        function_file: of a reward's folder and options.
    """

    def write_function(reward_folder: str | Path, file: str | Path, **options: Any) -> Path:
        """Write the file of `function_file`, and return its path.

        Args:
            reward_folder: a folder that `load_reward` opens.
            file: a module such as reward.py; one that is there is replaced.
            options: of `function_file`.

        Raises:
            InputError: if the folder holds no reward, or the name is not a module's.
        """
        return write_file(function_file(reward_folder, **options), file)

    return write_function


def write_file(text: str, file: str | Path) -> Path:
    """Write a function file, whole or not at all, and return its path.

    Raises:
        InputError: if its name is none that Python imports, or its folder is missing.
    """
    file = Path(file)
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise InputError(
            f"A function file is a module such as reward.py, which trainers tell by its end; got "
            f"{file.name!r}. Choose another name."
        )
    if not file.parent.is_dir():
        raise InputError(f"{file.parent} is not a folder, so {file.name} cannot be written there.")
    write_atomically(file, text)
    return file
