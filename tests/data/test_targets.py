"""Targets against generated samples: what is held out stays held out, classes come by one path,
prompts give nothing away.
"""

import logging
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rewardlab import DiffusionPolicy, TargetSamples, VisionReward
from rewardlab.data import save_samples
from rewardlab.data.targets import check_prompts, mismatched
from rewardlab.errors import InputError
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import FrozenFeatures, PromptFeatures, Reward
from rewardlab.testing import tiny_diffusion, tiny_tower
from rewardlab.types import Samples

WORDS = ["a cat", "a dog", "two birds", "a red car"]


def images(count=20, level=0.0, channels=3, prompts=None):
    """Images, each recognisable by its first pixel."""
    pixels = (
        torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(int(level * 100)))
        * 0.3
    )
    pixels[:, :, 0, 0] = level + torch.arange(count)[:, None] / 1000
    return Samples(prompts or [""] * count, pixels)


TARGETS, NEGATIVES = images(), images(level=0.5)


def rows_of(labelled):
    """Which samples these are, by their first pixels."""
    return {round(float(value), 4) for value in labelled.inputs.outputs[:, 0, 0, 0]}


def attached(data, reward):
    """The data module as it is inside a trainer that trains `reward`."""
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(reward=reward))
    return data


class Pixels(Reward, FrozenFeatures, PromptFeatures):
    """A reward with a frozen part that counts its calls."""

    def __init__(self, scale=1.0, conditional=False):
        super().__init__()
        self.scale, self.conditional, self.calls = scale, conditional, 0
        self.head = nn.Linear(3, 1)

    def features(self, samples):
        self.calls += 1
        return self.scale * samples.outputs.mean((2, 3))

    def prompt_features(self, prompts):
        return torch.eye(len(WORDS) + 1)[
            [WORDS.index(prompt) if prompt in WORDS else -1 for prompt in prompts]
        ]

    def forward(self, samples):
        return self.head(self.features(samples))[:, 0]


class TestSplit:
    @pytest.mark.parametrize("swap", [False, True])
    def test_what_is_held_out_is_never_trained_on(self, swap):
        data = TargetSamples(TARGETS, NEGATIVES, held_out=6).against(NEGATIVES, swap=swap)
        train, held_out = rows_of(data.split("train")), rows_of(data.split("held_out"))
        assert not train & held_out
        assert len(train | held_out) == 40
        assert len(held_out) == (28 if swap else 12)

    def test_swap_trains_on_exactly_what_was_held_out(self):
        data = TargetSamples(TARGETS, NEGATIVES, held_out=6)
        swapped = data.against(NEGATIVES, swap=True)
        assert rows_of(swapped.split("train")) == rows_of(data.split("held_out"))
        assert rows_of(swapped.split("held_out")) == rows_of(data.split("train"))

    def test_the_split_of_the_targets_stays_whatever_they_are_held_against(self):
        data = TargetSamples(TARGETS, NEGATIVES, held_out=6)
        other = data.against(images(33, level=0.7))
        for part in ("train", "held_out"):
            targets = data.target_samples(part)
            assert torch.equal(targets.outputs, other.target_samples(part).outputs)
            assert set(targets.outputs[:, 0, 0, 0].tolist()) <= set(
                other.split(part).inputs.outputs[:, 0, 0, 0].tolist()
            )

    def test_pseudo_labels_are_trained_on_but_never_held_out(self):
        pseudo = images(4, level=0.9), torch.tensor([1.0, 0.8, 0.2, 0.0])
        data = TargetSamples(TARGETS, NEGATIVES, held_out=6).against(NEGATIVES, pseudo)
        train, held_out = data.split("train"), data.split("held_out")
        assert train.of("pseudo-labelled").sum() == 4
        assert train.labels[train.of("pseudo-labelled")].tolist() == pseudo[1].tolist()
        assert not held_out.of("pseudo-labelled").any()
        assert len(held_out) == 12

    def test_sources_and_labels_agree(self):
        split = TargetSamples(TARGETS, NEGATIVES, held_out=6).split("train")
        assert torch.equal(split.of("target"), split.labels == 1)
        assert torch.equal(split.of("generated"), split.labels == 0)
        assert torch.equal(split.rows, torch.arange(28))

    def test_the_seed_names_the_split(self):
        parts = [
            rows_of(TargetSamples(TARGETS, NEGATIVES, seed=seed).split("held_out"))
            for seed in (0, 0, 1)
        ]
        assert parts[0] == parts[1] != parts[2]

    def test_unequal_classes_weigh_the_same(self):
        split = TargetSamples(TARGETS, images(200, level=0.5), held_out=0.1).split("train")
        mass = [split.weights[split.of(source)].sum().item() for source in ("target", "generated")]
        assert mass[0] == pytest.approx(mass[1], rel=1e-5)
        assert split.weights.mean().item() == pytest.approx(1, rel=1e-5)

    @pytest.mark.parametrize(("held_out", "kept"), [(0.25, 5), (1, 1), (1.0, 1), (19, 19)])
    def test_held_out_is_a_share_or_a_number(self, held_out, kept):
        assert (
            len(TargetSamples(TARGETS, NEGATIVES, held_out=held_out).target_samples("held_out"))
            == kept
        )

    @pytest.mark.parametrize("held_out", [20, 21, 500, 0, 0.001, 0.99])
    def test_more_held_out_than_there_are_and_none_are_refused(self, held_out):
        with pytest.raises(
            InputError,
            match=f"hold out {held_out} of 20 samples.*Give more samples, or another held_out",
        ):
            TargetSamples(TARGETS, NEGATIVES, held_out=held_out).setup("fit")

    def test_too_few_negatives_are_refused_too(self):
        with pytest.raises(InputError, match="hold out 6 of 4 samples"):
            TargetSamples(TARGETS, images(4, level=0.5), held_out=6).setup("fit")

    def test_the_loaders_give_all_of_their_part(self):
        data = TargetSamples(TARGETS, NEGATIVES, held_out=6, batch_size=5)
        data.setup("fit")
        batches = [list(loader) for loader in (data.train_dataloader(), data.val_dataloader())]
        assert [sum(len(batch) for batch in part) for part in batches] == [28, 12]
        assert sorted(row for batch in batches[0] for row in batch.rows.tolist()) == list(range(28))


