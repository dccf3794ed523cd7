"""Ways to make a file odd or broken, each a function of its bytes and a seeded generator."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = [0, -1, 1, 2, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400]
FLOATS = [float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, -0.0, 0.5]
TEXTS = ["", " ", "\x00", "\ud800", "\ufeff", "é" * 300, "a" * 20_000, "../..", "null", "-1", "{}"]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}]


class Mutator(NamedTuple):
    """A way to change a file.

    Attributes:
        name: names it in counts.
        apply: returns the changed bytes.
        keeps: whether a reader has to give the same value as for the file unchanged.
    """

    name: str
    apply: Mutation
    keeps: bool = False


def odd_value(rng: random.Random) -> Any:
    """Return a value that JSON can hold and few readers expect."""
    kind = rng.choice([NUMBERS, FLOATS, TEXTS, OTHERS])
    return rng.choice(kind)


def empty(content: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b" ", b"\n", b"\x00", b"null", b"0", b'""', b"[]", b"{}"])


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def flip(content: bytes, rng: random.Random) -> bytes:
    """Flip a few bits, often near the beginning, where headers are."""
    changed = bytearray(content)
    if not changed:
        return content
    reach = rng.choice([16, 256, len(changed)])
    for _ in range(rng.choice([1, 1, 4, 32])):
        place = rng.randrange(min(reach, len(changed)))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def splice(content: bytes, rng: random.Random) -> bytes:
    """Put odd bytes in: NUL, a byte order mark, no UTF-8, half a surrogate, a long line, deep."""
    pieces = [b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\n\n", b"\xc2\x85"]
    pieces += [b"x" * 200_000, b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5_000, b"\\ud800", b","]
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(pieces) + content[place:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """Write a stretch twice, such as a line or a key."""
    start = rng.randrange(len(content) + 1)
    end = rng.randrange(start, len(content) + 1)
    if rng.random() < 0.5:
        return content + content
    return content[:end] + content[start:end] + content[end:]


def drop(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice([1, 2, 8, 64]) :]


BYTES = [
    Mutator("empty", empty),
    Mutator("cut", cut),
    Mutator("flip", flip),
    Mutator("splice", splice),
    Mutator("repeat", repeat),
    Mutator("drop", drop),
]


def paths_of(tree: Any, depth: int = 12) -> list[tuple[Any, ...]]:
    """Return the path of each value in a tree of JSON down to a depth; first the whole tree's, ()."""
    paths: list[tuple[Any, ...]] = [()]
    keys: list[Any] = []
    if isinstance(tree, dict) and depth:
        keys = list(tree)
    elif isinstance(tree, list) and depth:
        keys = list(range(min(len(tree), 50)))
    for key in keys:
        paths += [(key, *path) for path in paths_of(tree[key], depth - 1)]
    return paths


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the tree with another value at a path."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def removed(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return the tree without what is at a path."""
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = removed(copy[path[0]], path[1:])
    return copy


def change_tree(tree: Any, rng: random.Random) -> Any:
    """Put a wrong value at a path, remove a key, add one, or write a value twice or deep."""
    path = rng.choice(paths_of(tree))
    value = tree
    for key in path:
        value = value[key]
    kind = rng.choice(["replace", "replace", "replace", "remove", "add", "wrap", "twice", "deep"])
    if kind == "remove" and path:
        return removed(tree, path)
    if kind == "add" and isinstance(value, dict):
        return replaced(tree, path, {**value, rng.choice(["extra", "", "a.b"]): odd_value(rng)})
    if kind == "wrap":
        return replaced(tree, path, rng.choice([[value], {"value": value}, str(value)]))
    if kind == "twice" and isinstance(value, list):
        return replaced(tree, path, value + value)
    if kind == "deep":
        return replaced(tree, path, nested(rng.choice([50, 900])))
    return replaced(tree, path, odd_value(rng))


def nested(depth: int) -> Any:
    tree: Any = 0
    for _ in range(depth):
        tree = [tree]
    return tree


def dumped(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode("utf-8")
    except (ValueError, RecursionError):  # integers of more digits than Python writes
        return b"1" * 5_000


def json_values(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2])):
        content = dumped(change_tree(json.loads(content), rng))
    return content


def json_form(content: bytes, rng: random.Random) -> bytes:
    """Return the same JSON written in another legal form."""
    tree = json.loads(content)
    if isinstance(tree, dict):
        keys = rng.sample(list(tree), len(tree))
        tree = {key: tree[key] for key in keys}
    text = json.dumps(tree, indent=rng.choice([None, 0, 7]), ensure_ascii=rng.random() < 0.5)
    return (rng.choice(["", "\n", " \r\n"]) + text + rng.choice(["", "\n\n"])).encode()


def json_twice(content: bytes, rng: random.Random) -> bytes:
    """Write a key of an object twice, the second time with another value."""
    tree = json.loads(content)
    if not isinstance(tree, dict) or not tree:
        return content + content
    key = rng.choice(list(tree))
    return content.rstrip()[:-1] + b", " + dumped({key: odd_value(rng)})[1:]


JSON = [
    Mutator("json values", json_values),
    Mutator("json values", json_values),
    Mutator("json values", json_values),
    Mutator("json twice", json_twice),
    Mutator("json form", json_form, keeps=True),
]


