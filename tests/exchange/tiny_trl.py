"""Small TRL trainers on the CPU, from folders that the tests write; nothing is downloaded."""

import torch
from datasets import Dataset
from tokenizers import processors

from rewardlab.networks.silence import silent
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

# as ChatML, with the tokenizer's end token at the end of turns and nothing behind it
TURNS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PROMPTS = ["ab", "cd?", "e", "fgh"]


def options(folder, steps=2, **more):
    """Return what all of TRL's configurations are given."""
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **more,
    }


def policy_folder(folder, chat):
    """Write a policy that TRL opens by its name, and return its folder."""
    with silent():
        tiny_causal_lm(seed=3).save_pretrained(folder)
    tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder


def rolled_out(kind, folder, functions, dataset, steps=2):
    """Train a policy by GRPO or RLOO, and return the trainer."""
    import trl
    from transformers import AutoModelForCausalLM

    chat = not isinstance(dataset[0]["prompt"], str)
    start = policy_folder(folder / "policy", chat)
    config = getattr(trl, f"{kind}Config")(
        **options(folder / "out", steps), num_generations=2, max_completion_length=6
    )
    with silent():
        policy = AutoModelForCausalLM.from_pretrained(start)
        trainer = getattr(trl, f"{kind}Trainer")(
            policy,
            reward_funcs=functions,
            args=config,
            train_dataset=dataset,
            processing_class=tiny_tokenizer(chat=chat),
        )
        trainer.train()
    return trainer


def framed_tokenizer(chat=False):
    """Return the tokenizer of bytes, which puts its beginning before every text."""
    tokenizer = tiny_tokenizer(chat=chat)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 258)]
    )
    return tokenizer


def trained_reward(folder, dataset, tokenizer, steps=3):
    """Train a reward by TRL's RewardTrainer, save it, and return the trainer."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    with silent():
        tiny_causal_lm(seed=5).save_pretrained(folder / "start")
        torch.manual_seed(0)
        network = AutoModelForSequenceClassification.from_pretrained(folder / "start", num_labels=1)
        trainer = RewardTrainer(
            network,
            RewardConfig(**options(folder / "out", steps)),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
        trainer.save_model(str(folder / "reward"))
    return trainer


def seen_scores(trainer):
    """Return the scores of a reward trainer's network on the tokens that it was trained on."""
    rows = [trainer.train_dataset[row] for row in range(len(trainer.train_dataset))]
    batch = trainer.data_collator(rows)
    trainer.model.eval()
    with torch.no_grad():
        outputs = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"])
    return outputs.logits[:, 0].chunk(2)


def rows(**columns):
    return Dataset.from_dict(columns)
