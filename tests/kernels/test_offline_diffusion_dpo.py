"""The Triton kernels of squared_error, compiled for GPUs that are not there."""

import runpy
from pathlib import Path

import pytest

from rewardlab.kernels.diffusion_dpo.triton import (
    BLOCK,
    PART,
    WARPS,
    difference_kernel,
    part_sum_kernel,
    row_sum_kernel,
)

OFFLINE = runpy.run_path(str(Path(__file__).with_name("offline.py")))
SIZES = dict.fromkeys(("rows", "width", "parts"), "i32")
STRIDES = dict.fromkeys(("prediction_stride", "reference_stride", "target_stride"), "i32")
OUTPUTS = {"Sums": "*fp32", "Errors": "*fp32", "Coefficients": "*fp32", "scale": "fp32"}
KERNELS = {
    "errors": (part_sum_kernel, {"TWO": False, "BLOCK": BLOCK, "PART": PART}),
    "errors of two": (part_sum_kernel, {"TWO": True, "BLOCK": BLOCK, "PART": PART}),
    "rows": (row_sum_kernel, {"BLOCK": 1024}),
    "differences": (difference_kernel, {"BLOCK": BLOCK}),
}


@pytest.mark.parametrize(
    ("dtype", "arch"), [("bf16", 80), ("bf16", 90), ("bf16", 100), ("fp32", 90)]
)
@pytest.mark.parametrize("name", KERNELS)
def test_they_compile_without_spilling_and_load_wide(name, dtype, arch):
    kernel, constants = KERNELS[name]
    operands = dict.fromkeys(("Prediction", "Reference", "Target", "Result"), f"*{dtype}")
    everything = operands | OUTPUTS | SIZES | STRIDES
    signature = {name: everything[name] for name in kernel.arg_names if name not in constants}
    divisible = tuple(name for name in signature if name in operands | STRIDES | {"width": None})
    made = OFFLINE["compile_for"](kernel, signature, constants, arch, WARPS, 3, divisible=divisible)
    OFFLINE["check_lean"](made, arch, 128)
    if name != "rows":
        assert "LDG.E.128" in made["instructions"]
