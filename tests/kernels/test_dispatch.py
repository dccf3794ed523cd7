"""Which backend runs: the first that can, the one that was asked for, or an error; never another in
silence.
"""

import subprocess
import sys

import pytest
import torch

from rewardlab import kernels
from rewardlab.errors import InputError
from rewardlab.kernels import dispatch
from rewardlab.kernels.dispatch import VARIABLE, chosen, explained

HINDRANCES = {"triton": "no GPU", "torch": "", "reference": ""}


@pytest.mark.parametrize(
    ("variable", "argument", "expected"),
    [
        ("", None, "torch"),
        ("auto", None, "torch"),
        ("reference", None, "reference"),
        ("reference", "torch", "torch"),
        ("triton", "auto", "torch"),
        ("cuda", None, "torch"),  # this operation has none, others may
    ],
)
def test_the_argument_goes_before_the_variable_before_the_order(
    variable, argument, expected, monkeypatch
):
    monkeypatch.setenv(VARIABLE, variable)
    assert chosen("scan", HINDRANCES, argument) == expected


@pytest.mark.parametrize(
    ("variable", "argument"), [("triton", None), ("", "triton"), ("", "cuda"), ("fast", None)]
)
def test_what_was_asked_for_and_cannot_run_raises(variable, argument, monkeypatch):
    monkeypatch.setenv(VARIABLE, variable)
    assert explained("scan", HINDRANCES, argument).backend is None
    with pytest.raises(
        InputError, match=r"asks for (triton: no GPU|cuda: scan has no such|fast: scan has no such)"
    ):
        chosen("scan", HINDRANCES, argument)


def test_explain_names_every_backend_and_why_not():
    hidden, weight, targets = torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, 1])
    found = kernels.explain(kernels.linear_log_prob, hidden, weight, targets, backend="triton")
    assert found.backend is None
    assert "Triton needs a CUDA device" in str(found)
    with pytest.raises(InputError, match="explain takes one of the kernels"):
        kernels.explain(torch.mm, hidden, weight)


CALLS = {
    kernels.linear_log_prob: (torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, 1])),
    kernels.linear_loss: (
        torch.ones(2, 3),
        torch.ones(5, 3),
        torch.tensor([0, 1]),
        lambda log_prob, *_: log_prob.sum(),
    ),
    kernels.discounted_sum: (torch.ones(2, 3), 0.9),
    kernels.squared_error: (torch.ones(2, 3), torch.zeros(2, 3)),
    kernels.diffusion_dpo_loss: tuple(torch.ones(2, 1, 4, 4) for _ in range(6)),
    kernels.resize: (torch.rand(1, 3, 8, 8), (4, 4)),
}


@pytest.mark.parametrize("op", CALLS, ids=lambda op: op.__name__)
def test_every_kernel_can_be_turned_off(op, monkeypatch):
    """With REWARDLAB_KERNELS=torch every operation runs its torch form, on any device."""
    monkeypatch.setenv(VARIABLE, "torch")
    explanation = kernels.explain(op, *CALLS[op])
    assert (explanation.backend, explanation.why) == ("torch", f"{VARIABLE} asks for torch")


def test_importing_the_kernels_imports_neither_triton_nor_much_else():
    heavy = (
        "triton",
        "transformers",
        "diffusers",
        "pytorch_lightning",
        "open_clip",
        "pandas",
        "matplotlib",
    )
    code = (
        f"import sys, rewardlab.kernels; print([name for name in {heavy} if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_calling_them_does_not_import_the_compiler():
    """It takes a second and 150 MiB, which who never compiles should not pay."""
    code = """
import sys, torch
from rewardlab.kernels import discounted_sum, linear_log_prob, resize, squared_error
x = torch.ones(2, 3, requires_grad=True)
linear_log_prob(x, torch.ones(5, 3), torch.tensor([0, 1])).log_prob.sum().backward()
total = discounted_sum(x, 0.9).sum()
total += squared_error(x, torch.zeros(2, 3)).sum()
total += resize(x[None, None], (2, 2)).sum()
total.backward()
print("torch._dynamo" in sys.modules)
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_a_missing_triton_is_said(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    dispatch.triton_hindrance.cache_clear()
    assert dispatch.triton_hindrance(torch.device("cpu")) == "Triton is not installed"
    dispatch.triton_hindrance.cache_clear()
