"""Blocks whose activations the backward pass computes anew: time for memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewardlab.errors import InputError


def recomputed(block: nn.Module, tokens: Tensor) -> Tensor:
    """Run a block, and let the backward pass compute its activations anew.

    Where none of its weights has a gradient now, none has one then, whatever became of them in
    between: a loop may hold a reward still for its own forward pass alone.

    Args:
        block: draws nothing at random.
        tokens: its only input.

    Example:
        >>> import torch
        >>> tokens = torch.ones(1, 2, requires_grad=True)
        >>> recomputed(nn.Linear(2, 1), tokens).sum().backward()
        >>> tokens.grad.shape
        torch.Size([1, 2])
    """
    is_trained = any(weight.requires_grad for weight in block.parameters())

    def run(tokens: Tensor) -> Tensor:
        with nullcontext() if is_trained else frozen(block):
            result: Tensor = block(tokens)
            return result

    outputs: Tensor = checkpoint(run, tokens, use_reentrant=False)
    return outputs


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Switch off the gradients of a module's parameters for a while."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def checkpoint_blocks(network: Any) -> None:
    """Let the backward pass compute anew what the blocks of open_clip's or timm's network made.

    Raises:
        InputError: if the network has no blocks that do it.
    """
    try:
        network.set_grad_checkpointing(True)
    except (AssertionError, AttributeError):  # how timm's say that they have none
        raise no_such_blocks(network) from None
    # open_clip's ResNet takes the call and does nothing
    if not any(getattr(part, "grad_checkpointing", False) for part in network.modules()):
        raise no_such_blocks(network)


def no_such_blocks(network: object) -> InputError:
    """Return the error of a network that keeps all of its activations."""
    return InputError(
        f"gradient_checkpointing needs blocks that compute their activations anew, which a "
        f"{type(network).__name__} does not have. Leave it out, and take a smaller batch_size or "
        "another tower."
    )
