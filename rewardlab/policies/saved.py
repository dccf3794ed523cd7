"""A policy folder is tried as soon as it is written: it has to say what the policy says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.tokens import PROBES, check_same_tokens
from rewardlab.policies.base import Policy
from rewardlab.seeds import row_seeds
from rewardlab.types import Samples, Trajectory


def check_saved(policy: Policy, folder: str | Path) -> None:
    """Load a policy's folder and make sure that it scores a probe as the policy does.

    The loaded policy is on the CPU for that time.

    Args:
        policy: of texts; its class has `from_pretrained`.
        folder: which was written just now.

    Raises:
        InputError: if tokens or log-probabilities differ.
    """
    kind: Any = type(policy)
    loaded = kind.from_pretrained(folder)
    check_same_tokens(policy.tokenizer, loaded.tokenizer, folder)
    for probe in PROBES:
        trajectory = _encoded(policy, probe)
        if trajectory is not None:
            _check_scores(policy, trajectory, loaded, loaded.encode(probe, seeds=_seeds(probe)))
            return


def _encoded(policy: Policy, probe: Samples) -> Trajectory | None:
    """Return the probe's trajectory, None if it does not fit the context or the template."""
    try:
        return policy.encode(probe, seeds=_seeds(probe))
    except InputError:
        return None


def _seeds(probe: Samples) -> Tensor:
    return row_seeds(0, len(probe))


def _check_scores(
    policy: Policy, trajectory: Trajectory, loaded: Policy, loaded_trajectory: Trajectory
) -> None:
    """Refuse other tokens, and log-probabilities that differ by more than rounding does."""
    for name, tensor in trajectory.tensors.items():
        if not torch.equal(tensor.cpu(), loaded_trajectory.tensors[name].cpu()):
            raise InputError(
                f"The saved policy reads a probe text as other tokens ({name}) than the policy "
                "that was saved. Is its tokenizer changed in memory in a way that is not saved?"
            )
    with torch.no_grad():
        expected = policy.log_prob(trajectory).cpu()
        scores = loaded.log_prob(loaded_trajectory)
    is_exact = all(weight.dtype == torch.float32 for weight in policy.parameters())
    tolerance = 0.02 if is_exact and policy.dtype == torch.float32 else 0.25
    difference = (scores - expected).norm() / expected.norm().clamp_min(1e-6)
    if not difference <= tolerance:
        raise InputError(
            f"The saved policy scores a probe text otherwise than the policy that was saved: "
            f"{scores.sum():.3f} in place of {expected.sum():.3f} nats. Is the model changed in "
            "memory in a way that its config does not tell?"
        )
