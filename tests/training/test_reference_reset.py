"""Reference resets: the penalty's reference follows, the first one is still read, runs resume."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import SGD
from torch.testing import assert_close

from rewardlab import DiffusionPolicy, InputError, PreferencePairs, Samples
from rewardlab.data import PairsData, SamplesData
from rewardlab.evaluation import Readings
from rewardlab.policies import CausalLMPolicy, frozen_copy
from rewardlab.policies.reference import Snapshot, first_reference, snapshot_of
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, Function, Length
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import DPO, PPO, SFT, ReferenceReset, Resumable
from rewardlab.training.trainers import SILENT

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
fit = LETTERS.fit
weights = LETTERS.weights


def module(**options):
    settings = {"kl_weight": 0.5, "optimizer": partial(SGD, lr=0.3), **options}
    return PPO(Letters(steps=4), LETTERS.VALUE, **settings)


class Watch(pl.Callback):
    """The KL that each step logged, and the weights after it."""

    def __init__(self):
        self.kl = []
        self.weights = [None]

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.kl.append(trainer.callback_metrics["kl"].item())
        self.weights.append(pl_module.policy.next.weight.detach().clone())


def trained(*callbacks, steps=6, **options):
    loop = module()
    fit(loop, callbacks=callbacks, max_epochs=-1, max_steps=steps, **options)
    return loop


def test_a_policy_that_nothing_holds_is_refused():
    """A reset of what has no weight would be no reset, in silence."""
    with pytest.raises(InputError, match="kl_weight=0 holds it to nothing"):
        fit(module(kl_weight=0.0), callbacks=[ReferenceReset(2)], max_epochs=-1, max_steps=2)


@pytest.mark.parametrize("reset", [ReferenceReset(), ReferenceReset(10**9, kl=1e9)])
def test_without_a_reset_nothing_changes(reset):
    plain, watched = trained(), trained(reset)
    assert torch.equal(weights(plain), weights(watched))
    assert not isinstance(watched.reference, Snapshot)


def test_the_reference_is_the_policy_of_the_last_reset():
    reset, watch = ReferenceReset(every_n_steps=2), Watch()
    loop = trained(watch, reset, steps=5)
    first = first_reference(loop.reference)
    assert reset.step == 4
    everything = loop.policy.everything()
    mask = everything.mask
    policy = Letters(steps=4)
    assert_close(first.log_prob(everything)[mask], policy.log_prob(everything)[mask])
    with torch.no_grad():
        policy.next.weight.copy_(watch.weights[4])
        expected = policy.log_prob(everything)[mask]
    assert torch.equal(loop.reference.log_prob(everything)[mask], expected)
    assert torch.equal(loop.policy.next.weight, watch.weights[5])
    assert watch.kl[0] == watch.kl[2] == watch.kl[4] == 0  # rollouts of a reference just reset
    assert watch.kl[1] != 0
    assert watch.kl[3] != 0
    assert not torch.equal(weights(loop), weights(trained(steps=5)))


def test_a_kl_above_the_limit_resets_at_once():
    watch = Watch()
    trained(watch, steps=8)
    limit = max(watch.kl) / 2  # reached on the way
    watch, reset = Watch(), ReferenceReset(kl=limit)
    trained(watch, reset, steps=8)
    above = [step + 1 for step, kl in enumerate(watch.kl) if kl > limit]
    assert reset.step == above[-1] > 0
    for step in above:
        assert step == 8 or watch.kl[step] == 0


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_resumes_across_a_reset_to_the_bit(stop, tmp_path):
    def run(steps, folder, ckpt_path=None):
        saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        reset = ReferenceReset(every_n_steps=3)
        loop = trained(reset, Resumable(), saves, steps=steps, ckpt_path=ckpt_path)
        return loop, reset

    straight, _ = run(7, tmp_path / "straight")
    run(stop, tmp_path)
    resumed, reset = run(7, tmp_path, tmp_path / f"step={stop}.ckpt")
    assert torch.equal(weights(straight), weights(resumed))
    assert reset.step == 6
    for one, other in zip(straight.reference.values, resumed.reference.values, strict=True):
        assert torch.equal(one, other)


SPELLING = Function(
    lambda samples: torch.tensor([sum(map(ord, text)) / 100 for text in samples.outputs])
)


def diffusion(**options):
    return DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2), **options)


def language(**options):
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3, **options)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("make", [diffusion, language])
def test_a_snapshot_stays_while_the_policy_goes_on(make, rank):
    policy = make(lora_rank=rank)
    first = policy.reference()
    seeds = torch.arange(3)
    trajectory = policy.sample(["", "", ""], seeds=seeds)
    counted = trajectory.mask
    _move(policy)
    moved = policy.log_prob(trajectory)[counted].detach()
    snapshot = snapshot_of(policy, first)
    drawn = policy.sample([""], seeds=seeds[:1])
    _move(policy)
    assert torch.equal(snapshot.log_prob(trajectory)[counted], moved)
    redrawn = snapshot.sample([""], seeds=seeds[:1])
    for name, tensor in drawn.tensors.items():
        assert torch.equal(redrawn.tensors[name], tensor)
    assert not torch.equal(policy.log_prob(trajectory)[counted], moved)
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert sum(map(torch.numel, snapshot.values)) == sum(map(torch.numel, trained))
    assert not list(snapshot.parameters())


@torch.no_grad()
def _move(policy):
    generator = torch.Generator().manual_seed(0)
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("make", [diffusion, language])
def test_a_reset_without_an_adapter_says_what_it_copies(make, caplog):
    """A warning with the size of the trained weights; an adapter, or no limit, brings none."""
    for rank, reset in [
        (2, ReferenceReset(1)),
        (None, ReferenceReset()),
        (None, ReferenceReset(1)),
    ]:
        assert not caplog.messages
        policy = make(lora_rank=rank)
        trainer = SimpleNamespace(global_step=0, strategy=None)
        reset.on_train_start(trainer, PPO(policy, SPELLING, kl_weight=0.1))
    [message] = caplog.messages
    size = sum(4 * weight.numel() for weight in policy.parameters() if weight.requires_grad)
    assert f"this {type(policy).__name__} trains no adapter" in message
    assert f"keeps {size / 2**20:.1f} MiB more" in message
    assert "lora_rank" in message


def test_an_adapter_beside_a_copied_reference_is_no_third_network(caplog):
    policy = language(lora_rank=2)
    loop = PPO(policy, SPELLING, kl_weight=0.1, reference=frozen_copy(policy))
    ReferenceReset(1).on_train_start(SimpleNamespace(global_step=0, strategy=None), loop)
    assert not caplog.messages


def test_readings_measure_the_kl_to_the_first_reference():
    rows = []
    for reset in (ReferenceReset(), ReferenceReset(every_n_steps=1)):
        readings = Readings({"length": Length()}, ["a"], samples=16, every_n_steps=1)
        loop = PPO(language(lora_rank=2), SPELLING, kl_weight=1e-30, optimizer=partial(SGD, lr=1.0))
        fit(loop, callbacks=[reset, readings], prompts=["a", "b"], batch_size=2, max_epochs=3)
        rows.append(readings.rows)
    assert rows[0] == rows[1]  # so small a weight is lost in rounding
    assert rows[0][-1]["kl"] != 0


def test_a_preference_loop_is_held_to_the_reset_reference():
    pairs = PreferencePairs(Samples(["a"] * 4, ["yes"] * 4), Samples(["a"] * 4, ["no"] * 4))
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            losses.append(trainer.callback_metrics["loss"].item())

    loop = DPO(language(lora_rank=2), beta=1.0, optimizer=partial(SGD, lr=0.1))
    callbacks = [Losses(), ReferenceReset(every_n_steps=2)]
    trainer = pl.Trainer(max_epochs=4, callbacks=callbacks, **SILENT)
    trainer.fit(loop, PairsData(pairs, batch_size=4))
    log2 = torch.tensor(2.0).log()
    assert_close(torch.tensor(losses)[[0, 2]], log2.expand(2))  # the policy is its reference
    assert max(losses[1], losses[3]) < log2


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="every_n_steps above 0; got 0"):
        ReferenceReset(every_n_steps=0)
    data = SamplesData(Samples(["a"] * 2, ["yes"] * 2), batch_size=2)
    trainer = pl.Trainer(max_epochs=1, callbacks=[ReferenceReset(2)], **SILENT)
    with pytest.raises(InputError, match="SFT has none"):
        trainer.fit(SFT(language()), data)
    pairs = PreferencePairs(Samples(["a"], ["yes"]), Samples(["a"], ["no"]))
    trainer = pl.Trainer(max_epochs=1, callbacks=[ReferenceReset(kl=1.0)], **SILENT)
    with pytest.raises(InputError, match="DPO logs none"):
        trainer.fit(DPO(language(lora_rank=2)), PairsData(pairs, batch_size=1))
    with pytest.raises(InputError, match="something to train"):
        snapshot_of(language().requires_grad_(False), language())


def test_images_are_trained_with_resets():
    loop = PPO(diffusion(lora_rank=2), Brightness(), clip=1e-4, kl_weight=0.01)
    reset = ReferenceReset(every_n_steps=1)
    fit(loop, callbacks=[reset], prompts=2, batch_size=2, max_epochs=2)
    assert reset.step == 2
    assert isinstance(loop.reference, Snapshot)
