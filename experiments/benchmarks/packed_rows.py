"""Packed rows beside whole rows on a CPU: scores and their gradients, as ratios from one run.

    OMP_NUM_THREADS=1 python experiments/benchmarks/packed_rows.py

The first table is of what packing saves, on rows of one length and of a long tail; the second of
what its dense mask costs, on rows of one length that share nothing, which rewards run whole.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from end_to_end_cases.material import VOCABULARY, network, tailed
from transformers import LlamaConfig, LlamaModel

from rewardlab.networks import packing
from rewardlab.rewards.formatting import BatchRows
from rewardlab.rewards.language_states import last_states, packed_states, whole_states

REPEATS = 7
PAD = 1
ROWS = 32


def rows_of(prompts: list[int], responses: list[int], each: int) -> BatchRows:
    """Return rows of random ids: `each` responses to every prompt."""
    draw = random.Random(0)
    ids = []
    starts = []
    for row, length in enumerate(responses):
        if row % each == 0:
            prompt = [draw.randrange(2, VOCABULARY) for _ in range(prompts[row // each])]
        response = [draw.randrange(2, VOCABULARY) for _ in range(length)]
        ids.append(prompt + response)
        starts.append(len(prompt))
    return BatchRows(ids, starts, 0)


def ratio(whole: Callable[[], torch.Tensor], packed: Callable[[], torch.Tensor]) -> float:
    """Return the median processor seconds of the first over the second's, with the gradient."""
    seconds: dict[Callable[[], torch.Tensor], list[float]] = {whole: [], packed: []}
    for _ in range(REPEATS):
        for run, taken in seconds.items():
            start = time.process_time()
            run().sum().backward()
            taken.append(time.process_time() - start)
    return statistics.median(seconds[whole]) / statistics.median(seconds[packed])


def savings() -> None:
    """Print how many times as long whole rows take."""
    backbone = network().model
    for name in ("one length", "long tail"):
        for each in (1, 2, 8):
            prompts = [32] * ROWS if name == "one length" else tailed(ROWS, 3)
            responses = [32] * ROWS if name == "one length" else tailed(ROWS, 4)
            rows = rows_of(prompts, responses, each)
            saved = ratio(
                lambda rows=rows: last_states(whole_states(backbone, rows, PAD), PAD),
                lambda rows=rows: last_states(packed_states(backbone, rows, PAD), PAD),
            )
            print(f"| {name} | {each} | {saved:.2f} |", flush=True)


def mask_costs() -> None:
    """Print how many times as long packed rows take where there is nothing to pack."""
    for width, tokens, count in [(64, 64, 16), (64, 1024, 4), (512, 256, 4), (512, 2048, 1)]:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=max(2, width // 64),
            max_position_embeddings=4096,
        )
        backbone = LlamaModel(config)
        half = [tokens // 2] * count
        rows = rows_of(half, half, 1)
        lines = packing.layout(rows.ids, rows.starts, width)
        table = packing.packed(rows.ids, rows.starts, lines)
        cost = 1 / ratio(
            lambda rows=rows, backbone=backbone: whole_states(backbone, rows, PAD).states,
            lambda table=table, backbone=backbone: packing.run_packed(backbone, table),
        )
        print(f"| {width} | {tokens} | {cost:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    print("| lengths | responses a prompt | seconds whole over packed |\n|---|---|---|")
    savings()
    print("\n| width | tokens a row | seconds packed over whole |\n|---|---|---|")
    mask_costs()


if __name__ == "__main__":
    main()
