"""The cases of a head: log-probabilities, policy losses, the backward pass alone and cross-entropy
(T1 to T9).
"""

from __future__ import annotations

import math

import torch

from kernel_cases import others
from kernel_cases.head_calls import (
    backwards,
    gradients,
    matrix_product,
    our_mean,
    our_policy,
    ours,
    policy_of,
    scored,
)
from kernel_cases.head_data import Head, Mean, Score, heads, sizes
from kernel_cases.head_errors import exact, gradient_errors, score_errors, upstream
from kernel_cases.measuring import (
    MIB,
    Call,
    Errors,
    Found,
    Provider,
    Run,
    error_of,
    measure,
    over,
    repeats,
)
from kernel_cases.writing import aim, report

BONUS = 0.01  # of the entropy


def forward(run: Run, shape: str, seconds: float) -> None:
    """T1, and at S1 T2, T5, T8 and T9: log-probabilities without a gradient."""
    made = heads(run, shape)
    place = _place(run, shape)
    first = shape == "S1"
    found = measure(run, _forward_providers(run, made, first), seconds)
    errors = score_errors(made[0], found)
    report(run, "T1", "log-probability", "forward", place, found, errors, found["torch.mm"].median)
    bounds = {
        "S1": ("<= 1.15", "<= 1.05"),
        "S2": ("<= 1.25", ""),
        "S3": ("<= 1.5", ""),
        "S4": ("", ""),
    }[shape]
    aim(run, "T1", "time over torch.mm", place, over(found, "ours", "torch.mm"), *bounds)
    aim(
        run,
        "T1",
        "cut-cross-entropy's time over ours",
        place,
        over(found, "cut-cross-entropy"),
        ">= 1.5",
        ">= 2",
    )
    aim(
        run,
        "T1",
        "verl's time over ours",
        place,
        over(found, "verl, with entropy"),
        ">= 1.5",
        ">= 2",
    )
    must = {"S1": ">= 1.25", "S2": ">= 1.5", "S3": ">= 2", "S4": ""}[shape]
    aim(run, "T1", "naive time over ours", place, over(found, "naive"), must)
    aim(
        run,
        "T1",
        "Liger scaled CE's time over ours",
        place,
        over(found, "Liger scaled CE"),
        "",
        ">= 1.0",
    )
    if first:
        _forward_at_s1(run, place, found, errors)
        _invariance(run, made[0], place, found)


def _forward_providers(run: Run, made: list[Head], first: bool) -> dict[str, Provider]:
    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": lambda: scored(made, ours(False)),
        "naive": lambda: scored(made, others.naive(False)),
        "cut-cross-entropy": lambda: scored(made, others.cut()),
        "verl, with entropy": lambda: scored(made, others.verl()),
        "Liger scaled CE": lambda: scored(made, others.liger_scaled(False)),
        "naive, torch.compile": lambda: scored(
            made, others.compiled(others.naive(False), run.quick)
        ),
        "ours, batch invariant": lambda: scored(made, ours(False, batch_invariant=True)),
    }
    if first:
        providers |= {
            "torch.mm, float32 result": lambda: matrix_product(made, torch.float32),
            "ours, with entropy": lambda: scored(made, ours(True)),
            "naive, with entropy": lambda: scored(made, others.naive(True)),
            "ours, plain torch": lambda: scored(made, ours(False, backend="torch")),
            "Liger scaled CE, chunks of 512": lambda: scored(made, others.liger_chunks(False)),
            "naive, float32 head": lambda: scored(made, others.naive(False, torch.float32)),
        }
    return providers


def _forward_at_s1(run: Run, place: str, found: dict[str, Found], errors: Errors) -> None:
    largest = error_of(errors, "ours", "largest error of log p")
    sums = error_of(errors, "ours", "rms of 512-row sums")
    aim(run, "T2", "largest error of log p", place, largest, "<= 1e-5")
    aim(run, "T2", "rms error of sums over 512 rows", place, sums, "<= 1e-4")
    theirs = error_of(errors, "Liger scaled CE", "largest error of log p")
    ratio = theirs / largest if largest else math.nan
    aim(
        run, "T2", "Liger scaled CE's largest error of log p over ours", place, ratio, "", ">= 1000"
    )
    aim(
        run,
        "T2",
        "float32 head's time over ours",
        place,
        over(found, "naive, float32 head"),
        ">= 8",
    )
    aim(
        run,
        "T5",
        "forward, with entropy over without",
        place,
        over(found, "ours, with entropy"),
        "<= 1.05",
        "<= 1.02",
    )
    aim(
        run,
        "T5",
        "the naive form's, for comparison",
        place,
        over(found, "naive, with entropy", "naive"),
    )
    aim(
        run,
        "T8",
        "forward: naive peak over ours",
        place,
        over(found, "naive", what="peak"),
        ">= 20",
    )
    aim(
        run, "T8", "forward: MiB above operands and results", place, found["ours"].peak, "", "<= 64"
    )


