"""The digits' world: who trains on what stays apart, and what is trained is kept."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from time import sleep

import pytest
import torch

from rewardlab.embedded import digits as world
from rewardlab.embedded.digits import (
    WEIGHTS,
    WORDS,
    DigitJudge,
    base_policy,
    bold_targets,
    captioned,
    digits,
    tower_reward,
)
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.seeds import row_seeds
from rewardlab.types import Samples

PARTS = ("targets", "tower", "judge")


def rows(part, seed=0):
    return set(digits(part, seed).facts["row"].tolist())


def ink(samples):
    return samples.outputs.mean((1, 2, 3))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path))
    return tmp_path


class TestParts:
    def test_sizes_and_disjointness(self):
        assert [len(rows(part)) for part in PARTS] == [300, 400, 1097]
        assert len(rows("targets") | rows("tower") | rows("judge")) == 1797 == len(digits())

    def test_every_part_has_every_class(self):
        for part, count in (("targets", 30), ("tower", 40)):
            assert Counter(digits(part).prompts) == dict.fromkeys(WORDS, count)
        assert set(digits("judge").prompts) == set(WORDS)

    def test_targets_are_the_boldest_of_two_fifths_of_their_class(self):
        target_rows = torch.tensor(sorted(rows("targets")))
        samples = digits()
        for word in WORDS:
            class_rows = [row for row, prompt in enumerate(samples.prompts) if prompt == word]
            class_rows = torch.tensor(class_rows)
            is_target = torch.isin(class_rows, target_rows)
            values = ink(samples[class_rows])
            others = values[~is_target]
            lightest = values[is_target].min()
            passed_over = int((others >= lightest).sum())  # not in the random two fifths
            assert 0 < passed_over < len(class_rows) - round(0.4 * len(class_rows))
            assert values[is_target].mean() > others.mean() + 2 * values.std() / 30**0.5

    def test_pixels_are_in_0_and_1_and_rows_name_the_set(self):
        samples = digits("tower")
        assert samples.outputs.shape == (400, 1, 8, 8)
        assert (samples.outputs.min(), samples.outputs.max()) == (0, 1)
        assert torch.equal(samples.outputs, digits()[samples.facts["row"]].outputs)

    def test_the_seed_names_the_split(self):
        assert rows("targets") == rows("targets") != rows("targets", seed=1)

    def test_the_data_module_holds_some_of_the_targets_out(self):
        data = bold_targets(held_out=60)
        train = data.target_samples("train").facts["row"].tolist()
        held_out = data.target_samples("held_out").facts["row"].tolist()
        assert len(train) == 240
        assert len(held_out) == 60
        assert {*train, *held_out} == rows("targets")


def test_captions_say_the_thirds_of_the_ink_within_a_class():
    samples = captioned(digits("tower"))

    def ink_of(weight):
        caption = f"{weight} three"
        return ink(samples[[i for i, prompt in enumerate(samples.prompts) if prompt == caption]])

    thin, plain, bold = map(ink_of, WEIGHTS)
    assert thin.max() <= plain.min()
    assert plain.max() <= bold.min()
    assert all(12 <= len(values) <= 15 for values in (thin, plain, bold))


class TestCache:
    def test_the_same_settings_train_once(self, cache, monkeypatch):
        first = DigitJudge(train_steps=2)
        monkeypatch.setattr(world, "_train_judge", lambda *_, **__: pytest.fail("trained again"))
        again = DigitJudge(train_steps=2)
        assert fingerprint(first) == fingerprint(again)
        assert len(list(cache.glob("[!.]*"))) == 1

    @pytest.mark.parametrize("other", [{"train_steps": 3}, {"seed": 1}])
    def test_other_settings_are_another_folder(self, cache, other):
        DigitJudge(train_steps=2)
        DigitJudge(**({"train_steps": 2} | other))
        assert len(list(cache.glob("[!.]*"))) == 2

    def test_a_failure_leaves_nothing(self, cache, monkeypatch):
        monkeypatch.setattr(world, "_train_judge", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            DigitJudge(train_steps=2)
        assert list(cache.glob("[!.]*")) == []

    def test_who_wants_the_same_at_once_waits_for_it(self, cache):
        """Locks are of open files, so threads wait for each other as processes do."""
        begun = Event()
        makers = []

        def make(name, folder):
            makers.append(name)
            begun.set()
            sleep(0.2)
            (folder / "a.txt").write_text(name)

        with ThreadPoolExecutor() as pool:
            first = pool.submit(world._cached, "thing", {}, partial(make, "first"))
            begun.wait()
            second = pool.submit(world._cached, "thing", {}, partial(make, "second"))
            assert first.result() == second.result()
        assert makers == ["first"]
        assert (first.result() / "a.txt").read_text() == "first"

    def test_a_refusal_of_the_maker_is_not_swallowed(self):
        def refuse(folder):
            raise InputError("no")

        with pytest.raises(InputError, match="no"):
            world._cached("thing", {}, refuse)

    def test_training_leaves_the_global_state_alone_and_does_not_depend_on_it(
        self, cache, monkeypatch
    ):
        weights = []
        for seed in (0, 1):
            monkeypatch.setenv("REWARDLAB_CACHE", str(cache / str(seed)))
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            modules = [
                DigitJudge(train_steps=2),
                tower_reward(train_steps=1, heads=2, width=8),
                base_policy(train_steps=1, steps=2),
            ]
            assert torch.equal(torch.get_rng_state(), state)
            weights.append([fingerprint(module) for module in modules])
        assert weights[0] == weights[1]


def test_the_generator_draws_digits_of_a_named_class():
    policy = base_policy(train_steps=1, steps=2).eval()
    samples = policy.generate(["seven", "zero"], seeds=row_seeds(0, 2))
    assert samples.outputs.shape == (2, 1, 8, 8)
    assert policy.prompt_dropout == 0.1
    size = sum(parameter.numel() for parameter in policy.denoiser.parameters())
    assert size == pytest.approx(178_000, rel=0.01)


def test_the_tower_scores_grey_digits_with_every_head():
    reward = tower_reward(train_steps=0, heads=3, width=8)
    assert reward.members(digits("targets")[:4]).shape == (4, 3)
    assert not any(parameter.requires_grad for parameter in reward.tower.parameters())


def test_a_conditional_tower_scores_a_digit_by_its_prompt():
    reward = tower_reward(train_steps=0, heads=2, width=8, conditional=True)
    image = digits("targets").outputs[:1].expand(2, -1, -1, -1)
    scores = reward(Samples(["three", "seven"], image))
    assert scores[0] != scores[1]


def test_the_judge_reads_digits_it_never_saw():
    """After an eighth of its usual steps; the whole training is a nightly test."""
    judge = DigitJudge(train_steps=100)
    targets = digits("targets")
    assert judge(targets).mean() > 0.8
    wrong_prompts = [WORDS[(WORDS.index(prompt) + 1) % 10] for prompt in targets.prompts]
    assert judge(Samples(wrong_prompts, targets.outputs)).mean() < 0.1
    assert judge.features(targets).shape == (300, 64)


@pytest.mark.nightly
def test_the_judge_reads_nearly_all_targets_also_bold_and_faint_ones():
    judge = DigitJudge()
    samples = digits("targets")
    assert judge(samples).mean() >= 0.95
    for strength in (0.75, 1.5):
        changed = Samples(samples.prompts, (samples.outputs * strength).clamp(0, 1))
        assert judge(changed).mean() >= 0.9
