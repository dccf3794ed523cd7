"""Fingerprints tell contents apart."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rewardlab.errors import InputError
from rewardlab.provenance import described, device_facts, fingerprint, versions
from rewardlab.types import Samples


def test_a_fingerprint_is_the_same_for_the_same_contents():
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    assert (
        fingerprint(layer)
        == fingerprint(layer.state_dict())
        == fingerprint(dict(reversed(layer.state_dict().items())))
    )
    values = torch.arange(12.0).reshape(3, 4)
    assert fingerprint(values.T) == fingerprint(values.T.contiguous())
    assert fingerprint(values[:1, 1]) == fingerprint(torch.tensor([1.0]))
    assert fingerprint((1, "a")) == fingerprint([1, "a"])
    assert len(fingerprint(None)) == 16


def test_fingerprints_differ_wherever_contents_do():
    values = torch.zeros(4)
    tensors = [
        values,
        values.double(),
        values.reshape(2, 2),
        values + 1,
        -values,
        values.bfloat16(),
        values[0],
        values[:0],
    ]
    plain = [b"ab", "ab", ["ab"], ["a", "b"], [["a"], "b"], [], {}, None, True, 1, 1.0, "1"]
    mappings = [{"a": values}, {"b": values}, {"a": {"b": 1}}, {"a": 1, "b": 1}]
    nouns = [
        Samples(["a"], ["b"]),
        Samples(["b"], ["a"]),
        Samples(["a"], ["b"], {"x": torch.ones(1)}),
    ]
    different = [*tensors, *plain, *mappings, *nouns]
    assert len({fingerprint(item) for item in different}) == len(different)


def test_a_path_means_what_lies_there(tmp_path):
    (tmp_path / "a").write_text("x")
    alone, folder = fingerprint(tmp_path / "a"), fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(tmp_path / "b") == alone
    assert fingerprint(tmp_path) != folder
    with pytest.raises(InputError, match="is not there"):
        fingerprint(tmp_path / "a")


def test_what_has_no_contents_has_no_fingerprint():
    with pytest.raises(TypeError, match="fingerprint reads"):
        fingerprint(object())


def test_versions_and_devices_are_found_without_imports():
    assert versions()["python"] == sys.version.split()[0]
    code = "import sys; from rewardlab.provenance import versions; versions(); print({'torch', 'diffusers'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "set()"
    assert device_facts()["processors"] >= 1


def closure(x):
    return lambda: x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda p: sorted(p + p), lambda p: list(p + p)),
        (lambda a=1: a, lambda a=2: a),
        (lambda *, a=1: a, lambda *, a=2: a),
        (lambda: lambda: 1, lambda: lambda: 2),
        *[
            tuple(map(closure, pair))
            for pair in ((0.1, 0.2), (dict, list), (torch.ones(2), torch.zeros(2)))
        ],
    ],
)
def test_lambdas_that_do_other_things_are_described_apart(one, other):
    assert described(one) != described(other)
    assert described(one) == described(one)


def test_a_lambdas_description_is_the_same_in_every_process():
    """Code within code, whose repr is an address."""
    code = "from rewardlab.provenance import described; make = lambda: (lambda: (x for x in [1]))"
    here: dict = {"__name__": "__main__"}
    exec(code, here)
    told = [sys.executable, "-c", f"{code}; print(described(make))"]
    there = subprocess.run(told, capture_output=True, text=True, check=True)
    assert there.stdout == described(here["make"]) + "\n"


class Slotted:
    __slots__ = ("_hidden", "rate", "unset")

    def __init__(self, rate):
        self.rate = rate
        self._hidden = object()


def test_paths_sets_and_objects_with_slots_are_described():
    assert described({"pairs": Path("a/b.jsonl")}) == {"pairs": "a/b.jsonl"}
    assert described({"b", "a", "c"}) == described(frozenset(["c", "b", "a"])) == ["a", "b", "c"]
    assert described(Slotted(0.5)) == {"class": f"{__name__}.Slotted", "rate": 0.5}
    assert described(Slotted(0.5)) != described(Slotted(0.25))
