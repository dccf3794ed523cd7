"""Training steps: TRL's trainers and ours on the same model, data and batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from end_to_end_cases.material import (
    PROMPT,
    RESPONSE,
    ROWS,
    SAMPLES,
    adamw,
    network,
    pairs,
    texts,
    tokenizer,
)
from end_to_end_cases.measuring import Figures, Steps

STEPS = 13  # of which the first three are not timed


def reward_trl(steps: int = STEPS, is_tailed: bool = False) -> Figures:
    """Measure a step of TRL's reward model."""
    from trl import RewardConfig, RewardTrainer

    rows = pair_rows(pairs(ROWS * steps, is_tailed))
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(**trl_options(folder, steps), max_length=256)
        model = network("LlamaForSequenceClassification", num_labels=1)
        trainer = RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer())
        return trl_run(trainer)


def reward_ours(steps: int = STEPS, is_tailed: bool = False) -> Figures:
    """Measure a step of our reward model."""
    from rewardlab.data.preferences import Preferences
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.training import AdvRM

    reward = LanguageReward(network(), tokenizer())
    module = AdvRM(reward, bootstrap=False, optimizer=adamw())
    data = Preferences(pairs(ROWS * steps, is_tailed), held_out=0, batch_size=ROWS)
    return our_run(module, data, steps)


def dpo_trl(steps: int = STEPS, is_tailed: bool = False) -> Figures:
    """Measure a step of TRL's DPO."""
    from trl import DPOConfig, DPOTrainer

    rows = pair_rows(pairs(ROWS * steps, is_tailed))
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(**trl_options(folder, steps), max_length=256, beta=0.1)
        trainer = DPOTrainer(
            network(), network(), args, train_dataset=rows, processing_class=tokenizer()
        )
        return trl_run(trainer)


def dpo_ours(steps: int = STEPS, is_tailed: bool = False) -> Figures:
    """Measure a step of our DPO."""
    from rewardlab import CausalLMPolicy
    from rewardlab.data import PairsData
    from rewardlab.training import DPO

    policy = CausalLMPolicy(network(), tokenizer())
    module = DPO(policy, beta=0.1, optimizer=adamw())
    data = PairsData(pairs(ROWS * steps, is_tailed), batch_size=ROWS)
    return our_run(module, data, steps)


def rloo_trl(steps: int = 8) -> Figures:
    """Measure a step of TRL's RLOO."""
    from trl import RLOOConfig, RLOOTrainer

    rows = _dataset(prompt=texts(ROWS * steps, PROMPT, 0))
    with tempfile.TemporaryDirectory() as folder:
        options = trl_options(folder, steps)
        options["per_device_train_batch_size"] = ROWS * SAMPLES
        args = RLOOConfig(
            **options,
            num_generations=SAMPLES,
            max_completion_length=RESPONSE,
            beta=0.05,
            temperature=1.0,
        )
        # its reference is loaded anew, by the model's name
        start = f"{folder}/start"
        network().save_pretrained(start)
        trainer = RLOOTrainer(
            type(network()).from_pretrained(start),
            reward_funcs=[_trl_reward],
            args=args,
            train_dataset=rows,
            processing_class=tokenizer(),
        )
        return trl_run(trainer)


def rloo_ours(steps: int = 8) -> Figures:
    """Measure a step of our RLOO."""
    import torch

    from rewardlab import CausalLMPolicy
    from rewardlab.data import Prompts
    from rewardlab.rewards import Function
    from rewardlab.training import PPO

    def reward(samples: Any) -> Any:
        return torch.tensor(_even_shares(samples.outputs))

    module = PPO(
        CausalLMPolicy(network(), tokenizer(), max_new_tokens=RESPONSE),
        Function(reward),
        samples_per_prompt=SAMPLES,
        kl_weight=0.05,
        gradient_clip=None,
        optimizer=adamw(),
    )
    data = Prompts(texts(ROWS * steps, PROMPT, 0), ROWS)
    return our_run(module, data, steps)


def _trl_reward(completions: Sequence[str], **_: Any) -> list[float]:
    return _even_shares(completions)


def _even_shares(outputs: Sequence[str]) -> list[float]:
    """Return a reward that costs nothing: the share of words with an even number."""
    shares = []
    for output in outputs:
        words = output.split()
        even = sum(int(word[1:]) % 2 == 0 for word in words)
        shares.append(even / max(len(words), 1))
    return shares


def pair_rows(both: Any) -> Any:
    """Return preference pairs as a dataset of TRL's columns."""
    return _dataset(
        prompt=[f"{prompt} " for prompt in both.chosen.prompts],
        chosen=both.chosen.outputs,
        rejected=both.rejected.outputs,
    )


def _dataset(**columns: Sequence[str]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({name: list(column) for name, column in columns.items()})


def trl_options(folder: str, steps: int) -> dict[str, Any]:
    """Return options of TRL's trainers: nothing is logged, saved or clipped."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": ROWS,
        "learning_rate": 1e-4,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
    }


def trl_run(trainer: Any, warmup: int = 3) -> Figures:
    """Train by a trainer of TRL, and return the figures of a step."""
    from transformers import TrainerCallback

    steps = Steps(warmup)

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.tick()

    trainer.add_callback(Tick())
    trainer.train()
    return steps.figures()


def our_run(module: Any, data: Any, count: int, warmup: int = 3) -> Figures:
    """Train a loop of ours for `count` steps, and return the figures of a step."""
    import pytorch_lightning as pl

    steps = Steps(warmup)

    class Tick(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            steps.tick()

    trainer = pl.Trainer(
        max_steps=count,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[Tick()],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return steps.figures()