def _invariance(run: Run, head: Head, place: str, found: dict[str, Found]) -> None:
    """T9: equal inputs give equal bits; in batch-invariant mode a row's do not depend on the rows
    beside it.
    """
    name = "ours, batch invariant"
    aim(run, "T9", "batch invariant time over fast", place, over(found, name), "<= 1.35", "<= 1.1")
    repeated = repeats(found["ours"], "log_prob", 1)
    aim(run, "T9", "fast mode repeats itself to the bit (1: yes)", place, repeated, "== 1")
    same = math.nan
    if name in found and not found[name].error:
        whole = found[name].result["log_prob"]
        score = ours(False, batch_invariant=True)
        count = len(head.targets)
        parts = (
            slice(count // 2, count // 2 + 1),
            slice(count // 3, count // 3 + 77),
            slice(0, count - 1),
        )
        with torch.no_grad():
            alone = [score(head.hidden[part], head.weight, head.targets[part])[0] for part in parts]
        same = float(
            all(torch.equal(some, whole[part]) for some, part in zip(alone, parts, strict=True))
        )
    aim(run, "T9", "rows alone = rows in the batch, to the bit (1: yes)", place, same, "== 1")


def policy(run: Run, shape: str, seconds: float) -> None:
    """T3, and at S1 T4, T5 and T8: PPO's loss with k3 and an entropy bonus, forward and backward."""
    made = heads(run, shape)
    place = _place(run, shape)
    first = shape == "S1"
    found = measure(run, _policy_providers(run, made, first), seconds)
    whole = {name: each for name, each in found.items() if "40 %" not in name}
    mm = found["torch.mm"].median
    report(
        run,
        "T3",
        "policy loss",
        "forward and backward",
        place,
        whole,
        _policy_errors(made[0], whole),
        mm,
    )
    bounds = {"S1": ("<= 1.15", "<= 1.06"), "S2": ("<= 1.3", ""), "S3": ("<= 1.6", "")}[shape]
    aim(run, "T3", "time over 3 torch.mm", place, over(found, "ours", "torch.mm") / 3, *bounds)
    aim(
        run,
        "T3",
        "naive time over ours",
        place,
        over(found, "naive"),
        {"S1": ">= 1.4", "S2": ">= 2"}.get(shape, ""),
    )
    aim(
        run,
        "T3",
        "Liger scaled CE's time over ours",
        place,
        over(found, "Liger scaled CE"),
        "",
        ">= 1.2",
    )
    if first:
        _policy_at_s1(run, place, found)


def _policy_providers(run: Run, made: list[Head], first: bool) -> dict[str, Provider]:
    def of(score: Score, bonus: float = BONUS, masked: bool = False) -> Call:
        return gradients(made, policy_of(score, bonus, masked))

    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": lambda: gradients(made, our_policy(BONUS)),
        "naive": lambda: of(others.naive(True)),
        "Liger scaled CE": lambda: of(others.liger_scaled(True)),
        "verl": lambda: of(others.verl()),
        "naive, torch.compile": lambda: of(others.compiled(others.naive(True), run.quick)),
        "ours, four products": lambda: of(ours(True)),
    }
    if first:
        providers |= {
            "Liger GRPO, no entropy": lambda: gradients(made, others.liger_policy()),
            "cut-cross-entropy, no entropy": lambda: of(others.cut(), 0.0),
            "Liger scaled CE, chunks of 512": lambda: of(others.liger_chunks(True)),
            "ours, no entropy": lambda: gradients(made, our_policy(0.0)),
            "naive, no entropy": lambda: of(others.naive(False), 0.0),
            "ours, 40 % live": lambda: gradients(made, our_policy(BONUS, masked=True)),
            "naive, 40 % live": lambda: of(others.naive(True), masked=True),
        }
    return providers


def _policy_errors(head: Head, found: dict[str, Found]) -> Errors:
    truth = exact(head)
    a, h = upstream(head, truth)
    plain = {name: each for name, each in found.items() if "no entropy" in name}
    rest = {name: each for name, each in found.items() if name not in plain}
    errors = gradient_errors(head, truth, a, h, rest)
    return errors | gradient_errors(head, truth, a, torch.zeros_like(h), plain) if plain else errors


def _policy_at_s1(run: Run, place: str, found: dict[str, Found]) -> None:
    plainly = over(found, "Liger GRPO, no entropy", "ours, no entropy")
    aim(run, "T3", "Liger GRPO's time over ours, without entropy", place, plainly, ">= 5")
    some = {name: each for name, each in found.items() if "40 %" in name}
    mm = found["torch.mm"].median
    base = "ours, 40 % live"
    report(
        run, "T4", "policy loss, 40 % live", "forward and backward", place, some, mm=mm, base=base
    )
    aim(
        run,
        "T4",
        "time of all rows over that of 40 %",
        place,
        over(found, "ours", base),
        ">= 2.2",
        ">= 2.4",
    )
    surcharge = over(found, "ours", "ours, no entropy")
    aim(
        run,
        "T5",
        "loss and gradient, with entropy over without",
        place,
        surcharge,
        "<= 1.05",
        "<= 1.02",
    )
    aim(
        run,
        "T5",
        "the naive form's, for comparison",
        place,
        over(found, "naive", "naive, no entropy"),
    )
    aim(
        run,
        "T8",
        "loss and gradient: naive peak over ours",
        place,
        over(found, "naive", what="peak"),
        ">= 20",
    )
    aim(
        run,
        "T8",
        "loss and gradient: MiB above operands and results",
        place,
        found["ours"].peak,
        "",
        "<= 256",
    )


def backward(run: Run, shape: str, seconds: float) -> None:
    """T6: the backward pass of log-probabilities from a gradient of each, the logits being computed
    anew.
    """
    made = heads(run, shape)
    place = _place(run, shape)
    a = made[0].gain / len(made[0].gain)
    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": lambda: backwards(made, ours(False, budget=128 * MIB), a),
        "naive": lambda: backwards(made, others.naive(False), a),
        "cut-cross-entropy": lambda: backwards(made, others.cut(), a),
        "cut-cross-entropy, no filter": lambda: backwards(made, others.cut(filter_eps=None), a),
        "verl": lambda: backwards(made, others.verl(), a),
        "Liger scaled CE": lambda: backwards(made, others.liger_scaled(False), a),
        "naive, torch.compile": lambda: backwards(
            made, others.compiled(others.naive(False), run.quick), a
        ),
    }
    found = measure(run, providers, seconds)
    errors = gradient_errors(
        made[0], exact(made[0]), a.double(), torch.zeros_like(a, dtype=torch.float64), found
    )
    report(run, "T6", "log-probability", "backward", place, found, errors, found["torch.mm"].median)
    aim(
        run,
        "T6",
        "time over 3 torch.mm",
        place,
        over(found, "ours", "torch.mm") / 3,
        "<= 1.15",
        "<= 1.05",
    )
    for what in ("hidden", "weight"):
        error = error_of(errors, "ours", f"relative error of d {what}")
        aim(run, "T6", f"relative error of d {what}", place, error, "<= 3e-3")
    aim(run, "T6", "Liger scaled CE's time over ours", place, over(found, "Liger scaled CE"))


