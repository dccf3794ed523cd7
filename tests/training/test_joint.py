"""Two processes that share each batch equal one process with the joint batch."""

import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from rewardlab.data.loader import ResumableLoader, Rows

HERE = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# Sums of float32 are taken in another order, and four to eight steps carry that on: the weights
# differ by some 3e-6 of the way that they went, by 2e-5 where advantages are divided by a small
# deviation, by 6e-5 where a finite difference of gradients is.
TOLERANCE = 3e-4
LOOPS = {
    "sft",
    "sft_images",
    "dpo",
    "dpo_images",
    "dpo_lora",
    "gan_rm",
    "tuned_tower",
    "adv_rm",
    "rloo",
    "grpo",
    "own_advantage",
    "unscored",
    "unscored_images",
    "unscored_prompts",
    "checkpointed",
    "drawn_elsewhere",
    "guarded",
    "ppo_images",
    "regularized",
    "averaged",
    "reset",
    "nft",
    "ram",
    "refl",
    "online",
}
# Parts whose network has blocks, which FSDP2 gathers one by one.
IN_BLOCKS = LOOPS - {"gan_rm", "tuned_tower"}
EXPORTED = {"sft", "dpo_lora", "gan_rm", "adv_rm", "nft", "averaged"}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes computed, in processes of their own."""
    folder = tmp_path_factory.mktemp("together")
    script = [sys.executable, str(HERE / "joint_functions.py"), str(folder / "result.pt")]
    started = [subprocess.Popen([*script, str(rank), str(folder / "meet")]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    return torch.load(folder / "result.pt")


@pytest.fixture(scope="module")
def alone():
    return runpy.run_path(str(HERE / "joint_functions.py"))


def test_two_processes_compute_what_one_does_with_all_rows(together, alone):
    rows = torch.arange(6)
    weighted = alone["gradient"](rows, alone["weighted_loss"])
    square = alone["gradient"](rows, alone["square_of_the_sum"])
    assert_close(together["weighted"], weighted)
    assert_close(together["square"], square)
    assert_close(together["mean"], alone["VALUES"][:, 0].mean())
    assert together["gathered"].equal(alone["VALUES"][:, 0])
    assert together["own"]


def test_rows_that_fill_a_batch_up_count_once_and_stand_in_the_order_of_one_process(together):
    assert together["rows"].tolist() == [0, 1, 2, 3, 4, 5]
    first, second = together["places"]
    assert first.tolist() == [0, 1, 4, 5]
    assert second.tolist() == [2, 3, 6, 7]


def test_a_position_that_one_process_saved_is_gone_on_from_by_two(together):
    """The rest of the pass has the rows that one process would have had; row 0 fills it up."""
    one = ResumableLoader(Rows(torch.arange(7)), 4, seed=5)
    one.load_state_dict(
        {"epoch": 0, "batches": 1, "rows": 7, "batch_size": 2, "ranks": 2, "seed": 5}
    )
    rest = [batch.tolist() for batch in one]
    first, second = together["remaining"]
    assert len(rest) == len(first) == len(second) == 1
    assert set(first[0] + second[0]) >= set(rest[0])
    assert len(first[0] + second[0]) == 2 * math.ceil(len(rest[0]) / 2)


def test_two_processes_share_batches_of_a_token_budget_equally(together):
    first, second = together["budgeted"]
    assert [len(batch) for batch in first] == [len(batch) for batch in second]
    rows = [row for batch in first + second for row in batch]
    assert set(rows) == set(range(11))
    assert len(rows) == 12  # the last batch is filled up


@pytest.mark.nightly
@pytest.mark.timeout(2400)
def test_every_loop_trains_alike_and_goes_on_alike_under_one_process_and_two(tmp_path):
    """Weights and figures after two passes, also from a checkpoint of the other number."""
    for name in ("one", "two", "one_from_two", "two_from_one"):
        _run(tmp_path, name)
    assert _loops(tmp_path / "one") == LOOPS
    for name in ("two", "one_from_two", "two_from_one"):
        _assert_all_equal(tmp_path, name)


@pytest.mark.nightly
@pytest.mark.timeout(2400)
def test_every_loop_trains_alike_where_fsdp2_spreads_its_weights(tmp_path):
    """Lightning's ModelParallelStrategy on the CPU; checkpoints and folders are one process's."""
    for name in ("one", "sharded", "one_from_sharded", "sharded_from_one"):
        _run(tmp_path, name)
    assert _loops(tmp_path / "sharded") == LOOPS
    for name in ("sharded", "one_from_sharded", "sharded_from_one"):
        _assert_all_equal(tmp_path, name)
    for loop in IN_BLOCKS:
        blocks = torch.load(tmp_path / "sharded" / f"{loop}.pt")["blocks"]
        assert min(blocks.values()) > 1, loop
    for loop in EXPORTED:
        _assert_same_folder(tmp_path / "one" / loop, tmp_path / "sharded" / loop)


def _run(folder, name):
    """Train all loops, from the checkpoints of another run if the name says so."""
    (folder / name).mkdir()
    kind = name.split("_")[0]
    launcher = [] if kind == "one" else TORCHRUN
    source = [str(folder / name.split("_")[-1])] if "_from_" in name else []
    command = [sys.executable, *launcher, str(HERE / "joint_runs.py"), str(folder / name), *source]
    variables = {"STRATEGY": "sharded"} if "sharded" in name else {}
    subprocess.run(command, check=True, timeout=1200, env=os.environ | variables)


def _loops(folder):
    return {file.stem for file in folder.glob("*.pt")}


def _assert_all_equal(folder, name):
    for loop in sorted(LOOPS):
        expected = torch.load(folder / "one" / f"{loop}.pt")
        _assert_equal(expected, torch.load(folder / name / f"{loop}.pt"), f"{loop}, {name}")


def _assert_equal(expected, result, case):
    way = (expected["after"] - expected["before"]).norm()
    difference = (result["after"] - expected["after"]).norm()
    assert way > 0.01, case
    assert difference < TOLERANCE * way, f"{case}: {difference / way:.2g} of the way"
    assert result["steps"] == expected["steps"], case
    assert result["figures"] == pytest.approx(expected["figures"], rel=1e-3, abs=1e-4), case


def _assert_same_folder(expected, folder):
    """The same files; numbers that training has rounded in another order may differ."""
    names = _files(expected)
    assert _files(folder) == names
    for name in names:
        if name.endswith(".safetensors"):
            assert_close(load_file(folder / name), load_file(expected / name), rtol=0, atol=3e-5)
        elif not name.endswith("reward.json"):  # which has means of scores
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), folder / name


def _files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
