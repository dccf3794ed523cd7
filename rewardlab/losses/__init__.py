"""Losses: pure functions of tensors, one formula each."""

from rewardlab.losses.discrimination import discrimination_loss
from rewardlab.losses.importance import ImportanceWeights, importance_weights
from rewardlab.losses.likelihood import masked_mean, nll_loss
from rewardlab.losses.preference import chi_po_loss, dpo_loss, dpo_margin, mixed_chi2_link
from rewardlab.losses.ranking import batch_sum_loss, bradley_terry_loss, centering_loss
from rewardlab.losses.velocity import nft_loss, norm_hinge, norm_ratios, ram_loss

__all__ = [
    "ImportanceWeights",
    "batch_sum_loss",
    "bradley_terry_loss",
    "centering_loss",
    "chi_po_loss",
    "discrimination_loss",
    "dpo_loss",
    "dpo_margin",
    "importance_weights",
    "masked_mean",
    "mixed_chi2_link",
    "nft_loss",
    "nll_loss",
    "norm_hinge",
    "norm_ratios",
    "ram_loss",
]