def line_values(content: bytes, rng: random.Random) -> bytes:
    """Change the value of one line, or of the same path in all lines."""
    lines = content.split(b"\n")
    filled = [number for number, line in enumerate(lines) if line.strip()]
    chosen = filled if rng.random() < 0.3 else [rng.choice(filled)]
    state = rng.getrandbits(64)
    for number in chosen:
        lines[number] = json_values(lines[number], random.Random(state))
    return b"\n".join(lines)


def line_order(content: bytes, rng: random.Random) -> bytes:
    """Write lines twice, drop one, swap them, or join two."""
    lines = content.split(b"\n")
    kind = rng.choice(["twice", "drop", "swap", "join"])
    place = rng.randrange(len(lines))
    if kind == "twice":
        lines.insert(place, rng.choice(lines))
    elif kind == "drop":
        del lines[place]
    elif kind == "swap":
        rng.shuffle(lines)
    return (b" " if kind == "join" else b"\n").join(lines)


def line_form(content: bytes, rng: random.Random) -> bytes:
    """Return the same lines with a byte order mark, Windows' ends of line or an end at the end."""
    plain = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    lines = plain.rstrip(b"\n").split(b"\n")
    end = rng.choice([b"\n", b"\r\n"])
    return rng.choice([b"", b"\xef\xbb\xbf"]) + end.join(lines) + rng.choice([b"", end])


LINES = [
    Mutator("line values", line_values),
    Mutator("line values", line_values),
    Mutator("line values", line_values),
    Mutator("line order", line_order),
    Mutator("line form", line_form, keeps=True),
]
TEXT = [
    Mutator("line order", line_order),
    Mutator("line form", line_form, keeps=True),
]


def tensor_header(content: bytes, rng: random.Random) -> bytes:
    """Change the JSON header of a safetensors file: shapes, dtypes, offsets and names."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json_values(content[8 : 8 + length], rng)
    header = header + b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def tensor_length(content: bytes, rng: random.Random) -> bytes:
    """Claim another length of the header."""
    claimed = rng.choice([0, 1, 7, 100_000_000, 2**40, 2**63, 2**64 - 1])
    return struct.pack("<Q", claimed) + content[8:]


def tensor_values(content: bytes, rng: random.Random) -> bytes:
    """Write other tensors under the same names: other shapes, other dtypes, NaN; or drop one."""
    import torch
    from safetensors.torch import load, save

    tensors = load(content)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    kind = rng.choice(["shape", "dtype", "nan", "scalar", "empty", "drop", "more", "large"])
    if kind == "shape":
        tensors[name] = tensor.reshape(-1).repeat(2)
    elif kind == "dtype":
        dtypes = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
        tensors[name] = tensor.to(rng.choice(dtypes))
    elif kind == "nan":
        tensors[name] = torch.full(tensor.shape, rng.choice(FLOATS[:3]))
    elif kind == "scalar":
        tensors[name] = torch.zeros(())
    elif kind == "empty":
        tensors[name] = torch.zeros(0)
    elif kind == "drop":
        del tensors[name]
    elif kind == "more":
        tensors[f"{name}.extra"] = torch.zeros(3)
    else:
        tensors[name] = torch.full(tensor.shape, 3e38)
    return save(tensors)


TENSORS = [
    Mutator("tensor header", tensor_header),
    Mutator("tensor length", tensor_length),
    Mutator("tensor values", tensor_values),
    Mutator("tensor values", tensor_values),
]


def yaml_values(content: bytes, rng: random.Random) -> bytes:
    import yaml

    tree = change_tree(yaml.safe_load(content), rng)
    return dumped(tree)  # JSON is YAML


def yaml_form(content: bytes, rng: random.Random) -> bytes:
    """Insert YAML's own oddities: anchors, tags, merges, tabs, documents, octal numbers."""
    lines = content.split(b"\n")
    pieces = [b"---", b"...", b"\t- a", b"a: &a [*a]", b"<<: *none", b"? [1, 2]\n: 3", b"x: 0o17"]
    pieces += [b"x: !!binary a", b"x: !!set {a}", b"x: 2020-01-01", b"x: .nan", b"x: ${y}"]
    lines.insert(rng.randrange(len(lines)), rng.choice(pieces))
    return b"\n".join(lines)


YAML = [
    Mutator("yaml values", yaml_values),
    Mutator("yaml values", yaml_values),
    Mutator("yaml values", yaml_values),
    Mutator("yaml form", yaml_form),
]


def table_cells(content: bytes, rng: random.Random) -> bytes:
    """Put an odd value into a cell of a CSV file, or add or remove one."""
    lines = content.decode().split("\n")
    row = rng.randrange(len(lines))
    cells = lines[row].split(",")
    place = rng.randrange(len(cells))
    odd = ["", "nan", "inf", "-1", "1e400", "word", '"', '""', "9" * 5_000, "\x00", "1,2,3"]
    cells[place] = rng.choice(odd)
    if rng.random() < 0.2:
        del cells[place]
    lines[row] = ",".join(cells)
    return "\n".join(lines).encode()


TABLE = [Mutator("table cells", table_cells), Mutator("table cells", table_cells)]

BY_SUFFIX = {
    ".json": JSON,
    ".jsonl": LINES,
    ".txt": TEXT,
    ".safetensors": TENSORS,
    ".yaml": YAML,
    ".csv": TABLE,
}


def mutators_for(name: str) -> list[Mutator]:
    """Return the mutators that fit a file of this name; those of its form are half of them."""
    suffix = name[name.rfind(".") :]
    return BYTES + BY_SUFFIX.get(suffix, [])
