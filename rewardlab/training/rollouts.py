"""What PPO knows before it takes a step: penalties, advantages, figures, and tables of what was
sampled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rewardlab.advantages import generalized, group_normalized, leave_one_out
from rewardlab.losses.kl import absolute, k1, k2
from rewardlab.storage.atomic import write_atomically
from rewardlab.storage.samples import save_samples
from rewardlab.training.base import step_total
from rewardlab.types import Index, Rollout, Samples, Trajectory, take

Baseline = Literal["leave_one_out", "group_normalized", "generalized"]
KLKind = Literal["reward", "k2", "k3", "absolute"]
TABLE = "samples.jsonl"
TABLE_IMAGES = 16


@dataclass(frozen=True)
class Experience:
    """A rollout with its finished outputs and, where there is a critic, the values it gave to the
    steps beforehand.
    """

    rollout: Rollout
    samples: Samples
    values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rollout)

    def __getitem__(self, index: Index) -> Experience:
        return Experience(
            *(
                None if part is None else take(part, index)
                for part in (self.rollout, self.samples, self.values)
            )
        )


def penalties(kind: KLKind, log_ratio: Tensor, mask: Tensor, dimensions: int) -> Tensor:
    """What each step's reward loses to the KL before its weight, in nats: [B, T], 0 where it is a
    loss instead.

    Args:
        kind: "reward" takes k1, whose sum over steps estimates the KL of whole outputs; "absolute"
            the mean over steps of |x|.
        log_ratio: [B, T], of policy and reference, as the policy's means over dimensions have it.
        mask: bool [B, T].
        dimensions: of the policy.
    """
    nats = (log_ratio * dimensions).where(mask, 0)
    if kind == "reward":
        return k1(nats)
    if kind == "absolute":
        return absolute(nats) / mask.sum(1, keepdim=True).clamp_min(1)
    return torch.zeros_like(nats)


def advantages(
    kind: Baseline | Callable[[Tensor], Tensor],
    rewards: Tensor,
    penalty: Tensor,
    mask: Tensor,
    samples_per_prompt: int,
    values: Tensor | None,
    lam: float,
) -> Tensor:
    """Return advantages [B, T] of a critic, or [B, 1] of a baseline over each prompt's samples.

    Args:
        kind: one of the three, or a function of scores [P, K].
        rewards: [B], of whole outputs.
        penalty: [B, T], taken off step by step.
        mask: bool [B, T].
        samples_per_prompt: K; a prompt's rows lie together.
        values: [B, T], of the critic.
        lam: λ of the critic's advantages. There is no discount: what counts is the finished output.
    """
    if kind == "generalized":
        return generalized(
            at_last_step(rewards, mask) - penalty, values, mask, discount=1.0, lam=lam
        )[0]
    baseline = {"leave_one_out": leave_one_out, "group_normalized": group_normalized}.get(
        kind, kind
    )
    return (
        baseline((rewards - penalty.sum(1)).view(-1, samples_per_prompt))
        .reshape(len(rewards), 1)
        .float()
    )


def at_last_step(rewards: Tensor, mask: Tensor) -> Tensor:
    """Put rewards [B] on the last step that counts of each row: [B, T].

    Example:
        >>> at_last_step(torch.tensor([3.0]), torch.tensor([[True, True, False]])).tolist()
        [[0.0, 3.0, 0.0]]
    """
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1, keepdim=True)
    return torch.zeros(mask.shape, device=mask.device).scatter(1, last, rewards[:, None].float())


def in_parts(
    steps: Callable[[Trajectory], Tensor], trajectory: Trajectory, size: int | None
) -> Tensor:
    """Return what a policy says of each step [B, T], `size` rows at a time."""
    rows = torch.arange(len(trajectory)).split(size or len(trajectory))
    return (
        steps(trajectory)
        if len(rows) == 1
        else torch.cat([steps(trajectory[part]) for part in rows])
    )


@contextmanager
def evaluating(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules, not what they hold, into evaluation mode for a while; each gets its own mode
    back.
    """
    modes = [(part, part.training) for part in parts]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def random_parts(policy: nn.Module) -> list[nn.Module]:
    """Return the dropouts and batch norms of a policy, which in training mode part what samples
    from what is scored.

    The rest keeps its mode, on which gradient checkpointing may depend.
    """
    return [
        part
        for part in policy.modules()
        if isinstance(part, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm)
    ]


