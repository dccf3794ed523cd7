"""Samples after the generator's autoencoder, whose decoder leaves a signature."""

from __future__ import annotations

import torch

from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples, concatenate

AT_ONCE = 16  # images that pass an autoencoder together


def reconstructed(policy: Policy | None, samples: Samples, seed: int) -> Samples:
    """Return the samples after the policy's encoder and decoder, on the CPU.

    So targets carry the autoencoder's signature as generated samples do.

    Raises:
        InputError: if there is no policy.
    """
    if policy is None:
        raise InputError(
            "reconstruct=True passes targets through the generator's autoencoder; "
            "give the `policy`."
        )
    seeds = row_seeds(derive(seed, "reconstruct"), len(samples))
    parts = []
    with torch.no_grad():
        for start in range(0, len(samples), AT_ONCE):
            part = samples[start : start + AT_ONCE]
            trajectory = policy.encode(part, seeds=seeds[start : start + AT_ONCE])
            parts.append(policy.decode(trajectory).to("cpu"))
    whole: Samples = concatenate(parts)
    return whole
