"""Options of the Trainer that a loop cannot follow are refused before its first step."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
from torch import nn

from rewardlab import PPO, SFT, InputError, Samples
from rewardlab.data import SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.policies import CausalLMPolicy
from rewardlab.rewards import Length
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

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
