"""The kernels on a GPU: times over those of the same-shape matrix product and of others, errors and memory, from one run.

    PYTHONPATH=. python experiments/benchmarks/kernels.py --out runs/kernels

It needs torch, numpy and Triton. Others are measured if they can be imported (liger_kernel, cut_cross_entropy, verl); one that
cannot, or that fails, is a row that says so. In a case providers take turns, on random data that no cache holds; times are
medians, by CUDA events. Errors are against float64 on the same bfloat16 operands. Writes figures.csv, and table.md for
docs/performance.md. `--device cpu --quick` tries the program out on tiny shapes; its figures are no measurement.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib
import importlib.util
import math
import operator
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import rewardlab
from rewardlab.kernels import diffusion_dpo_loss, discounted_sum, linear_log_prob, linear_loss, resize

COLUMNS = (
    "target", "operation", "provider", "mode", "shape", "metric", "value", "p20", "p80", "ratio to mm", "ratio to ours",
    "must", "moonshot", "note", "device", "torch", "triton", "rewardlab",
)  # fmt: skip
SMOKE = "smoke run on a CPU, not a measurement"
REPEATS, FEWEST = 40, 3  # calls of a provider: at most, and at least where it is slow
SHAPES = {"S1": (8192, 4096, 128256), "S2": (8192, 2048, 128256), "S3": (8192, 896, 151936), "S4": (8192, 2304, 256000)}
TINY = {"S1": (64, 32, 512), "S2": (64, 16, 512), "S3": (64, 24, 640), "S4": (64, 16, 1000)}
MIB = 2**20

Call = Callable[[int], dict[str, Tensor]]  # the number of the rotating operands to take -> what is compared, by name
Provider = Callable[[], Call]  # may raise: what cannot be had is a row
Score = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]  # hidden, weight, targets -> log p, entropy
Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


# --- measuring ---------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Settings, and the rows so far."""

    device: torch.device
    quick: bool
    seconds: float
    without: Sequence[str] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def copies(self, size: int) -> int:
        """How many operands of `size` bytes are at least three times the second-level cache."""
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size if self.cuda else 0
        return max(2 if self.quick else 1, math.ceil(3 * cache / size))


@dataclass
class Found:
    """What was seen of a provider: milliseconds of each call, MiB above operands and results, or why there is nothing."""

    call: Call | None = None
    result: dict[str, Tensor] = field(default_factory=dict)
    peak: float = math.nan
    times: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.times)) if self.times else math.nan


def row(run: Run, target: str, operation: str, provider: str, metric: str, value: float, **others: Any) -> dict[str, Any]:
    """Add a row."""
    given = {"target": target, "operation": operation, "provider": provider, "metric": metric, "value": value}
    found = dict.fromkeys(COLUMNS, "") | given | others | _versions(run.device)
    found |= {name: "" for name in ("ratio to mm", "ratio to ours") if found[name] != "" and math.isnan(found[name])}
    if run.quick:
        found["note"] = f"{SMOKE}; {found['note']}".rstrip("; ")
    run.rows.append(found)
    return found


