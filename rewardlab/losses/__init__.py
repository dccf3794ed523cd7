"""Losses: pure functions of tensors, one formula each."""

from rewardlab.losses.discrimination import discrimination_loss
from rewardlab.losses.likelihood import masked_mean, nll_loss
from rewardlab.losses.preference import dpo_loss, dpo_margin
from rewardlab.losses.ranking import bradley_terry_loss, centering_loss

__all__ = [
    "bradley_terry_loss",
    "centering_loss",
    "discrimination_loss",
    "dpo_loss",
    "dpo_margin",
    "masked_mean",
    "nll_loss",
]
