"""What two processes of gloo compute together, written to a file; no test by itself.

`python joint_functions.py FILE RANK MEETING` joins the other process at the file MEETING.
"""

import sys
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.data.token_budget import TokenBudget
from rewardlab.training import processes

VALUES = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0], [-1.0, 4.0], [0.3, 0.7], [5.0, 2.0]])
WEIGHTS = torch.tensor([3.0, 0.0, 1.0, 0.5, 2.0, 4.0])
POSITION = {"epoch": 0, "batches": 1, "rows": 7, "batch_size": 4, "seed": 5, "ranks": 1}


class Scored(NamedTuple):
    """Numbers of rows, as validation keeps them."""

    scores: Tensor


def main(file, rank, meeting):
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    own = torch.arange(rank, 6, 2)  # as a loader gives them
    loader = ResumableLoader(Rows(torch.arange(7)), 2, seed=5)
    loader.load_state_dict(POSITION)
    uneven = VALUES[:1, 0] if rank == 0 else VALUES[1:, 0]
    filled = [Scored(own.float()), Scored(torch.zeros(1))]  # row 0 fills the last batch up
    result = {
        "weighted": gradient(own, weighted_loss),
        "square": gradient(own, square_of_the_sum),
        "mean": processes.mean(uneven),
        "gathered": processes.gathered(uneven),
        "own": processes.own_rows(processes.gathered(uneven), len(uneven)).equal(uneven),
        "rows": processes.joint_rows(filled, [own, torch.zeros(1, dtype=torch.long)]).scores,
        "places": processes.from_all_processes(processes.own_places(4, group=2)),
        "budgeted": processes.from_all_processes([batch.tolist() for batch in budgeted()]),
        "remaining": processes.from_all_processes([batch.tolist() for batch in loader]),
    }
    if rank == 0:
        torch.save(result, file)
    distributed.barrier()  # a process that ends while the other still talks to it is an abort
    distributed.destroy_process_group()


def budgeted():
    """A loader whose batches hold 30 tokens on each process."""
    budget = TokenBudget(30, torch.tensor([9, 3, 40, 12, 5, 14, 2, 4, 8, 3, 3]))
    return ResumableLoader(Rows(torch.arange(11)), 1, seed=5, budget=budget)


def weighted_loss(scores, weights):
    loss = (scores * weights).sum() / weights.sum()
    return loss * processes.relative_share(weights.sum())


def square_of_the_sum(scores, weights):
    return processes.joint_batch(scores).sum().square()


def gradient(rows, loss):
    """The gradient of a loss of a linear layer's scores, averaged as DDP does."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    loss(layer(VALUES[rows])[:, 0], WEIGHTS[rows]).backward()
    processes.average_gradients(layer.parameters())
    return layer.weight.grad


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
