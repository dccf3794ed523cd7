"""What prompts alone give away about the class of a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.errors import InputError


def prompt_probe_auc(text_features: Tensor, labels: Tensor, seed: int = 0, folds: int = 5) -> float:
    """Return the AUC with which prompts alone tell target from generated samples; 0.5 is chance.

    A discriminator that is conditioned on prompts is only worth training if this is near 0.5 (at
    most 0.55); else it learns which prompts the targets have. A logistic regression on standardised
    features, cross-validated; the mean of the folds' AUCs. With few prompts the estimate is coarse:
    300 a class leave a deviation of about 0.03.

    Args:
        text_features: [B, D], one row a sample, from `VisionReward.prompt_features`.
        labels: [B], above 0.5 for target samples.
        seed: splits the rows into folds.
        folds: at least 2; fewer are used where a class has fewer rows.

    Raises:
        InputError: if a class has fewer than two rows, or rows and labels do not fit each other.

    Example:
        >>> labels = torch.tensor([0.0, 1.0]).repeat(20)
        >>> prompt_probe_auc(labels[:, None], labels), prompt_probe_auc(torch.ones(40, 1), labels)
        (1.0, 0.5)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if text_features.dim() != 2 or labels.shape != text_features.shape[:1]:
        raise InputError(
            "The prompt-only probe takes features [B, D] and labels [B]; got "
            f"{list(text_features.shape)} and {list(labels.shape)}."
        )
    if folds < 2 or not torch.isfinite(text_features).all():
        raise InputError(
            "The prompt-only probe needs finite features and at least 2 folds; got "
            f"folds={folds} and {int((~torch.isfinite(text_features)).sum())} features that are "
            "not finite."
        )
    classes = (labels > 0.5).long().cpu()
    smallest = int(torch.bincount(classes, minlength=2).min())
    if smallest < 2:
        raise InputError(
            "The prompt-only probe needs at least two prompts of each class; got "
            f"{smallest} of one of them."
        )
    splits = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    inputs = text_features.detach().double().cpu().numpy()
    aucs = cross_val_score(model, inputs, classes.numpy(), cv=splits, scoring="roc_auc")
    return float(aucs.mean())
