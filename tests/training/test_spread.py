"""Fits under FSDP2 in a world of one process; test_joint.py has two, in processes of their own."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import distributed
from torch.optim import SGD
from torch.testing import assert_close

from rewardlab import PPO, CausalLMPolicy, DiffusionPolicy, Sampler
from rewardlab.commands.fit import export_trained
from rewardlab.data.prompt_data import Prompts
from rewardlab.evaluation import Guard
from rewardlab.evaluation.monitors import MonitoredPolicy
from rewardlab.networks.shards import is_spread
from rewardlab.rewards import Brightness, Function
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import EMA, GradientRegularization, ReferenceReset, VelocityMatching
from rewardlab.training.checkpoints import save_last
from rewardlab.training.trainers import SILENT

sgd = partial(SGD, lr=0.1)


class Here(ModelParallelStrategy):
    """FSDP2's strategy of this process alone, which starts no other."""

    def _configure_launcher(self):
        pass


@contextmanager
def a_world_of_one():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield Here(1, 1, save_distributed_checkpoint=False)
    finally:
        distributed.destroy_process_group()


class SaveAt(pl.Callback):
    def __init__(self, file, step):
        self.file = file
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            save_last(trainer, self.file)


def letters(samples):
    return torch.tensor([float(len(set(text))) for text in samples.outputs])


def dark(samples):
    return -samples.outputs.flatten(1).mean(1)


def text_loop():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3)
    regularization = GradientRegularization(0.1)
    options = {"samples_per_prompt": 2, "optimizer": sgd}
    return PPO(
        policy, Function(letters), kl_weight=0.1, gradient_regularization=regularization, **options
    )


def image_loop():
    policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
    return VelocityMatching(policy, Brightness(), samples_per_prompt=2, optimizer=sgd)


def text_callbacks():
    return [EMA(0.5), ReferenceReset(every_n_steps=1)]


def image_callbacks():
    guard = Guard(1, samples=8, tolerance=0.0, patience=2, watch=["classifier"])
    guard.observe(MonitoredPolicy(Brightness(), [""] * 8, classifier=Function(dark)))
    return [guard]


def fitted(loop, callbacks, ckpt_path=None, **options):
    prompts = ["a", "cat"] if isinstance(loop, PPO) else ["", ""]
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", devices=1, callbacks=callbacks, **SILENT, **options
    )
    data = Prompts(prompts, batch_size=2)
    trainer.fit(loop, data, ckpt_path=ckpt_path, weights_only=True)
    return loop


def weights_of(policy):
    return [weight.detach() for weight in policy.parameters()]


@pytest.mark.parametrize(
    ("make", "callbacks"), [(text_loop, text_callbacks), (image_loop, image_callbacks)]
)
def test_a_spread_fit_and_one_that_goes_on_from_it_end_where_a_whole_one_does(
    tmp_path, caplog, make, callbacks
):
    """Averages, resets, second gradients and the last good weights follow spread weights."""
    file = tmp_path / "last.ckpt"
    with a_world_of_one() as strategy:
        spread = fitted(make(), [*callbacks(), SaveAt(file, 2)], strategy=strategy)
        assert all(is_spread(weight) for weight in spread.policy.parameters())
        assert export_trained(spread, tmp_path) == []
        assert "nothing is exported" in caplog.text
        spread.gather_trained(keep=True)
    assert export_trained(spread, tmp_path) == [tmp_path / "policy"]
    whole = fitted(make(), callbacks())
    going_on = fitted(make(), callbacks(), ckpt_path=file)
    start = weights_of(make().policy)
    assert not weights_of(whole.policy)[0].equal(start[0])
    assert_close(weights_of(spread.policy), weights_of(whole.policy), rtol=1e-4, atol=1e-6)
    assert_close(weights_of(going_on.policy), weights_of(whole.policy), rtol=1e-4, atol=1e-6)
