"""Families of pipelines: what each makes of a prompt, and which it refuses."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from rewardlab.errors import InputError
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.families import prompt_inputs
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_stable_diffusion_xl

CPU = torch.device("cpu")


TRANSFORMER = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 8,
}


def tiny_stable_diffusion_3(folder) -> StableDiffusion3Pipeline:
    """Return an SD3 pipeline without T5, with random weights from a seed."""
    of_sd = tiny_stable_diffusion(folder)
    text = CLIPTextConfig.from_dict({**of_sd.text_encoder.config.to_dict(), "projection_dim": 32})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = [CLIPTextModelWithProjection(text).eval() for _ in range(2)]
        transformer = SD3Transformer2DModel(**TRANSFORMER)
        vae = AutoencoderKL.from_config(of_sd.vae.config, shift_factor=0.06).eval()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=of_sd.tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=of_sd.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def test_sdxl_gets_its_size_and_zeros_for_the_empty_prompt(tmp_path):
    sampler = Sampler(steps=2, guidance=2.0)
    policy = DiffusionPolicy(tiny_stable_diffusion_xl(tmp_path), sampler=sampler)
    tensors = policy.sample(["a cat", ""], seeds=row_seeds(0, 2)).tensors
    assert tensors["cond.time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    assert tensors["cond.encoder_hidden_states"][0].abs().sum() > 0
    assert tensors["cond.encoder_hidden_states"][1].abs().sum() == 0
    assert tensors["uncond.text_embeds"].abs().sum() == 0


def test_sd3_is_drawn_scored_and_trained(tmp_path):
    """Its transformer takes the time by name; each of its text encoders reads the prompt."""
    pipeline = tiny_stable_diffusion_3(tmp_path)
    policy = DiffusionPolicy(pipeline, sampler=Sampler(steps=3, guidance=2.0), lora_rank=2)
    trajectory = policy.sample(["a cat", "", "a dog"], seeds=row_seeds(0, 3))
    tokens = trajectory.tensors["cond.encoder_hidden_states"]
    pooled = trajectory.tensors["cond.pooled_projections"]
    assert pooled.shape == (3, 64)
    assert not torch.allclose(tokens[0], tokens[2])
    log_prob = policy.log_prob(trajectory)
    log_prob.where(trajectory.mask, 0).sum().backward()
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert any(weight.grad.abs().sum() > 0 for weight in trained)
    images = policy.generate(["a cat", "", "a dog"], seeds=row_seeds(0, 3)).outputs
    assert images.shape == (3, 3, 16, 16)
    assert images.isfinite().all()


def test_equal_prompts_are_encoded_once():
    class Pipeline:
        def encode_prompt(self, prompts, **options):
            lengths = torch.tensor([[float(len(prompt))] for prompt in prompts])
            assert len(prompts) == 2
            return lengths, None

    inputs = prompt_inputs(Pipeline(), None, ["ab", "c", "ab"], CPU)
    assert inputs["encoder_hidden_states"].tolist() == [[2.0], [1.0], [2.0]]


def test_a_family_that_is_not_known_is_refused():
    class Unknown:
        def encode_prompt(self, prompts, **options):
            return [torch.zeros(1)] * 4

    with pytest.raises(InputError, match="Unknown encodes a prompt as 4 tensors"):
        prompt_inputs(Unknown(), None, ["a"], CPU)


def test_classes_and_prompts_that_the_model_lacks_are_refused():
    three = tiny_diffusion(classes=2)  # two and the null class
    with pytest.raises(InputError, match="knows 3 classes; got 4 labels"):
        prompt_inputs(three, ["a", "b", "c", "d"], ["a"], CPU)
    with pytest.raises(InputError, match="needs a null class"):
        prompt_inputs(three, ["a", "b", "c"], [""], CPU)
    with pytest.raises(InputError, match="No class is called 'three'"):
        prompt_inputs(three, ["zero", "one"], ["three"], CPU)
    with pytest.raises(InputError, match="unconditional"):
        prompt_inputs(tiny_diffusion(classes=0), None, ["", "cat"], CPU)
