"""`rewardlab export` as a user runs it: folders, cards with real figures, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rewardlab import VisionReward, cli
from rewardlab.commands import export
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import LanguageReward, Length, load_reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer, tiny_tower
from rewardlab.types import Samples

FIT = Path(__file__).parents[1] / "configs/adv_rm/fit_reward.yaml"
COMMANDS = (
    [
        *("fit", f"--config={FIT}", "--experiment.reward_path=model", "--out=run"),
        *("--model.reward.init_args.lora_rank=2", "--trainer.max_epochs=1", "--data.held_out=4"),
        *("--trainer.accelerator=cpu", "--report=false", "--trainer.logger=false"),
    ],
    ["evaluate", "run/reward", "pairs.jsonl", "--audit", "4", "--out", "bench"],
    [
        *("attack", "--reward", "run/reward", "--witness", "witness", "--policy", "policy"),
        *("--prompts", "prompts.txt", "--n", "2", "--references", "2", "--out", "attack"),
    ],
)
CARD = ("--run", "run", "--results", "attack", "bench/results.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which a reward was fitted, evaluated and attacked by real commands."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = tiny_tokenizer()
    tiny_causal_lm(context=512).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    witness = LanguageReward(tiny_causal_lm(1, context=512), tokenizer, seed=1)
    witness.save_pretrained(folder / "witness")
    policy = CausalLMPolicy(tiny_causal_lm(2, context=512), tokenizer, max_new_tokens=6)
    policy.save_pretrained(folder / "policy")
    VisionReward(tiny_tower(), width=8).save_pretrained(folder / "eye")
    Length().save_pretrained(folder / "words")
    rows = []
    for number in range(12):
        row = {"prompt": f"q{number}", "chosen": "It is so. It is cold.", "rejected": "no " * 3}
        rows.append(json.dumps(row) + "\n")
    (folder / "pairs.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "prompts.txt").write_text("".join(f"p{number}\n" for number in range(4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in COMMANDS:
            assert cli.main(words) == 0
    return folder


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)


def front_matter(folder):
    """Return a card's metadata."""
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.nightly
def test_the_command_in_a_process_of_its_own(place):
    words = ["export", "run/reward", "--to", "transformers", "--out", "process", *CARD]
    done = subprocess.run(
        [sys.executable, "-m", "rewardlab", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("process: 6 probes, largest difference ")
    assert (place / "process" / "README.md").is_file()


def test_a_folders_card_has_the_measured_figures(place, capsys):
    words = ["export", "run/reward", "--to", "transformers", "--out", "hf", *CARD]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("hf: 6 probes, largest difference ")
    card = (place / "hf" / "README.md").read_text(encoding="utf-8")
    attack = json.loads((place / "attack" / "results.json").read_text(encoding="utf-8"))
    assert attack["verdict"]["sentence"] in card
    for words in ("rewardlab fit ", "rewardlab attack ", "rewardlab evaluate ", "--out hf "):
        assert words in card.split("## Commands")[1]
    facts = front_matter("hf")["rewardlab"]
    assert facts["fingerprint"] == fingerprint(place / "run" / "reward")
    assert facts["data"]["pairs.jsonl (as it is now)"] == fingerprint(place / "pairs.jsonl")
    bench = json.loads((place / "bench" / "results.json").read_text(encoding="utf-8"))
    assert facts["benchmarks"][0]["mean"] == bench["files"][0]["headline"]["mean"]
    assert facts["biases"].keys() == bench["biases"]["edits"].keys()
    assert facts["attacks"][0]["measures"] == attack["measures"]
    samples = Samples(["q1"], ["It is so."])
    torch.testing.assert_close(
        scores_of(load_reward("hf"), samples), scores_of(load_reward("run/reward"), samples)
    )


def test_a_card_without_evidence_says_what_was_not_measured(capsys):
    assert cli.main(["export", "eye", "--to", "transformers", "--out", "eye-hf"]) == 0
    assert capsys.readouterr().out.startswith("eye-hf: 10 probes")
    facts = front_matter("eye-hf")["rewardlab"]
    unknown = ("data", "held_out", "attacks", "benchmarks", "biases")
    assert [facts[name] for name in unknown] == [None] * 5
    card = Path("eye-hf/README.md").read_text(encoding="utf-8")
    assert card.count("Not measured") == 4
    assert "Not known: no run folder was given" in card


def test_held_out_figures_come_from_the_runs_metrics(place):
    run = place / "copied"
    run.mkdir()
    for name in ("reward", "config.yaml", "run.json"):
        (run / name).symlink_to(place / "run" / name)
    metrics = "epoch,step,val/accuracy\n0,1,0.25\n1,2,0.75\n"
    (run / "metrics.csv").write_text(metrics, encoding="utf-8")
    words = ["export", "run/reward", "--to", "transformers", "--out", "held", "--run", "copied"]
    assert cli.main(words) == 0
    assert front_matter("held")["rewardlab"]["held_out"] == {"val/accuracy": 0.75}


REFUSED = {
    "nowhere is not a folder": ["nowhere", "--to", "onnx"],
    "exists and is never overwritten": ["eye", "--to", "onnx", "--out", "bench"],
    "lies inside of the reward": ["eye", "--to", "onnx", "--out", "eye/onnx"],
    "Length is neither": ["words", "--to", "transformers"],
    "figures of another reward": ["witness", "--to", "onnx", "--results", "bench"],
    "has another fingerprint": ["witness", "--to", "onnx", "--run", "run"],
    "run/results.json does not exist": ["run/reward", "--to", "onnx", "--results", "run"],
    "neither of `rewardlab attack`": ["run/reward", "--to", "onnx", "--results", "other.json"],
    "are for a model card": ["eye", "--to", "verl", "--results", "bench"],
    "--dtype is for --to transformers": ["eye", "--to", "onnx", "--dtype", "bfloat16"],
    "invalid choice: 'gguf'": ["eye", "--to", "gguf"],
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_mistake_is_one_sentence_and_writes_nothing(words, place, capsys):
    (place / "other.json").write_text("{}", encoding="utf-8")
    before = sorted(place.iterdir())
    argv = REFUSED[words]
    out = [] if "--out" in argv else ["--out", "out"]
    assert cli.main(["export", *argv, *out]) == 2
    assert words.lower() in capsys.readouterr().err.lower()
    assert sorted(place.iterdir()) == before


def test_figures_without_the_facts_beside_them_are_refused(place, capsys):
    (place / "lone").mkdir()
    (place / "lone" / "results.json").symlink_to(place / "attack" / "results.json")
    words = ["export", "run/reward", "--to", "onnx", "--out", "out", "--results", "lone"]
    assert cli.main(words) == 2
    assert "so whether its figures are of this reward cannot be told" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.main(["export", "eye", "--to", "onnx", "--out", "out"]) == 2
    assert "pip install 'rewardlab[onnx]'" in capsys.readouterr().err


def test_a_trainers_function_is_written_whole_or_not_at_all(place, capsys):
    assert cli.main(["export", "eye", "--to", "flow-factory", "--out", "function"]) == 0
    assert capsys.readouterr().out == "function/reward.py\n"
    written = (place / "function" / "reward.py").read_text(encoding="utf-8")
    assert str(place / "eye") in written
    compile(written, "reward.py", "exec")
    assert cli.main(["export", "eye", "--to", "verl", "--out", "other"]) == 2
    assert "scores images, and the trainer's policies make texts" in capsys.readouterr().err
    assert not (place / "other").exists()


def test_the_page_names_every_flag(capsys):
    assert cli.main(["export", "--help"]) == 0
    page = capsys.readouterr().out
    options = export.flag_parser()._option_string_actions.keys() - {"-h", "--help"}
    assert [option for option in options if option not in page] == []
