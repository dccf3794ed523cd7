"""NormGuard: the ratio of velocities in every image loop, what it costs, and its hinge."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.testing import assert_close

from rewardlab import CausalLMPolicy, DiffusionPolicy, InputError, PreferencePairs, Sampler, Samples
from rewardlab.audits.inputs import identity_of
from rewardlab.data import PairsData, SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.evaluation import Guard, MonitoredPolicy, NormReading
from rewardlab.losses import norm_ratios
from rewardlab.policies.abilities import Denoises
from rewardlab.rewards import Brightness
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import DPO, PPO, SFT, ReFL
from rewardlab.training.trainers import SILENT

PIPELINES = {
    "epsilon": {},
    "v_prediction": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
    "flow": {"flow": True},
}


def policy_of(kind="epsilon", **options):
    pipeline = tiny_diffusion(classes=0, **PIPELINES[kind])
    sampler = Sampler(steps=3, guidance=1.0)
    return DiffusionPolicy(pipeline, sampler=sampler, draws=2, **options)


def moved(policy, size=0.05):
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return policy


def pairs(count=4):
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(2, count, 1, 8, 8, generator=generator)
    return PreferencePairs(Samples([""] * count, images[0]), Samples([""] * count, images[1]))


def quiet(module):
    """Return a loop outside of a trainer, and the figures that it logs."""
    figures = {}
    module.log_dict = lambda logged, **_: figures.update(logged)
    module.log = lambda name, value, **_: figures.update({name: value})
    return module, figures


def calls_in(policy, step):
    """Return how often the policy's network was called in a step."""
    calls = []
    hook = policy.denoiser.register_forward_hook(lambda *_: calls.append(1))
    step()
    hook.remove()
    return len(calls)


def expected_ratios(module, trajectory):
    """Return the ratios by the velocities that the networks state."""
    current = module.policy.denoisings(trajectory).velocity
    with torch.no_grad():
        reference = module.reference.denoisings(trajectory).velocity
    return norm_ratios(current, reference)


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("lora_rank", [None, 2])
def test_dpo_logs_the_ratio_of_the_velocities(kind, lora_rank):
    module, figures = quiet(DPO(policy_of(kind, lora_rank=lora_rank)))
    moved(module.policy)
    module._loss(pairs(), "")
    ratios = expected_ratios(module, module._both_halves(pairs()))
    assert_close(figures["norm_ratio"], ratios.mean().detach())
    assert abs(figures["norm_ratio"] - 1) > 1e-4


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_neither_ratio_nor_hinge_cost_dpo_a_pass(weight):
    module, _ = quiet(DPO(policy_of(lora_rank=2), norm_guard=weight))
    moved(module.policy)
    assert calls_in(module.policy, lambda: module._loss(pairs(), "")) == 2


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_hinge_adds_its_own_gradient_to_dpos(kind):
    plain, _ = quiet(DPO(moved(policy_of(kind)), beta=10.0))
    module, _ = quiet(DPO(plain.policy, beta=10.0, norm_guard=3.0, reference=policy_of(kind)))
    plain.reference = module.reference
    total = gradients(module, module._loss(pairs(), ""))
    alone = gradients(plain, plain._loss(pairs(), ""))
    ratios = expected_ratios(module, module._both_halves(pairs()))
    hinge = 3.0 * torch.where(ratios > 1, (ratios - 1) ** 2, 0).mean()
    assert hinge > 0
    added = gradients(module, hinge)
    for whole, part, more in zip(total, alone, added, strict=True):
        assert_close(whole, part + more, atol=1e-5, rtol=1e-3)


def test_sft_has_ratio_hinge_and_reference_only_if_asked():
    module, figures = quiet(SFT(policy_of()))
    samples = pairs().chosen
    module._loss(samples)
    assert (module.reference, figures) == (None, {})
    guarded, figures = quiet(SFT(policy_of(), norm_guard=2.0))
    moved(guarded.policy)
    moved(module.policy)
    loss = guarded._loss(samples).loss
    trajectory = guarded.policy.encode(samples, seeds=guarded.seeds(samples))
    ratios = expected_ratios(guarded, trajectory)
    assert_close(figures["norm_ratio"], ratios.mean().detach())
    assert_close(loss - module._loss(samples).loss, 2.0 * (ratios - 1).relu().square().mean())
    assert not any("reference" in name for name in guarded.state_dict())


def train(module, data, epochs=1, callbacks=(), **options):
    trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), **SILENT)
    trainer.fit(module, data, **options)
    return trainer


def ratio_after(weight):
    """Return the ratio after 12 steps on pictures of other velocities."""
    module, figures = quiet(SFT(policy_of("flow"), norm_guard=weight))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(12):
        optimizer.zero_grad()
        module._loss(pairs().chosen).loss.backward()
        optimizer.step()
    return figures["norm_ratio"].item()


