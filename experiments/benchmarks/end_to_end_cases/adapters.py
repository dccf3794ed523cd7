"""DPO of an adapter on a model of SmolLM2-135M's shape, beside TRL's with peft."""

from __future__ import annotations

import tempfile
from typing import Any

from end_to_end_cases.loops import our_run, pair_rows, trl_options, trl_run
from end_to_end_cases.material import adamw, pairs, smollm2_135m, tokenizer
from end_to_end_cases.measuring import Figures

PAIRS = 2
TOKENS = 128  # of a prompt, and of a response
RANK = 16
STEPS = 3
WARMUP = 1  # steps that are not timed; the peak is of all


def lora_dpo_ours(checkpointed: bool = False) -> Figures:
    """Measure a step of our DPO of an adapter."""
    from rewardlab import CausalLMPolicy
    from rewardlab.data import PairsData
    from rewardlab.training import DPO

    policy = CausalLMPolicy(
        smollm2_135m(), tokenizer(), lora_rank=RANK, gradient_checkpointing=checkpointed
    )
    module = DPO(policy, beta=0.1, optimizer=adamw())
    data = PairsData(_pairs(), batch_size=PAIRS)
    return our_run(module, data, STEPS, WARMUP)


def lora_dpo_trl(checkpointed: bool = False) -> Figures:
    """Measure a step of TRL's DPO of an adapter of peft."""
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        options = trl_options(folder, STEPS)
        options["per_device_train_batch_size"] = PAIRS
        options["gradient_checkpointing"] = checkpointed
        trainer = DPOTrainer(
            smollm2_135m(),
            args=DPOConfig(**options, max_length=2 * TOKENS + 8, beta=0.1),
            train_dataset=pair_rows(_pairs()),
            processing_class=tokenizer(),
            peft_config=LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        return trl_run(trainer, WARMUP)


def _pairs() -> Any:
    return pairs(PAIRS * STEPS, tokens=TOKENS)
