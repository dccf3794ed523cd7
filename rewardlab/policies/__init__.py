"""Policies: generators that can be sampled from and scored.

`base` and `abilities` say what a policy is and what it may do beside. A language model is
`causal_lm`: `language_network` and `backbone` run it, `text` and `codec` tokenize, `decoding`
draws, `scoring` states log-probabilities and losses. A diffusion model is `diffusion`: `pipelines`
loads it, `components` names its parts, `families` knows its prompts, `denoising` its network's
output, `noising` its training targets, `samplers` and `schedulers` its steps. `latent` is a
Gaussian over the latents of a generator without a likelihood. `encoding` noises finished pictures,
`norm_ratios` compares velocities with a reference's, and `base_finish` lets the reference finish
what a policy began. `vllm_sampler` lets vLLM draw for a language model. `llama2c` and `gguf` read
other programs' model files, and `single_file` Stable Diffusion's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names
from rewardlab.policies.base import CallableGenerator, Generator, Policy, frozen_copy

if TYPE_CHECKING:
    from rewardlab.policies.base_finish import BaseFinish
    from rewardlab.policies.causal_lm import CausalLMPolicy
    from rewardlab.policies.diffusion import DiffusionPolicy
    from rewardlab.policies.folders import load_policy
    from rewardlab.policies.gguf import from_gguf
    from rewardlab.policies.latent import LatentPolicy
    from rewardlab.policies.latent_generators import LatentGenerator
    from rewardlab.policies.llama2c import from_llama2c
    from rewardlab.policies.resources import Resources
    from rewardlab.policies.samplers import Sampler
    from rewardlab.policies.single_file import folder_from_single_file
    from rewardlab.policies.vllm_sampler import VLLMSampler

_HOMES = {
    "BaseFinish": "rewardlab.policies.base_finish",
    "CausalLMPolicy": "rewardlab.policies.causal_lm",
    "DiffusionPolicy": "rewardlab.policies.diffusion",
    "LatentGenerator": "rewardlab.policies.latent_generators",
    "LatentPolicy": "rewardlab.policies.latent",
    "Resources": "rewardlab.policies.resources",
    "Sampler": "rewardlab.policies.samplers",
    "VLLMSampler": "rewardlab.policies.vllm_sampler",
    "folder_from_single_file": "rewardlab.policies.single_file",
    "from_gguf": "rewardlab.policies.gguf",
    "from_llama2c": "rewardlab.policies.llama2c",
    "load_policy": "rewardlab.policies.folders",
}
__all__ = [
    "BaseFinish",
    "CallableGenerator",
    "CausalLMPolicy",
    "DiffusionPolicy",
    "Generator",
    "LatentGenerator",
    "LatentPolicy",
    "Policy",
    "Resources",
    "Sampler",
    "VLLMSampler",
    "folder_from_single_file",
    "from_gguf",
    "from_llama2c",
    "frozen_copy",
    "load_policy",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
