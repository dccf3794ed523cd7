"""Base finish: at τ = 0 the policy, at τ = 1 its reference, to the bit, whatever the sampler."""

from copy import deepcopy

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

from rewardlab import CausalLMPolicy, DiffusionPolicy, InputError, Sampler
from rewardlab.evaluation import finish_curve
from rewardlab.policies import BaseFinish, drawing, load_policy
from rewardlab.rewards import Brightness
from rewardlab.seeds import generators, normal, row_seeds
from rewardlab.testing import (
    tiny_causal_lm,
    tiny_diffusion,
    tiny_stable_diffusion,
    tiny_tokenizer,
    tiny_videos,
)

SEEDS = row_seeds(3, 3)
SAMPLERS = {
    "ddim": Sampler(steps=5, eta=0.0),
    "noisy ddim": Sampler(steps=5, eta=1.0),
    "ddpm": Sampler(steps=5, scheduler="ddpm"),
    "guided": Sampler(steps=5, eta=0.0, guidance=3.0),
    "larger": Sampler(steps=5, eta=0.0, size=16),
}


def changed(policy):
    """Move the trained weights, as training would."""
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


def trained(sampler, adapter=True, pipeline=None):
    """Return a policy that was trained, and its reference."""
    if pipeline is None:
        pipeline = tiny_diffusion()
    labels = (
        ["zero", "one"] if hasattr(pipeline, "unet") and pipeline.unet.class_embedding else None
    )
    rank = 2 if adapter else None
    policy = DiffusionPolicy(pipeline, labels=labels, sampler=sampler, lora_rank=rank).eval()
    reference = policy.reference()
    return changed(policy), reference


def drawn(generator, prompts=("one", "zero", "one")):
    return generator.generate(list(prompts), seeds=SEEDS).outputs


def check_ends(policy, reference):
    ends = drawn(policy), drawn(reference)
    assert torch.equal(drawn(BaseFinish(policy, 0.0, reference)), ends[0])
    assert torch.equal(drawn(BaseFinish(policy, 1.0, reference)), ends[1])
    between = drawn(BaseFinish(policy, 0.5, reference))
    assert not any(torch.equal(between, end) for end in ends)
    assert torch.equal(drawn(policy), ends[0])  # nothing of the policy was changed


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_the_ends_are_the_policy_and_the_reference(sampler, adapter):
    check_ends(*trained(sampler, adapter))


@pytest.mark.parametrize("sampler", [Sampler(steps=5), Sampler(steps=5, scheduler="flow")])
def test_so_they_are_in_flow_matching(sampler):
    check_ends(*trained(sampler, pipeline=tiny_diffusion(flow=True)))


@pytest.mark.filterwarnings("ignore:__array__")
@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_so_they_are_by_other_schedulers(kind):
    pipeline = tiny_diffusion()
    pipeline.scheduler = kind(timestep_spacing="trailing", beta_schedule="scaled_linear")
    check_ends(*trained(Sampler(steps=5), pipeline=pipeline))


def test_so_they_are_of_guided_text(tmp_path):
    pipeline = tiny_stable_diffusion(tmp_path)
    check_ends(*trained(Sampler(steps=3, eta=0.0, guidance=4.0), pipeline=pipeline))


def test_so_they_are_where_late_steps_have_a_guidance_of_their_own(tmp_path):
    pipeline = tiny_videos.tiny_wan(tmp_path, boundary=0.8)
    sampler = Sampler(steps=3, eta=0.0, guidance=6.0, late_guidance=2.0)
    policy = DiffusionPolicy(pipeline, sampler=sampler, lora_rank=2, size=32, frames=1).eval()
    reference = policy.reference()
    check_ends(changed(policy), reference)


def test_so_they_are_where_pictures_are_drawn_as_rollouts(monkeypatch):
    monkeypatch.setattr(drawing, "_is_finite", lambda policy: False)
    check_ends(*trained(Sampler(steps=5, eta=1.0)))


def test_the_pictures_are_those_of_steps_by_hand():
    """Ten steps of DDIM, of which the last four belong to the reference."""
    policy, reference = trained(Sampler(steps=10, eta=0.0), adapter=False)
    scheduler = deepcopy(policy.pipeline.scheduler)
    scheduler.set_timesteps(10)
    x = normal((1, 8, 8), generators(SEEDS))
    classes = torch.tensor([1, 0, 1])
    with torch.no_grad():
        for number, time in enumerate(scheduler.timesteps):
            network = policy.denoiser if number < 6 else reference.denoiser
            output = network(x, time, class_labels=classes).sample
            x = scheduler.step(output, time, x, eta=0.0).prev_sample
    expected = (x / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(drawn(BaseFinish(policy, 0.35, reference)), expected)


def test_a_folder_gives_the_generator_back(tmp_path):
    policy, reference = trained(Sampler(steps=4, eta=0.0), adapter=False)
    finish = BaseFinish(policy, 0.4, reference)
    finish.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, BaseFinish)
    assert torch.equal(drawn(loaded), drawn(finish))


def test_the_curve_runs_from_the_policy_to_the_reference():
    policy, reference = trained(Sampler(steps=4, eta=0.0))

    def finish(tau):
        return BaseFinish(policy, tau, reference)

    rows = finish_curve(finish, {"ink": Brightness()}, ["one"], taus=(0.0, 1.0), samples=8)
    again = finish_curve(lambda tau: policy, {"ink": Brightness()}, ["one"], taus=(0.0,), samples=8)
    assert rows[0] == again[0]
    assert rows[1]["ink"] != rows[0]["ink"]


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan")])
def test_a_time_out_of_range_is_refused(tau):
    policy, _ = trained(SAMPLERS["ddim"])
    with pytest.raises(InputError, match=r"tau in \[0, 1\]"):
        BaseFinish(policy, tau)


def test_what_cannot_finish_is_refused(tmp_path):
    whole, _ = trained(SAMPLERS["ddim"], adapter=False)
    with pytest.raises(InputError, match="without an adapter"):
        BaseFinish(whole, 0.5)
    text = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match="a policy with denoising steps"):
        BaseFinish(text, 0.5)
    with pytest.raises(InputError, match="a reference with denoising steps"):
        BaseFinish(whole, 0.5, text)
    larger = DiffusionPolicy(tiny_diffusion(size=16))
    with pytest.raises(InputError, match=r"\[1, 16, 16\]"):
        BaseFinish(whole, 0.5, larger)
    adapted, _ = trained(SAMPLERS["ddim"])
    with pytest.raises(InputError, match="saved as two policies"):
        BaseFinish(adapted, 0.5).save_pretrained(tmp_path)
