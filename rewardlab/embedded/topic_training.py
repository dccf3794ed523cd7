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
    networks = {"llama": _base_network, "gpt2": _gpt2_network}
    network = networks[family](seed)
    tokens = torch.from_numpy(corpus_tokens())
    chunks_of = "topics chunks" if family == "llama" else f"topics chunks of {family}"
    generator = torch.Generator().manual_seed(derive(seed, chunks_of))
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


def _base_network(seed: int) -> Any:
    """Return the base policy's network with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    bpe = tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        eos_token_id=bpe.eos_token_id,
        pad_token_id=bpe.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "topics base"))
        return LlamaForCausalLM(config)


def _gpt2_network(seed: int) -> Any:
    """Return a network of another family: learned positions, layer norms, GELU, a tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    bpe = tokenizer()
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        eos_token_id=bpe.eos_token_id,
        pad_token_id=bpe.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "topics base of gpt2"))
        return GPT2LMHeadModel(config)


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