def test_the_hinge_holds_the_velocities_of_sft():
    assert ratio_after(100.0) < 1.05 < 1.1 < ratio_after(1e-9)


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_ppo_logs_the_ratio_over_the_steps_at_no_pass(lora_rank):
    policy = policy_of(lora_rank=lora_rank)
    module = PPO(policy, Brightness(), samples_per_prompt=2, kl_weight=0.0, clip=1e-4)
    moved(policy, 0.02)
    experience = module.collect([""], torch.tensor([0]))
    ratios = expected_ratios(module, experience.rollout.trajectory)
    assert experience.norm_ratios.shape == experience.rollout.trajectory.mask.shape
    assert_close(experience.norm_ratios, ratios.detach())
    assert torch.equal(experience[[1]].norm_ratios, experience.norm_ratios[[1]])
    networks = 1 if lora_rank is None else 2  # of the rollout's log-probabilities, on one network
    assert calls_in(policy, lambda: module.collect([""], torch.tensor([0]))) == 3 + networks
    trainer = train(module, Prompts([""] * 2, batch_size=2))
    assert trainer.callback_metrics["norm_ratio"] > 0


def test_a_reading_is_taken_in_loops_without_a_reference():
    reading = NormReading(every_n_steps=2, rows=2)
    fast = partial(torch.optim.SGD, lr=0.5)
    loop = ReFL(policy_of(), Brightness(), optimizer=fast)
    train(loop, Prompts([""] * 4, batch_size=1), callbacks=[reading])
    assert [row["step"] for row in reading.rows_read] == [1.0, 3.0]
    assert reading.rows_read[-1]["norm_ratio"] != 1.0


def test_a_resumed_reading_compares_with_the_policy_before_all_training(tmp_path):
    """The reference is kept before a checkpoint is loaded, so it is not the trained policy."""
    data = SamplesData(pairs().chosen, batch_size=4)
    fast = partial(torch.optim.SGD, lr=0.1)
    straight = NormReading(every_n_steps=1)
    train(SFT(policy_of(), optimizer=fast), data, epochs=2, callbacks=[straight])
    half = train(SFT(policy_of(), optimizer=fast), data, callbacks=[NormReading(every_n_steps=1)])
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = NormReading(every_n_steps=1)
    loop = SFT(policy_of(), optimizer=fast)
    train(loop, data, 2, callbacks=[resumed], ckpt_path=tmp_path / "half.ckpt")
    assert resumed.rows_read == straight.rows_read


def test_the_guard_stops_where_velocities_grow():
    class Swell(SFT):
        """Makes the last layer's output longer at each step."""

        def on_train_batch_end(self, *args):
            with torch.no_grad():
                self.policy.denoiser.conv_out.weight *= 1.2

    guard = Guard(every_n_steps=1, samples=8, patience=2, watch=["norm_ratio"])
    guard.observe(MonitoredPolicy(Brightness(), [""]))
    module = Swell(policy_of("flow"), optimizer=partial(torch.optim.SGD, lr=0.0))
    first = copy.deepcopy(module.policy.state_dict())
    train(module, SamplesData(pairs().chosen, batch_size=1), epochs=5, callbacks=[guard])
    assert guard.stopped_at == 3  # its readings come before the change of their step
    for name, weight in module.policy.state_dict().items():
        assert torch.equal(weight, first[name]), "the last good weights come back"


def text_policy():
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())


@pytest.mark.parametrize("loop", [DPO, SFT])
def test_text_has_no_ratio_and_no_hinge(loop):
    with pytest.raises(InputError, match="a CausalLMPolicy does not"):
        loop(text_policy(), norm_guard=1.0)
    with pytest.raises(InputError, match="0 or more; got -1"):
        loop(policy_of(), norm_guard=-1.0)


def test_dpo_of_text_logs_no_ratio():
    texts = PreferencePairs(Samples(["a"], ["b"]), Samples(["a"], ["c"]))
    trainer = train(DPO(text_policy()), PairsData(texts, batch_size=1))
    assert "norm_ratio" not in trainer.callback_metrics


def test_a_reading_of_text_is_refused():
    data = SamplesData(Samples(["a"], ["b"]), batch_size=1)
    with pytest.raises(InputError, match="a CausalLMPolicy does not"):
        train(SFT(text_policy()), data, callbacks=[NormReading()])
    with pytest.raises(InputError, match="every_n_steps"):
        NormReading(every_n_steps=0)


class Silent(DiffusionPolicy):
    """A policy that denoises and keeps no record."""

    recorded_norms = Denoises.recorded_norms


def test_a_policy_without_a_record_is_refused_where_it_counts():
    policy = Silent(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
    module, figures = quiet(DPO(policy))
    module._loss(pairs(), "")
    assert "norm_ratio" not in figures
    with pytest.raises(InputError, match="a Silent does not"):
        DPO(policy, norm_guard=1.0)
    guard = Guard(every_n_steps=1, samples=8, watch=["norm_ratio"])
    guard.observe(MonitoredPolicy(Brightness(), [""]))
    train(SFT(policy), SamplesData(pairs().chosen, batch_size=4), callbacks=[guard])
    assert guard.stopped_at is None
    with pytest.raises(InputError, match="a Silent does not"):
        train(SFT(policy), SamplesData(pairs().chosen, batch_size=4), callbacks=[NormReading()])


def test_a_record_leaves_nothing_on_the_policy():
    """A policy's name, on which stages depend, is made of its public attributes."""
    policy = policy_of()
    before = identity_of(policy)
    with policy.recorded_norms() as norms:
        policy.log_prob(policy.encode(pairs().chosen, seeds=torch.arange(4)))
    assert norms[0].shape == (4, 2)
    assert identity_of(policy) == before
