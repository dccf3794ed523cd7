"""vLLM as what draws for a CausalLMPolicy: the weights go over in a folder, tokens come back."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn

from rewardlab.errors import InputError
from rewardlab.policies import causal_lm_folder
from rewardlab.policies.abilities import DrawingTerms, TextGenerator
from rewardlab.policies.text import Tokens

if TYPE_CHECKING:
    from rewardlab.policies.causal_lm import CausalLMPolicy


class WeightMark(NamedTuple):
    """What differs once a parameter was changed or replaced."""

    place: int
    version: int
    total: float


class VLLMSampler(TextGenerator):
    """Draw a language model's responses by vLLM, in the process that trains it.

    Before each drawing the policy's weights are compared with those that the engine has. Where they
    differ, the model is written to `folder`, an adapter merged into it, and the engine reads it
    anew (`collective_rpc("reload_weights")`) and forgets its cached prompts. So each rollout is of
    the policy as it is. The engine's log-probabilities are not asked for: ratios and KL come from
    the policy's own `log_prob`, which differs from the engine's arithmetic by rounding.

    A seed a row goes to the engine. Its draws are not those of the policy's own decoding.

    Args:
        folder: where the weights go over; a temporary folder by default. It has to hold the model,
            and memory (/dev/shm) is the fastest place. Several processes have folders in it.
        dtype: the engine's precision.
        gpu_memory: share of the GPU's memory that the engine takes beside the training.
        tensor_parallel: number of GPUs that the engine is spread over.

    Raises:
        InputError: if vLLM is not installed.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16",
        gpu_memory: float = 0.3,
        tensor_parallel: int = 1,
    ) -> None:
        self.folder = folder
        self.dtype = dtype
        self.gpu_memory = gpu_memory
        self.tensor_parallel = tensor_parallel
        self._vllm = _vllm()
        self._engine: Any = None
        self._temporary: TemporaryDirectory[str] | None = None
        self._marks: list[WeightMark] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> VLLMSampler:
        """Return the same object: a copy of a policy draws by this engine, with its own weights."""
        return self

    def draw(
        self,
        policy: CausalLMPolicy,
        prompts: Tokens,
        seeds: Tensor,
        limits: Sequence[int],
        terms: DrawingTerms,
    ) -> Tokens:
        self._hand_over(policy)
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        parameters = []
        for seed, limit in zip(seeds.tolist(), limits, strict=True):
            parameters.append(self._parameters(seed, limit, terms))
        results = self._engine.generate(requests, parameters, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    def _parameters(self, seed: int, limit: int, terms: DrawingTerms) -> Any:
        return self._vllm.SamplingParams(
            temperature=terms.temperature,
            top_p=terms.top_p,
            top_k=terms.top_k if terms.top_k else -1,
            seed=seed,
            max_tokens=limit,
            stop=list(terms.stop),
            stop_token_ids=list(terms.ends),
            include_stop_str_in_output=True,
            skip_special_tokens=False,
        )

    def _hand_over(self, policy: CausalLMPolicy) -> None:
        """Make sure that the engine has the policy's weights."""
        marks = weight_marks(policy.network)
        if self._engine is not None and marks == self._marks:
            return
        folder = self._place()
        causal_lm_folder.write_model(policy, folder)
        if self._engine is None:
            self._engine = self._vllm.LLM(
                model=str(folder),
                dtype=self.dtype,
                gpu_memory_utilization=self.gpu_memory,
                tensor_parallel_size=self.tensor_parallel,
                max_model_len=policy.limit,
            )
        else:
            self._engine.collective_rpc("reload_weights")
            self._engine.reset_prefix_cache()
        self._marks = marks

    def _place(self) -> Path:
        if self.folder is not None:
            folder = Path(self.folder)
            if distributed.is_initialized():  # each process has an engine
                folder = folder / str(distributed.get_rank())
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        if self._temporary is None:
            self._temporary = TemporaryDirectory(prefix="rewardlab-vllm-")
        return Path(self._temporary.name)


def weight_marks(network: nn.Module) -> list[WeightMark]:
    """Return a mark of each parameter, by which a change is seen: one pass over the weights.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = weight_marks(layer)
        >>> layer.weight.data += 1
        >>> weight_marks(layer) == before
        False
    """
    parameters = list(network.parameters())
    sums = [parameter.detach().double().sum() for parameter in parameters]
    totals = torch.stack([total.cpu() for total in sums]).tolist()
    marks = []
    for parameter, total in zip(parameters, totals, strict=True):
        marks.append(WeightMark(parameter.data_ptr(), parameter._version, total))
    return marks


def _vllm() -> Any:
    """Return the package vllm.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError:
        raise InputError(
            "VLLMSampler draws by vLLM, which is not installed: pip install 'rewardlab[vllm]', on "
            "a machine with a GPU. Without it leave the generator out; the policy then draws by "
            "itself."
        ) from None
