"""Our rewards and pairs in TRL's trainers, and TRL's reward in our hands: are the numbers the same?

    python experiments/contracts/trl_runs.py [--steps 20] [--out table.md]

Four small runs of the installed TRL on the CPU, of models that are made on the spot: GRPO and RLOO
climb a reward of ours, DPO learns from pairs of ours, and a reward that RewardTrainer fits is
loaded here. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rewardlab import LanguageReward, PreferencePairs, Samples, as_samples, load_reward
from rewardlab.exchange.trl import preference_dataset, prompt_dataset, reward_func
from rewardlab.losses import dpo_loss
from rewardlab.networks.silence import silent
from rewardlab.policies import CausalLMPolicy
from rewardlab.rewards import scores_of
from rewardlab.storage.atomic import write_atomically
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

PROMPTS = ["Say hi.", "2+2?", "Name a color.", "Bye"]
PAIRS = PreferencePairs(
    Samples(PROMPTS, ["Hello", "4", "Red", "See you"]), Samples(PROMPTS, ["Go", "five", "7", "."])
)


class Row(NamedTuple):
    """A line of the table."""

    trainer: str
    compared: str
    outcome: str


class Recorder:
    """A reward function that keeps the samples of each step, and scores nothing."""

    __name__ = "recorder"

    def __init__(self) -> None:
        self.batches: list[Samples] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[None]:
        texts = [messages[0]["content"] for messages in completions]
        self.batches.append(as_samples(prompts, texts))
        return [None] * len(prompts)


def options(folder: str, steps: int) -> dict[str, Any]:
    """Return what all of TRL's configurations are given."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def climbed(kind: str, folder: str, steps: int) -> Row:
    """Let GRPO or RLOO climb a reward of ours with two members, and compare what it logged."""
    import trl
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer(chat=True)
    tiny_causal_lm(seed=3).save_pretrained(f"{folder}/policy")
    tokenizer.save_pretrained(f"{folder}/policy")
    reward = LanguageReward(tiny_causal_lm(seed=1), tokenizer, heads=2)
    recorder = Recorder()
    config = getattr(trl, f"{kind}Config")(
        **options(folder, steps), num_generations=4, max_completion_length=8
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        AutoModelForCausalLM.from_pretrained(f"{folder}/policy"),
        reward_funcs=[reward_func(reward, name="ours"), recorder],
        args=config,
        train_dataset=prompt_dataset(PROMPTS, conversational=True),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/ours/mean" in row]
    gaps = []
    for row, samples in zip(logged, recorder.batches, strict=True):
        gaps.append(abs(row["rewards/ours/mean"] - scores_of(reward, samples).mean().item()))
    first = logged[0]["rewards/ours/mean"]
    last = logged[-1]["rewards/ours/mean"]
    doubts = [row["ours/disagreement"] for row in logged]
    outcome = (
        f"largest difference of {len(gaps)} steps {max(gaps):.1e}; the mean went from {first:.2f} "
        f"to {last:.2f}, ours/disagreement from {doubts[0]:.2f} to {doubts[-1]:.2f}"
    )
    return Row(f"{kind}Trainer", "logged mean reward, our scores", outcome)


def preferred(folder: str, steps: int) -> Row:
    """Let DPO learn from pairs of ours, and compare the first loss with ours."""
    from trl import DPOConfig, DPOTrainer

    tokenizer = tiny_tokenizer()
    networks = [tiny_causal_lm(0), tiny_causal_lm(1)]
    config = DPOConfig(**options(folder, steps), beta=0.3)
    dataset = preference_dataset(PAIRS)
    trainer = DPOTrainer(*networks, config, train_dataset=dataset, processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(len(PAIRS))])
    columns = []
    for seed in (0, 1):
        policy = CausalLMPolicy(tiny_causal_lm(seed), tokenizer).eval()
        for half in (PAIRS.chosen, PAIRS.rejected):
            trajectory = policy.encode(half, seeds=torch.arange(len(half)))
            log_prob = policy.log_prob(trajectory)
            columns.append(log_prob.where(trajectory.mask, 0).sum(1))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch).item()
    ours = dpo_loss(*columns, beta=0.3).mean().item()
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    outcome = (
        f"difference {abs(theirs - ours):.1e} of {ours:.3f}; after {steps} steps {losses[-1]:.3f}"
    )
    return Row("DPOTrainer", "loss on our pairs, our loss", outcome)


def fitted(folder: str, steps: int) -> Row:
    """Load a reward that RewardTrainer fits, and compare scores on what it was fitted to."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    tiny_causal_lm(seed=5).save_pretrained(f"{folder}/start")
    trainer = RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(f"{folder}/start", num_labels=1),
        RewardConfig(**options(f"{folder}/out", steps)),
        train_dataset=preference_dataset(PAIRS),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    trainer.save_model(f"{folder}/reward")
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(len(PAIRS))])
    trainer.model.eval()
    with torch.no_grad():
        outputs = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"])
    theirs = outputs.logits[:, 0]
    reward = load_reward(f"{folder}/reward")
    ours = torch.cat([scores_of(reward, half) for half in (PAIRS.chosen, PAIRS.rejected)])
    gap = (theirs - ours).abs().max().item()
    spread = (ours.max() - ours.min()).item()
    outcome = f"largest difference of {len(ours)} scores {gap:.1e} (range {spread:.2f})"
    return Row("RewardTrainer", "its scores on its tokens, `load_reward`'s", outcome)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps of each run")
    parser.add_argument("--out", type=Path, help="file for the table, in Markdown")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder, silent():
        for kind in ("GRPO", "RLOO"):
            rows.append(climbed(kind, f"{folder}/{kind}", arguments.steps))
        rows.append(preferred(f"{folder}/DPO", arguments.steps))
        rows.append(fitted(f"{folder}/reward", arguments.steps))
    version = importlib.metadata.version("trl")
    lines = [f"| TRL {version} | compared | outcome |", "|---|---|---|"]
    lines += [f"| {row.trainer} | {row.compared} | {row.outcome} |" for row in rows]
    print("\n".join(lines))
    if arguments.out is not None:
        write_atomically(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
