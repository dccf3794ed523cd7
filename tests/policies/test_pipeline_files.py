"""Folders of pipelines: weights that do not fit, variants, families that are not known."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    LDMPipeline,
    UNet2DConditionModel,
    VQModel,
)
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.policies import DiffusionPolicy, load_policy
from rewardlab.policies.families import check_known
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_stable_diffusion_xl
from rewardlab.testing.tiny_images import AUTOENCODER
from rewardlab.testing.tiny_pipelines import tiny_flux, tiny_stable_diffusion_3

SEEDS = row_seeds(1, 2)
PARTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
VQ = {"block_out_channels": (8,), "norm_num_groups": 4, "num_vq_embeddings": 8}
STILL = Sampler(steps=2, eta=0.0)


@pytest.fixture
def pipeline(tmp_path):
    return tiny_stable_diffusion(tmp_path / "tokenizer")


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def drawn(policy):
    policy.sampler = STILL
    return policy.generate(["a cat", "a dog"], seeds=SEEDS).outputs


def rename(file, change):
    weights = {}
    for name, tensor in load_file(file).items():
        new_name = change(name)
        if new_name is not None:
            weights[new_name] = tensor
    save_file(weights, file, metadata={"format": "pt"})


PREFIXED = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "sharded": lambda name: f"_fsdp_wrapped_module.{name}",
    "compiled in part": lambda name: name.replace(".0.", ".0._orig_mod.", 1),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("wrapper", PREFIXED)
def test_prefixes_of_wrappers_are_understood(folder, pipeline, part, wrapper):
    expected = drawn(DiffusionPolicy(pipeline))
    rename(folder / part / PARTS[part], PREFIXED[wrapper])
    assert_close(drawn(load_policy(folder)), expected, atol=0, rtol=0)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_weight_is_named(folder, part):
    names = sorted(load_file(folder / part / PARTS[part]))
    rename(folder / part / PARTS[part], lambda name: None if name == names[3] else name)
    with pytest.raises(InputError, match=f"{part} does not fit.*{names[3]}"):
        load_policy(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_superfluous_weight_is_named(folder, part):
    file = folder / part / PARTS[part]
    weights = load_file(file)
    name = f"{sorted(weights)[0]}.extra"
    save_file({**weights, name: torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"{part} does not fit.*{name}"):
        load_policy(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_weight_of_another_shape_is_refused(folder, part):
    file = folder / part / PARTS[part]
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({**weights, name: torch.zeros(5)}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=part):
        load_policy(folder)


def test_an_encoder_may_be_a_part_of_a_larger_checkpoint(folder, pipeline):
    file = folder / "text_encoder" / PARTS["text_encoder"]
    further = {"vision_model.weight": torch.zeros(1), "embeddings.position_ids": torch.arange(77)}
    save_file({**load_file(file), **further}, file, metadata={"format": "pt"})
    assert_close(drawn(load_policy(folder)), drawn(DiffusionPolicy(pipeline)), atol=0, rtol=0)


def test_a_folder_saved_with_an_adapter_on_it_is_refused(pipeline, tmp_path):
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    pipeline.save_pretrained(tmp_path / "adapted")
    with pytest.raises(InputError, match="merge the adapter first"):
        load_policy(tmp_path / "adapted")


def test_a_pipeline_with_weights_on_meta_is_refused(pipeline):
    with torch.device("meta"):
        pipeline.unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    with pytest.raises(InputError, match="has no values for its weight"):
        DiffusionPolicy(pipeline)


@pytest.mark.parametrize("make", [tiny_stable_diffusion, tiny_stable_diffusion_xl])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_folder_of_one_variant_is_loaded(make, variant, tmp_path):
    pipeline = make(tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "pipeline", variant=variant)
    loaded = load_policy(tmp_path / "pipeline")
    assert_close(drawn(loaded), drawn(DiffusionPolicy(pipeline)), atol=0, rtol=0)


EARLIER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_an_autoencoder_with_the_names_of_earlier_versions_is_loaded(folder, pipeline):
    """Stable Diffusion 1's published autoencoder names its attention so; diffusers renames it."""

    def earlier(name):
        for new, old in EARLIER.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return name

    file = folder / "vae" / PARTS["vae"]
    rename(file, earlier)
    assert any(".query." in name for name in load_file(file))
    assert_close(drawn(load_policy(folder)), drawn(DiffusionPolicy(pipeline)), atol=0, rtol=0)


def test_an_autoencoder_that_is_not_known_is_no_model_of_pixels(pipeline):
    """Latent diffusion without prompts has a UNet2DModel too, whose pixels are latents."""
    unet = tiny_diffusion(classes=0).unet
    unknown = LDMPipeline(vqvae=VQModel(**VQ), unet=unet, scheduler=pipeline.scheduler)
    with pytest.raises(InputError, match="does not know the family of a LDMPipeline"):
        DiffusionPolicy(unknown)


