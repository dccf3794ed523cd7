"""How likely a text is under SmolLM2: a judge that nothing here trains."""

from __future__ import annotations

import torch
from torch import Tensor

from real.numbers import number_format
from real.sentences import smollm2
from rewardlab.progress import counted
from rewardlab.rewards import Reward
from rewardlab.rewards.rules import Length
from rewardlab.seeds import row_seeds
from rewardlab.types import Samples

ROWS = 8  # texts that pass the network at once


class Likelihood(Reward):
    """The mean log-probability of a text's tokens after its prompt, in nats.

    SmolLM2-135M-Instruct reads plain text, without its chat template. The end of a text is no token
    here, so that a short text does not pay more for it than a long one; an empty text has no other.
    """

    conditional = True

    def __init__(self) -> None:
        super().__init__()
        self.policy = smollm2(chat=False, dtype=number_format()).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, samples: Samples) -> Tensor:
        """Return nats a token, float32 [B].

        Texts of like length pass the network together.
        """
        order = Length()(samples).argsort()
        scores = torch.zeros(len(samples))
        starts = range(0, len(samples), ROWS)
        for start in counted(starts, len(samples), "reading by SmolLM2", hidden=None):
            rows = order[start : start + ROWS]
            scores[rows] = self._part(samples[rows])
        return scores

    def _part(self, samples: Samples) -> Tensor:
        unended = Samples(
            samples.prompts, samples.outputs, {"finished": torch.zeros(len(samples)).bool()}
        )
        trajectory = self.policy.encode(unended, seeds=row_seeds(0, len(samples)))
        log_prob = self.policy.log_prob(trajectory).where(trajectory.mask, 0)
        return log_prob.sum(1) / trajectory.mask.sum(1).clamp_min(1)
