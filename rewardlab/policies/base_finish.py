"""BaseFinish: a policy draws the beginning of a picture and its reference the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.precision import arithmetic
from rewardlab.networks.unregistered import hold
from rewardlab.policies.base import Generator, Policy
from rewardlab.policies.denoising import Conditions, guided_output
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.folders import load_policy
from rewardlab.policies.reference import AdapterOff
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import POLICY_FILE, read_class_file
from rewardlab.types import Samples


class BaseFinish(Generator):
    """A diffusion policy above a time τ, and its reference from there on, as one generator.

    Layout is settled in the first steps and texture in the last, where a reward's faults show most.
    To let the reference finish is a mend, and a diagnosis: what a score loses as τ rises was made
    in the steps that the reference took over (see `rewardlab.evaluation.finish_curve`).

    The time t is the share of the training schedule, 1 at pure noise; the network that is called
    at t is the policy's where t > τ. So τ = 0 is the policy and τ = 1 the reference, to the bit.
    Guidance and the sampler are the policy's, and both networks see the same noise. It has no step
    probabilities, so it is judged, scored and attacked like any generator, and not trained.

    Args:
        policy: the policy; its weights are read when pictures are drawn.
        tau: τ in [0, 1].
        reference: takes over at τ; a policy of the same kind of network, such as the base that was
            loaded from its folder, or by default the policy's own reference, which is its network
            without the adapter.

    Raises:
        InputError: if τ is out of range, or the policy or the reference is no DiffusionPolicy, or
            both would be the same network.

    Example:
        >>> from rewardlab import Sampler
        >>> from rewardlab.testing import tiny_diffusion
        >>> sampler = Sampler(steps=4)
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=sampler, lora_rank=2)
        >>> BaseFinish(policy, 0.3).generate([""], seeds=torch.tensor([1])).outputs.shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, policy: Generator, tau: float, reference: Policy | None = None) -> None:
        super().__init__()
        if not 0 <= tau <= 1:
            raise InputError(f"BaseFinish takes a time tau in [0, 1]; got {tau:g}.")
        self.policy = _diffusion(policy, "policy")
        self.reference = _reference_of(self.policy, reference)
        self.tau = tau

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        """Return one picture per prompt by the policy's sampler."""
        finishing = _Finishing.of(self.policy, self.reference, self.tau)
        return finishing.generate(prompts, seeds=seeds)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse what the policy inside refuses."""
        self.policy.check_prompts(prompts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write τ into policy.json, the policy into `folder`/policy, the reference beside it.

        Raises:
            InputError: if the reference is the policy without its adapter, which has no folder.
        """
        if isinstance(self.reference, AdapterOff):
            raise InputError(
                "BaseFinish is saved as two policies, and its reference is the policy without its "
                "adapter. Give the base as the reference, loaded from its own folder."
            )
        self.policy.save_pretrained(Path(folder) / "policy")
        self.reference.save_pretrained(Path(folder) / "reference")
        config = {"class_path": "rewardlab.policies.BaseFinish", "tau": self.tau}
        write_json(Path(folder) / POLICY_FILE, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust: bool = False) -> BaseFinish:
        """Load what `save_pretrained` wrote, in eval mode.

        Args:
            folder: which `save_pretrained` wrote.
            trust: as `load_policy` takes it, for the two parts.

        Raises:
            InputError: if a part is missing or cannot be read.
        """
        config = read_class_file(Path(folder) / POLICY_FILE)
        policy = load_policy(Path(folder) / "policy", trust=trust)
        reference: Any = load_policy(Path(folder) / "reference", trust=trust)
        return cls(policy, float(config["tau"]), reference).eval()


class _Finishing(DiffusionPolicy):
    """The policy, whose network is the reference's at times up to τ. It shares all weights."""

    tau: float
    finisher: Policy

    @classmethod
    def of(cls, policy: DiffusionPolicy, finisher: Policy, tau: float) -> _Finishing:
        finishing = cls.__new__(cls)
        finishing.__dict__.update(policy.__dict__)
        finishing._modules = dict(policy._modules)
        finishing.tau = tau
        hold(finishing, "finisher", finisher)
        return finishing

    def whole_output(self, x: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        share = min(time[0].item() / self.noising.time[-1].item(), 1.0)
        if self.tau == 0 or share > self.tau:
            return super().whole_output(x, time, conditions)
        guidance = self.family.guidance_at(self.sampler, time)
        with _network(self, self.finisher) as denoiser, arithmetic(x.device, self.dtype):
            return guided_output(self.family, denoiser, x, time, conditions, guidance)


@contextmanager
def _network(policy: DiffusionPolicy, reference: Policy) -> Iterator[nn.Module]:
    """Yield the reference's denoiser: another network, or the policy's without its adapter."""
    if isinstance(reference, DiffusionPolicy):
        yield reference.denoiser
        return
    with policy.adapter_off():
        yield policy.denoiser


def _diffusion(policy: object, who: str) -> DiffusionPolicy:
    if isinstance(policy, DiffusionPolicy):
        return policy
    raise InputError(
        f"BaseFinish needs a {who} with denoising steps, a DiffusionPolicy; got a "
        f"{type(policy).__name__}."
    )


def _reference_of(policy: DiffusionPolicy, reference: Policy | None) -> Policy:
    """Return what finishes; refuse a policy without an adapter and without a reference."""
    if reference is None and policy.lora_rank is None:
        raise InputError(
            "BaseFinish needs a reference for a policy without an adapter, since all its weights "
            "are trained. Give the base policy, or the loop's reference."
        )
    if reference is None:
        return policy.reference()
    if isinstance(reference, AdapterOff) and reference.policy is policy:
        return reference
    base = _diffusion(reference, "reference")
    if base.shape != policy.shape:
        raise InputError(
            f"BaseFinish's reference denoises latents {list(base.shape)} and its policy "
            f"{list(policy.shape)}. Give the base that the policy was trained from."
        )
    return base
