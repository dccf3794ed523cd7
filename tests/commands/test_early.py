"""A mistake that files and names tell is named before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rewardlab.commands import early
from rewardlab.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
DPO = str(CONFIGS / "adv_rm/fit_dpo.yaml")
OWN = str(CONFIGS / "gan_rm/own.yaml")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the data that fit_dpo.yaml names, and some broken configs."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    Path("bad.yaml").write_text("a: [1")
    Path("top.yaml").write_text("experiment: {seed: 0}\nmodle: {class_path: a.B}\n")
    Path("trainer.yaml").write_text("trainer: {max_epoch: 3}")
    Path("class.yaml").write_text(
        "model: {class_path: rewardlab.training.SFT, init_args: {schedul: null}}"
    )
    return tmp_path


MISTAKES = [
    (["fit", "--config", "absent.yaml"], "The config 'absent.yaml' cannot be read"),
    (["rounds", "--config", "bad.yaml"], "The config 'bad.yaml' is not YAML"),
    (["fit", "-c", "top.yaml"], "no key 'modle'; did you mean 'model'?"),
    (["fit", "-c=trainer.yaml"], "trainer has no key 'max_epoch'; did you mean 'max_epochs'?"),
    (["fit", "--config=class.yaml"], "SFT has no key 'schedul'; did you mean 'schedule'?"),
    (["fit", "--config", DPO, "--trainer.max_epoch=3"], "There is no flag --trainer.max_epoch"),
    (["rounds", "--config", OWN, "--experimnt.seed", "1"], "did you mean '--experiment.seed'?"),
    (["fit", "--config", DPO, "--model.init_args.bta=3"], "DPO has no key 'bta'; did you mean"),
    (["fit", "--config", DPO, "--experiment.data_path=no.jsonl"], "is 'no.jsonl', and there is no"),
    (["rounds", "--config", OWN], "experiment.tower_path is 'local-dir:tower'"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence(place, words, sentence):
    with pytest.raises(InputError) as refusal:
        early.check(words[0], words[1:])
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", DPO],
        ["fit", "--config", DPO, "--trainer.callbacks+=Timer", "--trainer.callbacks.duration=1"],
        ["fit", "--config", DPO, "--model.init_args.policy.init_args.lora_rank=null", "--resume"],
        ["fit", "--config", DPO, "--experiment.data_path=no.jsonl", "--data.pairs=pairs.jsonl"],
        ["fit", "--config", DPO, "--experiment.data_path=no.jsonl", "--data=mine.Data"],
        ["fit", "--config", DPO, "--model.help", "rewardlab.training.DPO"],
        ["fit", "--config", DPO, "--ckpt_path=last", "--seed_everything=3", "--out=a"],
        ["fit", "--config", DPO, "--model=mine.Loop", "--model.bta=3"],
    ],
)
def test_what_may_be_right_is_left_to_the_parser(place, words):
    early.check(words[0], words[1:])


SWEEPS = set((CONFIGS / "sweeps").glob("*.yaml"))  # no run's configs; test_cli_sweep.py reads them
RUNS = sorted(set(CONFIGS.rglob("*.yaml")) - SWEEPS)


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_shipped_configs_hold_no_unknown_key(place, file):
    command = "rounds" if "\nrounds:" in file.read_text() else "fit"
    names = early._Names(command)
    names.check_config(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("words", [["fitt"], *(words for words, _ in MISTAKES[:9:2])])
def test_a_mistake_costs_less_than_two_seconds(place, words):
    """Of CPU, and neither torch nor Lightning is imported."""
    code = (
        "import sys, time; from rewardlab import cli; code = cli.main(sys.argv[1:]);"
        "heavy = {'torch', 'pytorch_lightning', 'jsonargparse'} & set(sys.modules);"
        "print(code, sorted(heavy), time.process_time())"
    )
    begin = time.time()
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    exit_code, heavy, seconds = done.stdout.rsplit(" ", 2)
    assert (exit_code, heavy) == ("2", "[]"), done.stderr
    assert float(seconds) < 2
    assert time.time() - begin < 20  # generous: the machine may be busy
