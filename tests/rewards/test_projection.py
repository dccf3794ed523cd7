import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import RewardProjection

FEATURES = torch.randn(7, 12, generator=torch.Generator().manual_seed(0)) * 3 + 1


@torch.no_grad()
def separate_head(projection, k):
    """Return an ordinary network with the weights of head k of the stacked one."""
    first = nn.Linear(12, projection.width)
    first.weight.copy_(projection.hidden_weight[k] * projection.mask[k])
    first.bias.copy_(projection.hidden_bias[k])
    last = nn.Linear(projection.width, 1)
    last.weight.copy_(projection.weight[k])
    last.bias.copy_(projection.bias[k])
    return nn.Sequential(first, nn.GELU(), last)


def separate_heads(projection):
    return [separate_head(projection, k) for k in range(projection.heads)]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_it_equals_separate_networks(share):
    projection = RewardProjection(12, heads=3, width=5, feature_share=share)
    projection.fit_feature_scale(FEATURES)
    rows = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    columns = [head(rows) for head in separate_heads(projection)]
    expected = torch.cat(columns, dim=1)
    assert_close(projection(FEATURES), expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_separate_networks():
    projection = RewardProjection(12, heads=3, width=5, feature_share=0.5)
    heads = separate_heads(projection)
    projection(FEATURES).square().sum().backward()
    for k, head in enumerate(heads):
        head(FEATURES).square().sum().backward()
        first, _, last = head
        hidden = projection.hidden_weight.grad[k]
        assert_close(hidden, first.weight.grad * projection.mask[k])
        assert_close(projection.weight.grad[k], last.weight.grad[0])


def test_a_head_does_not_see_what_is_masked():
    projection = RewardProjection(12, heads=4, width=5, feature_share=0.25)
    assert projection.mask.sum(1).tolist() == [3, 3, 3, 3]
    assert len(projection.mask.unique(dim=0)) > 1
    hidden = projection.mask[1] == 0
    changed = FEATURES + 100 * hidden
    assert_close(projection(changed)[:, 1], projection(FEATURES)[:, 1])


def test_heads_differ_and_the_seed_decides_them():
    torch.manual_seed(1)
    one = RewardProjection(12, heads=3, width=5, feature_share=0.5, seed=4)
    torch.manual_seed(2)
    two = RewardProjection(12, heads=2, width=5, feature_share=0.5, seed=4)
    other = RewardProjection(12, heads=2, width=5, feature_share=0.5, seed=5)
    logits = one(FEATURES)
    assert_close(logits[:, :2], two(FEATURES))
    assert not torch.allclose(logits[:, 0], logits[:, 1])
    assert not torch.allclose(two(FEATURES), other(FEATURES))


def test_weights_spread_as_those_of_a_linear_layer():
    weight = RewardProjection(64, heads=1, width=256, feature_share=0.25).hidden_weight
    expected = 1 / (3 * 16) ** 0.5
    assert weight.abs().max() <= 1 / 16**0.5
    assert abs(weight.std().item() - expected) < 0.01


def test_constant_features_are_only_centred():
    projection = RewardProjection(12, width=5)
    constant = torch.full((7, 1), 300.0)
    projection.fit_feature_scale(torch.cat([FEATURES[:, :11], constant], dim=1))
    assert projection.std[11] == 1
    assert projection.mean[11] == 300


def test_dropout_acts_in_training_only():
    projection = RewardProjection(12, width=50, dropout=0.5)
    assert not torch.equal(projection(FEATURES), projection(FEATURES))
    projection.eval()
    assert torch.equal(projection(FEATURES), projection(FEATURES))


def test_logits_are_float32_under_autocast():
    projection = RewardProjection(12, width=5)
    plain = projection(FEATURES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projection(FEATURES), plain)
        assert projection(FEATURES.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heads", 0),
        ("heads", "3"),
        ("heads", True),
        ("width", 2.5),
        ("width", None),
        ("seed", "x"),
        ("seed", [1]),
        ("feature_share", 0.0),
        ("feature_share", 1.5),
        ("feature_share", "all"),
        ("feature_share", float("nan")),
        ("dropout", 1.0),
        ("dropout", [0.5]),
    ],
)
def test_impossible_shapes_are_refused(name, value):
    with pytest.raises(InputError, match=re.escape(f"{name}={value!r}")):
        RewardProjection(12, **{name: value})


def test_other_features_are_refused():
    projection = RewardProjection(12)
    with pytest.raises(InputError, match=r"\[B, 12\].*\[7, 11\]"):
        projection(FEATURES[:, :11])
    with pytest.raises(InputError, match="two rows"):
        projection.fit_feature_scale(FEATURES[:1])