@cache
def _versions(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    triton = importlib.import_module("triton").__version__ if importlib.util.find_spec("triton") else "none"
    return {"device": name, "torch": torch.__version__, "triton": triton, "rewardlab": rewardlab.__version__}


_SIGNS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


def aim(run: Run, target: str, what: str, shape: str, value: float, must: str = "", moonshot: str = "") -> None:
    """Add and print a row of a target: a ratio or an error of ours, what it must be, and what it would best be."""
    verdicts = []
    for name, bound in (("must", must), ("moonshot", moonshot)):
        if bound and not run.quick and not math.isnan(value):
            sign, limit = bound.split()
            verdicts.append(f"{name} {'met' if _SIGNS[sign](value, float(limit)) else 'missed'}")
    note = "no figure" if math.isnan(value) else ", ".join(verdicts)
    found = row(run, target, what, "ours", "target", value, shape=shape, must=must, moonshot=moonshot, note=note)
    print(f"  {target:4}{what:52}{value:10.4g}   must {must or '-':9} moonshot {moonshot or '-':9} {found['note']}", flush=True)


def measure(run: Run, providers: dict[str, Provider], seconds: float, queued: bool = False) -> dict[str, Found]:
    """Make every provider, call each twice, then in turns until there are enough calls or no time is left.

    `queued` puts work before each call, so that the device's time is seen and not that of the launches.
    """
    found = {name: _made(run, make) for name, make in providers.items() if name not in run.without}
    live = {name: each for name, each in found.items() if each.call is not None}
    spent = dict.fromkeys(live, 0.0)
    share = min(seconds, max(run.left(), 1.0)) / max(1, len(live)) * 1000
    for turn in range(2 if run.quick else REPEATS):
        for name, each in live.items():
            if each.error or (turn >= FEWEST and spent[name] > share):
                continue
            try:
                taken = _timed(run, each, turn, queued)
            except Exception as error:
                each.error, each.times = _said(run, error), []
                continue
            each.times.append(taken)
            spent[name] += taken
    return found


def _made(run: Run, make: Provider) -> Found:
    """Make a provider, warm it up, and see how much memory a call takes."""
    try:
        call = make()
        for turn in range(2):  # compilers and caches allocate in the first ones
            call(turn)
        run.wait()
        if not run.cuda:
            return Found(call, call(0))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call(0)
        run.wait()
        kept = sum(tensor.nbytes for tensor in result.values())
        return Found(call, result, (torch.cuda.max_memory_allocated() - before - kept) / MIB)
    except Exception as error:
        return Found(error=_said(run, error))
    finally:
        swept(run)


def swept(run: Run) -> None:
    """Give memory back, so that the next is not measured with it; a lost device has none to give, and says so elsewhere."""
    if run.cuda:
        gc.collect()
        with suppress(Exception):
            torch.cuda.empty_cache()


def _timed(run: Run, found: Found, turn: int, queued: bool) -> float:
    if found.call is None:
        raise RuntimeError("there is nothing to call")
    if not run.cuda:
        start = time.perf_counter()
        found.call(turn)
        return 1000 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if queued:
        torch.cuda._sleep(4_000_000)  # about 2 ms
    before.record()
    found.call(turn)
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def _said(run: Run, error: Exception) -> str:
    """An error in a line. One that the device does not survive ends the run, after its rows are written."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    if isinstance(error, ModuleNotFoundError):
        text = f"not installed: {error.name}"
    try:
        run.wait()
    except Exception as lost:
        raise SystemExit(f"The device was lost ({text}). Leave that provider out: --without NAME.") from lost
    return text


def report(
    run: Run, target: str, operation: str, mode: str, shape: str, found: dict[str, Found],
    errors: dict[str, dict[str, float]] | None = None, mm: float = math.nan, base: str = "ours",
) -> None:  # fmt: skip
    """Add and print rows of time, memory and error of each provider."""
    ours = found[base].median if base in found else math.nan
    print(f"{target} {operation}, {mode}, {shape}")
    for name, each in found.items():
        place = {"mode": mode, "shape": shape}
        if each.error:
            row(run, target, operation, name, "ms", math.nan, note=each.error, **place)
            print(f"    {name:38} {each.error}", flush=True)
            continue
        low, high = np.percentile(each.times, [20, 80])
        ratios = {"ratio to mm": each.median / mm, "ratio to ours": each.median / ours}
        note = f"{len(each.times)} calls"
        row(run, target, operation, name, "ms", each.median, p20=low, p80=high, note=note, **ratios, **place)
        if not math.isnan(each.peak):
            row(run, target, operation, name, "MiB above operands and results", each.peak, **place)
        ends = f"({low:.4g} to {high:.4g})"
        text = f"    {name:38} {each.median:10.4g} ms {ends:22} {each.median / mm:6.2f} mm {each.median / ours:7.2f} ours"
        text += f" {each.peak:9.1f} MiB, {len(each.times)} calls"
        for metric, value in (errors or {}).get(name, {}).items():
            row(run, target, operation, name, metric, value, **place)
            text += f", {metric} {value:.2g}"
        print(text, flush=True)


def launches(run: Run, call: Call) -> float:
    """How many kernels, copies and fills a call runs on the device, by the profiler."""
    if not run.cuda:
        return math.nan
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            call(0)
            run.wait()
        return float(sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events()))
    except Exception:
        return math.nan


def over(found: dict[str, Found], name: str, base: str = "ours", what: str = "median") -> float:
    """A provider's figure over another's; NaN if either has none."""
    if name not in found or base not in found:
        return math.nan
    upper, lower = getattr(found[name], what), getattr(found[base], what)
    return upper / lower if lower > 0 else math.nan


def error_of(errors: dict[str, dict[str, float]], name: str, metric: str) -> float:
    return errors.get(name, {}).get(metric, math.nan)


# --- heads: data and exact values --------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """A head's operands, and a policy loss's: [N, D], [V, D], then [N] each; sequences are of `length` tokens."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    old: Tensor
    anchor: Tensor
    gain: Tensor
    live: Tensor
    length: int


def heads(run: Run, shape: str, rows: int | None = None) -> list[Head]:
    """As many as the caches cannot hold. Logits have standard deviation 3, targets are drawn by them, 40 % of rows are live."""
    count, width, words = (TINY if run.quick else SHAPES)[shape]
    count = min(rows or count, count)
    length, made = max(1, count // 8), []
    for seed in range(run.copies(2 * width * (count + words))):
        random = torch.Generator(run.device).manual_seed(seed)
        draw = partial(torch.randn, generator=random, device=run.device)
        hidden, weight = draw(count, width).bfloat16(), draw(words, width).mul_(3 / width**0.5).bfloat16()
        targets, old = [], []
        for part in hidden.split(1024):
            log_prob = (part @ weight.T).float().log_softmax(1)
            targets.append(torch.multinomial(log_prob.exp(), 1, generator=random))
            old.append(log_prob.gather(1, targets[-1]))
        before = torch.cat(old)[:, 0] + 0.1 * draw(count)
        gain = draw(count // length).repeat_interleave(length)
        live = torch.rand(count, generator=random, device=run.device) < 0.4
        made.append(Head(hidden, weight, torch.cat(targets)[:, 0], before, before + 0.1 * draw(count), gain, live, length))
    return made


def policy_loss(head: Head, bonus: float, rows: Tensor | None = None) -> Loss:
    """PPO's clipped loss with k3 and an entropy bonus, a mean over `rows`, which are all by default."""
    count = len(head.old) if rows is None else len(rows)

    def loss(log_prob: Tensor, entropy: Tensor | None, rows: Tensor) -> Tensor:
        old, gain, behind = head.old[rows], head.gain[rows], head.anchor[rows] - log_prob
        ratio = (log_prob - old).exp()
        step = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain) + 0.04 * (behind.exp() - 1 - behind)
        return (step if entropy is None else step - bonus * entropy).sum() / count

    return loss


def _words(weight: Tensor, size: int = 4096) -> Iterator[tuple[int, Tensor]]:
    return ((start, weight[start : start + size].double()) for start in range(0, len(weight), size))


@torch.no_grad()
def exact(head: Head, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, log-sum-exp and mean logit of the first rows in float64, without all logits."""
    hidden, targets = head.hidden[:rows].double(), head.targets[:rows]
    total = torch.full((len(hidden),), -torch.inf, dtype=torch.float64, device=hidden.device)
    mean, score = torch.zeros_like(total), torch.zeros_like(total)
    for start, weight in _words(head.weight):
        logits = hidden @ weight.T
        part = logits.logsumexp(1)
        joined = torch.logaddexp(total, part)
        its_mean = ((logits - part[:, None]).exp() * logits).sum(1)
        mean = mean * (total - joined).exp() + its_mean * (part - joined).exp()
        place = targets - start
        here = (place >= 0) & (place < len(weight))
        score += logits.gather(1, place.clamp(0, len(weight) - 1)[:, None])[:, 0].where(here, 0)
        total = joined
    return score - total, total, mean


def score_errors(head: Head, found: dict[str, Found]) -> dict[str, dict[str, float]]:
    """The largest error of each provider's log-probabilities, and the root mean square of that of sums over 512 rows."""
    rows = min(2048, len(head.targets))
    truth = exact(head, rows)[0]
    errors = {}
    for name, each in found.items():
        if "log_prob" in each.result:
            gap = each.result["log_prob"][:rows].double() - truth
            sums = torch.stack([part.sum() for part in gap.split(512)])
            errors[name] = {
                "largest error of log p": float(gap.abs().max()),
                "rms of 512-row sums": float(sums.square().mean().sqrt()),
            }
    return errors


def upstream(head: Head, truth: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The policy loss's gradients by log-probability and entropy at the exact values, in float64."""
    log_prob, entropy = truth[0].clone().requires_grad_(), (truth[1] - truth[2]).requires_grad_()
    wide = head._replace(old=head.old.double(), anchor=head.anchor.double(), gain=head.gain.double())
    value = policy_loss(wide, 0.01)(log_prob, entropy, torch.arange(len(log_prob), device=log_prob.device))
    a, h = torch.autograd.grad(value, [log_prob, entropy])
    return a, h


@torch.no_grad()
def gradient_errors(
    head: Head, truth: tuple[Tensor, Tensor, Tensor], a: Tensor, h: Tensor, found: dict[str, Found]
) -> dict[str, dict[str, float]]:
    """Norms of the errors of the gradients of hidden and weight over the exact ones' norms, a slice of words at a time."""
    _, total, mean = truth
    hidden, exact_hidden = head.hidden.double(), torch.zeros_like(head.hidden, dtype=torch.float64)
    some = {name: each.result for name, each in found.items() if "weight" in each.result}
    missed, norm = dict.fromkeys(some, 0.0), 0.0
    for start, weight in _words(head.weight):
        logits = hidden @ weight.T
        share = (logits - total[:, None]).exp()
        slope = share * (-a[:, None] - h[:, None] * (logits - mean[:, None]))
        place = head.targets - start
        here = ((place >= 0) & (place < len(weight))).nonzero()[:, 0]
        slope[here, place[here]] += a[here]
        exact_hidden += slope @ weight
        of_words = slope.T @ hidden
        norm += float(of_words.square().sum())
        for name, result in some.items():
            missed[name] += float((result["weight"][start : start + len(weight)].double() - of_words).square().sum())
    scale = exact_hidden.norm()
    return {
        name: {
            "relative error of d hidden": float((result["hidden"].double() - exact_hidden).norm() / scale),
            "relative error of d weight": math.sqrt(missed[name] / norm),
        }
        for name, result in some.items()
    }


# --- heads: providers --------------------------------------------------------------------------------------------------------


def ours(entropy: bool, **options: Any) -> Score:
    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        found = linear_log_prob(hidden, weight, targets, entropy=entropy, **options)
        return found.log_prob, found.entropy

    return score


def naive(entropy: bool, head_type: torch.dtype | None = None) -> Score:
    """All logits, in the operands' type, then in float32; or a head whose operands are in float32."""

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        kind = head_type or hidden.dtype
        log_prob = (hidden.to(kind) @ weight.to(kind).T).float().log_softmax(1)
        spread = -(log_prob.exp() * log_prob).sum(1) if entropy else None
        return log_prob.gather(1, targets[:, None])[:, 0], spread

    return score


def compiled(function: Callable[..., Any], quick: bool) -> Callable[..., Any]:
    if quick:
        raise NotImplementedError("not compiled in a smoke run")
    torch._dynamo.config.recompile_limit = 64  # shapes differ by case; past the limit it would run eagerly, in silence
    return torch.compile(function, dynamic=False)


def liger_scaled(entropy: bool) -> Score:
    """On compute capability 9.0 its CuTe kernels, which need nvidia-cutlass-dsl; elsewhere its chunks of 512 rows."""
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction as Function

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        found = Function.apply(hidden, weight, targets, 1.0, -100, 1, entropy)
        return (-found[0], found[1].float()) if entropy else (-found, None)

    return score


def liger_chunks(entropy: bool) -> Score:
    """The same in chunks of 512 rows, in plain torch: what Liger runs where its CuTe kernels do not."""
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import _FusedLinearPPOFallbackFunction as Function

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        found = Function.apply(hidden, weight, targets, 1.0, -100, entropy)
        return (-found[0], found[1].float()) if entropy else (-found, None)

    return score


def cut(entropy: bool, **options: Any) -> Score:
    from cut_cross_entropy import linear_cross_entropy

    if entropy:
        raise NotImplementedError("cut-cross-entropy has no entropy")
    return lambda *operands: (-linear_cross_entropy(*operands, reduction="none", **options), None)


def verl(entropy: bool) -> Score:
    """Always with the entropy. Its package imports much that its kernel does not need: then only the kernel's folders are."""
    try:
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    except ImportError:
        spec = importlib.util.find_spec("verl") if "verl" not in sys.modules else None
        if spec is None or not spec.submodule_search_locations:
            raise
        for name in [each for each in sys.modules if each.split(".")[0] == "verl"]:
            del sys.modules[name]
        root = Path(spec.submodule_search_locations[0])
        for name in ("verl", "verl.utils", "verl.utils.kernel"):
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    return lambda *operands: linear_cross_entropy(*operands, 1.0, "none")


def scored(made: list[Head], score: Score) -> Call:
    """Log-probabilities alone."""

    @torch.no_grad()
    def call(turn: int) -> dict[str, Tensor]:
        head = made[turn % len(made)]
        return {"log_prob": score(head.hidden, head.weight, head.targets)[0]}

    return call


def leaves(head: Head) -> list[Tensor]:
    return [head.hidden.detach().requires_grad_(), head.weight.detach().requires_grad_()]


def gradients(made: list[Head], value: Callable[[Head, Tensor, Tensor], Tensor]) -> Call:
    """A loss, forward and backward."""

    def call(turn: int) -> dict[str, Tensor]:
        head = made[turn % len(made)]
        both = leaves(head)
        return dict(zip(("hidden", "weight"), torch.autograd.grad(value(head, *both), both), strict=True))

    return call


def backwards(made: list[Head], score: Score, a: Tensor) -> Call:
    """The backward pass of log-probabilities alone, from a gradient of each."""
    graphs = []
    for head in made:
        both = leaves(head)
        graphs.append((both, score(*both, head.targets)[0]))

    def call(turn: int) -> dict[str, Tensor]:
        both, log_prob = graphs[turn % len(graphs)]
        found = torch.autograd.grad(log_prob, both, a.to(log_prob.dtype), retain_graph=True)
        return dict(zip(("hidden", "weight"), found, strict=True))

    return call


def three(bonus: float, masked: bool = False) -> Callable[[Head, Tensor, Tensor], Tensor]:
    """Our policy loss with its gradient taken in the forward pass."""

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        mask = head.live if masked else None
        loss = policy_loss(head, bonus, head.live.nonzero()[:, 0] if masked else None)
        return linear_loss(hidden, weight, head.targets, loss, mask=mask, entropy=bonus > 0)[0]

    return value


def of_scores(score: Score, bonus: float, masked: bool = False) -> Callable[[Head, Tensor, Tensor], Tensor]:
    """The policy loss of another's log-probabilities."""

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        log_prob, entropy = score(hidden, weight, head.targets)
        rows = head.live.nonzero()[:, 0] if masked else torch.arange(len(log_prob), device=log_prob.device)
        of_rows = entropy[rows] if entropy is not None and bonus else None
        return policy_loss(head, bonus, rows)(log_prob[rows], of_rows, rows)

    return value


def liger_policy() -> Callable[[Head, Tensor, Tensor], Tensor]:
    """Its GRPO loss: the same clip and k3, a mean over tokens; it knows no entropy bonus."""
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    module = LigerFusedLinearGRPOLoss(beta=0.04, loss_type="bnpo", use_ref_model=True)

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        turned = lambda x: x.view(-1, head.length)  # noqa: E731
        ones, per_sequence = torch.ones_like(turned(head.gain)), turned(head.gain)[:, 0].contiguous()
        known = {"ref_per_token_logps": turned(head.anchor), "old_per_token_logps": turned(head.old)}
        whole = hidden.view(-1, head.length, hidden.shape[1])
        return module(whole, weight, turned(head.targets), ones, per_sequence, **known)[0]

    return value


def matrix_product(made: list[Head], kind: torch.dtype | None = None) -> Call:
    """The floor: hidden · weightᵀ by the library, with a bfloat16 or a float32 result."""
    options = {} if kind is None else {"out_dtype": kind}

    def call(turn: int) -> dict[str, Tensor]:
        head = made[turn % len(made)]
        torch.mm(head.hidden, head.weight.T, **options)
        return {}

    return call


# --- cases: heads ------------------------------------------------------------------------------------------------------------


def said(run: Run, shape: str, rows: int | None = None) -> str:
    count, width, words = (TINY if run.quick else SHAPES)[shape]
    return f"{shape} {min(rows or count, count)}x{width}x{words}"


def forward(run: Run, shape: str, seconds: float) -> None:
    """T1, and at S1 T2, T5, T8 and T9: log-probabilities without a gradient."""
    made, place, first = heads(run, shape), said(run, shape), shape == "S1"
    of = lambda make: lambda: scored(made, make())  # noqa: E731
    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": of(lambda: ours(False)),
        "naive": of(lambda: naive(False)),
        "cut-cross-entropy": of(lambda: cut(False)),
        "verl, with entropy": of(lambda: verl(True)),
        "Liger scaled CE": of(lambda: liger_scaled(False)),
        "naive, torch.compile": of(lambda: compiled(naive(False), run.quick)),
        "ours, batch invariant": of(lambda: ours(False, batch_invariant=True)),
    }
    if first:
        providers |= {
            "torch.mm, float32 result": lambda: matrix_product(made, torch.float32),
            "ours, with entropy": of(lambda: ours(True)),
            "naive, with entropy": of(lambda: naive(True)),
            "ours, plain torch": of(lambda: ours(False, backend="torch")),
            "Liger scaled CE, chunks of 512": of(lambda: liger_chunks(False)),
            "naive, float32 head": of(lambda: naive(False, torch.float32)),
        }
    found = measure(run, providers, seconds)
    errors = score_errors(made[0], found)
    mm = found["torch.mm"].median
    report(run, "T1", "log-probability", "forward", place, found, errors, mm)
    bounds = {"S1": ("<= 1.15", "<= 1.05"), "S2": ("<= 1.25", ""), "S3": ("<= 1.5", ""), "S4": ("", "")}[shape]
    aim(run, "T1", "time over torch.mm", place, over(found, "ours", "torch.mm"), *bounds)
    aim(run, "T1", "cut-cross-entropy's time over ours", place, over(found, "cut-cross-entropy"), ">= 1.5", ">= 2")
    aim(run, "T1", "verl's time over ours", place, over(found, "verl, with entropy"), ">= 1.5", ">= 2")
    must = {"S1": ">= 1.25", "S2": ">= 1.5", "S3": ">= 2", "S4": ""}[shape]
    aim(run, "T1", "naive time over ours", place, over(found, "naive"), must)
    aim(run, "T1", "Liger scaled CE's time over ours", place, over(found, "Liger scaled CE"), "", ">= 1.0")
    if not first:
        return
    largest, sums = error_of(errors, "ours", "largest error of log p"), error_of(errors, "ours", "rms of 512-row sums")
    aim(run, "T2", "largest error of log p", place, largest, "<= 1e-5")
    aim(run, "T2", "rms error of sums over 512 rows", place, sums, "<= 1e-4")
    theirs = error_of(errors, "Liger scaled CE", "largest error of log p")
    ratio = theirs / largest if largest else math.nan
    aim(run, "T2", "Liger scaled CE's largest error of log p over ours", place, ratio, "", ">= 1000")
    aim(run, "T2", "float32 head's time over ours", place, over(found, "naive, float32 head"), ">= 8")
    aim(run, "T5", "forward, with entropy over without", place, over(found, "ours, with entropy"), "<= 1.05", "<= 1.02")
    aim(run, "T5", "the naive form's, for comparison", place, over(found, "naive, with entropy", "naive"))
    aim(run, "T8", "forward: naive peak over ours", place, over(found, "naive", what="peak"), ">= 20")
    aim(run, "T8", "forward: MiB above operands and results", place, found["ours"].peak, "", "<= 64")
    invariance(run, made[0], place, found)


def invariance(run: Run, head: Head, place: str, found: dict[str, Found]) -> None:
    """T9: equal inputs give equal bits; in batch-invariant mode a row's do not depend on the rows beside it."""
    name = "ours, batch invariant"
    aim(run, "T9", "batch invariant time over fast", place, over(found, name), "<= 1.35", "<= 1.1")
    repeated = math.nan
    if found["ours"].call is not None:
        repeated = float(torch.equal(found["ours"].call(0)["log_prob"], found["ours"].result["log_prob"]))
    aim(run, "T9", "fast mode repeats itself to the bit (1: yes)", place, repeated, "== 1")
    same = math.nan
    if name in found and not found[name].error:
        whole, score, count = found[name].result["log_prob"], ours(False, batch_invariant=True), len(head.targets)
        with torch.no_grad():
            for part in (slice(count // 2, count // 2 + 1), slice(count // 3, count // 3 + 77), slice(0, count - 1)):
                alone = score(head.hidden[part], head.weight, head.targets[part])[0]
                same = float(torch.equal(alone, whole[part]) and same != 0)
    aim(run, "T9", "rows alone = rows in the batch, to the bit (1: yes)", place, same, "== 1")


def policy(run: Run, shape: str, seconds: float) -> None:
    """T3, and at S1 T4, T5 and T8: PPO's loss with k3 and an entropy bonus, forward and backward."""
    made, place, first = heads(run, shape), said(run, shape), shape == "S1"
    bonus = 0.01
    of = lambda make, bonus, **more: lambda: gradients(made, of_scores(make(bonus > 0), bonus, **more))  # noqa: E731
    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": lambda: gradients(made, three(bonus)),
        "naive": of(naive, bonus),
        "Liger scaled CE": of(liger_scaled, bonus),
        "verl": of(verl, bonus),
        "naive, torch.compile": lambda: gradients(made, of_scores(compiled(naive(True), run.quick), bonus)),
        "ours, four products": of(ours, bonus),
    }
    if first:
        providers |= {
            "Liger GRPO, no entropy": lambda: gradients(made, liger_policy()),
            "cut-cross-entropy, no entropy": of(cut, 0.0),
            "Liger scaled CE, chunks of 512": of(liger_chunks, bonus),
            "ours, no entropy": lambda: gradients(made, three(0.0)),
            "naive, no entropy": of(naive, 0.0),
            "ours, 40 % live": lambda: gradients(made, three(bonus, masked=True)),
            "naive, 40 % live": of(naive, bonus, masked=True),
        }
    found = measure(run, providers, seconds)
    truth = exact(made[0], len(made[0].targets))
    a, h = upstream(made[0], truth)
    whole = {name: each for name, each in found.items() if "40 %" not in name}
    errors = gradient_errors(made[0], truth, a, h, {name: each for name, each in whole.items() if "no entropy" not in name})
    if first:
        plain = {name: each for name, each in whole.items() if "no entropy" in name}
        errors |= gradient_errors(made[0], truth, a, torch.zeros_like(h), plain)
    mm = found["torch.mm"].median
    report(run, "T3", "policy loss", "forward and backward", place, whole, errors, mm)
    bounds = {"S1": ("<= 1.15", "<= 1.06"), "S2": ("<= 1.3", ""), "S3": ("<= 1.6", "")}[shape]
    aim(run, "T3", "time over 3 torch.mm", place, over(found, "ours", "torch.mm") / 3, *bounds)
    aim(run, "T3", "naive time over ours", place, over(found, "naive"), {"S1": ">= 1.4", "S2": ">= 2"}.get(shape, ""))
    aim(run, "T3", "Liger scaled CE's time over ours", place, over(found, "Liger scaled CE"), "", ">= 1.2")
    if not first:
        return
    plainly = over(found, "Liger GRPO, no entropy", "ours, no entropy")
    aim(run, "T3", "Liger GRPO's time over ours, without entropy", place, plainly, ">= 5")
    surcharge = over(found, "ours", "ours, no entropy")
    some = {name: each for name, each in found.items() if "40 %" in name}
    report(run, "T4", "policy loss, 40 % live", "forward and backward", place, some, None, mm, "ours, 40 % live")
    aim(run, "T4", "time of all rows over that of 40 %", place, over(found, "ours", "ours, 40 % live"), ">= 2.2", ">= 2.4")
    aim(run, "T5", "loss and gradient, with entropy over without", place, surcharge, "<= 1.05", "<= 1.02")
    aim(run, "T5", "the naive form's, for comparison", place, over(found, "naive", "naive, no entropy"))
    aim(run, "T8", "loss and gradient: naive peak over ours", place, over(found, "naive", what="peak"), ">= 20")
    aim(run, "T8", "loss and gradient: MiB above operands and results", place, found["ours"].peak, "", "<= 256")


def backward(run: Run, shape: str, seconds: float) -> None:
    """T6: the backward pass of log-probabilities from a gradient of each, the logits being computed anew."""
    made, place = heads(run, shape), said(run, shape)
    a = made[0].gain / len(made[0].gain)
    of = lambda make: lambda: backwards(made, make(), a)  # noqa: E731
    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": of(lambda: ours(False, budget=128 * MIB)),
        "naive": of(lambda: naive(False)),
        "cut-cross-entropy": of(lambda: cut(False)),
        "cut-cross-entropy, no filter": of(lambda: cut(False, filter_eps=None)),
        "verl": of(lambda: verl(True)),
        "Liger scaled CE": of(lambda: liger_scaled(False)),
        "naive, torch.compile": of(lambda: compiled(naive(False), run.quick)),
    }
    found = measure(run, providers, seconds)
    truth = exact(made[0], len(made[0].targets))
    errors = gradient_errors(made[0], truth, a.double(), torch.zeros_like(a, dtype=torch.float64), found)
    report(run, "T6", "log-probability", "backward", place, found, errors, found["torch.mm"].median)
    aim(run, "T6", "time over 3 torch.mm", place, over(found, "ours", "torch.mm") / 3, "<= 1.15", "<= 1.05")
    for what in ("hidden", "weight"):
        error = error_of(errors, "ours", f"relative error of d {what}")
        aim(run, "T6", f"relative error of d {what}", place, error, "<= 3e-3")
    aim(run, "T6", "Liger scaled CE's time over ours", place, over(found, "Liger scaled CE"))


def cross_entropy(run: Run, shape: str, seconds: float) -> None:
    """T7: the mean negative log-probability of 4096 rows, forward and backward."""
    made, place = heads(run, shape, 4096), said(run, shape, 4096)

    def mean(log_prob: Tensor) -> Tensor:
        return -log_prob.mean()

    def three_products(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_loss(hidden, weight, head.targets, lambda log_prob, *_: -log_prob.sum() / len(head.targets))[0]

    def liger(**options: Any) -> Call:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Function

        rest = [None, None, -100, 0.0, 0.0, "mean", None, False, options.get("accumulate")]
        return gradients(made, lambda head, hidden, weight: Function.apply(hidden, weight, head.targets, *rest)[0])

    def cut_mean(**options: Any) -> Call:
        from cut_cross_entropy import linear_cross_entropy

        return gradients(made, lambda head, hidden, weight: linear_cross_entropy(hidden, weight, head.targets, **options))

    def all_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy((hidden @ weight.T).float(), targets)

    def torch_own() -> Call:
        function = getattr(functional, "linear_cross_entropy", None)
        if function is None:
            raise NotImplementedError("this torch has no linear_cross_entropy")
        return gradients(made, lambda head, hidden, weight: function(hidden, weight, head.targets))

    of = lambda score: gradients(made, lambda head, *both: mean(score(*both, head.targets)[0]))  # noqa: E731
    whole = lambda function: gradients(made, lambda head, *both: function(*both, head.targets))  # noqa: E731
    providers: dict[str, Provider] = {
        "torch.mm": lambda: matrix_product(made),
        "ours": lambda: gradients(made, three_products),
        "Liger Triton": liger,
        "Liger Triton, float32 sums": lambda: liger(accumulate=torch.float32),
        "cut-cross-entropy": cut_mean,
        "cut-cross-entropy, no filter": lambda: cut_mean(filter_eps=None),
        "verl": lambda: of(verl(True)),
        "Liger scaled CE": lambda: of(liger_scaled(False)),
        "naive": lambda: whole(all_logits),
        "naive, torch.compile": lambda: whole(compiled(all_logits, run.quick)),
        "torch's linear_cross_entropy": torch_own,
    }
    found = measure(run, providers, seconds)
    truth = exact(made[0], len(made[0].targets))
    a = torch.full_like(truth[0], -1 / len(truth[0]))
    errors = gradient_errors(made[0], truth, a, torch.zeros_like(a), found)
    report(run, "T7", "cross-entropy", "forward and backward", place, found, errors, found["torch.mm"].median)
    bound = {"S1": ">= 1.5", "S3": ">= 3"}[shape]
    aim(run, "T7", "Liger Triton's time over ours", place, over(found, "Liger Triton"), bound)
    aim(run, "T7", "time over 3 torch.mm", place, over(found, "ours", "torch.mm") / 3)


# --- cases: the other kernels ------------------------------------------------------------------------------------------------


def diffusion(run: Run, size: str, seconds: float) -> None:
    """T10: the Diffusion-DPO loss of bfloat16 predictions, forward and backward; the gradient is of the policy's two."""
    shape = {"latents": (8, 4, 128, 128), "video latents": (16, 16, 32, 128, 128)}[size]
    shape = (2, 4, 8, 8) if run.quick else shape
    place = f"{size} {'x'.join(map(str, shape))}"
    count = math.prod(shape)
    random = torch.Generator(run.device).manual_seed(0)
    draw = partial(torch.randn, shape, generator=random, device=run.device)
    made = [[draw().bfloat16() for _ in range(6)] for _ in range(run.copies(12 * count))]

    def eager(c: Tensor, r: Tensor, rc: Tensor, rr: Tensor, tc: Tensor, tr: Tensor, beta: float = 5000.0) -> Tensor:
        error = lambda x, y: (x.float() - y.float()).square().flatten(1).mean(1)  # noqa: E731
        return functional.softplus(beta / 2 * ((error(c, tc) - error(rc, tc)) - (error(r, tr) - error(rr, tr))))

    def of(function: Callable[..., Tensor]) -> Call:
        def call(turn: int) -> dict[str, Tensor]:
            c, r, *others = made[turn % len(made)]
            both = [c.detach().requires_grad_(), r.detach().requires_grad_()]
            losses = function(*both, *others)
            found = torch.autograd.grad(losses.sum(), both)
            return {"losses": losses.detach(), "chosen": found[0], "rejected": found[1]}

        return call

    def copied(turn: int) -> dict[str, Tensor]:
        first, second, *_ = made[turn % len(made)]
        second.copy_(first)
        return {}

    providers: dict[str, Provider] = {
        "ours": lambda: of(partial(diffusion_dpo_loss, beta=5000.0)),
        "ours, plain torch": lambda: of(partial(diffusion_dpo_loss, beta=5000.0, backend="torch")),
        "naive": lambda: of(eager),
        "naive, torch.compile": lambda: of(compiled(eager, run.quick)),
    }
    small, mode = size == "latents", "forward and backward"
    found = measure(run, providers, seconds / (2 if small else 1))
    errors = {}
    if small:
        exact_losses = _float64_pairs(made[0])
        errors = {
            name: {"largest error of a loss": float((each.result["losses"].double() - exact_losses).abs().max())}
            for name, each in found.items()
            if "losses" in each.result
        }
    report(run, "T10", "Diffusion-DPO", mode, place, found, errors)
    if small:
        aim(run, "T10", "naive time over ours", place, over(found, "naive"), ">= 5")
        call = found["ours"].call
        aim(run, "T10", "launches", place, math.nan if call is None else launches(run, call), "", "<= 3")
        if run.cuda:
            some = {name: providers[name] for name in ("ours", "naive", "naive, torch.compile")}
            queue = measure(run, some, seconds / 2, queued=True)
            report(run, "T10", "Diffusion-DPO", f"{mode}, launches hidden", place, queue)
        return
    hidden = measure(run, {"ours": providers["ours"]}, seconds / 4, queued=run.cuda)
    report(run, "T10", "Diffusion-DPO", f"{mode}, launches hidden", place, hidden)
    copy = measure(run, {"copy": lambda: copied}, seconds / 4, queued=run.cuda)["copy"]  # last: it writes over a prediction
    report(run, "T10", "copy of one operand", "launches hidden", place, {"copy": copy}, base="copy")
    share = (12 / hidden["ours"].median) / (2 / copy.median)  # the loss reads or writes twelve operands, a copy two
    aim(run, "T10", "share of the copy's bandwidth", place, share, ">= 0.85", ">= 0.92")
    aim(run, "T10", "naive time over ours", place, over(found, "naive"))


def _float64_pairs(operands: list[Tensor]) -> Tensor:
    c, r, rc, rr, tc, tr = (x.double().flatten(1) for x in operands)
    gap = ((c - tc) ** 2 - (rc - tc) ** 2).mean(1) - ((r - tr) ** 2 - (rr - tr) ** 2).mean(1)
    return functional.softplus(2500.0 * gap)


def advantages(run: Run, _: str, seconds: float) -> None:
    """T11: generalised advantage estimation over [512, 2048] with episodes that end, and the scan alone."""
    rows, steps = (8, 64) if run.quick else (512, 2048)
    place, discount, lam = f"{rows}x{steps}", 0.99, 0.95
    random = torch.Generator(run.device).manual_seed(0)
    made = []
    for _turn in range(run.copies(12 * rows * steps)):
        rewards, values = (torch.randn(rows, steps, generator=random, device=run.device) for _ in range(2))
        made.append((rewards, values, (torch.rand(rows, steps, generator=random, device=run.device) > 0.01).float()))

    def loop(rewards: Tensor, values: Tensor, going: Tensor) -> Tensor:
        last, columns = torch.zeros_like(rewards[:, 0]), []
        for t in reversed(range(steps)):
            following = values[:, t + 1] if t + 1 < steps else 0.0
            delta = rewards[:, t] + discount * going[:, t] * following - values[:, t]
            last = delta + discount * lam * going[:, t] * last
            columns.append(last)
        return torch.stack(columns[::-1], 1)

    def errors_of_values(rewards: Tensor, values: Tensor, going: Tensor) -> Tensor:
        return rewards + discount * going * functional.pad(values[:, 1:], (0, 1)) - values

    def scan(rewards: Tensor, values: Tensor, going: Tensor, backend: Any = None) -> Tensor:
        return discounted_sum(errors_of_values(rewards, values, going), discount * lam * going, backend=backend)

    def of(function: Callable[..., Tensor]) -> Call:
        return lambda turn: {"advantages": function(*made[turn % len(made)])}

    ready = [(errors_of_values(*each), discount * lam * each[2]) for each in made]
    alone: Call = lambda turn: {"advantages": discounted_sum(*ready[turn % len(ready)])}  # noqa: E731
    providers: dict[str, Provider] = {
        "ours": lambda: of(scan),
        "ours, plain torch": lambda: of(partial(scan, backend="torch")),
        "ours, the scan alone": lambda: alone,
        "loop over steps": lambda: of(loop),
    }
    found = measure(run, providers, seconds)
    truth = loop(*(x.double() for x in made[0]))
    errors = {
        name: {"largest error": float((each.result["advantages"].double() - truth).abs().max())}
        for name, each in found.items()
        if each.result
    }
    report(run, "T11", "advantages", "forward", place, found, errors)
    aim(run, "T11", "the loop's time over ours", place, over(found, "loop over steps"), ">= 100")
    aim(run, "T11", "launches of the scan", place, launches(run, alone), "== 1")
    if run.cuda:
        queue = measure(run, {name: providers[name] for name in ("ours", "ours, the scan alone")}, seconds / 4, queued=True)
        report(run, "T11", "advantages", "forward, launches hidden", place, queue)
        aim(run, "T11", "ms of the scan, launches hidden", place, queue["ours, the scan alone"].median, "", "<= 0.01")


def prefix(run: Run, *_: Any) -> None:
    """T12 is of a whole step, not of a kernel."""
    note = 'see experiments/benchmarks/end_to_end.py, the job "8 samples a prompt"'
    row(run, "T12", "prefix sharing, whole step", "ours", "target", math.nan, note=note)
    print(f"  T12 prefix sharing, whole step: {note}", flush=True)


def pixels(run: Run, _: str, seconds: float) -> None:
    """T13: resize, crop and normalise, forward and backward, beside the library's interpolation."""
    side, count = (32, 2) if run.quick else (1024, 8)
    whole, window = ((16, 16), (1, 1, 14, 14)) if run.quick else ((256, 256), (16, 16, 224, 224))
    place = f"{count}x3x{side}x{side} to {window[2]}x{window[3]}"
    random = torch.Generator(run.device).manual_seed(0)
    draw = partial(torch.rand, count, 3, side, side, generator=random, device=run.device)
    made = [draw() for _ in range(run.copies(12 * count * side**2))]
    seen = torch.randn(count, 3, *window[2:], generator=random, device=run.device)
    mean, std = (torch.tensor(each, device=run.device) for each in ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]))

    def library(images: Tensor) -> Tensor:
        top, left, height, width = window
        found = functional.interpolate(images, whole, mode="bicubic", antialias=True)
        found = found[:, :, top : top + height, left : left + width].clamp(0, 1)
        return (found - mean[:, None, None]) / std[:, None, None]

    def of(function: Callable[[Tensor], Tensor]) -> Call:
        def call(turn: int) -> dict[str, Tensor]:
            images = made[turn % len(made)].detach().requires_grad_()
            found = function(images)
            return {"pixels": found.detach(), "images": torch.autograd.grad(found, images, seen)[0]}

        return call

    mine = partial(resize, size=whole, window=window, mean=mean, std=std)
    providers: dict[str, Provider] = {
        "ours": lambda: of(mine),
        "ours, matrix products": lambda: of(partial(mine, backend="matrix")),
        "ours, plain torch": lambda: of(partial(mine, backend="torch")),
        "naive": lambda: of(library),
        "naive, torch.compile": lambda: of(compiled(library, run.quick)),
    }
    found = measure(run, providers, seconds)
    truth = of(partial(mine, backend="reference"))(0)
    errors = {
        name: {
            "largest error of a pixel": float((each.result["pixels"] - truth["pixels"]).abs().max()) * float(std.max()),
            "relative error of d images": float((each.result["images"] - truth["images"]).norm() / truth["images"].norm()),
        }
        for name, each in found.items()
        if each.result
    }
    report(run, "T13", "resize", "forward and backward", place, found, errors)
    aim(run, "T13", "naive time over ours", place, over(found, "naive"), ">= 3")
    error = error_of(errors, "ours", "largest error of a pixel")
    aim(run, "T13", "largest error of a pixel, of a range of 1", place, error, "<= 1e-3")
    for name in ("ours", "naive"):
        call, same = found[name].call, math.nan
        if call is not None:
            same = float(all(torch.equal(call(0)["images"], found[name].result["images"]) for _ in range(3)))
        bound = "== 1" if name == "ours" else ""
        aim(run, "T13", f"{name}: the gradient repeats itself to the bit (1: yes)", place, same, bound)


# --- the run -----------------------------------------------------------------------------------------------------------------

CASES: list[tuple[str, Callable[[Run, str, float], None], str, float]] = [  # in order of weight, with seconds of timing
    ("T1 T2 T5 T8 T9", forward, "S1", 30),
    ("T3 T4 T5 T8", policy, "S1", 60),
    ("T6", backward, "S1", 25),
    ("T7", cross_entropy, "S1", 25),
    ("T10", diffusion, "latents", 4),
    ("T10", diffusion, "video latents", 4),
    ("T11", advantages, "", 6),
    ("T12", prefix, "", 0),
    ("T13", pixels, "", 6),
    ("T3", policy, "S3", 20),
    ("T7", cross_entropy, "S3", 15),
    ("T1", forward, "S3", 12),
    ("T3", policy, "S2", 25),
    ("T1", forward, "S2", 15),
    ("T1", forward, "S4", 20),
]


def write(run: Run, folder: Path) -> None:
    """Write what there is so far: figures.csv and table.md."""
    with (folder / "figures.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(run.rows)
    lines = [f"**{SMOKE}**\n"] if run.quick else []
    if run.rows:
        one = run.rows[0]
        lines.append(f"{one['device']}, torch {one['torch']}, Triton {one['triton']}, rewardlab {one['rewardlab']}.\n")
    lines.append("| target | of ours | shape | measured | must | moonshot | |\n|---|---|---|---|---|---|---|")
    lines += [
        f"| {x['target']} | {x['operation']} | {x['shape']} | {_figure(x['value'])} "
        f"| {x['must']} | {x['moonshot']} | {x['note']} |"
        for x in run.rows
        if x["metric"] == "target"
    ]
    lines.append("\n| target | operation | shape | provider | figure | | over torch.mm | over ours | |\n" + "|---" * 9 + "|")
    for x in run.rows:
        if x["metric"] != "target":
            spread = f" ({x['p20']:.4g} to {x['p80']:.4g})" if x["p20"] != "" else ""
            what = f"{x['operation']}, {x['mode']}".rstrip(", ")
            ratios = " | ".join(_figure(x[name]) for name in ("ratio to mm", "ratio to ours"))
            lines.append(
                f"| {x['target']} | {what} | {x['shape']} | {x['provider']} | {_figure(x['value'])}{spread} | {x['metric']} "
                f"| {ratios} | {x['note']} |"
            )
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _figure(value: Any) -> str:
    return "" if value == "" or math.isnan(value) else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/kernels"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, two calls each: to try the program out")
    parser.add_argument("--seconds", type=float, default=510, help="of the whole run; cases that do not fit are left out")
    parser.add_argument("--cases", nargs="+", metavar="T", help="targets to measure, such as T1 T3; all by default")
    parser.add_argument("--without", nargs="+", metavar="NAME", default=[], help="providers to leave out")
    options = parser.parse_args()
    if options.device == "cpu" and not options.quick:
        parser.error("on a CPU there is nothing to measure here: add --quick to try the program out")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --quick tries the program out without one")
    torch.backends.cuda.matmul.allow_tf32 = False
    run = Run(torch.device(options.device), options.quick, options.seconds, options.without)
    options.out.mkdir(parents=True, exist_ok=True)
    if run.quick:
        print(SMOKE)
    for targets, case, shape, seconds in CASES:
        if options.cases and not set(options.cases) & set(targets.split()):
            continue
        if run.left() < seconds + 15:  # and the time it takes to start
            row(
                run, targets.split()[0], case.__name__, "ours", "case", math.nan, shape=shape, note="left out: no time was left"
            )
            print(f"-- {targets} {shape}: left out, no time was left", flush=True)
            continue
        start = time.perf_counter()
        print(f"-- {targets} {shape}: {seconds} s of timing at most, {run.left():.0f} s left of {run.seconds:.0f}", flush=True)
        try:
            case(run, shape, seconds)
        except Exception as error:
            note = f"the case failed: {_said(run, error)}"
            row(run, targets.split()[0], case.__name__, "ours", "case", math.nan, shape=shape, note=note)
            print(f"  {note}", flush=True)
        finally:
            write(run, options.out)
            swept(run)
        print(f"-- took {time.perf_counter() - start:.1f} s", flush=True)
    write(run, options.out)
    print(f"Wrote {options.out}/figures.csv and table.md after {time.perf_counter() - run.started:.0f} s.")


if __name__ == "__main__":
    main()