def cross_entropy(run: Run, shape: str, seconds: float) -> None:
    """T7: the mean negative log-probability of 4096 rows, forward and backward."""
    made = heads(run, shape, 4096)
    place = _place(run, shape, 4096)

    def of(mean: Mean) -> Call:
        return gradients(made, lambda head, hidden, weight: mean(hidden, weight, head.targets))

    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": lambda: of(our_mean),
        "Liger Triton": lambda: of(others.liger_mean()),
        "Liger Triton, float32 sums": lambda: of(others.liger_mean(torch.float32)),
        "cut-cross-entropy": lambda: of(others.cut_mean()),
        "cut-cross-entropy, no filter": lambda: of(others.cut_mean(filter_eps=None)),
        "verl": lambda: of(others.mean_of(others.verl())),
        "Liger scaled CE": lambda: of(others.mean_of(others.liger_scaled(False))),
        "naive": lambda: of(others.naive_mean),
        "naive, torch.compile": lambda: of(others.compiled(others.naive_mean, run.quick)),
        "torch's linear_cross_entropy": lambda: of(others.torch_mean()),
    }
    found = measure(run, providers, seconds)
    truth = exact(made[0])
    a = torch.full_like(truth.log_prob, -1 / len(truth.log_prob))
    errors = gradient_errors(made[0], truth, a, torch.zeros_like(a), found)
    report(
        run,
        "T7",
        "cross-entropy",
        "forward and backward",
        place,
        found,
        errors,
        found["torch.mm"].median,
    )
    bound = {"S1": ">= 1.5", "S3": ">= 3"}[shape]
    aim(run, "T7", "Liger Triton's time over ours", place, over(found, "Liger Triton"), bound)
    aim(run, "T7", "time over 3 torch.mm", place, over(found, "ours", "torch.mm") / 3)


def _place(run: Run, shape: str, rows: int | None = None) -> str:
    return f"{shape} {'x'.join(map(str, sizes(run, shape, rows)))}"
