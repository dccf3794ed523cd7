"""The memory of a training step of two processes: copies of a network, and two forms of FSDP2.

    python experiments/benchmarks/sharded_memory.py

Two processes of this machine's CPU (gloo) train a language model of random weights by SFT with
AdamW, and draw from it. "ddp": each has the whole network. "one group": weights, gradients and
optimizer states are spread, and a pass gathers the whole network. "by block": a pass gathers one
block after the other, as a fit under FSDP2 does. The program prints what a process holds between
two steps, the peak of a step, and the peak of drawing, in MiB beyond what it held before there was
a network, for the process that holds more; and the losses of both steps, which agree.

Needs Linux, whose kernel counts the peak (`VmHWM`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

from rewardlab import CausalLMPolicy
from rewardlab.networks import sharding
from rewardlab.networks.shards import is_spread
from rewardlab.policies.base import At, Steps
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_tokenizer
from rewardlab.training.processes import average_gradients
from rewardlab.training.strategies import DRAWS
from rewardlab.types import Samples

FORMS = ("ddp", "one group", "by block")
ROWS = 2
LENGTH = 64  # tokens a response
DRAWN = 16  # tokens a drawing
MIB = 2**20


class Held(NamedTuple):
    """What a process held, in MiB, and the losses of its steps."""

    weights: float
    at_rest: float
    step: float
    drawing: float
    first_loss: float
    second_loss: float


def main() -> None:
    arguments = parsed()
    if arguments.worker is not None:
        work(arguments)
        return
    print(f"{'':10}{'weights':>9}{'at rest':>9}{'a step':>9}{'drawing':>9}   losses")
    for form in FORMS:
        held = of_two_processes(form, arguments)
        figures = "".join(f"{figure:9.0f}" for figure in held[:4])
        print(f"{form:10}{figures}   {held.first_loss:.6f} {held.second_loss:.6f}", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--worker", nargs=3, metavar=("FORM", "RANK", "FOLDER"))
    return parser.parse_args()


def of_two_processes(form: str, arguments: argparse.Namespace) -> Held:
    """Return what the process that held more in a step held."""
    sizes = [f"--layers={arguments.layers}", f"--width={arguments.width}"]
    # Freed memory goes back to the system at once, so that it is not counted.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    with TemporaryDirectory() as folder:
        workers = []
        for rank in ("0", "1"):
            command = [sys.executable, __file__, *sizes, "--worker", form, rank, folder]
            workers.append(subprocess.Popen(command, env=environment))
        ends = [worker.wait() for worker in workers]
        if any(ends):
            raise SystemExit(f"A process of {form!r} failed.")
        held = [Held(*torch.load(file)) for file in Path(folder).glob("*.pt")]
    return max(held, key=lambda one: one.step)


def work(arguments: argparse.Namespace) -> None:
    """Train and draw in one of the two processes, and write what it held."""
    form, rank, folder = arguments.worker
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=int(rank), world_size=2)
    samples = Samples(["a"] * ROWS, ["some words " * (LENGTH // 11)] * ROWS)
    before = resident("VmRSS")
    policy = language_policy(arguments.layers, arguments.width)
    size = sum(weight.numel() * weight.element_size() for weight in policy.parameters())
    spread(policy, form)
    optimizer = AdamW(policy.parameters(), lr=1e-4)
    first_loss = step(policy, optimizer, samples)
    at_rest = resident("VmRSS")
    forget_the_peak()
    second_loss = step(policy, optimizer, samples)
    peak = resident("VmHWM")
    forget_the_peak()
    policy.sample(samples.prompts, seeds=row_seeds(0, ROWS))
    held = (at_rest - before, peak - before, resident("VmHWM") - before)
    torch.save((size / MIB, *held, first_loss, second_loss), f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def language_policy(layers: int, width: int) -> CausalLMPolicy:
    """Return a Llama of random weights, the same in each process."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=256,
    )
    return CausalLMPolicy(LlamaForCausalLM(config), tiny_tokenizer(), max_new_tokens=DRAWN)


def spread(policy: CausalLMPolicy, form: str) -> None:
    if form == "ddp":
        return
    if form == "one group":
        sharding.blocks_of = no_blocks
    mesh: Any = init_device_mesh("cpu", (2,))
    sharding.shard(policy, mesh, gathered=DRAWS)


def no_blocks(part: object) -> list[Any]:
    return []


def step(policy: CausalLMPolicy, optimizer: AdamW, samples: Samples) -> float:
    """Take a step of SFT, and return its loss."""
    trajectory = policy.encode(samples, seeds=row_seeds(0, ROWS))
    weights = trajectory.mask / trajectory.mask.sum()

    def nll(steps: Steps, at: At) -> Tensor:
        return -(at(weights) * steps.log_prob).sum()

    loss = policy.apply_loss(trajectory, nll)
    loss.backward()
    if not is_spread(next(policy.parameters())):
        average_gradients(policy.parameters())
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def resident(name: str) -> float:
    """Return the memory that this process has (VmRSS) or had at most (VmHWM), in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status names no {name}; this needs Linux.")


def forget_the_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
