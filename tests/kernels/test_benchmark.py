"""The benchmark of the kernels, tried out on a CPU: every case runs, and its exact values are
exact.
"""

import csv
import importlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FILE = ROOT / "experiments/benchmarks/kernels.py"


@pytest.fixture(scope="module")
def benchmark():
    """The program, with its folder on the path, where Python puts a script's."""
    sys.path.insert(0, str(FILE.parent))
    spec = importlib.util.spec_from_file_location("benchmark_of_kernels", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FILE.parent))
    for name in [each for each in sys.modules if each.split(".")[0] == "kernel_cases"]:
        del sys.modules[name]


def part(name):
    """A module of the program's, while it is loaded."""
    return importlib.import_module(f"kernel_cases.{name}")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The rows of a run in a process of its own."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, str(FILE), "--device", "cpu", "--quick", "--out", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "smoke run on a CPU, not a measurement" in done.stdout
    assert (
        (folder / "table.md")
        .read_text(encoding="utf-8")
        .startswith("**smoke run on a CPU, not a measurement**")
    )
    with (folder / "figures.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_target_has_a_row_of_ours(rows):
    found = {row["target"] for row in rows if row["provider"].startswith("ours")}
    assert found == {f"T{number}" for number in range(1, 14)}


def test_nothing_of_ours_failed(rows):
    assert not [row["note"] for row in rows if row["metric"] == "case"]
    timed = [row for row in rows if row["metric"] == "ms" and row["provider"].startswith("ours")]
    assert len({(row["target"], row["shape"]) for row in timed}) >= 13
    failed = [
        row["provider"] + ": " + row["note"] for row in timed if math.isnan(float(row["value"]))
    ]
    assert all(
        each.startswith("ours, batch invariant: ") and "needs a CUDA device" in each
        for each in failed
    ), failed


def test_no_row_passes_for_a_measurement(rows):
    assert all("smoke run on a CPU, not a measurement" in row["note"] for row in rows)
    assert not [row for row in rows if "met" in row["note"].split("; ")[-1].split()]


def test_others_that_are_missing_are_rows(rows):
    others = {
        row["provider"]: row["note"]
        for row in rows
        if "Liger" in row["provider"] or "cut-cross" in row["provider"]
    }
    assert len(others) >= 8
    if importlib.util.find_spec("liger_kernel") is None:
        assert "not installed: liger_kernel" in others["Liger Triton"]


@pytest.mark.parametrize(
    ("metric", "bound"),
    [
        ("largest error of log p", 1e-5),
        ("relative error of d hidden", 3e-3),
        ("relative error of d weight", 3e-3),
        ("largest error", 1e-5),
        ("largest error of a loss", 1e-3),
        ("largest error of a pixel", 1e-5),
        ("relative error of d images", 1e-5),
    ],
)
def test_errors_of_ours_are_small_and_of_the_naive_form_are_seen(rows, metric, bound):
    errors = {
        (row["provider"], row["target"], row["shape"]): float(row["value"])
        for row in rows
        if row["metric"] == metric
    }
    mine = [value for (provider, *_), value in errors.items() if provider.startswith("ours")]
    assert mine
    assert max(mine) < bound
    if metric in ("largest error of log p", "relative error of d weight"):  # bfloat16 logits
        assert min(value for (provider, *_), value in errors.items() if provider == "naive") > bound


def test_exact_values_are_those_of_autograd(benchmark):
    data, errors = part("head_data"), part("head_errors")
    measurement = part("measuring").Measurement
    run = benchmark.Run(torch.device("cpu"), True, 60.0)
    head = data.heads(run, "S3")[0]
    hidden, weight = head.hidden.double().requires_grad_(), head.weight.double().requires_grad_()
    log_prob = (hidden @ weight.T).log_softmax(1)
    entropy = -(log_prob.exp() * log_prob).sum(1)
    scores = log_prob.gather(1, head.targets[:, None])[:, 0]
    truth = errors.exact(head)
    torch.testing.assert_close(truth.log_prob, scores, rtol=0, atol=1e-12)
    torch.testing.assert_close(truth.total - truth.mean, entropy, rtol=0, atol=1e-12)
    wide = head._replace(
        old=head.old.double(), anchor=head.anchor.double(), gain=head.gain.double()
    )
    value = data.policy_loss(wide, 0.01)(scores, entropy, torch.arange(len(hidden)))
    gradients = dict(
        zip(("hidden", "weight"), torch.autograd.grad(value, [hidden, weight]), strict=True)
    )
    wrong = {name: 1.1 * gradient for name, gradient in gradients.items()}
    found = {
        "exact": measurement(result=gradients),
        "ten per cent off": measurement(result=wrong),
    }
    relative = errors.gradient_errors(head, truth, errors.policy_upstream(head, truth), found)
    assert max(relative["exact"].values()) < 1e-12
    assert list(relative["ten per cent off"].values()) == pytest.approx([0.1, 0.1])


def test_exact_values_take_the_vocabulary_in_slices(benchmark, monkeypatch):
    errors = part("head_errors")
    head = part("head_data").heads(benchmark.Run(torch.device("cpu"), True, 60.0), "S4")[0]
    whole, words = errors.exact(head, 64), errors._vocabulary
    monkeypatch.setattr(errors, "_vocabulary", lambda weight: words(weight, 300))
    for one, other in zip(whole, errors.exact(head, 64), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_cpu_is_not_measured(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--device", "cpu"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "add --quick" in capsys.readouterr().err


def test_verdicts(benchmark):
    run = benchmark.Run(torch.device("cpu"), False, 60.0)
    aim = part("writing").aim
    aim(run, "T1", "time", "", 1.1, "<= 1.15", "<= 1.05")
    aim(run, "T1", "time", "", math.nan, "<= 1.15")
    assert [row["note"] for row in run.rows] == ["must met, moonshot missed", "no figure"]
