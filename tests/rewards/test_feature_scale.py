import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards.feature_scale import feature_scale

FEATURES = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_it_brings_features_to_mean_0_and_unbiased_deviation_1():
    scale = feature_scale(FEATURES)
    rows = (FEATURES.double() - scale.mean) / scale.std
    assert_close(rows.mean(0), torch.zeros(4, dtype=torch.float64))
    assert_close(rows.std(0), torch.ones(4, dtype=torch.float64))


def test_a_feature_that_hardly_varies_is_only_centred():
    large = torch.full((9, 1), 3e4)
    large[0] += 1e-2
    scale = feature_scale(torch.cat([FEATURES, large], 1))
    assert scale.std[4] == 1
    assert (scale.std[:4] != 1).all()


@pytest.mark.parametrize("features", [FEATURES[:1], FEATURES / 0, FEATURES * torch.nan])
def test_one_row_and_features_that_are_not_finite_are_refused(features):
    with pytest.raises(InputError, match=r"two rows of finite features; got \[\d, 4\]"):
        feature_scale(features)
