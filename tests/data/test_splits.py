"""A split holds out whole groups, and data modules declare that they have one."""

import pytest
import torch

from rewardlab.data import Preferences, SamplesData, SplitData, TargetSamples
from rewardlab.data.splits import held_out_count, split_groups
from rewardlab.types import PreferencePairs, Samples


@pytest.mark.parametrize(("held_out", "count"), [(0, 0), (0.25, 5), (1, 1), (1.0, 1), (7, 7)])
def test_held_out_is_a_share_or_a_number(held_out, count):
    assert held_out_count(held_out, 20) == count


@pytest.mark.parametrize("held", [0, 1, 4, 9, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_group_is_in_one_part_as_a_whole(held, seed):
    groups = [row % 4 for row in range(12)]
    rows = split_groups(groups, held, seed)
    assert sorted(rows.train + rows.held_out) == list(range(12))
    assert {groups[row] for row in rows.train}.isdisjoint(groups[row] for row in rows.held_out)
    assert held <= len(rows.held_out) < held + 3
    assert rows.train == sorted(rows.train)
    assert rows.held_out == sorted(rows.held_out)


def test_single_rows_are_split_as_they_always_were():
    """The split of a run must not change between versions, or held-out rows would be trained on."""
    assert split_groups(range(10), 3, seed=0).held_out == [1, 3, 5]
    assert split_groups(range(10), 3, seed=1).held_out == [3, 4, 6]


def test_data_modules_with_parts_say_so():
    images = Samples([""] * 4, torch.rand(4, 3, 8, 8))
    texts = Samples(["hi"] * 4, ["a", "b", "c", "d"])
    modules = [
        TargetSamples(images, images, batch_size=2),
        Preferences(PreferencePairs(texts, texts), held_out=1, batch_size=2),
    ]
    for module in modules:
        assert isinstance(module, SplitData)
        assert module.batch_size == 2
        assert len(module.split("train")) > len(module.split("held_out")) > 0
    assert not isinstance(SamplesData(images), SplitData)


def test_a_module_without_parts_cannot_be_made():
    class Whole(SplitData):
        pass

    with pytest.raises(TypeError, match="split"):
        Whole()
