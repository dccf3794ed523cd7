"""Seeds depend on names and numbers alone, and no two uses share one."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.seeds import derive, generators, normal, row_seeds, uniform

SEEDS = st.integers(0, 2**62 - 1)
ROWS = st.lists(st.integers(0, 2**40), min_size=1, max_size=20, unique=True)


@given(SEEDS, ROWS, st.data())
def test_a_rows_seed_is_its_own_in_any_batch(seed, rows, data):
    seeds = row_seeds(seed, rows)
    order = data.draw(st.permutations(range(len(rows))))
    assert row_seeds(seed, [rows[place] for place in order]).equal(seeds[order])
    assert row_seeds(seed, torch.tensor(rows)).equal(seeds)
    assert len(set(seeds.tolist())) == len(rows)
    assert (seeds >= 0).all()
    assert (seeds < 2**62).all()


@given(SEEDS, st.integers(0, 2**30), st.integers(1, 2**30))
def test_another_row_or_another_use_has_another_seed(seed, row, step):
    assert row_seeds(seed, [row]) != row_seeds(seed, [row + step])
    assert row_seeds(seed, [row]) != row_seeds(seed + step, [row])


@given(SEEDS, st.lists(st.integers(0, 99) | st.text(max_size=4), min_size=1, max_size=3))
def test_names_and_their_order_count(seed, parts):
    value = derive(seed, *parts)
    assert 0 <= value < 2**62
    assert value == derive(seed, *parts)
    assert value != derive(seed + 1, *parts)
    assert value != derive(seed, *parts, 0)
    assert value != derive(seed, *[f"{part}x" for part in parts])


@given(SEEDS, st.integers(2, 6), st.integers(1, 4))
def test_a_rows_noise_does_not_depend_on_the_batch(seed, count, width):
    whole = normal((width,), generators(row_seeds(seed, count)))
    last = normal((width,), generators(row_seeds(seed, [count - 1])))
    assert whole[-1:].equal(last)
    draws = uniform((width,), generators(row_seeds(seed, count)))
    assert ((draws >= 0) & (draws < 1)).all()
