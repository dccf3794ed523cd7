import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.decomposition import PCA
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.metrics import auc
from rewardlab.rewards import Brightness, FrozenFeatures, Reward, VisionReward
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.novelty import Novelty, Outliers, _split, ledoit_wolf, whitening
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


class TestOutliers(RewardConformance):
    atol = 1e-4

    def make(self):
        return Outliers(TOWER, images(60, 0), level=0.05)

    def samples(self):
        return images(3, 9)


class Rows(Reward, FrozenFeatures):
    """Features that are given as facts, and no score."""

    def features(self, samples):
        return samples.facts["latent"]

    def forward(self, samples):
        return samples.facts["latent"][:, 0]


def skewed(count, seed, shift=0.0, width=6):
    """Return samples whose features are far from Gaussian: exponential, of unequal scale."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.rand(count, width, generator=generator).clamp_min(1e-6).log().neg() ** 2
    return Samples(
        [""] * count, [""] * count, {"latent": latent * torch.arange(1, width + 1) + shift}
    )


def test_of_further_references_the_level_s_share_are_outliers_where_chi_squared_would_say_more():
    outliers = Outliers(Rows(), skewed(4000, 0), level=0.05)
    fresh = skewed(4000, 1)
    assert outliers.share(fresh) == pytest.approx(0.05, abs=0.015)
    distances = outliers.novelty._distances(fresh.facts["latent"])
    by_chi_squared = chi2.sf(distances.double().square().numpy(), 6) < 0.05
    assert by_chi_squared.mean() > 0.085
    assert outliers.share(skewed(500, 2, shift=60.0)) > 0.9


def test_p_is_the_rank_among_the_references_that_calibrate():
    outliers = Outliers(Rows(), skewed(60, 0), level=0.05)
    fresh = skewed(20, 1)
    scores = outliers.novelty(fresh)
    for score, p in zip(scores, outliers.p_values(fresh), strict=True):
        below = sum(bool(known <= score) for known in outliers.calibration)
        assert p.item() == pytest.approx((1 + below) / 31)


def test_distances_are_those_in_the_space_of_the_first_principal_components():
    references = skewed(300, 0, width=9)
    novelty = Novelty(Rows(), references, held_out=0.01, dimensions=4)
    fit_rows = novelty_rows(novelty, references)
    components = PCA(4).fit(fit_rows)
    reduced = components.transform(fit_rows)
    precision = np.linalg.inv(sklearn_ledoit_wolf(reduced, assume_centered=True)[0])
    others = components.transform(
        (
            (skewed(5, 1, width=9).facts["latent"] - novelty.feature_mean) / novelty.feature_std
        ).numpy()
    )
    expected = np.sqrt(np.einsum("bi,ij,bj->b", others, precision, others))
    found = novelty._distances(skewed(5, 1, width=9).facts["latent"])
    assert novelty.known.shape == (9, 4)
    assert_close(found, torch.from_numpy(expected).float(), atol=1e-3, rtol=1e-3)


def novelty_rows(novelty, references):
    """Return the standardised features that a Novelty was fitted to."""
    fit, _ = _split(references, 0.01, 0)
    return ((fit.facts["latent"] - novelty.feature_mean) / novelty.feature_std).numpy()


def test_too_few_references_for_the_level_are_refused():
    with pytest.raises(InputError, match=r"half of those given; got 60\. Give more"):
        Outliers(Rows(), skewed(60, 0))
