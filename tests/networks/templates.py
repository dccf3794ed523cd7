"""Chat templates of the forms that published models have, and tokenizers of bytes for them."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|head|>system<|tail|>\n\nToday Date: ' + date_string + '\n\n' + system + '<|eot|>' }}"
    "{%- for message in messages %}"
    "{{- '<|head|>' + message['role'] + '<|tail|>\n\n' + message['content'] | trim + '<|eot|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<turn>' + role + '\n' + message['content'] | trim + '</turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + eos_token }}{% else %}"
    "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
)
MARKS = {
    CHATML: {
        "eos_token": "<|im_end|>",
        "special": ["<|im_start|>"],
        "plain": ["<think>", "</think>"],
    },
    LLAMA3: {
        "bos_token": "<|begin|>",
        "eos_token": "<|eos|>",
        "special": ["<|head|>", "<|tail|>", "<|eot|>"],
    },
    GEMMA: {"bos_token": "<bos>", "eos_token": "<eos>", "plain": ["<turn>", "</turn>", "\n\n"]},
    MISTRAL: {"bos_token": "<s>", "eos_token": "</s>"},
}
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot|>", "gemma": "</turn>", "mistral": "</s>"}


def byte_tokenizer(template=None, special=(), plain=(), **named):
    """A tokenizer over bytes; `special` and `plain` are added tokens, `named` bos, eos and pad."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([*named.values(), *special])
    inner.add_tokens(list(plain))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    made.chat_template = template
    return made


def tokenizer_of(name):
    """The tokenizer of one of `TEMPLATES`, with the marks that the template writes."""
    template = TEMPLATES[name]
    return byte_tokenizer(template, pad_token="<pad>", **MARKS[template])


def llama_tokenizer(kind="first", template=None):
    """A tokenizer over letters that puts a space before a text, as Llama's do.

    Args:
        kind: "first" before the first piece of a text alone, "legacy" behind each mark too.
        template: a chat template.
    """
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    words += [*string.ascii_letters, "th", "▁th", "an", "▁an"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("t", "h"), ("▁", "th"), ("a", "n"), ("▁", "an")]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    if kind == "first":
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        inner.normalizer = normalizers.Sequence(steps)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    inner.add_special_tokens(["<s>", "</s>"])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made
