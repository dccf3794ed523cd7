"""What the compiler makes of linear_log_prob's kernels for GPUs that are not there: matrix
instructions, and no spills.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from rewardlab.kernels.linear_log_prob import triton as kernels
from rewardlab.kernels.linear_log_prob import triton_fused as fused

spec = importlib.util.spec_from_file_location("offline", Path(__file__).parent / "offline.py")
offline = importlib.util.module_from_spec(spec)
spec.loader.exec_module(offline)

NUMBERS, FLAGS = "*fp32", ("BIAS", "CAP", "HOT")
PLAIN, CURVED = dict.fromkeys(FLAGS, False), dict.fromkeys(FLAGS, True)
MATRIX = {80: "HMMA", 90: "HGMMA", 100: "UTC.?HMMA"}  # mma, wgmma and tcgen05


def compiled_flash(kind, depth, arch, curve, entropy=True):
    shape = fused.shape_for(kind, depth, arch // 10, not any(curve.values()))
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]
    x, w = (
        f"tensordesc<{name}[{rows},{shape.BK}]>" if shape.tma else f"*{name}"
        for rows in (shape.BM, shape.BN)
    )
    pointers = dict.fromkeys(("BIAS_OF", "SCORE", "PEAK", "MASS", "MOMENT"), NUMBERS)
    counts = dict.fromkeys(("x_stride", "w_stride", "count", "vocabulary", "depth"), "i32")
    signature = (
        {"X": x, "W": w, "TARGETS": "*i64", "cold": "fp32", "softcap": "fp32"} | pointers | counts
    )
    constants = curve | {
        "ENTROPY": entropy,
        "TMA": shape.tma,
        "UPCAST": False,
        "TILES": fused.SPLIT // shape.BN,
    }
    constants |= {"BM": shape.BM, "BN": shape.BN, "BK": shape.BK, "SIDE": fused.GROUP}
    wide = ("x_stride", "w_stride", "depth", *(() if shape.tma else ("X", "W")))
    arguments = signature, constants, arch, shape.num_warps, shape.num_stages
    return shape, offline.compile_for(fused.flash, *arguments, divisible=wide)


FLASH = {
    "hopper": (torch.bfloat16, 512, 90, PLAIN),
    "hopper-no-entropy": (torch.bfloat16, 512, 90, PLAIN, False),
    "hopper-curved": (torch.bfloat16, 512, 90, CURVED),
    "hopper-odd-depth": (torch.bfloat16, 99, 90, PLAIN),
    "hopper-fp32": (torch.float32, 512, 90, CURVED),
    "ampere-curved": (torch.float16, 512, 80, CURVED),
    "blackwell-curved": (torch.bfloat16, 512, 100, CURVED),
}


@pytest.mark.parametrize("case", FLASH.values(), ids=FLASH)
def test_the_fused_forward(case):
    kind, _, arch, *_ = case
    shape, found = compiled_flash(*case)
    assert found["spills"] == 0
    assert found["registers"] <= 255
    assert found["shared"] <= offline.SHARED_LIMIT[arch]
    if kind != torch.float32:
        assert re.search(MATRIX[arch], found["instructions"]), "no matrix instruction"
    assert ("UTMALDG" in found["instructions"]) == shape.tma, "the copy engine loads what it can"


VECTORS = dict.fromkeys(
    ("PRODUCTS", "BIAS_OF", "SCORE", "PEAK", "MASS", "MOMENT", "LOG_MASS", "MEAN", "A", "B", "H"),
    NUMBERS,
)
TILE = VECTORS | {
    "OUT": "*bf16",
    "TARGETS": "*i64",
    "ROWS": "*i64",
    "cold": "fp32",
    "softcap": "fp32",
}
TILE |= dict.fromkeys(("stride", "out_stride", "columns", "begin"), "i32")


@pytest.mark.parametrize(("arch", "block"), [(80, 4096), (90, 64), (90, 4096), (100, 4096)])
def test_the_steps_on_a_tile(arch, block):
    """64-bit offsets of rows, wide loads, all options on, no spills."""
    wide = ("PRODUCTS", "stride", "columns")
    stats = offline.compile_for(
        kernels.row_stats,
        TILE,
        CURVED | {"ENTROPY": True, "BLOCK": block},
        arch,
        8 if block > 1024 else 4,
        3,
        wide,
    )
    constants = CURVED | {
        "SOME": True,
        "OF_LSE": True,
        "OF_ENTROPY": True,
        "BLOCK": min(2048, block),
    }
    slopes = offline.compile_for(
        kernels.dlogits, TILE, constants, arch, 4, 3, (*wide, "OUT", "out_stride")
    )
    for found in (stats, slopes):
        assert found["spills"] == 0
        assert "IMAD.WIDE" in found["instructions"] or ".64" in found["instructions"]
    assert block == 64 or "LDG.E.128" in stats["instructions"]
    assert (
        block == 64 or "STG.E.128" in slopes["instructions"] or "STG.E.64" in slopes["instructions"]
    )


def test_the_combination_of_splits():
    pointers = dict.fromkeys(
        ("SCORES", "PEAKS", "MASSES", "MOMENTS", "SCORE", "PEAK", "MASS", "MOMENT"), NUMBERS
    )
    signature = pointers | {"count": "i32", "splits": "i32"}
    found = offline.compile_for(
        fused.combine, signature, {"ENTROPY": True, "BLOCK": fused.COMBINED}, 90, 4, 3
    )
    assert found["spills"] == 0


def test_the_gate_sees_spills(monkeypatch):
    """Two warps of 32 threads cannot hold a tile of 16,384 numbers."""
    monkeypatch.setattr(fused, "shape_for", lambda *_: fused.Shape(128, 128, 16, 2, 2, tma=False))
    assert compiled_flash(torch.bfloat16, 512, 80, PLAIN, entropy=False)[1]["spills"] > 0
