"""llama2.c's files: the model against the C program's own arithmetic, the tokenizer, refusals."""

import struct

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rewardlab import CausalLMPolicy, InputError, Samples
from rewardlab.policies import from_gguf, from_llama2c
from rewardlab.rewards import LanguageReward

WORDS = [" ", "a", "b", "c", "ab", "abc", " a", " ab"]


def write_model(path, heads=4, key_heads=2, tied=True, seed=0):
    """Write random weights; return them by name, as the C program reads them."""
    width, hidden, layers, vocabulary, context = 8 * heads // 2, 12, 2, 259 + len(WORDS), 16
    side = width // heads
    shapes = {
        "emb": (vocabulary, width),
        "att": (layers, width),
        "q": (layers, width, width),
        "k": (layers, key_heads * side, width),
        "v": (layers, key_heads * side, width),
        "o": (layers, width, width),
        "ffn": (layers, width),
        "w1": (layers, hidden, width),
        "w2": (layers, width, hidden),
        "w3": (layers, hidden, width),
        "norm": (width,),
        "cos": (context, side // 2),
        "sin": (context, side // 2),
    }
    if not tied:
        shapes["head"] = (vocabulary, width)
    random = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        arrays[name] = random.normal(size=shape).astype("<f4") * 0.5
    sizes = (width, hidden, layers, heads, key_heads, vocabulary if tied else -vocabulary, context)
    body = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<7i", *sizes) + body)
    return arrays, heads, key_heads


def write_tokenizer(path, words=WORDS):
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{i:02X}>".encode() for i in range(256))]
    pieces += [word.encode() for word in words]
    content = struct.pack("<i", max(map(len, pieces)))
    for number, piece in enumerate(pieces):
        content += struct.pack("<fi", -float(number), len(piece)) + piece
    path.write_bytes(content)


def norm(x, weight):
    return x / np.sqrt(np.mean(x * x) + 1e-5) * weight


def forward(arrays, heads, key_heads, tokens):
    """Return the logits after each token: run.c's loop over positions, in float64."""
    w = {name: array.astype("f8") for name, array in arrays.items()}
    layers, width = w["att"].shape
    side = width // heads
    keys, values, logits = [[] for _ in range(layers)], [[] for _ in range(layers)], []
    for position, token in enumerate(tokens):
        x = w["emb"][token].copy()
        for layer in range(layers):
            h = norm(x, w["att"][layer])
            q, k, v = (w[name][layer] @ h for name in "qkv")
            for vector in (q, k):
                for i in range(0, len(vector), 2):  # neighbors turn together
                    angle = position / 10000.0 ** ((i % side) / side)
                    cos, sin = np.cos(angle), np.sin(angle)
                    a, b = vector[i], vector[i + 1]
                    vector[i], vector[i + 1] = a * cos - b * sin, a * sin + b * cos
            keys[layer].append(k)
            values[layer].append(v)
            out = np.zeros(width)
            for head in range(heads):
                at = head // (heads // key_heads) * side
                mine = q[head * side : (head + 1) * side]
                scores = np.array([mine @ k[at : at + side] for k in keys[layer]]) / np.sqrt(side)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed = sum(
                    p * v[at : at + side] for p, v in zip(weights, values[layer], strict=True)
                )
                out[head * side : (head + 1) * side] = mixed
            x = x + w["o"][layer] @ out
            h = norm(x, w["ffn"][layer])
            gate = w["w1"][layer] @ h
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ h))
        logits.append(w.get("head", w["emb"]) @ norm(x, w["norm"]))
    return np.array(logits)


@pytest.mark.parametrize(
    ("heads", "key_heads", "tied"), [(4, 2, True), (2, 2, True), (4, 1, False), (4, 4, False)]
)
def test_logits_are_those_of_the_c_program(tmp_path, heads, key_heads, tied):
    written = write_model(tmp_path / "model.bin", heads, key_heads, tied)
    write_tokenizer(tmp_path / "tokenizer.bin")
    policy = from_llama2c(tmp_path / "model.bin", tmp_path / "tokenizer.bin")
    tokens = [1, 265, 260, 262, 30, 264]
    with torch.no_grad():
        logits = policy.network(torch.tensor([tokens])).logits[0]
    expected = torch.from_numpy(forward(*written, tokens))
    assert_close(logits.double(), expected, atol=1e-4, rtol=1e-4)


