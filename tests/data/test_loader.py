"""The order is fixed by seed and epoch, and a position in it can be saved."""

import pytest
import torch

from rewardlab.data import ResumableLoader, Rows
from rewardlab.data.loader import _batch_count, _rank_batches
from rewardlab.errors import InputError

ITEMS = Rows(torch.arange(11))


def listed(loader):
    return [batch.tolist() for batch in loader]


def items(loader):
    return [item for batch in listed(loader) for item in batch]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_loaded_position_yields_exactly_what_remains(workers, done):
    whole = ResumableLoader(ITEMS, 3, seed=4)
    first, second = listed(whole), listed(whole)
    stopped = ResumableLoader(ITEMS, 3, seed=4, num_workers=workers)
    listed(stopped)
    passing = iter(stopped)
    for _ in range(done):
        next(passing)
    resumed = ResumableLoader(ITEMS, 3, seed=4, num_workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    assert listed(resumed) == second[done:]
    assert listed(resumed) == listed(whole)
    assert first != second


def test_each_pass_holds_every_item_once_in_another_order():
    loader = ResumableLoader(ITEMS, 3)
    passes = [items(loader) for _ in range(3)]
    assert all(sorted(order) == list(range(11)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    assert items(ResumableLoader(ITEMS, 3, shuffle=False)) == list(range(11))
    assert items(ResumableLoader(ITEMS, 3, seed=1)) not in passes


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order = listed(ResumableLoader(ITEMS, 3, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert listed(ResumableLoader(ITEMS, 3)) == order


def test_a_pass_that_was_broken_off_starts_again():
    loader = ResumableLoader(ITEMS, 3)
    first = next(iter(loader))
    assert torch.equal(next(iter(loader)), first)
    loader.set_epoch(1)
    assert not torch.equal(next(iter(loader)), first)


def test_the_state_of_a_finished_pass_is_the_next_pass():
    """Lightning takes no more than `len` batches, so the loader does not see that a pass is over."""
    loader, resumed = ResumableLoader(ITEMS, 3), ResumableLoader(ITEMS, 3)
    passing = iter(loader)
    for _ in range(len(loader)):
        next(passing)
    resumed.load_state_dict(loader.state_dict())
    assert (resumed.epoch, resumed.batches) == (1, 0)


@pytest.mark.parametrize("rows", [1, 2, 7, 12, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_the_rows_in_equally_many_batches(rows, ranks, drop_last):
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    shares = [_rank_batches(order, 2, rank, ranks, drop_last) for rank in range(ranks)]
    assert {len(share) for share in shares} == {_batch_count(rows, 2, ranks, drop_last)}
    assert len({tuple(map(len, share)) for share in shares}) == 1
    seen = [row for share in shares for batch in share for row in batch]
    if drop_last:
        assert len(seen) == len(set(seen)) == rows // ranks // 2 * 2 * ranks
    else:
        assert set(seen) == set(range(rows))
        assert len(seen) < rows + ranks
    assert [share[0][0] for share in shares if share] == (order.tolist() * ranks)[
        :ranks
    ] or not seen


def test_what_fills_no_batch_is_refused():
    with pytest.raises(InputError, match="0 items do not fill one batch of 3"):
        ResumableLoader(Rows([]), 3)
    with pytest.raises(InputError, match="11 items do not fill one batch of 12"):
        ResumableLoader(ITEMS, 12, drop_last=True)
    with pytest.raises(InputError, match="batch_size should be at least 1"):
        ResumableLoader(ITEMS, 0)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"batch_size": 4}, {"dataset": Rows(torch.arange(12))}]
)
def test_a_position_among_other_batches_is_refused(other):
    state = ResumableLoader(ITEMS, 3).state_dict()
    with pytest.raises(InputError, match="Resume with the same data and settings"):
        ResumableLoader(**({"dataset": ITEMS, "batch_size": 3} | other)).load_state_dict(state)
