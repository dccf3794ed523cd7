"""Rows that do not fit a model's context are found before the first step."""

import logging
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from rewardlab import LanguageReward, PreferencePairs, Samples
from rewardlab.data import PairsData, Preferences, Prompts, SamplesData
from rewardlab.errors import InputError
from rewardlab.networks.chat import finished_of
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.rewards import Ensemble, Length
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.training import DPO, PPO, SFT, AdvRM
from rewardlab.training.trainers import SILENT

PROMPTS = ["a"] * 7 + ["a" * 100]  # one of eight is longer than the context of 64
ANSWERS = ["yes", "b" * 100, *["yes"] * 6]  # and one response


def policy():
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3)


def reward(seed=0):
    return LanguageReward(tiny_causal_lm(), tiny_tokenizer(), seed=seed)


def pairs(prompts=PROMPTS, chosen=ANSWERS):
    return PreferencePairs(Samples(prompts, chosen), Samples(prompts, ["no"] * len(prompts)))


def fit(module, data):
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **SILENT)
    error = None
    try:
        trainer.fit(module, data)
    except InputError as raised:
        error = str(raised)
    return trainer.global_step, error


LOOPS = {
    "SFT": (lambda: SFT(policy()), partial(SamplesData, Samples(PROMPTS, ANSWERS)), 2),
    "DPO": (lambda: DPO(policy()), partial(Preferences, pairs(), held_out=0), 2),
    "DPO of a folder's pairs": (lambda: DPO(policy()), partial(PairsData, pairs()), 2),
    "PPO": (lambda: PPO(policy(), Length(), samples_per_prompt=2), partial(Prompts, PROMPTS), 1),
    "AdvRM": (lambda: AdvRM(reward()), partial(Preferences, pairs(), held_out=0), 1),
    "AdvRM of two": (
        lambda: AdvRM(Ensemble([reward(0), reward(1)])),
        partial(Preferences, pairs(), held_out=0),
        1,
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_they_are_refused_with_their_number_and_the_first(name):
    loop, data, count = LOOPS[name]
    steps, error = fit(loop(), data(batch_size=1))
    assert steps == 0
    assert error.startswith(f"{count} of 8 ")
    assert 'long_rows="drop"' in error
    assert "64" in error


@pytest.mark.filterwarnings("ignore:Total length")
@pytest.mark.parametrize("name", LOOPS)
def test_they_are_dropped_and_that_is_said(name, caplog):
    loop, data, count = LOOPS[name]
    with caplog.at_level(logging.WARNING, "rewardlab"):
        logging.getLogger("rewardlab").addHandler(caplog.handler)
        steps, error = fit(loop(), data(batch_size=1, long_rows="drop"))
        logging.getLogger("rewardlab").removeHandler(caplog.handler)
    assert error is None
    assert steps == 8 - count
    records = [record for record in caplog.records if hasattr(record, "figures")]
    (record,) = {record.getMessage(): record for record in records}.values()
    assert record.getMessage().startswith(f"{count} of 8 ")
    assert record.figures == {"rows": 8, "long": count, "left_out": count}


def test_a_response_is_cut_to_the_longest_beginning_that_fits_and_a_prompt_is_not():
    data = SamplesData(Samples(PROMPTS, ANSWERS), batch_size=1, long_rows="truncate")
    module = SFT(policy())
    assert fit(module, data) == (7, None)
    outputs = data.dataset.noun.outputs
    assert outputs[0] == "yes"
    cut = outputs[1]
    assert set(cut) == {"b"}
    for text, fits in ((cut, True), (cut + "b", False)):
        length = len(tiny_tokenizer()(PROMPTS[1]).input_ids)
        length += len(tiny_tokenizer()(text, add_special_tokens=False).input_ids)
        assert (length <= 64) is fits


def test_nothing_ends_what_was_cut():
    prompts = ["a", "a", "a"]
    answers = ["b" * 100, "b" * 100, "yes"]
    finished = torch.tensor([True, False, False])
    samples = Samples(prompts, answers, {"finished": finished})
    for noun, made in ((Samples(prompts, answers), True), (samples, False)):
        data = SamplesData(noun, batch_size=1, long_rows="truncate")
        fit(SFT(policy()), data)
        cut = data.dataset.noun
        assert cut.facts["finished"].tolist() == [False, False, made]
        lengths = policy().encode(cut, seeds=torch.arange(3)).mask.sum(1)
        assert lengths.tolist() == [63, 63, 4 if made else 3]


def test_nothing_ends_cut_or_unfinished_halves_of_pairs():
    """Tokens of the reward's rows, counted by hand: no end token where "finished" is false."""
    chosen = Samples(["a", "a"], ["b" * 100, "yes"])
    rejected = Samples(["a", "a"], ["no", "off"], {"finished": torch.tensor([True, False])})
    plain = PreferencePairs(Samples(["a"], ["up"]), Samples(["a"], ["down"]))
    others = PreferencePairs(chosen, rejected)
    for name, clean, extra in (("clean", others, plain), ("extra", plain, others)):
        data = Preferences(clean, extra, held_out=0, batch_size=1, long_rows="truncate")
        data.fit_to([reward()])
        train = data.split("train")
        order = [0, 1, 2] if name == "clean" else [1, 2, 0]
        assert [train.chosen.facts["finished"].tolist()[row] for row in order] == [
            False,
            True,
            True,
        ]
        assert [train.rejected.facts["finished"].tolist()[row] for row in order] == [
            True,
            False,
            True,
        ]
        tokens = reward().texts.row_ids(
            train.rejected.prompts, train.rejected.outputs, finished_of(train.rejected)
        )
        lengths = [len(tokens[row]) for row in order]
        assert lengths == [1 + 2 + 1, 1 + 3, 1 + 4 + 1]


def test_held_out_pairs_are_checked_too():
    held = Preferences(pairs(["a"] * 8, ["yes"] * 7 + ["b" * 100]), held_out=4, batch_size=1)
    steps, error = fit(DPO(policy()), held)
    assert steps == 0
    assert error.startswith("1 of 4 ")


def test_nothing_left_is_refused():
    data = SamplesData(Samples(["a" * 100] * 2, ["b"] * 2), long_rows="drop")
    steps, error = fit(SFT(policy()), data)
    assert steps == 0
    assert error.startswith("None of the 2 samples fits")


def test_a_row_keeps_its_number_when_others_are_dropped():
    data = Preferences(pairs(), held_out=0, long_rows="drop")
    data.fit_to([policy()])
    assert data.split("train").chosen.facts["row"].tolist() == [0, 2, 3, 4, 5, 6]
    assert data.extended(pairs()[:0]).long_rows == "drop"


def test_pictures_are_not_encoded_for_it(monkeypatch):
    from rewardlab import DiffusionPolicy
    from rewardlab.testing import tiny_diffusion

    tiny = DiffusionPolicy(tiny_diffusion(classes=0))
    data = SamplesData(Samples([""] * 2, torch.rand(2, 1, 8, 8)))
    data.trainer = type("Trainer", (), {"lightning_module": SFT(tiny)})
    monkeypatch.setattr(DiffusionPolicy, "encode", lambda *_, **__: 1 / 0)
    data.setup("fit")
