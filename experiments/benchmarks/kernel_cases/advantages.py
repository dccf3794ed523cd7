"""Generalised advantage estimation (T11), beside a loop over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases.measuring import Call, Provider, Run, errors_of, launches, measure, over
from kernel_cases.writing import aim, report
from rewardlab.kernels import discounted_sum, generalized_advantages

DISCOUNT = 0.99
LAMBDA = 0.95


def advantages(run: Run, _: str, seconds: float) -> None:
    """T11: generalised advantage estimation over [512, 2048] with episodes that end, and the scan
    alone.
    """
    rows, steps = (8, 64) if run.quick else (512, 2048)
    place = f"{rows}x{steps}"
    made = _operands(run, rows, steps)
    ready = [(_one_step_errors(*each), DISCOUNT * LAMBDA * each[2]) for each in made]
    flags = [
        (rewards, values, torch.ones_like(going, dtype=torch.bool), going == 0)
        for rewards, values, going in made
    ]

    def of(function: Callable[..., Tensor], operands: Sequence[tuple[Tensor, ...]] = made) -> Call:
        return lambda turn: {"advantages": function(*operands[turn % len(operands)])}

    providers: dict[str, Provider] = {
        "ours": lambda: of(ours, flags),
        "ours, plain torch": lambda: of(partial(ours, backend="torch"), flags),
        "ours, the scan alone": lambda: of(discounted_sum, ready),
        "loop over steps": lambda: of(loop),
    }
    found = measure(run, providers, seconds)
    truth = loop(*(x.double() for x in made[0]))
    errors = errors_of(
        found,
        lambda result: {
            "largest error": float((result["advantages"].double() - truth).abs().max())
        },
    )
    report(run, "T11", "advantages", "forward", place, found, errors)
    aim(run, "T11", "the loop's time over ours", place, over(found, "loop over steps"), ">= 100")
    aim(run, "T11", "launches", place, launches(run, of(ours, flags)), "== 1")
    if run.cuda:
        some = {name: providers[name] for name in ("ours", "ours, the scan alone")}
        queue = measure(run, some, seconds / 4, queued=True)
        report(run, "T11", "advantages", "forward, launches hidden", place, queue)
        aim(run, "T11", "ms, launches hidden", place, queue["ours"].median, "", "<= 0.01")


def ours(
    rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor, backend: Any = None
) -> Tensor:
    return generalized_advantages(
        rewards, values, mask, ends=ends, discount=DISCOUNT, lam=LAMBDA, backend=backend
    )[0]


def loop(rewards: Tensor, values: Tensor, going: Tensor) -> Tensor:
    """Steps from the last to the first."""
    last = torch.zeros_like(rewards[:, 0])
    columns = []
    steps = rewards.shape[1]
    for t in reversed(range(steps)):
        following = values[:, t + 1] if t + 1 < steps else 0.0
        delta = rewards[:, t] + DISCOUNT * going[:, t] * following - values[:, t]
        last = delta + DISCOUNT * LAMBDA * going[:, t] * last
        columns.append(last)
    return torch.stack(columns[::-1], 1)


def _operands(run: Run, rows: int, steps: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rewards, values, and 1 where the episode goes on; as many as the caches cannot hold."""
    random = torch.Generator(run.device).manual_seed(0)
    made = []
    for _ in range(run.copies(12 * rows * steps)):
        rewards, values = (
            torch.randn(rows, steps, generator=random, device=run.device) for _ in range(2)
        )
        made.append(
            (
                rewards,
                values,
                (torch.rand(rows, steps, generator=random, device=run.device) > 0.01).float(),
            )
        )
    return made


def _one_step_errors(rewards: Tensor, values: Tensor, going: Tensor) -> Tensor:
    """δ_t = r_t + γ · V_(t+1) - V_t, and without V_(t+1) where the episode ends."""
    return rewards + DISCOUNT * going * functional.pad(values[:, 1:], (0, 1)) - values
