"""The Triton kernel of generalised advantages, compiled for GPUs that are not there."""

import runpy
from pathlib import Path

import pytest

from rewardlab.kernels.advantages.triton import advantages_kernel
from rewardlab.kernels.scan.triton import CONFIGURATIONS

OFFLINE = runpy.run_path(str(Path(__file__).with_name("offline.py")))
POINTERS = {
    "Mask": "*u8",
    "Ends": "*u8",
    **dict.fromkeys(("Rewards", "Values", "Advantages", "Returns"), "*fp32"),
}
SIGNATURE = POINTERS | dict.fromkeys(("rows", "steps"), "i32") | {"decay": "fp32", "share": "fp32"}
SIGNATURE |= dict.fromkeys(("reward_stride", "value_stride", "mask_stride", "end_stride"), "i64")


@pytest.mark.parametrize(
    ("block", "arch"), [*((block, 90) for block in CONFIGURATIONS), (1024, 80), (1024, 100)]
)
def test_every_configuration_compiles_without_spilling(block, arch):
    rows, warps = CONFIGURATIONS[block]
    constants = {"ENDS": True, "ROWS": rows, "BLOCK": block}
    made = OFFLINE["compile_for"](
        advantages_kernel, SIGNATURE, constants, arch, warps, 3, divisible=tuple(POINTERS)
    )
    OFFLINE["check_lean"](made, arch, 255)
