"""Tiny language models, tokenizers and texts for the tests of rewards."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rewardlab.rewards.language import LanguageReward
from rewardlab.types import Samples

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ("<|pad|>", "<|end|>", "<|im_start|>")
SAMPLES = Samples(
    ["Say hi.", "Be short!", ""],
    ["Hello, hello there, hé 世", "no", ""],
    {"row": torch.tensor([7, 8, 9])},
)


def conversations(samples):
    """Return samples as the messages that transformers' templates take."""
    made = []
    for prompt, response in zip(samples.prompts, samples.outputs, strict=True):
        user = {"role": "user", "content": prompt}
        made.append([user, {"role": "assistant", "content": response}])
    return made


def tokenizer(template=None, **special):
    """A tokenizer of bytes and three marks; `special` names other special tokens."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *MARKS]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=["<|im_start|>"],
        **{"pad_token": "<|pad|>", "eos_token": "<|end|>", **special},
    )
    made.chat_template = template
    return made


def backbone(kind=LlamaForCausalLM, seed=0, **options):
    """A Llama of two blocks for the tokens of `tokenizer`, with any head or none."""
    config = LlamaConfig(
        vocab_size=260,
        max_position_embeddings=128,
        pad_token_id=256,
        eos_token_id=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def encoder():
    """A BERT of one block with one label, for the tokens of `tokenizer`."""
    config = BertConfig(
        vocab_size=260,
        num_labels=1,
        pad_token_id=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def reward(template=None, **options):
    return LanguageReward(backbone(), tokenizer(template), **options).eval()


def moved(made):
    """Move heads and weights away from where they start, so that nothing is equal by chance."""
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(1)
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return made