def test_a_variant_in_shards_is_loaded(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pipeline", variant="fp16", max_shard_size="100kB")
    loaded = load_policy(tmp_path / "pipeline")
    assert_close(drawn(loaded), drawn(DiffusionPolicy(pipeline)), atol=0, rtol=0)


def test_plain_weights_go_before_a_variant(folder, pipeline):
    file = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    halved = {name: tensor / 2 for name, tensor in pipeline.unet.state_dict().items()}
    save_file(halved, file, metadata={"format": "pt"})
    assert_close(drawn(load_policy(folder)), drawn(DiffusionPolicy(pipeline)), atol=0, rtol=0)


def test_sharded_weights_are_loaded(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pipeline", max_shard_size="100kB")
    assert len(list((tmp_path / "pipeline" / "unet").glob("*.safetensors"))) > 1
    loaded = load_policy(tmp_path / "pipeline")
    assert_close(drawn(loaded), drawn(DiffusionPolicy(pipeline)), atol=0, rtol=0)


def test_an_inpainting_model_is_refused(pipeline, tmp_path):
    config = {**pipeline.unet.config, "in_channels": 9}
    pipeline.unet = UNet2DConditionModel.from_config(config)
    message = "takes 9 channels, and its autoencoder makes 4"
    with pytest.raises(InputError, match=message):
        DiffusionPolicy(pipeline)
    pipeline.save_pretrained(tmp_path / "inpainting")
    with pytest.raises(InputError, match=message):
        load_policy(tmp_path / "inpainting")


UNKNOWN = [
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
    "KolorsPipeline",
    "StableVideoDiffusionPipeline",
    "HunyuanVideoPipeline",
    "FluxFillPipeline",
    "WanImageToVideoPipeline",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_family_is_refused_by_name_before_it_is_loaded(name, folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    (folder / "unet" / PARTS["unet"]).write_bytes(b"not read")
    with pytest.raises(InputError, match=f"does not know the family of a {name}"):
        load_policy(folder)


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_pipeline_is_refused_by_name(name):
    kind = type(name, (SimpleNamespace,), {"encode_prompt": None})
    with pytest.raises(InputError, match=f"does not know the family of a {name}"):
        check_known(kind(unet=None, transformer=None))


def test_a_real_pipeline_of_an_unknown_family_is_refused(pipeline):
    transformer = HunyuanDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        attention_head_dim=8,
    )
    unknown = HunyuanDiTPipeline(
        vae=AutoencoderKL(**AUTOENCODER),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        scheduler=pipeline.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with pytest.raises(InputError, match="does not know the family of a HunyuanDiTPipeline"):
        DiffusionPolicy(unknown)


def test_a_class_that_derives_from_a_known_one_is_known(tmp_path):
    made = tiny_stable_diffusion_3(tmp_path)
    kind = type("Mine", (type(made),), {})
    mine = kind(**made.components)
    assert DiffusionPolicy(mine).shape == (4, 8, 8)


def test_a_saved_policy_is_a_pipeline_for_diffusers(pipeline, tmp_path):
    policy = DiffusionPolicy(pipeline, sampler=STILL)
    policy.save_pretrained(tmp_path / "policy")
    own = DiffusionPipeline.from_pretrained(tmp_path / "policy")
    assert isinstance(own.scheduler, type(pipeline.scheduler))
    assert not isinstance(own.scheduler, FlowMatchEulerDiscreteScheduler)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (tiny_stable_diffusion, "text_encoder"),
        (tiny_stable_diffusion, "tokenizer"),
        (tiny_stable_diffusion, "vae"),
        (tiny_stable_diffusion, "scheduler"),
        (tiny_stable_diffusion_xl, "text_encoder"),
        (tiny_stable_diffusion_xl, "tokenizer_2"),
        (tiny_stable_diffusion_3, "text_encoder_2"),
        (tiny_flux, "tokenizer"),
        (tiny_flux, "text_encoder_2"),
    ],
)
def test_a_part_that_is_not_there_is_named(make, part, tmp_path):
    pipeline = make(tmp_path)
    setattr(pipeline, part, None)
    with pytest.raises(InputError, match=f"has no {part}, which it needs"):
        DiffusionPolicy(pipeline)


@pytest.mark.parametrize("part", ["tokenizer", "vae", "scheduler", "text_encoder"])
def test_a_folder_of_a_pipeline_without_a_part_is_refused(folder, part):
    """Of a tokenizer without files transformers makes one that knows no words."""
    shutil.rmtree(folder / part)
    with pytest.raises(InputError):
        DiffusionPolicy(folder)
