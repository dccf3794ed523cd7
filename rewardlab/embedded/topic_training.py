"""Training of the base policy and the members of the world of Python's help topics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer

from rewardlab.data.preferences import Preferences
from rewardlab.embedded.topic_corpus import (
    CHUNK,
    RESPONSE,
    VOCABULARY,
    corpus_tokens,
    tokenizer,
)
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.rewards.language import LanguageReward
from rewardlab.seeds import derive
from rewardlab.training.adv_rm import AdvRM

Family = Literal["llama", "gpt2"]


def train_base(folder: Path, train_steps: int, seed: int, family: Family = "llama") -> None:
    """Train a base policy on random chunks of the corpus; each family draws its own."""
    of_family = "" if family == "llama" else f" of {family}"
    config = _llama_config() if family == "llama" else _gpt2_config()
    network = _network(config, derive(seed, f"topics base{of_family}"))
    tokens = torch.from_numpy(corpus_tokens())
    generator = torch.Generator().manual_seed(derive(seed, f"topics chunks{of_family}"))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, train_steps)
    for _ in range(train_steps):
        starts = torch.randint(len(tokens) - CHUNK, (32, 1), generator=generator)
        chunks = tokens[starts + torch.arange(CHUNK)]
        loss = network(input_ids=chunks, labels=chunks, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    policy = CausalLMPolicy(network, tokenizer(), max_new_tokens=RESPONSE)
    policy.save_pretrained(folder / "policy")


def _llama_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        **_vocabulary(),
    )


def _gpt2_config() -> Any:
    """Return the config of another family: learned positions, layer norms, GELU, a tied head."""
    from transformers import GPT2Config

    return GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **_vocabulary(),
    )


def _vocabulary() -> dict[str, Any]:
    """Return what a config says of the tokens."""
    bpe = tokenizer()
    return {
        "vocab_size": VOCABULARY,
        "eos_token_id": bpe.eos_token_id,
        "pad_token_id": bpe.pad_token_id,
        "bos_token_id": None,
    }


def _network(config: Any, seed: int) -> Any:
    """Return a config's network with random weights."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def train_member(
    folder: Path,
    untrained: Callable[[], LanguageReward],
    data: Preferences,
    seed: int,
    epochs: int,
    learning_rate: float,
) -> None:
    """Train a member on preference pairs."""
    reward = untrained()
    module = AdvRM(
        reward,
        optimizer=partial(torch.optim.AdamW, lr=learning_rate),
        seed=seed,
    )
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        accelerator="cpu",
    )
    trainer.fit(module, data)
    reward.save_pretrained(folder / "reward")
