"""Training on pairs of many lengths: batches of a token budget beside batches of a number of pairs.

    python experiments/benchmarks/end_to_end.py budget --out experiments/benchmarks/data/budget.csv
    python experiments/benchmarks/end_to_end.py budget --pairs FILE

The second epoch of AdvRM's and DPO's loops on the same pairs, model and thread, each measurement in a
process of its own, both orders in turn; with packed rows, and with whole rows, as networks run them that
cannot be packed. The budget is the least with which an epoch has no more steps than in batches of a
number of pairs. Lengths are log-normal, in words that are a token each; --pairs FILE takes those of
preference pairs instead. Time is processor seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from end_to_end_cases import history
from end_to_end_cases.material import VOCABULARY, adamw, network, pairs, tokenizer
from end_to_end_cases.measuring import reset, resident

PROGRAM = Path(__file__).with_name("end_to_end.py")
CONTEXT = 1024
EPOCHS = 2  # the first warms up
ORDERS = ("number", "budget")


class Measured(NamedTuple):
    """What one epoch took.

    Attributes:
        processor: seconds of the processor.
        clock: seconds.
        mib: peak memory above what stood before.
        steps: optimizer steps.
        tokens: the budget; 0 without one.
        run: share of the tokens of padded batches that do not pad.
    """

    processor: float
    clock: float
    mib: float
    steps: int
    tokens: int
    run: float


def main(argv: Sequence[str]) -> None:
    options = _options(argv)
    if options.one:
        _measure_here(options)
        return
    rows = []
    for loop in options.loops:
        rows.append(_compared(loop, options, argv))
        print(_line(rows[-1]), flush=True)
        history.write(rows, options.out)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="end_to_end.py budget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/end_to_end/budget.csv"))
    add("--pairs", type=Path, help="file of preference pairs, whose lengths are taken")
    add("--count", type=int, default=320, help="pairs")
    add("--batch-size", type=int, default=16)
    add("--tokens", type=int, help="the budget")
    add("--rounds", type=int, default=3)
    add("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    add("--one", nargs=2, metavar=("LOOP", "ORDER"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _compared(loop: str, options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Measure both orders of a loop in turn, and return the row of its figures."""
    measured: dict[str, list[Measured]] = {order: [] for order in ORDERS}
    for _ in range(options.rounds):
        for order in ORDERS:
            measured[order].append(_in_process(argv, loop, order))
    numbers, budgets = (measured[order] for order in ORDERS)
    row: dict[str, Any] = {"loop": loop, "pairs": options.pairs.name if options.pairs else "tail"}
    row |= {"count": options.count, "batch_size": options.batch_size}
    row |= {"tokens": budgets[0].tokens, "rounds": options.rounds}
    for name in ("processor", "clock", "mib"):
        ratios = []
        for number, budget in zip(numbers, budgets, strict=True):
            ratios.append(getattr(number, name) / getattr(budget, name))
        row |= {f"{name}_lowest": round(min(ratios), 3)}
        row |= {f"{name}_median": round(statistics.median(ratios), 3)}
        row |= {f"{name}_highest": round(max(ratios), 3)}
    for order in ORDERS:
        row |= {f"{order}_steps": measured[order][0].steps}
        row |= {f"{order}_padding": round(1 - measured[order][0].run, 3)}
    return row


def _in_process(argv: Sequence[str], loop: str, order: str) -> Measured:
    """Measure in a fresh process."""
    words = [sys.executable, "-W", "ignore", str(PROGRAM), "budget", *argv, "--one", loop, order]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{loop}, {order} failed:\n{done.stderr[-3000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['loop']} | {row['pairs']} | {row['number_padding']:.0%} | "
        f"{row['budget_padding']:.0%} | {_ratio(row, 'processor')} | {_ratio(row, 'mib')} |"
    )


def _ratio(row: dict[str, Any], name: str) -> str:
    lowest, highest = row[f"{name}_lowest"], row[f"{name}_highest"]
    return f"**{row[f'{name}_median']:.2f}** ({lowest:.2f} to {highest:.2f})"


