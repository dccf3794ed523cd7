"""Scores relative to what the same reward gives a prompt's reference responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import CONFIG, load_reward, read_config
from rewardlab.rewards.scoring import member_scores
from rewardlab.storage.atomic import new_folder, write_atomically, write_json
from rewardlab.types import Samples, concatenate
from rewardlab.version import __version__

CLASS_PATH = "rewardlab.rewards.Relative"


class Relative(Reward, Saved):
    """(score - mean over the prompt's references) / pooled deviation within prompts, of each
    member; the score is their mean.

    A reward that learnt from preferences has an arbitrary scale, and an arbitrary offset for each
    prompt: Bradley and Terry's likelihood sees neither. Here both are gone: adding any f(prompt) to
    a member changes nothing, 0 is the prompt's mean reference, and 1 is the standard deviation of
    one reference response around it.

    Args:
        reward: whose scores are brought to that scale.
        references: responses of the policy that attacks and optimisation start from, two or more a
            prompt: Samples; a mapping from prompts to their responses; or a file that
            `save_constants` of this reward wrote.
        batch_size: references scored at once.

    Raises:
        InputError: if no prompt has two references, they all score alike, a file is no such file,
            or (on use) a prompt has no references.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> reward = Relative(Length(), {"hi": ["hello", "good day to you"], "bye": ["so long", "see you"]})
        >>> [round(score, 2) for score in reward(Samples(["hi", "bye"], ["one two three four", "farewell"])).tolist()]
        [1.0, -0.67]
    """

    mean_of_members = True

    def __init__(
        self,
        reward: Reward,
        references: str | Path | Samples | Mapping[str, Any],
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.reward = reward
        if isinstance(references, str | Path):
            self.prompts, means, deviations = _read(Path(references))
        else:
            samples = references if isinstance(references, Samples) else _samples(references)
            self.prompts, means, deviations = spread_within(
                samples.prompts, member_scores(reward, samples, batch_size)
            )
        self._place = {prompt: place for place, prompt in enumerate(self.prompts)}
        self.register_buffer("means", means.float())
        self.register_buffer("deviations", deviations.float())

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the members, float32 [B]."""
        return self.members(samples).mean(1)

    def members(self, samples: Samples) -> Tensor:
        """Return each member's score in its own standard deviations, float32 [B, M].

        Raises:
            InputError: if a prompt has no references, or the constants are of a reward with another
                number of members.
        """
        places = places_of(samples.prompts, self._place, "Relative")
        scores = self.reward.members(samples)
        if scores.shape[1] != len(self.deviations):
            raise InputError(
                f"These constants were measured with {len(self.deviations)} members, and {type(self.reward).__name__} has "
                f"{scores.shape[1]}. They belong to one reward only; measure them anew."
            )
        return (scores - self.means[places.to(self.means.device)].to(scores)) / self.deviations.to(
            scores
        )

    def save_constants(self, file: str | Path) -> None:
        """Write what was measured on the references as JSON, so that a config can name it instead
        of the references.
        """
        write_atomically(file, json.dumps(self._constants(), indent=1) + "\n")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the constants and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        if not isinstance(self.reward, Saved):
            raise InputError(
                f"{type(self.reward).__name__} cannot be saved; use save_constants(file), and name it in code."
            )
        with new_folder(folder) as fresh:
            self.reward.save_pretrained(fresh / "reward")
            config = {
                "class_path": CLASS_PATH,
                "rewardlab": __version__,
                **self._constants(),
            }
            write_json(fresh / CONFIG, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Relative:
        """Load what `save_pretrained` wrote, in eval mode."""
        read_config(folder)  # says what is wrong with a folder that is no reward's
        return cls(load_reward(Path(folder) / "reward"), Path(folder) / CONFIG).eval()

    def _constants(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "means": self.means.tolist(),
            "deviations": self.deviations.tolist(),
        }


def spread_within(prompts: Sequence[str], scores: Tensor) -> tuple[list[str], Tensor, Tensor]:
    """Return the distinct prompts, their mean scores [P, M], and the pooled deviation √(Σ(s -
    mean)²/(N - P)) [M], float64.

    Raises:
        InputError: if no prompt has two scores, or a column's scores do not differ within any
            prompt.

    Example:
        >>> names, means, deviations = spread_within(["a", "b", "a"], torch.tensor([[1.0], [7.0], [3.0]]))
        >>> names, means.tolist(), round(deviations.item(), 4)
        (['a', 'b'], [[2.0], [7.0]], 1.4142)
    """
    names = list(dict.fromkeys(prompts))
    place = places_of(prompts, {name: place for place, name in enumerate(names)}, "spread_within")
    scores = scores.detach().double().cpu()
    if len(prompts) == len(names):
        raise InputError(
            f"The spread of scores within a prompt needs two references of some prompt; got {len(prompts)} references of "
            f"{len(names)} prompts. Draw 2 or more a prompt (4 is usual)."
        )
    counts = torch.bincount(place, minlength=len(names)).double()[:, None]
    means = (
        torch.zeros(len(names), scores.shape[1], dtype=torch.float64).index_add_(0, place, scores)
        / counts
    )
    deviations = ((scores - means[place]).square().sum(0) / (len(prompts) - len(names))).sqrt()
    if not (deviations > 1e-6 * scores.abs().mean(0)).all():
        raise InputError(
            f"The references of each prompt score alike (deviations {deviations.tolist()}), so scores have no scale. Are the "
            "references of a prompt different, and is the reward trained?"
        )
    return names, means, deviations


def places_of(prompts: Sequence[str], known: Mapping[str, int], who: str) -> Tensor:
    """Return the place [B] of each prompt among the known ones.

    Raises:
        InputError: if one is not known.
    """
    missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in known))
    if missing:
        raise InputError(
            f"{who} compares with reference responses to the same prompt, and {len(missing)} prompts have none, such as "
            f"{missing[0][:80]!r}; {len(known)} prompts have some. Draw references for every prompt that is sampled from."
        )
    return torch.tensor([known[prompt] for prompt in prompts], dtype=torch.long)


def _samples(references: Mapping[str, Any]) -> Samples:
    """Samples from a mapping of prompts to their responses: lists of strings, or images [K, C, H,
    W].
    """
    parts = [
        Samples([prompt] * len(responses), responses)
        for prompt, responses in references.items()
        if len(responses)
    ]
    if not parts:
        raise InputError(
            "Relative got no references. Give responses to every prompt that will be scored."
        )
    return concatenate(parts)  # type: ignore[no-any-return]


def _read(file: Path) -> tuple[list[str], Tensor, Tensor]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        prompts = content["prompts"]
        means = torch.tensor(content["means"])
        deviations = torch.tensor(content["deviations"])
        fits = means.shape == (len(prompts), len(deviations)) and bool((deviations > 0).all())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read as constants of a Relative: {error!r}. save_constants writes them."
        ) from error
    if not fits:
        raise InputError(
            f"{file} does not fit together: {len(prompts)} prompts, means {list(means.shape)}. Is it edited?"
        )
    return prompts, means, deviations
