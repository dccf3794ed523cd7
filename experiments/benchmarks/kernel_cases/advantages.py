"""Generalized advantage estimation (T11), beside a loop over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases.measuring import (
    Call,
    Errors,
    Measurements,
    Metrics,
    Providers,
    Result,
    Run,
    errors_of,
    in_turn,
    launches,
    measure,
    over,
)
from kernel_cases.writing import Case, aim, report
from rewardlab.kernels import discounted_sum, generalized_advantages

DISCOUNT = 0.99
LAMBDA = 0.95


class Steps(NamedTuple):
    """Rewards and values [B, T], and `going`, which is 1 where the episode goes on."""

    rewards: Tensor
    values: Tensor
    going: Tensor


def advantages(run: Run, _: str, seconds: float) -> None:
    """Measure generalized advantages over [512, 2048] with episodes that end, and the scan: T11."""
    rows = 8 if run.quick else 512
    steps = 64 if run.quick else 2048
    label = f"{rows}x{steps}"
    batches = _operands(run, rows, steps)
    providers = _providers(batches)
    measurements = measure(run, providers, seconds)
    case = Case("T11", "advantages", "forward", label)
    report(run, case, measurements, _errors(batches[0], measurements))
    ratio = over(measurements, "loop over steps")
    aim(run, "T11", "the loop's time over ours", label, ratio, ">= 100")
    aim(run, "T11", "launches", label, launches(run, measurements["ours"].call), "== 1")
    if run.cuda:
        kernels = {name: providers[name] for name in ("ours", "ours, the scan alone")}
        queued = measure(run, kernels, seconds / 4, queued=True)
        report(run, case._replace(mode="forward, launches hidden"), queued)
        median = queued["ours"].median
        aim(run, "T11", "ms, launches hidden", label, median, moonshot="<= 0.01")


def _providers(batches: list[Steps]) -> Providers:
    flagged = [_flagged(steps) for steps in batches]
    errors = [(_one_step_errors(steps), DISCOUNT * LAMBDA * steps.going) for steps in batches]
    return {
        "ours": partial(_call, ours, flagged),
        "ours, plain torch": partial(_call, partial(ours, backend="torch"), flagged),
        "ours, the scan alone": partial(_call, discounted_sum, errors),
        "loop over steps": partial(_call, loop, batches),
    }


def _call(function: Callable[..., Tensor], operands: Sequence[Sequence[Tensor]]) -> Call:
    def result_of(tensors: Sequence[Tensor]) -> Result:
        return {"advantages": function(*tensors)}

    return in_turn(operands, result_of)


def _errors(steps: Steps, measurements: Measurements) -> Errors:
    truth = loop(*(tensor.double() for tensor in steps))

    def compare(result: Result) -> Metrics:
        gaps = result["advantages"].double() - truth
        return {"largest error": float(gaps.abs().max())}

    return errors_of(measurements, compare)


def ours(
    rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor, backend: Any = None
) -> Tensor:
    """Return advantages by our kernel."""
    results = generalized_advantages(
        rewards, values, mask, ends=ends, discount=DISCOUNT, lam=LAMBDA, backend=backend
    )
    return results[0]


def loop(rewards: Tensor, values: Tensor, going: Tensor) -> Tensor:
    """Return advantages by steps from the last to the first."""
    last = torch.zeros_like(rewards[:, 0])
    columns = []
    steps = rewards.shape[1]
    for t in reversed(range(steps)):
        following = values[:, t + 1] if t + 1 < steps else 0.0
        delta = rewards[:, t] + DISCOUNT * going[:, t] * following - values[:, t]
        last = delta + DISCOUNT * LAMBDA * going[:, t] * last
        columns.append(last)
    columns.reverse()
    return torch.stack(columns, 1)


def _operands(run: Run, rows: int, steps: int) -> list[Steps]:
    """Return as many operands as the caches cannot hold."""
    random = torch.Generator(run.device).manual_seed(0)
    batches = []
    for _ in range(run.copies(12 * rows * steps)):
        rewards = torch.randn(rows, steps, generator=random, device=run.device)
        values = torch.randn(rows, steps, generator=random, device=run.device)
        chances = torch.rand(rows, steps, generator=random, device=run.device)
        going = (chances > 0.01).float()
        batches.append(Steps(rewards, values, going))
    return batches


def _flagged(steps: Steps) -> list[Tensor]:
    """Return the operands of our kernel: every step counts, and some end an episode."""
    mask = torch.ones_like(steps.going, dtype=torch.bool)
    return [steps.rewards, steps.values, mask, steps.going == 0]


def _one_step_errors(steps: Steps) -> Tensor:
    """Return δ_t = r_t + γ · V_(t+1) - V_t, without V_(t+1) where the episode ends."""
    following = functional.pad(steps.values[:, 1:], (0, 1))
    return steps.rewards + DISCOUNT * steps.going * following - steps.values
