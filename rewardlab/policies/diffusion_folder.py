"""The folder of a DiffusionPolicy: a pipeline that diffusers loads, and the policy's settings."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks import lora
from rewardlab.networks.silence import silent
from rewardlab.policies import samplers
from rewardlab.policies.components import denoiser_parts
from rewardlab.policies.pipeline_files import load_part, network_classes, pipeline_folder
from rewardlab.policies.schedulers import set_timesteps
from rewardlab.seeds import derive, generators, normal, row_seeds
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import POLICY_FILE, read_class_file

if TYPE_CHECKING:
    from rewardlab.policies.diffusion import DiffusionPolicy

# by how much the loaded folder may differ, as a share of the largest number
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
PROBED = 256  # pixels a side, at which the folder of a larger policy is tried
EIGHT_BITS = 0.5  # the same for weights that are stored in eight bits


def save(policy: DiffusionPolicy, folder: Path) -> None:
    """Write the pipeline and policy.json, and compare what a loader reads with the policy.

    Adapters are merged. Every network is written in float32, as diffusers loads it by default:
    nothing is rounded.

    Raises:
        InputError: if the folder does not give back what the policy predicts.
    """
    with policy.text_encoders.reading(torch.device("cpu")):
        _write_pipeline(policy, folder)
    config = {
        "class_path": "rewardlab.policies.DiffusionPolicy",
        "init_args": _settings(policy),
    }
    write_json(folder / POLICY_FILE, config)
    check_saved(policy, folder)


def _write_pipeline(policy: DiffusionPolicy, folder: Path) -> None:
    components = dict(policy.pipeline.components)
    trained = denoiser_parts(policy.pipeline, policy.denoiser)
    for name, component in components.items():
        if name in trained:
            components[name] = _merged_denoiser(policy, name, trained[name])
        elif isinstance(component, nn.Module):
            components[name] = _whole(policy, name, component)
    pipeline: Any = type(policy.pipeline)(**components, **_switches(policy.pipeline, components))
    with silent():
        pipeline.save_pretrained(folder)


def load_settings(folder: Path) -> dict[str, Any]:
    """Return the constructor's arguments that policy.json names."""
    settings: dict[str, Any] = read_class_file(folder / POLICY_FILE)["init_args"]
    settings["sampler"] = samplers.saved_sampler(settings["sampler"])
    return settings


@torch.no_grad()
def check_saved(policy: DiffusionPolicy, folder: Path) -> None:
    """Refuse a folder whose policy predicts another picture than the policy that was saved.

    Both see the same noise in the middle of the time, under the first class or the empty prompt;
    two denoisers that share the time see it at the beginning and at the end. The loaded policy is
    on the host, in the files' precision: there its weights stay in the files, which are mapped, and
    take no memory of their own. Large pictures are tried at `PROBED` pixels, a video by one frame.
    """
    loaded = type(policy)(folder, **_mapped_settings(folder))
    if not torch.equal(_times(policy), _times(loaded)):
        raise InputError(
            f"{folder} was written, but the scheduler that is loaded from it takes other steps "
            f"than the policy's {type(policy.scheduler).__name__}. Do not use the folder. Was its "
            "config changed by hand?"
        )
    difference, scale = _difference(_smaller(policy), _smaller(loaded))
    share = EIGHT_BITS if _is_in_eight_bits(policy) else ROUNDING[policy.dtype]
    limit = share * scale
    if not difference <= limit:
        raise InputError(
            f"{folder} was written, but what is loaded from it is not the policy: at equal noise "
            f"the predicted picture differs by {difference:.3g}, and {limit:.3g} is rounding. "
            "Do not use the folder. Is a part of the pipeline changed by hand, or of a class that "
            "its save_pretrained does not keep whole?"
        )


def _mapped_settings(folder: Path) -> dict[str, Any]:
    """Return the settings under which every weight of a folder is read as it is stored."""
    return {**load_settings(folder), "dtype": "float32", "lora_rank": None}


def _smaller(policy: DiffusionPolicy) -> DiffusionPolicy:
    """Return the policy for small outputs, or itself where they are small or of one size."""
    side = max(policy.shape[-2:]) * policy.family.factor
    if side <= PROBED:
        return policy
    try:
        return policy.with_size(PROBED, 1 if policy.family.is_video else None)
    except InputError:
        return policy


