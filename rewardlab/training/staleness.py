"""What outputs of an earlier policy count in an update: importance weights, as OCRM has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.losses.importance import ImportanceWeights, importance_weights
from rewardlab.policies import Policy
from rewardlab.training.base import Trained, step_total
from rewardlab.training.modes import evaluating, random_parts
from rewardlab.types import Samples

Ratio = Literal["whole", "length", "temper"]


@dataclass(frozen=True)
class Importance:
    """Weights by which outputs that an earlier policy drew stand for those of the present one.

    OCRM, arXiv 2507.15507, inside the loop. Output y counts π(y)/π_then(y) times, where π_then is
    the policy that drew it. The weights are `losses.importance_weights`: self-normalized, and
    clipped at a quantile. Only "whole" without a clip is unbiased; the other two trade that for
    variance, as long outputs and images need.

    Args:
        ratio: "whole" takes π(y)/π_then(y); "length" the ratio a step, its geometric mean; "temper"
            the whole ratio to the power of `power`.
        power: of the ratio, for "temper".
        quantile: of an update's weights, at which larger ones are clipped; 1 clips none.

    Raises:
        InputError: if the ratio is another, or a number is out of range.

    Example:
        >>> then = torch.tensor([0.5, 0.25]).double().log()
        >>> now = torch.tensor([0.25, 0.5]).double().log()
        >>> Importance(quantile=1.0).weights(now - then).weights.round(decimals=6).tolist()
        [0.4, 1.6]
    """

    ratio: Ratio = "whole"
    power: float = 0.1
    quantile: float = 0.95

    def __post_init__(self) -> None:
        if self.ratio not in get_args(Ratio):
            raise InputError(
                f'Importance takes the ratio "whole", "length" or "temper"; got {self.ratio!r}.'
            )
        if not (0 < self.power <= 1 and 0 < self.quantile <= 1):
            raise InputError(
                "Importance needs a power and a quantile above 0, up to 1; got "
                f"{self.power:g} and {self.quantile:g}."
            )

    def check_policy(self, policy: object) -> None:
        """Refuse a policy without likelihoods, and whole ratios of images.

        Raises:
            InputError: saying what to give instead.
        """
        if not isinstance(policy, Policy):
            raise InputError(
                "Importance weights need the log-probabilities of the policy that is trained; "
                f"a {type(policy).__name__} has none. Leave out replay.importance."
            )
        if self.ratio == "whole" and policy.mean_log_prob:
            raise InputError(
                f"A {type(policy).__name__}'s outputs have {policy.dimensions:,} dimensions, whose "
                "whole ratio leaves one sample of an update. Set replay.importance.ratio to "
                '"length", or to "temper" with a small power.'
            )

    @torch.no_grad()
    def log_prob(self, loop: Trained, samples: Samples, seeds: Tensor) -> Tensor:
        """Return each output's log-probability under the policy as it is, float64 [B], on the CPU.

        It is that of the finished output: a text as it is tokenized, an image by the denoising
        loss at the noise of its seed. Differences of two are log-ratios in the unit of `ratio`.

        Args:
            loop: whose policy it is.
            samples: B outputs.
            seeds: int64 [B], of the noise; the same at both times.
        """
        policy = loop.policy
        with evaluating([policy, *random_parts(policy)]):
            trajectory = policy.encode(samples.to(loop.device), seeds=seeds)
            log_prob = policy.log_prob(trajectory)
        totals: Tensor = step_total(log_prob, trajectory.mask).double().cpu()
        if self.ratio == "length":
            lengths: Tensor = trajectory.mask.sum(1).clamp_min(1).cpu()
            return totals / lengths
        nats: Tensor = totals * policy.dimensions
        return nats if self.ratio == "whole" else self.power * nats

    def weights(self, log_ratios: Tensor) -> ImportanceWeights:
        """Return the weights of an update's outputs, of mean 1.

        Raises:
            InputError: if fewer than a tenth of them would decide everything.
        """
        return importance_weights(log_ratios, self.quantile)
