"""What ours are compared with: the plain form, torch.compile, Liger, cut-cross-entropy and verl.

A library is imported when a function of it is batches, which fails where it is not installed.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases.head_data import Head, Mean, Score, Scores, Value


def compiled(function: Callable[..., Any], quick: bool) -> Callable[..., Any]:
    """Return a function compiled for each shape."""
    if quick:
        raise NotImplementedError("not compiled in a smoke run")
    # shapes differ by case; past the limit it would run eagerly, in silence
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=False)


def naive(entropy: bool, head_type: torch.dtype | None = None) -> Score:
    """Return the score by all logits, in the operands' type, then in float32.

    With `head_type` the operands of the head are in that type.
    """

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
        dtype = head_type or hidden.dtype
        log_probs = (hidden.to(dtype) @ weight.to(dtype).T).float().log_softmax(1)
        entropies = None
        if entropy:
            entropies = -(log_probs.exp() * log_probs).sum(1)
        return log_probs.gather(1, targets[:, None])[:, 0], entropies

    return score


def liger_scaled(entropy: bool) -> Score:
    """Return Liger's score.

    On compute capability 9.0 it is its CuTe kernels, which need nvidia-cutlass-dsl. Elsewhere it is
    its chunks of 512 rows.
    """
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        LigerFusedLinearScaledCrossEntropyFunction as Function,
    )

    return _liger(Function, entropy, 1.0, -100, 1, entropy)


def liger_chunks(entropy: bool) -> Score:
    """Return Liger's score in chunks of 512 rows, in plain torch.

    It is what Liger runs where its CuTe kernels do not.
    """
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        _FusedLinearPPOFallbackFunction as Function,
    )

    return _liger(Function, entropy, 1.0, -100, entropy)


def _liger(function: type[torch.autograd.Function], entropy: bool, *settings: Any) -> Score:
    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
        results = function.apply(hidden, weight, targets, *settings)
        if entropy:
            return -results[0], results[1].float()
        return -results, None

    return score


def cut(**options: Any) -> Score:
    """Return cut-cross-entropy's score, which has no entropy."""
    from cut_cross_entropy import linear_cross_entropy

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
        losses = linear_cross_entropy(hidden, weight, targets, reduction="none", **options)
        return -losses, None

    return score


def verl() -> Score:
    """Return verl's score, always with the entropy."""
    linear_cross_entropy = _verl_kernel()

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
        return linear_cross_entropy(hidden, weight, targets, 1.0, "none")

    return score


def _verl_kernel() -> Callable[..., Any]:
    """Return verl's kernel.

    Its package imports much that the kernel does not need: if that fails, only the kernel's folders
    are imported.
    """
    try:
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    except ImportError:
        spec = importlib.util.find_spec("verl") if "verl" not in sys.modules else None
        if spec is None or not spec.submodule_search_locations:
            raise
        _replace_verl(Path(spec.submodule_search_locations[0]))
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    return linear_cross_entropy


def _replace_verl(root: Path) -> None:
    """Put empty packages in the place of verl's, so that importing the kernel runs none of them."""
    for name in list(sys.modules):
        if name.split(".")[0] == "verl":
            del sys.modules[name]
    for name in ("verl", "verl.utils", "verl.utils.kernel"):
        folders = name.split(".")[1:]
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*folders))]
        sys.modules[name] = package


def liger_policy() -> Value:
    """Return Liger's GRPO loss: the same clip and k3, a mean over tokens, no entropy bonus."""
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    module = LigerFusedLinearGRPOLoss(beta=0.04, loss_type="bnpo", use_ref_model=True)

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        gain = head.gain.view(-1, head.length)
        results = module(
            hidden.view(-1, head.length, hidden.shape[1]),
            weight,
            head.targets.view(-1, head.length),
            torch.ones_like(gain),
            gain[:, 0].contiguous(),
            ref_per_token_logps=head.anchor.view(-1, head.length),
            old_per_token_logps=head.old.view(-1, head.length),
        )
        return results[0]

    return value


def naive_mean() -> Mean:
    """Return cross-entropy by all logits."""

    def mean(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy((hidden @ weight.T).float(), targets)

    return mean


def torch_mean() -> Mean:
    """Return torch's own cross-entropy without all logits."""
    function = getattr(functional, "linear_cross_entropy", None)
    if function is None:
        raise NotImplementedError("this torch has no linear_cross_entropy")
    return function


def liger_mean(accumulate: torch.dtype | None = None) -> Mean:
    """Return Liger's Triton form; `accumulate` is the type in which the chunks are summed."""
    from liger_kernel.ops.fused_linear_cross_entropy import (
        LigerFusedLinearCrossEntropyFunction as Function,
    )

    settings = [None, None, -100, 0.0, 0.0, "mean", None, False, accumulate]

    def mean(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return Function.apply(hidden, weight, targets, *settings)[0]

    return mean


def cut_mean(**options: Any) -> Mean:
    """Return cut-cross-entropy's mean."""
    from cut_cross_entropy import linear_cross_entropy

    return partial(linear_cross_entropy, **options)


def mean_of(score: Score) -> Mean:
    """Return the mean of a score's negative log-probabilities."""

    def mean(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return -score(hidden, weight, targets)[0].mean()

    return mean
