"""Small random models of every architecture of transformers that can be built small."""

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL

from rewardlab.testing.tiny_text import VOCABULARY

# sizes by the names that configs give them; a config takes those that it has
SIZES = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "n_inner": 64,
    "d_ff": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "ffn_hidden_size": 64,
    "num_hidden_layers": 4,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "decoder_ffn_dim": 64,
    "encoder_ffn_dim": 64,
    "head_dim": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "rotary_dim": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_n_heads": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "lru_width": 32,
    "attention_hidden_size": 32,
    "sliding_window": 16,
}
MARKS = {"eos_token_id": 256, "pad_token_id": 257, "bos_token_id": 258}
RATES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "embedding_dropout",
    "residual_dropout",
    "layerdrop",
    "router_jitter_noise",
    "emb_pdrop",
    "ffn_dropout",
    "classifier_dropout",
)


def small_config(kind, rate=0.0):
    """Return a small config of a class, with a rate wherever it has a dropout."""
    names = vars(kind())
    sizes = {name: size for name, size in SIZES.items() if name in names}
    if "kv_lora_rank" in names or "mamba_d_conv" in names:
        sizes["num_key_value_heads"] = 4
    rates = {name: rate for name in RATES if isinstance(names.get(name), float | int)}
    return kind(**sizes, **rates, **MARKS)


def small_causal_lm(kind, rate=0.0, largest=3_000_000):
    """Return the causal language model of a config's class, with random weights.

    Raises:
        NotImplementedError: if it cannot be built from these sizes, or is not small.
    """
    model = CAUSAL[kind]
    try:
        config = small_config(kind, rate)
        with torch.device("meta"):
            count = sum(weight.numel() for weight in model(config).parameters())
        if count > largest:
            raise NotImplementedError(f"{kind.__name__} has {count} weights")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return model(config).float()
    except Exception as error:  # whatever a class says of sizes that it does not know
        raise NotImplementedError(f"{kind.__name__}: {error}") from error