def _measure_here(options: argparse.Namespace) -> None:
    """Measure one order of one loop in this process and print its figures."""
    import torch

    from rewardlab.data.token_budget import TokenBudget

    torch.set_num_threads(1)
    loop, order = options.one
    module = LOOPS[loop]()
    data = _of_words(options) if options.pairs else pairs(options.count, is_tailed=True)
    lengths = _lengths(data, module)
    tokens = options.tokens or _least_budget(lengths, options.batch_size)
    budget = TokenBudget(tokens, lengths) if order == "budget" else None
    measured = _epoch(module, data, options.batch_size, budget, lengths)
    print(json.dumps(measured._asdict()))


def _lengths(data: Any, module: Any) -> Any:
    """Return the tokens of each pair."""
    from rewardlab.data.token_budget import budget_of

    models = [module.reward or module.policy]
    budget = budget_of(data, 2 * CONTEXT, models, "pairs")
    assert budget is not None
    return budget.lengths


def _least_budget(lengths: Any, batch_size: int) -> int:
    """Return the tokens a batch that make no more batches than a number of pairs does, to 1 %."""
    import torch

    from rewardlab.data.token_budget import TokenBudget, token_batches

    order = torch.arange(len(lengths))
    steps = math.ceil(len(lengths) / batch_size)
    tokens = round(batch_size * lengths.double().mean().item())
    while len(token_batches(TokenBudget(tokens, lengths), order)) > steps:
        tokens = math.ceil(1.01 * tokens)
    return tokens


def _of_words(options: argparse.Namespace) -> Any:
    """Return pairs of a file as words of the vocabulary, as many as fit the context."""
    from rewardlab import PreferencePairs, Samples
    from rewardlab.storage import read_preferences

    texts = read_preferences(options.pairs)
    columns: dict[str, list[str]] = {"prompts": [], "chosen": [], "rejected": []}
    rows = zip(texts.chosen.prompts, texts.chosen.outputs, texts.rejected.outputs, strict=True)
    for row in rows:
        prompt, chosen, rejected = (" ".join(map(_word, str(text).split())) for text in row)
        longest = max(chosen.count(" "), rejected.count(" "))
        if prompt.count(" ") + longest < CONTEXT - 8 and chosen and rejected:
            columns["prompts"].append(prompt)
            columns["chosen"].append(chosen)
            columns["rejected"].append(rejected)
    chosen_half = Samples(columns["prompts"], columns["chosen"])
    rejected_half = Samples(columns["prompts"], columns["rejected"])
    return PreferencePairs(chosen_half, rejected_half)[: options.count]


def _word(word: str) -> str:
    """Return a word of the vocabulary in place of a word."""
    return f"w{2 + crc32(word.encode()) % (VOCABULARY - 2)}"


def _epoch(module: Any, data: Any, batch_size: int, budget: Any, lengths: Any) -> Measured:
    """Train, and return what the last epoch took."""
    import pytorch_lightning as pl

    from rewardlab.data import ResumableLoader, Rows

    run = []
    starts = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            starts.append((time.process_time(), time.perf_counter()))
            run.clear()

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            rows = batch.chosen.facts["row"]
            run.append(len(rows) * int(lengths[rows].max()))

    loader = ResumableLoader(Rows(data.numbered()), batch_size, budget=budget)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = reset()
    trainer.fit(module, loader)
    mib = resident("VmHWM") - before
    processor = time.process_time() - starts[-1][0]
    clock = time.perf_counter() - starts[-1][1]
    tokens = 0 if budget is None else budget.tokens
    return Measured(processor, clock, mib, len(run), tokens, int(lengths.sum()) / sum(run))


def _adv_rm() -> Any:
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.training import AdvRM

    reward = LanguageReward(network(context=CONTEXT), tokenizer())
    return AdvRM(reward, bootstrap=False, optimizer=adamw())


def _dpo() -> Any:
    from rewardlab import CausalLMPolicy
    from rewardlab.training import DPO

    return DPO(CausalLMPolicy(network(context=CONTEXT), tokenizer()), optimizer=adamw())


def _whole(make: Callable[[], Any]) -> Any:
    """Return a loop whose network runs rows whole, as those that cannot be packed do."""
    from rewardlab.networks import packing

    packing.cheaper = lambda *_: None
    return make()


LOOPS: dict[str, Callable[[], Any]] = {
    "reward-model step": _adv_rm,
    "DPO step": _dpo,
    "reward-model step, whole rows": partial(_whole, _adv_rm),
    "DPO step, whole rows": partial(_whole, _dpo),
}
