"""What ours are compared with: the plain form, torch.compile, Liger, cut-cross-entropy and verl.

A library is imported when a function of it is made, which fails where it is not installed.
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

from kernel_cases.head_data import Head, Mean, Score, Value


def compiled(function: Callable[..., Any], quick: bool) -> Callable[..., Any]:
    if quick:
        raise NotImplementedError("not compiled in a smoke run")
    torch._dynamo.config.recompile_limit = (
        64  # shapes differ by case; past the limit it would run eagerly, in silence
    )
    return torch.compile(function, dynamic=False)


def naive(entropy: bool, head_type: torch.dtype | None = None) -> Score:
    """All logits, in the operands' type, then in float32; or a head whose operands are in float32."""

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        kind = head_type or hidden.dtype
        log_prob = (hidden.to(kind) @ weight.to(kind).T).float().log_softmax(1)
        spread = -(log_prob.exp() * log_prob).sum(1) if entropy else None
        return log_prob.gather(1, targets[:, None])[:, 0], spread

    return score


def liger_scaled(entropy: bool) -> Score:
    """On compute capability 9.0 its CuTe kernels, which need nvidia-cutlass-dsl; elsewhere its
    chunks of 512 rows.
    """
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        LigerFusedLinearScaledCrossEntropyFunction as Function,
    )

    return _liger(Function, entropy, 1.0, -100, 1, entropy)


def liger_chunks(entropy: bool) -> Score:
    """The same in chunks of 512 rows, in plain torch: what Liger runs where its CuTe kernels do
    not.
    """
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        _FusedLinearPPOFallbackFunction as Function,
    )

    return _liger(Function, entropy, 1.0, -100, entropy)


def _liger(function: type[torch.autograd.Function], entropy: bool, *settings: Any) -> Score:
    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        found = function.apply(hidden, weight, targets, *settings)
        return (-found[0], found[1].float()) if entropy else (-found, None)

    return score


def cut(**options: Any) -> Score:
    """It knows no entropy."""
    from cut_cross_entropy import linear_cross_entropy

    return lambda *operands: (-linear_cross_entropy(*operands, reduction="none", **options), None)


def verl() -> Score:
    """Always with the entropy. Its package imports much that its kernel does not need: then only
    the kernel's folders are.
    """
    try:
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    except ImportError:
        spec = importlib.util.find_spec("verl") if "verl" not in sys.modules else None
        if spec is None or not spec.submodule_search_locations:
            raise
        for name in [each for each in sys.modules if each.split(".")[0] == "verl"]:
            del sys.modules[name]
        root = Path(spec.submodule_search_locations[0])
        for name in ("verl", "verl.utils", "verl.utils.kernel"):
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    return lambda *operands: linear_cross_entropy(*operands, 1.0, "none")


def liger_policy() -> Value:
    """Its GRPO loss: the same clip and k3, a mean over tokens; it knows no entropy bonus."""
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    module = LigerFusedLinearGRPOLoss(beta=0.04, loss_type="bnpo", use_ref_model=True)

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        targets, gain, anchor, old = (
            x.view(-1, head.length) for x in (head.targets, head.gain, head.anchor, head.old)
        )
        whole = hidden.view(-1, head.length, hidden.shape[1])
        known = {"ref_per_token_logps": anchor, "old_per_token_logps": old}
        return module(
            whole, weight, targets, torch.ones_like(gain), gain[:, 0].contiguous(), **known
        )[0]

    return value


def naive_mean(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of all logits."""
    return functional.cross_entropy((hidden @ weight.T).float(), targets)


def torch_mean() -> Mean:
    """Torch's own, without all logits."""
    function = getattr(functional, "linear_cross_entropy", None)
    if function is None:
        raise NotImplementedError("this torch has no linear_cross_entropy")
    return function


def liger_mean(accumulate: torch.dtype | None = None) -> Mean:
    """Its Triton form; `accumulate` is the type in which the chunks' gradients are summed."""
    from liger_kernel.ops.fused_linear_cross_entropy import (
        LigerFusedLinearCrossEntropyFunction as Function,
    )

    rest = [None, None, -100, 0.0, 0.0, "mean", None, False, accumulate]
    return lambda *operands: Function.apply(*operands, *rest)[0]


def cut_mean(**options: Any) -> Mean:
    from cut_cross_entropy import linear_cross_entropy

    return partial(linear_cross_entropy, **options)


def mean_of(score: Score) -> Mean:
    return lambda *operands: -score(*operands)[0].mean()
