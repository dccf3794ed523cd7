"""The order is fixed by seed and epoch, and a position in it can be saved."""

import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from rewardlab.data import PairsData, ResumableLoader, Rows, SamplesData, save_pairs, save_samples
from rewardlab.data.loader import _batches, _count
from rewardlab.errors import InputError
from rewardlab.types import PreferencePairs, Samples

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
    shares = [_batches(order, 2, rank, ranks, drop_last) for rank in range(ranks)]
    assert {len(share) for share in shares} == {_count(rows, 2, ranks, drop_last)}
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


def train_batches(data):
    data.setup("fit")
    return list(data.train_dataloader())


def test_samples_data_reads_images_texts_videos_and_memory(tmp_path):
    texts, videos = (
        Samples(["a"] * 3, ["x", "y", "z"]),
        Samples(["a"] * 3, torch.rand(3, 2, 1, 4, 4)),
    )
    (tmp_path / "plain").mkdir()
    for name in "abc":
        Image.new("L", (6, 4)).save(tmp_path / "plain" / f"{name}.png")
    save_samples(tmp_path / "texts", texts)
    save_samples(tmp_path / "videos", videos)
    save_samples(tmp_path / "images", Samples(["a"] * 3, torch.rand(3, 3, 4, 4)))
    shapes = {
        name: [
            tuple(getattr(batch.outputs, "shape", batch.outputs))
            for batch in train_batches(SamplesData(tmp_path / name, 2, size))
        ]
        for name, size in (("plain", 4), ("images", None), ("videos", None))
    }
    assert shapes == {
        "plain": [(2, 3, 4, 4), (1, 3, 4, 4)],
        "images": [(2, 3, 4, 4), (1, 3, 4, 4)],
        "videos": [(2, 2, 1, 4, 4), (1, 2, 1, 4, 4)],
    }
    for source in (texts, tmp_path / "texts"):
        batches = train_batches(SamplesData(source, 2))
        assert sorted(text for batch in batches for text in batch.outputs) == ["x", "y", "z"]
        assert sorted(torch.cat([batch.facts["row"] for batch in batches]).tolist()) == [0, 1, 2]


def test_pairs_data_reads_a_folder_or_memory(tmp_path):
    pairs = PreferencePairs(Samples(["a", "b"], ["x", "y"]), Samples(["a", "b"], ["p", "q"]))
    save_pairs(tmp_path / "pairs", pairs)
    for source in (pairs, tmp_path / "pairs"):
        (batch,) = train_batches(PairsData(source))
        assert sorted(zip(batch.chosen.outputs, batch.rejected.outputs, strict=True)) == [
            ("x", "p"),
            ("y", "q"),
        ]
        assert torch.equal(batch.chosen.facts["row"], batch.rejected.facts["row"])


def test_a_config_gives_the_folder_as_a_string(tmp_path):
    save_samples(tmp_path / "texts", Samples(["a"], ["x"]))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SamplesData, "samples")
    parser.add_class_arguments(PairsData, "pairs")
    config = parser.parse_object(
        {"samples": {"samples": str(tmp_path / "texts")}, "pairs": {"pairs": "somewhere"}}
    )
    built = parser.instantiate(config)
    assert train_batches(built.samples)[0].outputs == ["x"]
    assert built.pairs.pairs == "somewhere"
