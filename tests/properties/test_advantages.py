"""Advantages against their sums written out, and what leaves them as they are."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.advantages import generalized, group_normalized, leave_one_out

SCORES = st.integers(-1920, 1920).map(lambda number: number / 64)


@st.composite
def groups(draw, least=2):
    """Scores [P, K] in float64."""
    rows = draw(st.integers(1, 4))
    k = draw(st.integers(least, 6))
    values = draw(st.lists(SCORES, min_size=rows * k, max_size=rows * k))
    return torch.tensor(values, dtype=torch.float64).view(rows, k)


def close(one, other, atol=1e-3):
    torch.testing.assert_close(one.double(), other.double(), rtol=1e-3, atol=atol)


@given(groups())
def test_each_score_is_held_against_the_others(scores):
    rows, k = scores.shape
    expected = torch.zeros_like(scores)
    for row in range(rows):
        for place in range(k):
            others = [scores[row, other].item() for other in range(k) if other != place]
            expected[row, place] = scores[row, place] - sum(others) / (k - 1)
    close(leave_one_out(scores), expected)
    close(leave_one_out(scores).sum(1), torch.zeros(rows))


@given(groups(), st.integers(-64, 64), st.randoms())
def test_an_offset_of_a_prompt_and_the_order_change_nothing(scores, shift, rng):
    order = list(range(scores.shape[1]))
    rng.shuffle(order)
    for advantages in (leave_one_out, group_normalized):
        before = advantages(scores)
        close(advantages(scores[:, order]), before[:, order])
    close(leave_one_out(scores + shift), leave_one_out(scores))


@given(groups(), st.sampled_from([0.25, 2.0, 1024.0]))
def test_normalized_scores_have_no_scale(scores, scale):
    close(group_normalized(scores * scale), group_normalized(scores))
    close(leave_one_out(scores * scale) / scale, leave_one_out(scores))


@given(groups())
def test_normalized_scores_are_standard_scores_or_zeros(scores):
    found = group_normalized(scores).double()
    for row, values in zip(found, scores, strict=True):
        deviation = values.std()
        if deviation <= 1e-6 * values.abs().max():
            assert (row == 0).all()
        else:
            close(row, (values - values.mean()) / deviation)


@given(groups(least=1), st.floats(0, 1), st.floats(0, 1), st.data())
def test_generalized_advantages_are_their_sum(rewards, discount, lam, data):
    rows, width = rewards.shape
    values = torch.tensor(
        data.draw(st.lists(SCORES, min_size=rows * width, max_size=rows * width))
    ).view(rows, width)
    bits = data.draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    mask = torch.tensor(bits).view(rows, width)
    expected = torch.zeros(rows, width, dtype=torch.float64)
    for row in range(rows):
        counted = mask[row].nonzero().flatten().tolist()
        following = [values[row, step].item() for step in counted[1:]] + [0.0]
        for place, step in enumerate(counted):
            for later in range(place, len(counted)):
                other = counted[later]
                delta = rewards[row, other] + discount * following[later] - values[row, other]
                expected[row, step] += (discount * lam) ** (later - place) * delta
    found, returns = generalized(rewards, values, mask, discount=discount, lam=lam)
    close(found, expected, atol=5e-3)
    close(returns, (expected + values) * mask, atol=5e-3)
