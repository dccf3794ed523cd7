"""The Diffusion-DPO loss (T10): small, where launches count, and large, where the memory's
bandwidth does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases import others
from kernel_cases.measuring import Call, Found, Provider, Run, errors_of, launches, measure, over
from kernel_cases.writing import aim, report
from rewardlab.kernels import diffusion_dpo_loss

SHAPES = {"latents": (8, 4, 128, 128), "video latents": (16, 16, 32, 128, 128)}
TINY = (2, 4, 8, 8)
BETA = 5000.0
MODE = "forward and backward"
HIDDEN = f"{MODE}, launches hidden"


def diffusion(run: Run, size: str, seconds: float) -> None:
    """T10: the Diffusion-DPO loss of bfloat16 predictions, forward and backward; the gradient is of
    the policy's two.
    """
    shape = TINY if run.quick else SHAPES[size]
    place = f"{size} {'x'.join(map(str, shape))}"
    random = torch.Generator(run.device).manual_seed(0)
    draw = partial(torch.randn, shape, generator=random, device=run.device)
    made = [[draw().bfloat16() for _ in range(6)] for _ in range(run.copies(12 * math.prod(shape)))]
    providers: dict[str, Provider] = {
        "ours": lambda: _gradients(made, partial(diffusion_dpo_loss, beta=BETA)),
        "ours, plain torch": lambda: _gradients(
            made, partial(diffusion_dpo_loss, beta=BETA, backend="torch")
        ),
        "naive": lambda: _gradients(made, naive),
        "naive, torch.compile": lambda: _gradients(made, others.compiled(naive, run.quick)),
    }
    found = measure(run, providers, seconds / (2 if size == "latents" else 1))
    if size == "latents":
        _small(run, place, made, providers, found, seconds / 2)
    else:
        _large(run, place, made, providers, found, seconds / 4)


def naive(c: Tensor, r: Tensor, rc: Tensor, rr: Tensor, tc: Tensor, tr: Tensor) -> Tensor:
    """The loss of each pair in float32: chosen and rejected, the reference's, and their targets."""

    def error(x: Tensor, y: Tensor) -> Tensor:
        return (x.float() - y.float()).square().flatten(1).mean(1)

    return functional.softplus(
        BETA / 2 * ((error(c, tc) - error(rc, tc)) - (error(r, tr) - error(rr, tr)))
    )


def exact(operands: list[Tensor]) -> Tensor:
    """The same in float64."""
    c, r, rc, rr, tc, tr = (x.double().flatten(1) for x in operands)
    gap = ((c - tc) ** 2 - (rc - tc) ** 2).mean(1) - ((r - tr) ** 2 - (rr - tr) ** 2).mean(1)
    return functional.softplus(BETA / 2 * gap)


def _gradients(made: list[list[Tensor]], loss: Callable[..., Tensor]) -> Call:
    def call(turn: int) -> dict[str, Tensor]:
        c, r, *rest = made[turn % len(made)]
        both = [c.detach().requires_grad_(), r.detach().requires_grad_()]
        losses = loss(*both, *rest)
        found = torch.autograd.grad(losses.sum(), both)
        return {"losses": losses.detach(), "chosen": found[0], "rejected": found[1]}

    return call


def _small(
    run: Run,
    place: str,
    made: list[list[Tensor]],
    providers: dict[str, Provider],
    found: dict[str, Found],
    seconds: float,
) -> None:
    truth = exact(made[0])
    errors = errors_of(
        found,
        lambda result: {
            "largest error of a loss": float((result["losses"].double() - truth).abs().max())
        },
    )
    report(run, "T10", "Diffusion-DPO", MODE, place, found, errors)
    aim(run, "T10", "naive time over ours", place, over(found, "naive"), ">= 5")
    aim(run, "T10", "launches", place, launches(run, found["ours"].call), "", "<= 3")
    if run.cuda:
        some = {name: providers[name] for name in ("ours", "naive", "naive, torch.compile")}
        report(run, "T10", "Diffusion-DPO", HIDDEN, place, measure(run, some, seconds, queued=True))


def _large(
    run: Run,
    place: str,
    made: list[list[Tensor]],
    providers: dict[str, Provider],
    found: dict[str, Found],
    seconds: float,
) -> None:
    def copied(turn: int) -> dict[str, Tensor]:
        first, second, *_ = made[turn % len(made)]
        second.copy_(first)
        return {}

    report(run, "T10", "Diffusion-DPO", MODE, place, found)
    hidden = measure(run, {"ours": providers["ours"]}, seconds, queued=run.cuda)
    report(run, "T10", "Diffusion-DPO", HIDDEN, place, hidden)
    copy = measure(run, {"copy": lambda: copied}, seconds, queued=run.cuda)[
        "copy"
    ]  # last: it writes over a prediction
    report(run, "T10", "copy of one operand", "launches hidden", place, {"copy": copy}, base="copy")
    share = (12 / hidden["ours"].median) / (
        2 / copy.median
    )  # the loss reads or writes twelve operands, a copy two
    aim(run, "T10", "share of the copy's bandwidth", place, share, ">= 0.85", ">= 0.92")
    aim(run, "T10", "naive time over ours", place, over(found, "naive"))
