"""The Triton kernel of discounted_sum, compiled for GPUs that are not there."""

import runpy
from pathlib import Path

import pytest

from rewardlab.kernels.scan.triton import CONFIGURATIONS, scan_kernel

OFFLINE = runpy.run_path(str(Path(__file__).with_name("offline.py")))
POINTERS = dict.fromkeys(("Values", "Decay", "Sums"), "*fp32")
SIGNATURE = (
    POINTERS
    | dict.fromkeys(("rows", "steps"), "i32")
    | dict.fromkeys(("value_stride", "decay_stride"), "i64")
)
SIGNATURE |= {"constant": "fp32"}


CASES = [(block, 90, False, False) for block in CONFIGURATIONS]
CASES += [(1024, arch, False, False) for arch in (80, 100)] + [
    (1024, 90, True, False),
    (1024, 90, False, True),
]


@pytest.mark.parametrize(("block", "arch", "transposed", "constant"), CASES)
def test_every_configuration_compiles_without_spilling(block, arch, transposed, constant):
    rows, warps = CONFIGURATIONS[block]
    constants = {"TRANSPOSED": transposed, "CONSTANT": constant, "ROWS": rows, "BLOCK": block}
    made = OFFLINE["compile_for"](
        scan_kernel, SIGNATURE, constants, arch, warps, 3, divisible=tuple(POINTERS)
    )
    OFFLINE["check_lean"](made, arch, 128)
