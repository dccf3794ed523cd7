import pytest
import torch
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.metrics import auc
from rewardlab.rewards import Brightness, FrozenFeatures, VisionReward
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.novelty import Novelty, ledoit_wolf, whitening
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

KINDS = ("mahalanobis", "nearest")
TOWER = VisionReward(tiny_tower(), width=8)


def images(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    noise = 0.2 * torch.rand(count, 3, 16, 16, generator=generator)
    ramp = torch.linspace(0, 1, 16).expand(3, 16, 16)
    pixels = noise + 0.3 + shift * ramp
    return Samples([""] * count, pixels.clamp(0, 1))


def texts(count, seed, letters):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(letters), (count, 12), generator=generator).tolist()
    outputs = []
    for row in rows:
        outputs.append("".join(letters[i] for i in row))
    return Samples(["hi"] * count, outputs)


def separation(familiar, novel):
    """Return the AUC with which scores tell the familiar from the novel."""
    scores = torch.cat([familiar, novel])
    return auc(scores, torch.arange(len(scores)) < len(familiar))


class TestNovelty(RewardConformance):
    atol = 1e-4

    def make(self):
        return Novelty(TOWER, images(40, 0))

    def samples(self):
        return images(3, 9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_shifted_images_are_less_familiar_than_fresh_references(kind, seed):
    novelty = Novelty(TOWER, images(100, seed), kind)
    fresh = novelty(images(60, 100 + seed))
    far = novelty(images(60, 200 + seed, shift=0.3))
    fresh_too = novelty(images(60, 300 + seed))
    assert separation(fresh, far) > 0.9
    assert 0.3 < separation(fresh, fresh_too) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_other_letters_are_less_familiar(kind):
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True, pooling="mean")
    novelty = Novelty(reward, texts(120, 0, "abcdefgh"), kind)
    fresh = novelty(texts(60, 1, "abcdefgh"))
    far = novelty(texts(60, 2, "XY*"))
    assert separation(fresh, far) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_references_have_mean_0_and_deviation_1(kind):
    references = images(200, 5)
    novelty = Novelty(TOWER, references, kind, held_out=0.5, seed=1)
    other = Novelty(TOWER, references, kind, held_out=0.5, seed=2)
    assert not torch.allclose(novelty(references), other(references))
    fresh = novelty(images(300, 6))
    assert abs(fresh.mean().item()) < 0.35
    assert 0.7 < fresh.std().item() < 1.4


@pytest.mark.parametrize("count", [5, 30, 3000])
def test_the_covariance_is_shrunk_as_sklearn_does(count):
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1.0, 9.0)
    rows = torch.randn(count, 8, generator=generator, dtype=torch.float64) * scales
    rows = rows - rows.mean(0)
    expected, _ = sklearn_ledoit_wolf(rows.numpy(), assume_centered=True)
    assert_close(ledoit_wolf(rows), torch.from_numpy(expected))


def test_mahalanobis_distance_is_through_the_inverse_of_the_shrunk_covariance():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    mixing = torch.randn(4, 4, generator=generator).double()
    rows = noise @ mixing
    rows = rows - rows.mean(0)
    points = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(ledoit_wolf(rows))
    squares = torch.einsum("bi,ij,bj->b", points, inverse, points)
    whitened = points @ whitening(rows)
    assert_close(whitened.square().sum(1), squares)


class Plain(Brightness, FrozenFeatures):
    """A reward whose features are the outputs' first pixels."""

    def features(self, samples):
        return samples.outputs.flatten(1)[:, :3]


def test_mahalanobis_distance_knows_how_features_go_together():
    level = torch.rand(80, 1, generator=torch.Generator().manual_seed(1))
    levels = level.expand(80, 4).view(80, 1, 2, 2)
    noise = 0.02 * torch.rand(80, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    novelty = Novelty(Plain(), Samples([""] * 80, (levels + noise).clamp(0, 1)))
    pixels = torch.tensor([[0.8, 0.8, 0.8, 0.8], [0.8, 0.2, 0.5, 0.5]])
    along, across = novelty(Samples(["", ""], pixels.view(2, 1, 2, 2)))
    assert along > -2 > -5 > across


def test_the_nearest_by_hand():
    generator = torch.Generator().manual_seed(1)
    references = Samples([""] * 40, torch.rand(40, 1, 2, 2, generator=generator))
    novelty = Novelty(Plain(), references, "nearest", k=3)
    samples = Samples([""] * 5, torch.rand(5, 1, 2, 2, generator=generator) * 2)
    features = samples.outputs.flatten(1)[:, :3]
    rows = (features - novelty.feature_mean) / novelty.feature_std
    differences = rows[:, None] - novelty.known[None]
    nearest = differences.norm(dim=2).sort(1).values[:, :3]
    expected = (novelty.distance_mean - nearest.mean(1)) / novelty.distance_std
    assert_close(novelty(samples), expected)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="Brightness has none"):
        Novelty(Brightness(), images(10, 0))
    unfrozen = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match="frozen=True"):
        Novelty(unfrozen, texts(10, 0, "ab"))
    with pytest.raises(InputError, match="k=5"):
        Novelty(TOWER, images(6, 0), "nearest")
    with pytest.raises(InputError, match="all alike"):
        Novelty(Plain(), Samples([""] * 8, torch.ones(8, 1, 2, 2)))
