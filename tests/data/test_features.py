"""Features of the frozen part: computed once for each sample, and never stale."""

import pytest
import torch
from torch import nn

from rewardlab import VisionReward
from rewardlab.data import Rows
from rewardlab.data.features import features_of
from rewardlab.rewards import FrozenFeatures, Reward
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples


class Counting(Reward, FrozenFeatures):
    """A reward whose frozen part is a mean over pixels, and which counts the rows that it sees."""

    def __init__(self, name="one"):
        super().__init__()
        self.name, self.seen, self.modes = name, 0, []
        self.head = nn.Linear(1, 1)

    def features(self, samples):
        self.seen += len(samples)
        self.modes.append(self.training)
        return torch.stack(
            [
                samples.outputs.mean((1, 2, 3)),
                torch.tensor([float(len(p)) for p in samples.prompts]),
            ],
            1,
        )

    def frozen_fingerprint(self):
        return self.name

    def forward(self, samples):
        return self.head(self.features(samples)[:, :1])[:, 0]


def images(count=5, seed=0, prompt="a"):
    return Samples(
        [prompt] * count, torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    )


def test_without_a_cache_every_row_is_computed_in_its_place(tmp_path):
    reward = Counting().train()
    found = features_of(reward, Rows(images()), batch_size=2)
    torch.testing.assert_close(found[:, 0], images().outputs.mean((1, 2, 3)))
    assert reward.seen == 5
    assert not any(reward.modes), "the frozen part runs in eval mode"
    assert reward.training, "and the mode comes back"
    assert not found.requires_grad


def test_a_cache_is_read_instead_of_computing(tmp_path):
    first, reward = Counting(), Counting()
    before = features_of(first, Rows(images()), tmp_path / "deep" / "cache")
    again = features_of(reward, Rows(images()), tmp_path / "deep" / "cache")
    assert torch.equal(before, again)
    assert (first.seen, reward.seen) == (5, 0)
    (file,) = (tmp_path / "deep" / "cache").iterdir()
    assert file.name == "features-one.safetensors"


def test_only_what_is_missing_is_computed(tmp_path):
    features_of(Counting(), Rows(images(3)), tmp_path)
    reward = Counting()
    found = features_of(reward, Rows(images(5)), tmp_path, batch_size=2)
    torch.testing.assert_close(found[:, 0], images(5).outputs.mean((1, 2, 3)))
    assert reward.seen == 2


def test_the_order_of_the_rows_is_theirs_not_the_caches(tmp_path):
    features_of(Counting(), Rows(images()), tmp_path)
    turned = images()[[4, 0, 2]]
    torch.testing.assert_close(
        features_of(Counting(), Rows(turned), tmp_path)[:, 0], turned.outputs.mean((1, 2, 3))
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda: (Counting(), images(seed=1)),
        lambda: (Counting(), Samples(images().prompts, images().outputs + 1e-7)),
        lambda: (Counting(), images(prompt="another")),
        lambda: (Counting("two"), images()),
    ],
    ids=["pixels", "pixels' last bits", "prompt", "frozen weights"],
)
def test_another_key_is_computed_anew(tmp_path, other):
    features_of(Counting(), Rows(images()), tmp_path)
    reward, samples = other()
    found = features_of(reward, Rows(samples), tmp_path)
    assert reward.seen == 5
    assert torch.equal(found, reward.features(samples))


def test_a_cut_off_cache_is_as_good_as_none(tmp_path):
    features_of(Counting(), Rows(images()), tmp_path)
    file = tmp_path / "features-one.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    reward = Counting()
    features_of(reward, Rows(images()), tmp_path)
    again = Counting()
    features_of(again, Rows(images()), tmp_path)
    assert (reward.seen, again.seen) == (5, 0)


def test_texts_have_features_too(tmp_path):
    class Lengths(Counting):
        def features(self, samples):
            self.seen += len(samples)
            return torch.tensor([[float(len(text))] for text in samples.outputs])

    texts = Rows(Samples(["", ""], ["ab", "abcd"]))
    assert features_of(Lengths(), texts, tmp_path).flatten().tolist() == [2.0, 4.0]
    again = Lengths()
    assert features_of(again, texts, tmp_path).flatten().tolist() == [2.0, 4.0]
    assert again.seen == 0


def test_a_vision_rewards_key_is_its_tower_its_unlocked_part_and_its_preprocessing():
    def key(seed=0, **options):
        return VisionReward(tiny_tower(seed), width=8, **options).frozen_fingerprint()

    assert key() == key(heads=3), "the heads are not frozen"
    others = {key(), key(seed=1), key(resize=False), key(unlocked_groups=2), key(conditional=True)}
    assert len(others) == 5


def test_a_vision_rewards_cached_features_score_as_its_images_do(tmp_path):
    reward, samples = (
        VisionReward(tiny_tower(), width=8, heads=2),
        Samples(["", ""], torch.rand(2, 3, 16, 16)),
    )
    for _ in range(2):
        features = features_of(reward, Rows(samples), tmp_path)
        torch.testing.assert_close(reward.score_features(features), reward.members(samples))
