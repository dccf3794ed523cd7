"""Models in llama2.c's two files, weights and tokenizer, as language models of transformers.

llama2.c (github.com/karpathy/llama2.c) is Llama in one C file. Its small models, such as
stories260K and stories15M, are the fastest real language models that there are. The weights are
read by their first form, version 0: seven integers, then float32 numbers in a fixed order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.causal_lm import CausalLMPolicy

_HEADER = struct.Struct("<7i")
_PIECE = struct.Struct("<fi")
_LATER_FORM = 0x616B3432  # "ak42", with which llama2.c's later forms begin
_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = len(_SPECIAL) + 256  # pieces before those that are merged
_MOST = 2**20  # of any size in the header


def from_llama2c(weights: str | Path, tokenizer: str | Path, **options: Any) -> CausalLMPolicy:
    """Return the language model of llama2.c's files as a policy; `save_pretrained` writes it out.

    The folder that is then written is one of transformers: `CausalLMPolicy(folder)`,
    `LanguageReward(folder)` and every command load it. Besides the end token, the start token ends
    a response, as in llama2.c, whose training texts it separates.

    Args:
        weights: the model's file, such as stories260K.bin.
        tokenizer: the tokenizer's file, such as tok512.bin.
        options: further arguments of `CausalLMPolicy`.

    Raises:
        InputError: if a file is missing, is not of that form, or the two do not fit each other.

    Example:
        >>> from_llama2c("stories260K.bin", "tok512.bin")
        Traceback (most recent call last):
        rewardlab.errors.InputError: There is no file stories260K.bin. ...
    """
    raw = _content(Path(weights))
    sizes = _sizes(raw, Path(weights))
    vocabulary = _Vocabulary.read(_content(Path(tokenizer)), sizes.vocabulary, Path(tokenizer))
    model = _model(sizes, raw)
    return CausalLMPolicy(model, _tokenizer(vocabulary), **options)


class _Sizes(NamedTuple):
    """The header.

    Attributes:
        width: of a token's state.
        hidden: width of a feed-forward layer.
        layers: number of them.
        heads: number of query heads.
        key_heads: number of key and value heads.
        vocabulary: number of tokens.
        context: most tokens.
        is_tied: whether the output layer is the embedding.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    context: int
    is_tied: bool

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_width

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of each tensor, in the file's order."""
        layers, width, hidden = self.layers, self.width, self.hidden
        half_head = self.head_width // 2
        shapes = {
            "embedding": [self.vocabulary, width],
            "attention_norm": [layers, width],
            "query": [layers, width, width],
            "key": [layers, self.key_width, width],
            "value": [layers, self.key_width, width],
            "output": [layers, width, width],
            "feed_norm": [layers, width],
            "gate": [layers, hidden, width],
            "down": [layers, width, hidden],
            "up": [layers, hidden, width],
            "norm": [width],
            "cosines": [self.context, half_head],  # of the positions; transformers computes them
            "sines": [self.context, half_head],
        }
        if not self.is_tied:
            shapes["head"] = [self.vocabulary, width]
        return shapes

    def byte_count(self) -> int:
        """Return the size of the whole file."""
        numbers = 0
        for shape in self.shapes().values():
            numbers += torch.Size(shape).numel()
        return _HEADER.size + 4 * numbers


def _content(path: Path) -> bytes:
    if path.is_file():
        return path.read_bytes()
    raise InputError(
        f"There is no file {path}. from_llama2c takes the two files of a llama2.c model: weights, "
        "such as stories260K.bin, and tokenizer, such as tok512.bin."
    )


def _sizes(raw: bytes, path: Path) -> _Sizes:
    """Return the header's sizes.

    Raises:
        InputError: if the file is no whole weights file of the first form.
    """
    numbers = _header(raw, path)
    width, hidden, layers, heads, key_heads, vocabulary, context = numbers
    sizes = _Sizes(
        width,
        hidden,
        layers,
        heads,
        key_heads,
        vocabulary=abs(vocabulary),
        context=context,
        is_tied=vocabulary > 0,
    )
    if len(raw) != sizes.byte_count():
        raise InputError(
            f"{path} has {len(raw)} bytes; its header asks for {sizes.byte_count()}. Was it copied "
            "in part, or is it quantized?"
        )
    return sizes


def _header(raw: bytes, path: Path) -> tuple[int, ...]:
    """Return the seven integers that a weights file begins with.

    Raises:
        InputError: if the file is of a later form, or of another program.
    """
    form = "llama2.c's weights (version 0: seven integers, then float32 numbers)"
    if len(raw) >= 8 and struct.unpack("<i", raw[:4])[0] == _LATER_FORM:
        version = struct.unpack("<i", raw[4:8])[0]
        raise InputError(
            f"{path} is of llama2.c's version {version}; from_llama2c reads version 0. Write it "
            "with llama2.c's export.py and --version 0."
        )
    if len(raw) < _HEADER.size:
        raise InputError(f"{path} has {len(raw)} bytes, fewer than the header of {form}.")
    numbers: tuple[int, ...] = _HEADER.unpack_from(raw)
    if not _is_plausible(*numbers):
        raise InputError(
            f"{path} is no file of {form}: its header reads {list(numbers)}. Is it the tokenizer, "
            "or a checkpoint of another program?"
        )
    return numbers


