"""AdamW whose two moments are kept in bfloat16: half of the bytes of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from rewardlab.errors import InputError
from rewardlab.seeds import derive

MOMENTS = ("exp_avg", "exp_avg_sq")
CHUNK = 2**20  # elements that are in float32 at once
LOW_BITS = 0xFFFF  # what bfloat16 leaves out of a float32
ALL_BITS = -(2**63)  # the lowest integer that a draw of 64 bits gives


class _Chunk(NamedTuple):
    """Elements of a weight, and what belongs to them."""

    weight: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor


class BFloat16AdamW(Optimizer):
    """AdamW (arXiv 1711.05101) with float32 arithmetic and weights, and bfloat16 moments.

    Moments take 4 bytes a trained weight; those of torch's AdamW take 8. Each step reads them,
    computes in float32 as torch's does, and rounds them at random up or down, so that their
    expectation is exact. To the nearest, the second moment would never fall: a step takes 0.1 % of
    it away, and half a unit of bfloat16 is 0.2 to 0.4 %. The noise leaves the second moment with a
    relative deviation of about 5 %, so a weight's step with 2.5 %, and adds nothing to the mean of
    either. Gradients that are noise give a second moment of torch's a deviation of 3 %.

    The random bits come from the seed, the weight's number and its step, so equal runs are equal
    to the bit, and so is a resumed one.

    Args:
        params: the weights, float32, or groups of them, as torch's AdamW takes them.
        lr, betas, eps, weight_decay: as torch's AdamW takes them.
        seed: of the rounding.

    Raises:
        InputError: if a number is out of range, or a weight is not float32.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = BFloat16AdamW([weight], lr=0.1, weight_decay=0.0)
        >>> weight.grad = torch.tensor([1.0, -2.0, 3.0])
        >>> _ = optimizer.step()
        >>> weight.detach(), optimizer.state[weight]["exp_avg_sq"].dtype
        (tensor([0.9000, 1.1000, 0.9000]), torch.bfloat16)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        _check_numbers(lr, betas, eps, weight_decay)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.seed = seed
        for group in self.param_groups:
            _check_weights(group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step, after the closure if there is one, and return what that returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number = 0
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_weight(weight, group, number)
                number += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, whose moments torch brings to float32, and bring them back."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in MOMENTS:
                state[name] = state[name].to(torch.bfloat16)

    def _step_weight(self, weight: Tensor, group: dict[str, Any], number: int) -> None:
        """Change a weight by its gradient, a chunk of its elements at a time."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            for name in MOMENTS:
                state[name] = torch.zeros_like(weight, dtype=torch.bfloat16)
        state["step"] += 1
        step = int(state["step"])
        bits = torch.Generator(weight.device)
        bits.manual_seed(derive(self.seed, "BFloat16AdamW", number, step))
        parts = [weight, weight.grad, state["exp_avg"], state["exp_avg_sq"]]
        for chunk in _chunks([_local(part) for part in parts]):
            _update(chunk, group, step, bits)


def _check_numbers(lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    are_shares = all(0 <= beta < 1 for beta in betas)
    if lr < 0 or eps < 0 or weight_decay < 0 or not are_shares:
        raise InputError(
            "BFloat16AdamW needs lr, eps and weight_decay of 0 or more, and betas in [0, 1); got "
            f"lr={lr:g}, eps={eps:g}, weight_decay={weight_decay:g}, betas={betas}."
        )


def _check_weights(weights: Iterable[Tensor]) -> None:
    for weight in weights:
        if weight.dtype != torch.float32:
            raise InputError(
                f"BFloat16AdamW trains weights in float32; one of shape {list(weight.shape)} is in "
                f"{weight.dtype}, where a small step is lost. Policies and rewards keep trained "
                "weights in float32 whatever their dtype; only the moments are in bfloat16."
            )


def _local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _chunks(parts: list[Tensor]) -> Iterator[_Chunk]:
    """Yield views of tensors of one shape, in chunks that are small in float32."""
    if not all(part.is_contiguous() for part in parts):
        yield _Chunk(*parts)
        return
    for chunk in zip(*[part.view(-1).split(CHUNK) for part in parts], strict=True):
        yield _Chunk(*chunk)


def _update(chunk: _Chunk, group: dict[str, Any], step: int, bits: torch.Generator) -> None:
    """Take AdamW's step of some elements, and round their moments."""
    first, second = group["betas"]
    lr = float(group["lr"])
    gradient = chunk.gradient.float()
    mean = chunk.mean.float().lerp_(gradient, 1 - first)
    square = chunk.square.float().mul_(second).addcmul_(gradient, gradient, value=1 - second)
    scale = (1 - second**step) ** 0.5
    spread = (square.sqrt() / scale).add_(group["eps"])
    chunk.weight.mul_(1 - lr * group["weight_decay"])
    chunk.weight.addcdiv_(mean, spread, value=-lr / (1 - first**step))
    round_at_random(mean, chunk.mean, bits)
    round_at_random(square, chunk.square, bits)


def round_at_random(exact: Tensor, rounded: Tensor, bits: torch.Generator) -> None:
    """Round float32 numbers to one of their two neighbors in bfloat16, the exact in expectation.

    The sixteen bits that bfloat16 leaves out are the chance of the neighbor that is farther from
    0 (arXiv 2010.06192, section 3). NaN and infinity stay.

    Args:
        exact: float32, of any shape. It is overwritten where it is finite.
        rounded: bfloat16 of that shape, which is written.
        bits: generator of the draws.

    Example:
        >>> third = torch.full((10000,), 1 / 3)
        >>> rounded = torch.zeros(10000, dtype=torch.bfloat16)
        >>> round_at_random(third, rounded, torch.Generator().manual_seed(0))
        >>> rounded.unique().tolist(), round(rounded.float().mean().item(), 4)
        ([0.33203125, 0.333984375], 0.3333)
    """
    draws = torch.empty((exact.numel() + 3) // 4, dtype=torch.int64, device=exact.device)
    draws.random_(ALL_BITS, None, generator=bits)
    low = draws.view(torch.int16)[: exact.numel()].view(exact.shape).int().bitwise_and_(LOW_BITS)
    low.masked_fill_(~exact.isfinite(), 0)
    sums = exact.view(torch.int32).add_(low).bitwise_and_(~LOW_BITS)
    rounded.copy_(sums.view(torch.float32))
