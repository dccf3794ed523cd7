"""Families of pipelines: what each makes of a prompt, and which it refuses."""

from __future__ import annotations

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.families import family_of
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_stable_diffusion_xl
from rewardlab.testing.tiny_pipelines import tiny_dit, tiny_stable_diffusion_3

CPU = torch.device("cpu")


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


def classes(pipeline, labels):
    family = family_of(pipeline)
    family.name_classes(labels)
    return family


def test_equal_prompts_are_encoded_once(tmp_path, monkeypatch):
    family = family_of(tiny_stable_diffusion(tmp_path))
    encode = family.encode
    seen = []

    def counted(prompts, device, **options):
        seen.append(list(prompts))
        return encode(prompts, device, **options)

    monkeypatch.setattr(family, "encode", counted)
    tokens = family.inputs(["ab", "c", "ab"], CPU)["encoder_hidden_states"]
    assert seen == [["ab", "c"]]
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.allclose(tokens[0], tokens[1])


def test_classes_and_prompts_that_the_model_lacks_are_refused():
    three = tiny_diffusion(classes=2)  # two and the null class
    with pytest.raises(InputError, match="knows 3 classes; got 4 labels"):
        classes(three, ["a", "b", "c", "d"]).inputs(["a"], CPU)
    with pytest.raises(InputError, match="needs a null class"):
        classes(three, ["a", "b", "c"]).inputs([""], CPU)
    with pytest.raises(InputError, match="No class is called 'three'"):
        classes(three, ["one", "two"]).inputs(["three"], CPU)


def test_labels_are_refused_where_prompts_are_texts(tmp_path):
    with pytest.raises(InputError, match="labels name the classes"):
        DiffusionPolicy(tiny_stable_diffusion(tmp_path), labels=["cat"])


def test_pictures_of_another_size(tmp_path):
    policy = DiffusionPolicy(
        tiny_stable_diffusion(tmp_path), size=(24, 8), sampler=Sampler(steps=2)
    )
    assert policy.shape == (4, 12, 4)
    assert policy.generate(["a cat"], seeds=row_seeds(0, 1)).outputs.shape == (1, 3, 24, 8)
    with pytest.raises(InputError, match="multiples of 2 pixels; got size 17x17"):
        DiffusionPolicy(tiny_stable_diffusion(tmp_path), size=17)
    with pytest.raises(InputError, match="pictures of one size, 16x16"):
        DiffusionPolicy(tiny_dit(tmp_path), size=32)
    with pytest.raises(InputError, match="of at most 32 pixels a side"):
        DiffusionPolicy(tiny_stable_diffusion_3(tmp_path), size=(8, 64))
    with pytest.raises(InputError, match="is for pipelines of videos"):
        DiffusionPolicy(tiny_stable_diffusion(tmp_path), frames=3)


@pytest.mark.parametrize("kind", ["flow", "ddim"])
def test_a_scheduler_of_another_noise_schedule_is_refused(kind):
    pipeline = tiny_diffusion(flow=kind == "ddim")
    with pytest.raises(InputError, match="of another noise schedule"):
        DiffusionPolicy(pipeline, sampler=Sampler(scheduler=kind))