class TestSources:
    @pytest.mark.parametrize(
        ("other", "match"),
        [
            (images(channels=1), r"targets are images \[3, 8, 8\], negatives images \[1, 8, 8\]"),
            (
                Samples([""] * 20, torch.rand(20, 3, 4, 4)),
                r"negatives images \[3, 4, 4\].*Give `size`",
            ),
            (Samples([""] * 20, ["text"] * 20), "negatives texts"),
        ],
    )
    def test_classes_of_another_shape_are_refused(self, other, match):
        with pytest.raises(InputError, match=match):
            TargetSamples(TARGETS, other).setup("fit")

    def test_folders_are_read_and_resized_by_one_path(self, tmp_path):
        save_samples(tmp_path / "targets", TARGETS)
        save_samples(tmp_path / "negatives", Samples([""] * 20, torch.rand(20, 1, 12, 16)))
        data = TargetSamples(tmp_path / "targets", tmp_path / "negatives", size=8)
        assert data.split("train").inputs.outputs.shape == (32, 3, 8, 8)

    def test_a_missing_or_empty_folder_is_refused(self, tmp_path):
        for folder in (tmp_path / "absent", tmp_path):
            with pytest.raises(InputError, match=str(folder)):
                TargetSamples(folder, NEGATIVES).setup("fit")

    def test_negatives_are_needed(self):
        with pytest.raises(InputError, match="or a `policy` to draw from"):
            TargetSamples(TARGETS).setup("fit")

    def test_a_policy_draws_one_for_each_targets_prompt(self):
        policy = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=2))
        targets = images(6, channels=1, prompts=["zero", "one", "one"] * 2)
        data = TargetSamples(targets, policy=policy, channels=1, held_out=2)
        split = data.split("train")
        assert Counter(split.inputs[split.of("generated")].prompts) == Counter(
            split.inputs[split.of("target")].prompts
        )
        again = TargetSamples(targets, policy=policy, channels=1, held_out=2).split("train")
        assert torch.equal(split.inputs.outputs, again.inputs.outputs)

    def test_reconstruction_needs_a_policy_and_passes_targets_through_it(self):
        with pytest.raises(InputError, match="give the `policy`"):
            TargetSamples(TARGETS, NEGATIVES, reconstruct=True).setup("fit")
        policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
        targets = images(6, channels=1)
        data = TargetSamples(
            targets, images(6, 0.5, 1), policy=policy, channels=1, reconstruct=True
        )
        shown = data.target_samples("train").outputs
        assert len(shown) == 5
        kept = targets.outputs[
            [
                row
                for row in range(6)
                if any(torch.allclose(targets.outputs[row], other) for other in shown)
            ]
        ]
        torch.testing.assert_close(
            kept, shown, msg="pixels have no autoencoder, so they stay as they were"
        )

    def test_what_separates_the_classes_is_warned_of_once(self, caplog):
        with caplog.at_level(logging.WARNING, "rewardlab"):
            logging.getLogger("rewardlab").addHandler(caplog.handler)
            data = TargetSamples(
                images(60), Samples([""] * 60, images(60, 0.5).outputs + 0.5), held_out=6
            )
            data.setup("fit")
            data.setup("validate")
            logging.getLogger("rewardlab").removeHandler(caplog.handler)
        assert len({record.message for record in caplog.records}) == 1
        assert "brightness" in caplog.text


