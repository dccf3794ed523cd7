"""The demo's own arithmetic: its runs, their arguments, and how it ends when one fails."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "experiments" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FILE.parent))
        spec.loader.exec_module(module)
    return module


def test_ways_of_text_are_run_for_each_seed(demo, tmp_path):
    names = demo.run_names(["sft", "rlhf_kl"], [1, 2])
    assert names == ["sft", "rlhf_kl-1", "rlhf_kl-2"]
    assert demo.in_order(["sft", "dpo", "rlhf_kl-1", "x"]) == ["sft", "rlhf_kl-1", "dpo", "x"]
    assert demo.in_order(["rlhf_kl-1"]) == ["rlhf_kl-1"]
    words = demo.arguments("rlhf_kl-2", tmp_path)
    assert "--experiment.seed=2" in words
    assert f"--out={tmp_path / 'rlhf_kl-2'}" in words
    assert not any("experiment.seed" in word for word in demo.arguments("sft", tmp_path))
    for name in demo.run_names(list(demo.WAYS), [1]):
        configs = [word for word in demo.arguments(name, tmp_path) if word.startswith("--config=")]
        assert all(Path(word.partition("=")[2]).is_file() for word in configs)


def test_a_failed_run_ends_the_demo_with_its_code_and_names_the_log(
    demo, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(demo.WAYS, "sft", ["gan_rm/nothing.yaml"])
    monkeypatch.setattr(sys, "argv", ["demo", "--only", "sft", "--out", str(tmp_path)])
    assert demo.main() == 2
    assert "sft failed" in capsys.readouterr().err
    assert "nothing.yaml" in (tmp_path / "sft.log").read_text()
