"""Frozen linear layers whose weights are stored in eight bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Float8Linear(nn.Linear):
    """A frozen linear layer: float8 weights (e4m3), and a scale for each row of them.

    It computes in the precision of its input, or of the autocast around it. For the backward pass
    it keeps the eight bits, and no wider copy.

    Args:
        layer: the layer that it stands for; the bias keeps its precision.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> rows = torch.randn(3, 4)
        >>> bool((Float8Linear(layer)(rows) - layer(rows)).abs().max() < 0.3)
        True
    """

    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        has_bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias=has_bias, device="meta")
        weight = layer.weight.detach()
        scale = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / LARGEST
        rounded = (weight.float() / scale).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        y: Tensor = _Product.apply(x.to(dtype), self.weight, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """x · Wᵀ, with W widened where it is used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return x @ _widened(weight, scale, x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        gradient = gradients[0]
        return gradient @ _widened(weight, scale, gradient.dtype), None, None


def store_in_float8(network: nn.Module) -> None:
    """Put `Float8Linear` in the place of the frozen linear layers of a network's blocks.

    Layers outside the numbered blocks stay: they are few, and their callers read their precision.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
        >>> store_in_float8(network)
        >>> network[0].weight.dtype
        torch.float8_e4m3fn
    """
    for name, layer in list(network.named_modules()):
        in_block = any(part.isdigit() for part in name.split("."))
        if in_block and type(layer) is nn.Linear and not layer.weight.requires_grad:
            network.set_submodule(name, Float8Linear(layer))


def _widened(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) * scale.to(dtype)
