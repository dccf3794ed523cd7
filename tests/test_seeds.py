"""Seeds: a row's noise depends on its seed alone, and different uses, rows and parts draw
differently.
"""

import numpy as np
import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.mining import BestOf
from rewardlab.policies import CallableGenerator, CausalLMPolicy
from rewardlab.rewards import Length
from rewardlab.seeds import derive, generators, normal, row_seeds, uniform
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples


def test_seeds_are_the_same_in_every_process_and_version():
    """Constants: whoever changes them changes every result that was ever written down."""
    assert derive(0, "round", 1) == 1505909312451129152
    assert row_seeds(7, 3).tolist() == [336516566894376901, 1797772400223093621, 77422343148738951]


def test_derive_tells_its_parts_apart():
    seeds = {
        derive(*parts)
        for parts in [
            (0,),
            (1,),
            (0, 1),
            (0, "1"),
            (0, 1, 2),
            (0, 12),
            (0, "a", "b"),
            (0, "ab"),
            (0, "b", "a"),
        ]
    }
    assert len(seeds) == 9
    assert all(0 <= seed < 2**62 for seed in seeds)


@pytest.mark.parametrize(
    "rows",
    [
        5,
        [0, 1, 2, 3, 4],
        range(5),
        torch.arange(5),
        np.arange(5),
        torch.arange(5, dtype=torch.int32),
    ],
)
def test_rows_may_be_given_in_any_form(rows):
    seeds = row_seeds(derive(3), rows)
    assert seeds.dtype == torch.int64
    assert torch.equal(seeds, row_seeds(derive(3), 5))


def test_row_seeds_do_not_collide_and_are_spread():
    seeds = torch.cat([row_seeds(derive(seed), 20_000) for seed in range(5)])
    assert len(seeds.unique()) == len(seeds)
    share = (seeds.double() / 2**62).sort().values
    gap = (
        (share - torch.arange(len(share)) / len(share)).abs().max()
    )  # Kolmogorov and Smirnov's, 1.95/√n at 0.1 %
    assert gap < 1.95 / len(share) ** 0.5


def test_extreme_seeds_and_rows_are_taken():
    assert len(row_seeds(2**62 - 1, [0, 2**62, -1]).unique()) == 3
    assert row_seeds(0, []).tolist() == []


@pytest.mark.parametrize("draw", [normal, uniform])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_rows_noise_does_not_depend_on_its_batch(draw, shape):
    state = torch.get_rng_state()
    whole = draw(shape, generators(row_seeds(0, 5)))
    alone = draw(shape, generators(row_seeds(0, [3])))
    assert whole.shape == (5, *shape)
    assert whole.dtype == torch.float32
    assert torch.equal(whole[3], alone[0])
    assert len(whole.flatten(1 if shape else 0).unique(dim=0)) == 5
    assert torch.equal(torch.get_rng_state(), state), "global randomness is left alone"


def test_a_generator_goes_on():
    rows = generators(row_seeds(0, 2))
    assert not torch.equal(normal((3,), rows), normal((3,), rows))


def test_the_noise_is_what_it_is_called():
    rows = generators(row_seeds(1, 4))
    bell, flat = normal((20_000,), rows).flatten(), uniform((20_000,), rows).flatten()
    tolerance = 4 / 80_000**0.5  # four standard errors of a mean of unit deviation
    assert abs(bell.mean()) < tolerance
    assert abs(bell.var() - 1) < tolerance * 2**0.5
    assert 0 <= flat.min() < flat.max() < 1
    assert abs(flat.mean() - 0.5) < tolerance


@pytest.mark.parametrize(
    ("options", "came"),
    [
        ({}, "got none"),
        ({"seeds": 0}, "got a int"),
        ({"seeds": row_seeds(0, 3)}, r"got a tensor \[3\] of torch.int64"),
        ({"seeds": torch.zeros(2)}, "of torch.float32"),
    ],
)
def test_outputs_without_a_seed_a_row_are_refused_in_words(options, came):
    drawing = CallableGenerator(lambda prompts, seeds: [f"{seed}" for seed in seeds])
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=2)
    best = BestOf(drawing, Length(), n=2)
    for generator in (drawing, policy, best):
        with pytest.raises(InputError, match=rf"{came}.*seeds=row_seeds\(0, 2\)"):
            generator.generate(["a", "b"], **options)


def test_a_generators_own_options_reach_it():
    class Repeats(CallableGenerator):
        def generate(self, prompts, *, seeds, times):
            return Samples(list(prompts), [prompt * times for prompt in prompts])

    repeats = Repeats(lambda prompts, seeds: prompts)
    assert repeats.generate(["a"], seeds=row_seeds(0, 1), times=3).outputs == ["aaa"]
