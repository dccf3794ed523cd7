import pytest
import torch
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf

from rewardlab.errors import InputError
from rewardlab.metrics import auc
from rewardlab.rewards import Brightness, FrozenFeatures, VisionReward
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.novelty import Novelty, ledoit_wolf, whitening
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

KINDS = ("mahalanobis", "nearest")


def images(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    noise = 0.2 * torch.rand(count, 3, 16, 16, generator=generator)
    ramp = torch.linspace(0, 1, 16).expand(3, 16, 16)
    return Samples([""] * count, (noise + 0.3 + shift * ramp).clamp(0, 1))


def texts(count, seed, letters):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(letters), (count, 12), generator=generator).tolist()
    return Samples(["hi"] * count, ["".join(letters[i] for i in row) for row in drawn])


TOWER = VisionReward(tiny_tower(), width=8)


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
    fresh, far = novelty(images(60, 100 + seed)), novelty(images(60, 200 + seed, shift=0.3))
    assert auc(torch.cat([fresh, far]), torch.arange(120) < 60) > 0.9
    again = auc(torch.cat([fresh, novelty(images(60, 300 + seed))]), torch.arange(120) < 60)
    assert 0.3 < again < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_other_letters_are_less_familiar(kind):
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True, pooling="mean")
    novelty = Novelty(reward, texts(120, 0, "abcdefgh"), kind)
    fresh, far = novelty(texts(60, 1, "abcdefgh")), novelty(texts(60, 2, "XY*"))
    assert auc(torch.cat([fresh, far]), torch.arange(120) < 60) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_references_have_mean_0_and_deviation_1(kind):
    references = images(200, 5)
    novelty = Novelty(TOWER, references, kind, held_out=0.5, seed=1)
    whole = novelty(references)
    other = Novelty(TOWER, references, kind, held_out=0.5, seed=2)(references)
    assert not torch.allclose(whole, other)
    fresh = novelty(images(300, 6))
    assert abs(fresh.mean().item()) < 0.35
    assert 0.7 < fresh.std().item() < 1.4


def test_the_covariance_is_shrunk_as_sklearn_does():
    generator = torch.Generator().manual_seed(0)
    for count in (5, 30, 3000):
        rows = torch.randn(count, 8, generator=generator, dtype=torch.float64) * torch.arange(
            1.0, 9.0
        )
        rows = rows - rows.mean(0)
        expected, _ = sklearn_ledoit_wolf(rows.numpy(), assume_centered=True)
        torch.testing.assert_close(ledoit_wolf(rows), torch.from_numpy(expected))


class Plain(Brightness, FrozenFeatures):
    """A reward whose features are the outputs' first pixels."""

    def features(self, samples):
        return samples.outputs.flatten(1)[:, :3]


def test_mahalanobis_distance_is_through_the_inverse_of_the_shrunk_covariance():
    generator = torch.Generator().manual_seed(1)
    rows = (
        torch.randn(50, 4, generator=generator, dtype=torch.float64)
        @ torch.randn(4, 4, generator=generator).double()
    )
    rows, asked = rows - rows.mean(0), torch.randn(5, 4, generator=generator, dtype=torch.float64)
    squares = torch.einsum("bi,ij,bj->b", asked, torch.linalg.inv(ledoit_wolf(rows)), asked)
    torch.testing.assert_close((asked @ whitening(rows)).square().sum(1), squares)


def test_mahalanobis_distance_knows_how_features_go_together():
    level = (
        torch.rand(80, 1, generator=torch.Generator().manual_seed(1))
        .expand(80, 4)
        .view(80, 1, 2, 2)
    )
    noise = 0.02 * torch.rand(80, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    novelty = Novelty(Plain(), Samples([""] * 80, (level + noise).clamp(0, 1)))
    along, across = novelty(
        Samples(
            ["", ""], torch.tensor([[0.8, 0.8, 0.8, 0.8], [0.8, 0.2, 0.5, 0.5]]).view(2, 1, 2, 2)
        )
    )
    assert along > -2 > -5 > across


def test_the_nearest_by_hand():
    generator = torch.Generator().manual_seed(1)
    novelty = Novelty(
        Plain(), Samples([""] * 40, torch.rand(40, 1, 2, 2, generator=generator)), "nearest", k=3
    )
    asked = Samples([""] * 5, torch.rand(5, 1, 2, 2, generator=generator) * 2)
    seen = (asked.outputs.flatten(1)[:, :3] - novelty.feature_mean) / novelty.feature_std
    distances = (seen[:, None] - novelty.known[None]).norm(dim=2).sort(1).values[:, :3].mean(1)
    torch.testing.assert_close(
        novelty(asked), (novelty.distance_mean - distances) / novelty.distance_std
    )


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="Brightness has none"):
        Novelty(Brightness(), images(10, 0))
    with pytest.raises(InputError, match="frozen=True"):
        Novelty(LanguageReward(tiny_causal_lm(), tiny_tokenizer()), texts(10, 0, "ab"))
    with pytest.raises(InputError, match="k=5"):
        Novelty(TOWER, images(6, 0), "nearest")
    with pytest.raises(InputError, match="all alike"):
        Novelty(Plain(), Samples([""] * 8, torch.ones(8, 1, 2, 2)))
