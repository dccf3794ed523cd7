"""Options of the Trainer that a loop cannot follow are refused before its first step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from rewardlab import PPO, SFT, InputError, Samples
from rewardlab.data import SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.policies import CausalLMPolicy
from rewardlab.rewards import Length
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.strategies import (
    check_all_have_gradients,
    check_strategy,
    shard_trained,
)
from rewardlab.training.trainers import make_trainer

QUIET = dict.fromkeys(
    ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
)


def fit(module, data, **options):
    trainer = pl.Trainer(max_steps=1, max_epochs=-1, accelerator="cpu", **QUIET, **options)
    trainer.fit(module, data)


def policy():
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gradient_clip_val": 1.0}, "`gradient_clip`"),
        ({"accumulate_grad_batches": 2}, "`micro_batch`"),
        ({"precision": "bf16-true"}, "'bf16-mixed'"),
    ],
)
def test_ppo_names_its_own_argument(options, sentence):
    module = PPO(policy(), Length(), optimizer=_never)
    with pytest.raises(InputError, match=sentence):
        fit(module, Prompts(["a", "b"]), **options)


def _never(parameters: list[nn.Parameter]):
    raise AssertionError("the loop has started")


def test_a_loop_of_the_trainers_steps_takes_its_options():
    data = SamplesData(Samples(["a", "b"], ["yes", "no"]), batch_size=1)
    fit(SFT(policy()), data, gradient_clip_val=1.0, accumulate_grad_batches=2)
    with pytest.raises(InputError, match="'16-mixed'"):
        fit(SFT(policy()), data, precision="16-true")


class Elsewhere(ModelParallelStrategy):
    """FSDP2's strategy, which would wait for a second process; it starts none.

    Lightning's launcher would run this test session's own command again, and end this process when
    that one fails.
    """

    def _configure_launcher(self):
        pass

    def setup_environment(self):
        raise AssertionError("the processes have met")


class Own(SFT):
    """A loop that says nothing of FSDP2, as one of a user's own."""

    shards = False


def test_a_loop_that_does_not_say_so_refuses_fsdp2_before_processes_meet():
    data = SamplesData(Samples(["a", "b"], ["yes", "no"]))
    with pytest.raises(InputError, match=r"Own does not run under Model.*Use ddp"):
        fit(Own(policy()), data, devices=2, strategy=Elsewhere(2, 1))


def test_fsdp1_and_deepspeed_are_refused():
    with pytest.raises(InputError, match=r"SFT does not run under fsdp .*ddp or FSDP2"):
        check_strategy("SFT", FSDPStrategy(), shards=True)
    with pytest.raises(InputError, match=r"trainer that is configured cannot be made here: .*GPU"):
        make_trainer(pl.Trainer, accelerator="cpu", strategy="fsdp")


def test_tensor_parallel_is_refused():
    mesh = {"data_parallel": SimpleNamespace(size=lambda: 1)}
    strategy = SimpleNamespace(device_mesh=mesh, world_size=2)
    with pytest.raises(InputError, match="data_parallel_size=2 and tensor_parallel_size=1; got 1"):
        shard_trained(nn.Linear(1, 1), strategy)


def test_a_weight_that_no_loss_reaches_is_named_under_ddp():
    """DDP alone would say so in the next step, as a failure of its reduction."""
    module = SFT(policy())
    module.unused = nn.Linear(1, 1)
    module.policy.requires_grad_(False)
    strategy = DDPStrategy()
    module._trainer = SimpleNamespace(strategy=strategy)
    with pytest.raises(InputError, match=r"unused.weight; ddp waits .*find_unused_parameters_true"):
        check_all_have_gradients(module)
    module._trainer = SimpleNamespace(strategy=DDPStrategy(find_unused_parameters=True))
    check_all_have_gradients(module)