def merged(text):
    """Return the tokens of a text as run.c's `encode` finds them: the best pair first."""
    pieces = [*(chr(0) for _ in range(3)), *(f"<0x{i:02X}>" for i in range(256)), *WORDS]
    tokens = []
    for character in " " + text:
        if character in WORDS:
            tokens.append(pieces.index(character))
        else:
            tokens += [3 + byte for byte in character.encode()]
    while True:
        best = None
        for i in range(len(tokens) - 1):
            pair = pieces[tokens[i]] + pieces[tokens[i + 1]]
            if pair in WORDS and (best is None or pieces.index(pair) < best[1]):
                best = (i, pieces.index(pair))
        if best is None:
            return [1, *tokens]
        tokens[best[0] : best[0] + 2] = [best[1]]


@pytest.mark.parametrize("text", ["ab", "a", "abc", "cab é\n", "a ab abc c", "aab", "xabcx"])
def test_texts_become_the_pieces_of_the_best_scores_and_come_back(tmp_path, text):
    write_model(tmp_path / "model.bin")
    write_tokenizer(tmp_path / "tokenizer.bin")
    tokenizer = from_llama2c(tmp_path / "model.bin", tmp_path / "tokenizer.bin").tokenizer
    tokens = tokenizer(text).input_ids
    assert tokens == merged(text)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_the_folder_that_is_written_is_the_same_policy_and_a_rewards_backbone(tmp_path):
    write_model(tmp_path / "model.bin")
    write_tokenizer(tmp_path / "tokenizer.bin")
    policy = from_llama2c(tmp_path / "model.bin", tmp_path / "tokenizer.bin", max_new_tokens=4)
    assert policy.max_new_tokens == 4
    assert policy.ends == [1, 2]
    finished = policy.encode(Samples(["a"], ["b"]), seeds=torch.tensor([0]))
    assert finished.tensors["response"][0, -1].item() == 1, "a text ends where the next would start"
    policy.save_pretrained(tmp_path / "folder")
    loaded = CausalLMPolicy(tmp_path / "folder")
    samples = Samples(["ab c", "a"], ["abc", "b"])
    seeds = torch.tensor([1, 2])
    scores = [each.log_prob(each.encode(samples, seeds=seeds)) for each in (policy, loaded)]
    assert_close(scores[0], scores[1])
    assert LanguageReward(tmp_path / "folder", heads=2)(samples).shape == (2,)


def swapped(model, tokenizer):
    return tokenizer, model


def cut(model, tokenizer):
    model.write_bytes(model.read_bytes()[:-8])
    return model, tokenizer


def later(model, tokenizer):
    model.write_bytes(struct.pack("<2i", 0x616B3432, 2) + bytes(300))
    return model, tokenizer


def empty(model, tokenizer):
    model.write_bytes(b"")
    return model, tokenizer


def other_tokenizer(model, tokenizer):
    write_tokenizer(tokenizer, [*WORDS, "d"])
    return model, tokenizer


def short_tokenizer(model, tokenizer):
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1])
    return model, tokenizer


def missing(model, tokenizer):
    return model, tokenizer.with_name("none.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swapped, "Is it the tokenizer"),
        (cut, "copied in part"),
        (later, "version 2"),
        (empty, "0 bytes"),
        (other_tokenizer, "belong together"),
        (short_tokenizer, "belong together"),
        (missing, "There is no file"),
    ],
)
def test_wrong_files_are_refused(tmp_path, spoil, message):
    write_model(tmp_path / "model.bin")
    write_tokenizer(tmp_path / "tokenizer.bin")
    files = spoil(tmp_path / "model.bin", tmp_path / "tokenizer.bin")
    with pytest.raises(InputError, match=message):
        from_llama2c(*files)


def gguf_head(architecture):
    name = architecture.encode()
    key = b"general.architecture"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    return head + struct.pack("<IQ", 8, len(name)) + name


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "mamba"])
def test_a_gguf_of_another_architecture_is_refused_by_its_name(tmp_path, architecture):
    (tmp_path / "model.gguf").write_bytes(gguf_head(architecture))
    with pytest.raises(InputError, match=f"architecture '{architecture}'"):
        from_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model", gguf_head("llama")[:-3]])
def test_what_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(InputError, match="whole"):
        from_gguf(tmp_path / "model.gguf")