def _times(policy: DiffusionPolicy) -> Tensor:
    """Return the times of the sampler's steps and of training."""
    scheduler = deepcopy(policy.scheduler)
    steps = policy.sampler.steps
    set_timesteps(scheduler, steps, options=policy.family.step_options(scheduler, steps))
    return torch.cat([scheduler.timesteps.double().cpu(), policy.noising.time.double().cpu()])


def _difference(policy: DiffusionPolicy, loaded: DiffusionPolicy) -> tuple[float, float]:
    """Return the largest difference of two predictions, and the largest number of the first."""
    expected = _prediction(policy)
    differences = _prediction(loaded) - expected.cpu()
    return differences.abs().max().item(), expected.abs().max().item()


def _prediction(policy: DiffusionPolicy) -> Tensor:
    """Return the picture that the policy expects behind one noise, as the decoder gives it."""
    rows = generators(row_seeds(derive(0, "probe of a saved policy"), 1))
    x = normal(policy.shape, rows, policy.device)
    prompt = policy.labels[0] if policy.labels else ""
    conditions = policy.conditions([prompt], guided=False)
    predictions = []
    for time in _probed_times(policy):
        output = policy.predict(x, time[None], conditions)
        images = policy.family.to_images(output, policy.dtype)
        predictions += [output.flatten(), images.flatten()]
    return torch.cat(predictions)


def _probed_times(policy: DiffusionPolicy) -> Tensor:
    """Return the middle of the time; where two denoisers share it, one time of each."""
    times = policy.noising.time
    if len(denoiser_parts(policy.pipeline, policy.denoiser)) == 2:
        return times[[0, -1]]
    return times[len(times) // 2 :][:1]


def _whole(policy: DiffusionPolicy, name: str, component: nn.Module) -> Any:
    """Return a frozen network in float32: from the source's files if it was rounded on loading."""
    stored = _stored_part(policy, name)
    if stored is not None:
        return stored
    whole = lora.merged(component, torch.float32)
    if all(weight.dtype == torch.float32 for weight in whole.parameters()):
        return whole
    return deepcopy(whole).float()


def _merged_denoiser(policy: DiffusionPolicy, name: str, denoiser: nn.Module) -> Any:
    """Return the denoiser in float32 with its adapter merged into weights that are not rounded."""
    stored = None
    if policy.lora_rank is not None:
        stored = _stored_part(policy, name)
    if stored is None:
        return lora.merged(denoiser, torch.float32)
    for layer_name, layer in lora.adapted_layers(denoiser).items():
        weight = stored.get_submodule(layer_name).weight
        for adapter in layer.active_adapters:
            weight.data += layer.get_delta_weight(adapter).to(weight)
    return stored


def _stored_part(policy: DiffusionPolicy, name: str) -> Any | None:
    """Return a network as the source's files have it, if loading it rounded it; else None."""
    is_rounded = policy.dtype != torch.float32 or _is_in_eight_bits(policy)
    if policy.source is None or not is_rounded:
        return None
    folder = pipeline_folder(policy.source)
    kinds = network_classes(folder)
    if name not in kinds:
        return None
    return load_part(folder / name, kinds[name], torch.float32)


def _is_in_eight_bits(policy: DiffusionPolicy) -> bool:
    return policy.resources.storage == "float8"


def _switches(pipeline: Any, components: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a pipeline's constructor that are no components."""
    accepted = type(pipeline)._get_signature_keys(type(pipeline))[1]
    return {name: pipeline.config[name] for name in accepted if name in pipeline.config}


def _settings(policy: DiffusionPolicy) -> dict[str, Any]:
    return {
        "sampler": asdict(policy.sampler),
        "dtype": str(policy.dtype).removeprefix("torch."),
        "labels": policy.labels,
        "negative_prompt": policy.negative_prompt,
        "prompt_dropout": policy.prompt_dropout,
        "draws": policy.draws,
        "lora_rank": policy.lora_rank,
        "size": policy.size,
        "frames": policy.frames,
    }
