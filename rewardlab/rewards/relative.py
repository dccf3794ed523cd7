"""Scores relative to what the same reward gives a prompt's reference responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import AlikeError, InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import CONFIG, check_parts, load_reward, read_config
from rewardlab.rewards.normal_scores import KNOTS, normal_scores, residual_knots
from rewardlab.rewards.scoring import judged_by, scored_part
from rewardlab.storage.atomic import new_folder, write_atomically, write_json
from rewardlab.types import Samples, concatenate, distinct
from rewardlab.version import __version__

CLASS_PATH = "rewardlab.rewards.Relative"
Scale = Literal["deviation", "quantile"]


class Relative(Reward, Saved):
    """(score - mean over the prompt's references) / pooled deviation within prompts.

    Each member is brought to that scale; the score is the mean of the members. A reward that learnt
    from preferences has an arbitrary scale, and an arbitrary offset for each prompt: Bradley and
    Terry's likelihood sees neither. Here both are gone: adding any f(prompt) to a member changes
    nothing, 0 is the prompt's mean reference, and 1 is the standard deviation of one reference
    response around it.

    Args:
        reward: whose scores are brought to that scale.
        references: responses of the policy that attacks and optimisation start from, two or more a
            prompt: Samples; a mapping from prompts to their responses; a file that
            `save_constants` of this reward wrote; or the `Spread` of its members' scores.
        batch_size: references scored at once.
        scale: "deviation" as above, or "quantile": the deviate of a standard normal below which as
            large a share lies as of the references' own differences from their prompt's mean. For
            Gaussian scores both are one. A score whose references have a long tail calls less of
            what lies in that tail unusual. Constants from a file have the scale that they were
            written with.

    Raises:
        InputError: if no prompt has two references, they all score alike, a file is no such file,
            its constants are of another scale, or (on use) a prompt has no references.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> references = {"hi": ["hello", "good day to you"], "bye": ["so long", "see you"]}
        >>> reward = Relative(Length(), references)
        >>> scores = reward(Samples(["hi", "bye"], ["one two three four", "farewell"]))
        >>> [round(score, 2) for score in scores.tolist()]
        [1.0, -0.67]
    """

    mean_of_members = True
    takes_trust = True
    means: Tensor
    deviations: Tensor
    knots: Tensor | None

    def __init__(
        self,
        reward: Reward,
        references: str | Path | Samples | Mapping[str, Any] | Spread | QuantileSpread,
        batch_size: int = 256,
        scale: Scale = "deviation",
    ) -> None:
        super().__init__()
        self.reward = reward
        spread, knots = _measured(reward, references, batch_size, scale)
        self.register_buffer("knots", None if knots is None else knots.float())
        self.prompts = spread.prompts
        self._places = {prompt: place for place, prompt in enumerate(self.prompts)}
        self.register_buffer("means", spread.means.float())
        self.register_buffer("deviations", spread.deviations.float())

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the members, float32 [B]."""
        return self.members(samples).mean(1)

    def members(self, samples: Samples) -> Tensor:
        """Return each member's score in its own standard deviations, float32 [B, M].

        Raises:
            InputError: if a prompt has no references, or the constants are of a reward with another
                number of members.
        """
        places = places_of(samples.prompts, self._places, "Relative")
        scores = self.reward.members(samples)
        if scores.shape[1] != len(self.deviations):
            raise InputError(
                f"These constants were measured with {len(self.deviations)} members, and "
                f"{type(self.reward).__name__} has {scores.shape[1]}. They belong to one reward "
                "only; measure them anew."
            )
        differences = scores - self.means[places.to(self.means.device)].to(scores)
        if self.knots is not None:
            return normal_scores(differences, self.knots, self.deviations)
        return differences / self.deviations.to(scores)

    def save_constants(self, file: str | Path) -> None:
        """Write what was measured on the references as JSON.

        A config can then name the file instead of the references.
        """
        write_atomically(file, json.dumps(self._constants(), indent=1) + "\n")

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved.

        Raises:
            InputError: naming `save_constants`, which needs no more than the scores.
        """
        try:
            check_parts([self.reward])
        except InputError as error:
            raise InputError(f"{error} Or use save_constants(file), and name it in code.") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the constants and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        self.check_savable()
        config = {"class_path": CLASS_PATH, "rewardlab": __version__, **self._constants()}
        with new_folder(folder) as fresh:
            self.reward.save_pretrained(fresh / "reward")  # type: ignore[operator]
            write_json(fresh / CONFIG, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Relative:
        """Load what `save_pretrained` wrote, in eval mode."""
        read_config(folder)  # says what is wrong with a folder that is no reward's
        reward = load_reward(Path(folder) / "reward", trust=trust)
        return cls(reward, Path(folder) / CONFIG).eval()

    def _constants(self) -> dict[str, Any]:
        constants = {
            "prompts": self.prompts,
            "means": self.means.tolist(),
            "deviations": self.deviations.tolist(),
        }
        if self.knots is not None:
            constants["knots"] = self.knots.tolist()
        return constants


class Spread(NamedTuple):
    """How scores lie within prompts.

    Attributes:
        prompts: the P distinct prompts, in the order of their first scores.
        means: [P, M], the mean score of each prompt.
        deviations: [M], the pooled deviation within prompts.
    """

    prompts: list[Prompt]
    means: Tensor
    deviations: Tensor


class QuantileSpread(NamedTuple):
    """How scores lie within prompts, with the quantiles [Q, M] of their differences."""

    spread: Spread
    knots: Tensor | None


def spread_within(prompts: Sequence[Prompt], scores: Tensor) -> Spread:
    """Return the distinct prompts, their mean scores, and the pooled deviation, in float64.

    The pooled deviation of N scores of P prompts is √(Σ(s - mean)²/(N - P)).

    Args:
        prompts: N prompts.
        scores: [N, M].

    Raises:
        InputError: if no prompt has two scores, or a column's scores do not differ within any
            prompt.

    Example:
        >>> scores = torch.tensor([[1.0], [7.0], [3.0]])
        >>> names, means, deviations = spread_within(["a", "b", "a"], scores)
        >>> names, means.tolist(), round(deviations.item(), 4)
        (['a', 'b'], [[2.0], [7.0]], 1.4142)
    """
    unique = distinct(prompts)
    count = len(unique.values)
    if len(prompts) == count:
        raise InputError(
            "The spread of scores within a prompt needs two references of some prompt; got "
            f"{len(prompts)} references of {count} prompts. Draw 2 or more a prompt (4 is usual)."
        )
    places = torch.tensor(unique.places, dtype=torch.long)
    scores = scores.detach().double().cpu()
    counts = torch.bincount(places, minlength=count).double()[:, None]
    sums = scores.new_zeros(count, scores.shape[1]).index_add_(0, places, scores)
    means = sums / counts
    squares = (scores - means[places]).square().sum(0)
    deviations = (squares / (len(prompts) - count)).sqrt()
    if not (deviations > 1e-6 * scores.abs().mean(0)).all():
        raise AlikeError(
            f"The references of each prompt score alike (deviations {deviations.tolist()}), so "
            "scores have no scale. Are the references of a prompt different, and is the reward "
            "trained?"
        )
    return Spread(unique.values, means, deviations)


def places_of(prompts: Sequence[Prompt], places: Mapping[Prompt, int], who: str) -> Tensor:
    """Return the place [B] of each prompt among those with references.

    Args:
        prompts: B prompts.
        places: maps each prompt that has references to its place.
        who: the class that compares, for the message.

    Raises:
        InputError: if a prompt has none.
    """
    missing = distinct([prompt for prompt in prompts if prompt not in places]).values
    if missing:
        raise InputError(
            f"{who} compares with reference responses to the same prompt, and {len(missing)} "
            f"prompts have none, such as {str(missing[0])[:80]!r}; {len(places)} prompts have "
            "some. Draw "
            "references for every prompt that is sampled from."
        )
    return torch.tensor([places[prompt] for prompt in prompts], dtype=torch.long)


def _measured(reward: Reward, references: Any, batch_size: int, scale: str) -> QuantileSpread:
    """Return what is known of the references, with quantiles if the scale needs them."""
    if scale not in get_args(Scale):
        raise InputError(f'Relative takes the scale "deviation" or "quantile"; got {scale!r}.')
    if isinstance(references, str | Path):
        return _read(Path(references), scale)
    if isinstance(references, QuantileSpread):
        return references
    if isinstance(references, Spread):
        if scale == "quantile":
            raise InputError("A Spread has no quantiles. Give the references, or a QuantileSpread.")
        return QuantileSpread(references, None)
    samples = references if isinstance(references, Samples) else _samples(references)
    judged = judged_by(reward, reward.members, samples, batch_size)
    scored = scored_part(samples, judged, "references")
    _check_references(samples.prompts, scored.samples.prompts)
    spread = spread_within(scored.samples.prompts, scored.scores)
    spread = _ordered(spread, distinct(samples.prompts).values)
    if scale == "deviation":
        return QuantileSpread(spread, None)
    return QuantileSpread(spread, residual_knots(scored.samples.prompts, scored.scores))


def _ordered(spread: Spread, prompts: list[Prompt]) -> Spread:
    """Return the same spread with its prompts in another order."""
    places = {prompt: place for place, prompt in enumerate(spread.prompts)}
    order = [places[prompt] for prompt in prompts]
    return Spread(prompts, spread.means[order], spread.deviations)


def _check_references(prompts: Sequence[Prompt], scored: Sequence[Prompt]) -> None:
    """Refuse prompts none of whose references is scored."""
    missing = set(prompts) - set(scored)
    if missing:
        raise InputError(
            f"Relative compares with references of the same prompt, and of {len(missing)} prompts "
            f"no reference is scored, such as {str(min(missing, key=str))[:80]!r}. Draw more of "
            "each prompt, or leave such prompts out."
        )


def _samples(references: Mapping[str, Any]) -> Samples:
    """Return a mapping of prompts to their responses as Samples.

    The responses of a prompt are a list of strings, or images [K, C, H, W].
    """
    parts = []
    for prompt, responses in references.items():
        if len(responses):
            parts.append(Samples([prompt] * len(responses), responses))
    if not parts:
        raise InputError(
            "Relative got no references. Give responses to every prompt that will be scored."
        )
    return concatenate(parts)  # type: ignore[no-any-return]


def _read(file: Path, scale: str) -> QuantileSpread:
    """Read the constants that `save_constants` or `save_pretrained` wrote."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        prompts = content["prompts"]
        means = torch.tensor(content["means"])
        deviations = torch.tensor(content["deviations"])
        knots = torch.tensor(content["knots"]) if "knots" in content else None
        fits = means.shape == (len(prompts), len(deviations)) and bool((deviations > 0).all())
        if knots is not None:
            fits = fits and knots.shape == (KNOTS, len(deviations))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read as constants of a Relative: {error!r}. save_constants writes "
            "them."
        ) from error
    if not fits:
        raise InputError(
            f"{file} does not fit together: {len(prompts)} prompts, means {list(means.shape)}. "
            "Is it edited?"
        )
    if scale == "quantile" and knots is None:
        raise InputError(
            f"{file} has means and deviations alone, and scale='quantile' needs the references' "
            "quantiles. Measure them anew with that scale."
        )
    return QuantileSpread(Spread(prompts, means, deviations), knots)