def _is_plausible(
    width: int, hidden: int, layers: int, heads: int, key_heads: int, vocabulary: int, context: int
) -> bool:
    """Tell whether a header can be a model's. An output layer of its own makes `vocabulary` < 0."""
    sizes = (width, hidden, layers, heads, key_heads, abs(vocabulary), context)
    if min(sizes) < 1 or max(sizes) > _MOST:
        return False
    return width % (2 * heads) == 0 and heads % key_heads == 0


def _tensors(sizes: _Sizes, raw: bytes) -> dict[str, Tensor]:
    """Return the file's tensors, float32, by the names of `_Sizes.shapes`."""
    flat = torch.frombuffer(bytearray(raw[_HEADER.size :]), dtype=torch.float32)
    tensors = {}
    start = 0
    for name, shape in sizes.shapes().items():
        end = start + torch.Size(shape).numel()
        tensors[name] = flat[start:end].view(shape)
        start = end
    return tensors


def _model(sizes: _Sizes, raw: bytes) -> Any:
    """Return the model, a LlamaForCausalLM of transformers, in evaluation mode."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(_config(sizes))
    tensors = _tensors(sizes, raw)
    state = {
        "model.embed_tokens.weight": tensors["embedding"],
        "model.norm.weight": tensors["norm"],
        "lm_head.weight": tensors.get("head", tensors["embedding"]),
    }
    for layer in range(sizes.layers):
        state |= dict(_layer(sizes, tensors, layer))
    model.load_state_dict(state)
    model.generation_config.eos_token_id = [1, 2]
    return model.eval()


def _config(sizes: _Sizes) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_heads,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=sizes.is_tied,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=1,  # the next text's start is how one ends; no "</s>" was ever seen
        pad_token_id=0,
    )


def _layer(sizes: _Sizes, tensors: dict[str, Tensor], layer: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a layer by transformers' names."""
    names = {
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "feed_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "down": "mlp.down_proj",
        "up": "mlp.up_proj",
    }
    heads = {"query": sizes.heads, "key": sizes.key_heads}
    for ours, theirs in names.items():
        weight = tensors[ours][layer]
        if ours in heads:
            weight = _in_halves(weight, heads[ours])
        yield f"model.layers.{layer}.{theirs}.weight", weight


def _in_halves(weight: Tensor, heads: int) -> Tensor:
    """Return a projection [heads·D, W] with each head's rows in transformers' order.

    llama2.c rotates neighboring rows by a position's angle; transformers rotates row i with row
    i + D/2.
    """
    rows, width = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, width)
    return pairs.transpose(1, 2).reshape(rows, width)


class _Vocabulary(NamedTuple):
    """A tokenizer's pieces and their scores, by which llama2.c merges."""

    pieces: list[str]
    scores: list[float]

    @classmethod
    def read(cls, raw: bytes, size: int, path: Path) -> _Vocabulary:
        """Read `size` pieces.

        Raises:
            InputError: if the file holds fewer or more.
        """
        problem = (
            f"{path} is no tokenizer of llama2.c with the {size} pieces that the weights have. Do "
            "the two files belong together (stories260K.bin has tok512.bin)?"
        )
        pieces = []
        scores = []
        start = 4  # after the length of the longest piece
        for _ in range(size):
            if start + _PIECE.size > len(raw):
                raise InputError(problem)
            score, length = _PIECE.unpack_from(raw, start)
            start += _PIECE.size
            if length < 0 or start + length > len(raw):
                raise InputError(problem)
            pieces.append(raw[start : start + length].decode("utf-8", "replace"))
            scores.append(score)
            start += length
        if start != len(raw) or size <= _BYTES:
            raise InputError(problem)
        return cls(pieces, scores)


def _tokenizer(vocabulary: _Vocabulary) -> Any:
    """Return the tokenizer as transformers' fast one: byte-pair merges by score."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = [piece.replace(" ", "▁") for piece in vocabulary.pieces]
    pieces[: len(_SPECIAL)] = _SPECIAL
    numbers = {piece: number for number, piece in enumerate(pieces)}
    merges = _merges(pieces, vocabulary.scores)
    inner = Tokenizer(
        models.BPE(
            vocab=numbers, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    _set_spaces(inner)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="<s>",
        unk_token="<unk>",
        pad_token="<unk>",
    )


def _set_spaces(inner: Any) -> None:
    """Make a tokenizer of `tokenizers` write spaces as "▁", one more first, after the start."""
    from tokenizers import decoders, normalizers
    from tokenizers.processors import TemplateProcessing

    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    inner.normalizer = normalizers.Sequence(spaces)
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    inner.decoder = decoders.Sequence(steps)
    inner.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )


def _merges(pieces: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Return every way to make a piece from two others, those of the best score first."""
    vocabulary = set(pieces)
    long_pieces = [number for number in range(_BYTES, len(pieces)) if len(pieces[number]) > 1]
    merges = []
    for number in sorted(long_pieces, key=lambda number: -scores[number]):
        piece = pieces[number]
        for middle in range(1, len(piece)):
            left = piece[:middle]
            right = piece[middle:]
            if left in vocabulary and right in vocabulary:
                merges.append((left, right))
    return merges
