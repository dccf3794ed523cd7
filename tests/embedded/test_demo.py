"""The demo's own arithmetic: its runs, their arguments, and how it ends when one fails."""

import importlib.util
import json
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


def write_run(folder, end, held, seconds):
    stability = {"start": -3.0, "peak_gold": -2.5, "censored": held}
    last = {"judged": {"gold": {"mean": end}}, "post_train": {"stability": {"gold": stability}}}
    first = {"judged": {"gold": {"mean": -3.0}}}
    cost = {"generations": {"all": 10 * seconds}, "seconds": {"all": seconds}}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"rounds": {"0": first, "1": last}}))
    (folder / "timing.json").write_text(json.dumps({"cost": cost}))


def test_the_table_of_text_is_over_seeds_and_beside_the_plain_run_of_each(demo, tmp_path):
    for seed, seconds in ((1, 10.0), (2, 20.0)):
        write_run(tmp_path / f"rlhf_plain-{seed}", -6.0, False, seconds)
        write_run(tmp_path / f"rlhf_kl-{seed}", -2.0 - seed, seed == 1, 3 * seconds)
    text = demo.text_table(tmp_path, ["rlhf_plain", "rlhf_kl"], [1, 2])
    plain, kl = text.splitlines()[-2:]
    assert plain.endswith("| -6.00 [-6.00, -6.00] | 0.50 | 0 of 2 | 1.00 | 1.00 |")
    assert kl.endswith("| -3.50 [-4.00, -3.00] | 0.50 | 1 of 2 | 3.00 | 3.00 |")
    alone = demo.text_table(tmp_path, ["rlhf_kl"], [1, 2])
    assert alone.endswith("| 1 of 2 |  |  |")
    assert demo.text_table(tmp_path, [], [1]) == ""