def across_processes(value: Tensor, how: Literal["SUM", "MAX"] = "SUM") -> Tensor:
    """Return the sum, or the largest, of every process's `value`."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total, getattr(torch.distributed.ReduceOp, how))
    return total


def mean(values: Tensor) -> Tensor:
    """The mean over all entries of all processes' `values`, which may differ in number.

    Example:
        >>> mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]])).item()
        4.0
    """
    total = across_processes(
        torch.stack([values.double().sum(), values.new_tensor(values.numel()).double()])
    )
    return (total[0] / total[1]).float()


def rollout_figures(experience: Experience, dimensions: int) -> dict[str, Tensor]:
    """Return what is logged of a rollout, scalars; the KL is in nats an output, summed over its
    steps.
    """
    rollout = experience.rollout
    mask = experience.rollout.trajectory.mask
    nats = (rollout.log_prob - rollout.reference_log_prob) * dimensions
    spread = rollout.advantages.expand_as(mask)[mask]
    figures = {
        "score_std": rollout.scores.std(correction=0),
        "advantage_std": spread.std(correction=0),
    }
    figures |= {"kl": step_total(nats, mask).mean(), "kl_k2": step_total(k2(nats), mask).mean()}
    if (
        dimensions == 1
    ):  # -log p is an unbiased estimate; an image policy's leaves out the Gaussian's constant
        figures["entropy"] = -rollout.log_prob[mask].mean()
    if "length" in experience.samples.facts:
        figures["length"] = experience.samples.facts["length"].float().mean()
    if experience.values is not None:
        returns = (rollout.advantages + experience.values)[mask]
        figures["explained_variance"] = 1 - rollout.advantages[
            mask
        ].var() / returns.var().clamp_min(1e-8)
    return figures


class SampleTable:
    """Prompts, outputs and scores as they were at some steps, in a folder, for whoever judges them
    afterwards.

    Texts are lines {"step", "prompt", "output", "score"} of `samples.jsonl`; of images the first 16
    become the folder `samples/<step>` that `load_samples` reads.

    Args:
        folder: where the logger writes.
        step: where the run begins: what an earlier part of it wrote from there on is dropped.
    """

    def __init__(self, folder: str | Path, step: int) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / TABLE
        if file.exists():
            lines = file.read_text(encoding="ascii").splitlines(keepends=True)
            whole = [
                line for line in lines if line.endswith("\n")
            ]  # a killed run may have left half a line
            write_atomically(
                file, "".join(line for line in whole if json.loads(line)["step"] < step)
            )

    def write(self, step: int, samples: Samples, scores: Sequence[float]) -> None:
        """Add what was sampled at `step`."""
        if isinstance(samples.outputs, Tensor):
            images = (
                samples[:TABLE_IMAGES]
                .to("cpu")
                .with_facts(score=torch.tensor(scores[:TABLE_IMAGES]))
            )
            folder = self.folder / "samples" / f"{step:06}"
            shutil.rmtree(folder, ignore_errors=True)
            save_samples(folder, images)
            return
        with (self.folder / TABLE).open(
            "a", encoding="ascii", newline="\n"
        ) as file:  # escapes keep any string exact
            for prompt, output, score in zip(samples.prompts, samples.outputs, scores, strict=True):
                file.write(
                    json.dumps({"step": step, "prompt": prompt, "output": output, "score": score})
                    + "\n"
                )
