"""Readings: what judges say during training, on fixed prompts and noise; nothing acts on it."""

import csv
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from rewardlab import PPO, CausalLMPolicy, InputError, LanguageReward
from rewardlab.data.prompt_data import Prompts
from rewardlab.evaluation import MonitoredPolicy, OutlierMonitor, Readings
from rewardlab.rewards import Function, Outliers
from rewardlab.seeds import derive, row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "max_epochs": -1,
}


def count(letter, samples):
    return torch.tensor([float(text.count(letter)) for text in samples.outputs])


def letters(samples):
    return torch.tensor([float(sum(map(str.isalpha, text))) for text in samples.outputs])


LETTERS = Function(letters)


def loop(rate=1e-2):
    policy = CausalLMPolicy(tiny_causal_lm(scale=0.05), tiny_tokenizer(), max_new_tokens=6)
    return PPO(
        policy,
        LETTERS,
        kl_weight=0.0,
        optimizer=partial(torch.optim.SGD, lr=rate),
        samples_per_prompt=8,
    )


def fit(module, readings, steps, folder=None, **options):
    logger = CSVLogger(folder, name="", version="") if folder else False
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=readings if isinstance(readings, list) else [readings],
        logger=logger,
        enable_checkpointing=False,
        **QUIET,
    )
    trainer.fit(module, datamodule=Prompts(["one", "two"], 2), **options)
    return trainer


def test_a_reading_is_the_judges_mean_and_the_start_has_no_kl(tmp_path):
    judges = {"gold": Function(partial(count, "b"))}
    readings = Readings(judges, ["x", "y"], samples=16, every_n_steps=2, window=1)
    fit(loop(), readings, 4, tmp_path)
    assert [row["step"] for row in readings.rows] == [0, 2, 4]
    assert readings.rows[0]["kl"] == 0
    assert all(row["kl"] != 0 for row in readings.rows[1:])  # an estimate, which may be below 0
    gold = [row["gold"] for row in readings.rows]
    stability = readings.figures()["gold"]
    assert stability["start"] == pytest.approx(gold[0])
    assert stability["peak_gold"] == pytest.approx(max(gold))
    lines = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    logged = [float(row["reading/gold"]) for row in lines if row["reading/gold"]]
    assert logged == pytest.approx(gold)


def test_an_untouched_policy_reads_the_same_at_every_step():
    """Equal prompts, equal noise: with a learning rate of 0 no figure moves."""
    readings = Readings({"gold": LETTERS}, ["x"], samples=8, every_n_steps=1)
    fit(loop(rate=0.0), readings, 3)
    first = readings.rows[0]
    assert len(readings.rows) == 4
    for row in readings.rows:
        assert row == {**first, "step": row["step"]}
    assert first["gold"] == first["reward"]


def test_readings_change_no_weight():
    seldom = loop()
    often = loop()
    fit(seldom, Readings({"gold": LETTERS}, ["x"], samples=1, every_n_steps=100), 3)
    fit(often, Readings({"gold": LETTERS}, ["x"], samples=8, every_n_steps=1), 3)
    for one, other in zip(seldom.policy.parameters(), often.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_keeps_its_readings(tmp_path):
    def make():
        return Readings({"gold": LETTERS}, ["x"], samples=4, every_n_steps=1)

    whole = make()
    resumed = make()
    fit(loop(), whole, 4)
    fit(loop(), make(), 2).save_checkpoint(tmp_path / "last.ckpt")
    fit(loop(), resumed, 4, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.rows == whole.rows


def test_a_run_may_have_two_and_each_goes_on_with_its_own(tmp_path):
    def make(name):
        judges = {"gold": Function(partial(count, "a"))}
        return Readings(judges, [name], samples=4, every_n_steps=1, window=1, name=name)

    whole = [make("seen"), make("unseen")]
    resumed = [make("seen"), make("unseen")]
    fit(loop(), whole, 4)
    fit(loop(), [make("seen"), make("unseen")], 2).save_checkpoint(tmp_path / "last.ckpt")
    fit(loop(), resumed, 4, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed[0].rows == whole[0].rows
    assert resumed[1].rows == whole[1].rows
    assert whole[0].rows != whole[1].rows
    assert set(resumed[0].figures()) == {"seen/gold"}
    assert set(resumed[1].figures()) == {"unseen/gold"}


def test_prompts_come_from_the_rounds_unless_given():
    monitored = MonitoredPolicy(LETTERS, ["train"], held_out_prompts=["held out"])
    without_prompts = Readings({"gold": LETTERS})
    with_prompts = Readings({"gold": LETTERS}, ["own"])
    without_prompts.observe(monitored)
    with_prompts.observe(monitored)
    assert without_prompts.prompts == ["held out"]
    assert with_prompts.prompts == ["own"]


def test_refusals():
    with pytest.raises(InputError, match="need judges"):
        Readings({})
    with pytest.raises(InputError, match="not named step"):
        Readings({"kl": LETTERS})
    with pytest.raises(InputError, match="no prompts"):
        fit(loop(), Readings({"gold": LETTERS}), 1)


def test_readings_keep_their_distance_where_a_rollout_is_several_steps_and_end_with_the_last():
    network = tiny_causal_lm(scale=0.05)
    policy = CausalLMPolicy(network, tiny_tokenizer(), max_new_tokens=6, micro_batch=3)
    optimizer = partial(torch.optim.SGD, lr=1e-2)
    module = PPO(policy, LETTERS, kl_weight=0.0, epochs=3, optimizer=optimizer)
    readings = Readings({"gold": LETTERS}, ["x"], samples=8, every_n_steps=4)
    fit(module, readings, 9)
    assert [row["step"] for row in readings.rows] == [0, 6, 9]


def test_outliers_are_none_at_the_start_and_a_resumed_run_counts_the_same(tmp_path):
    """The policy learns to repeat one letter, which the first policy's outputs do not."""
    features = LanguageReward(tiny_causal_lm(seed=5), tiny_tokenizer(), pooling="mean", frozen=True)
    monitor = OutlierMonitor(features, references=100, level=0.05)
    readings = Readings({"gold": LETTERS}, ["x"], samples=64, every_n_steps=2, outliers=monitor)
    module = loop(rate=0.0)
    fit(module, readings, 2)
    first = readings.rows[0]["outliers"]
    assert 0 <= first < 0.25
    assert readings.rows[1]["outliers"] == first
    with torch.no_grad():  # another policy than the reference
        for weight in module.policy.parameters():
            weight.mul_(3.0)
    again = Readings({"gold": LETTERS}, ["x"], samples=64, every_n_steps=2, outliers=monitor)
    fit(module, again, 2)
    assert again.rows[0]["outliers"] > first
    alone = Outliers(features, _references(module), level=0.05)
    outputs = module.policy.generate(["x"] * 64, seeds=row_seeds(derive(0, "readings"), 64))
    assert again.rows[0]["outliers"] == pytest.approx(alone.share(outputs))


def _references(module):
    seeds = row_seeds(derive(0, "outlier references"), 100)
    return module.reference.eval().generate(["x"] * 100, seeds=seeds)


def test_outliers_need_a_reference_and_features():
    module = loop()
    module.reference = None
    with pytest.raises(InputError, match="PPO has no reference or no reward"):
        OutlierMonitor().fit(module, ["x"])