class TestFeatures:
    def test_the_trainers_reward_sees_its_features_computed_once(self):
        reward = Pixels()
        data = attached(TargetSamples(TARGETS, NEGATIVES, held_out=6), reward)
        for stage in ("fit", "validate", "fit"):
            data.setup(stage)
        assert reward.calls == 4  # targets and generated ones, to train on and held out
        split = data.split("train")
        torch.testing.assert_close(
            split.inputs[split.of("target")], data.target_samples("train").outputs.mean((2, 3))
        )

    def test_another_reward_gets_features_of_its_own(self):
        data = attached(TargetSamples(TARGETS, NEGATIVES, held_out=6), Pixels())
        data.setup("fit")
        before = data.split("train").inputs
        attached(data, Pixels(scale=2.0)).setup("fit")
        torch.testing.assert_close(data.split("train").inputs, 2 * before)

    def test_a_look_at_the_split_before_the_fit_does_not_cost_the_features(self):
        data = TargetSamples(TARGETS, NEGATIVES, held_out=6)
        assert isinstance(data.split("train").inputs, Samples)
        attached(data, Pixels()).setup("fit")
        assert data.split("train").inputs.shape == (28, 3)

    def test_a_cache_serves_a_second_fit_without_the_tower(self, tmp_path):
        splits, calls = [], []
        for _ in range(2):
            reward = VisionReward(tiny_tower(image_size=8), width=8)
            whole = reward.tower.frozen
            reward.tower.frozen = lambda *args, whole=whole: calls.append(1) or whole(*args)
            data = attached(TargetSamples(TARGETS, NEGATIVES, held_out=6, cache=tmp_path), reward)
            data.setup("fit")
            splits.append(data.split("train"))
            calls.append("end")
        assert calls == [1, 1, 1, 1, "end", "end"]
        assert torch.equal(splits[0].inputs, splits[1].inputs)


class TestConditional:
    captions = tuple(WORDS[i % 4] for i in range(40))

    def split(self, targets, negatives, part="train"):
        data = attached(TargetSamples(targets, negatives, held_out=8), Pixels(conditional=True))
        data.setup("fit")
        return data.split(part)

    def test_captions_are_needed(self):
        some = [*self.captions[:38], "", ""]
        with pytest.raises(
            InputError, match=r"a caption for every target; 2 of 40 have none.*conditional=false"
        ):
            self.split(images(40, prompts=some), images(40, 0.5, prompts=list(self.captions)))

    def test_prompts_that_give_the_class_away_are_refused(self):
        others = ["a cat"] * 30 + [*self.captions[:10]]
        with pytest.raises(
            InputError,
            match=r"The prompt alone tells targets from negatives \(AUC 0\.\d\d > 0\.55\)",
        ):
            self.split(images(40, prompts=list(self.captions)), images(40, 0.5, prompts=others))

    def test_equal_prompts_are_accepted_and_mismatched_negatives_added(self):
        for part, count in (("train", 32), ("held_out", 8)):
            split = self.split(
                images(40, prompts=list(self.captions)),
                images(40, 0.5, prompts=list(self.captions)),
                part,
            )
            assert [
                int(split.of(source).sum()) for source in ("target", "generated", "mismatched")
            ] == [count] * 3
            assert (split.labels[split.of("mismatched")] == 0).all()

    def test_the_probe_looks_at_all_prompts_not_at_the_few_held_out(self):
        """Eight held-out prompts a class differ by chance alone; that is no reason to refuse."""
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist()
        shuffled = [self.captions[i] for i in order]
        self.split(
            images(40, prompts=list(self.captions)), images(40, 0.5, prompts=shuffled), "held_out"
        )

    def test_the_text_tower_is_asked(self):
        reward = VisionReward(tiny_tower(image_size=8), width=8, conditional=True)
        check_prompts(reward, self.captions, self.captions)
        with pytest.raises(InputError, match="The prompt alone"):
            check_prompts(reward, ["a cat"] * 20, ["a dog"] * 20)

    def test_mismatched_prompts_are_others_and_as_frequent_as_before(self):
        prompts = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["a", "d"]
        samples = images(len(prompts), prompts=prompts)
        wrong = mismatched(samples)
        assert all(new != old for new, old in zip(wrong.prompts, prompts, strict=True))
        assert Counter(wrong.prompts) == Counter(prompts)
        assert torch.equal(wrong.outputs, samples.outputs)

    def test_a_prompt_more_frequent_than_all_others_still_gives_nothing_away(self):
        samples = images(10, prompts=["a"] * 8 + ["b", "c"])
        wrong = mismatched(samples)
        assert Counter(wrong.prompts) == {"a": 2, "b": 1, "c": 1}
        assert all(
            samples.prompts[int(1000 * x + 0.5)] != new
            for x, new in zip(wrong.outputs[:, 0, 0, 0], wrong.prompts, strict=True)
        )

    def test_one_caption_for_all_is_refused(self):
        with pytest.raises(InputError, match="at least two different captions"):
            mismatched(images(3, prompts=["a"] * 3))
