"""Compile a Triton kernel for a GPU that is not there, and read what the compiler made of it. Used
by test_offline*.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
SHARED_LIMIT = {
    80: 163 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
}  # bytes of shared memory that one program can have


class Compiled(TypedDict):
    """What the compiler made: registers a thread, bytes of local memory a thread (spilled
    registers), bytes of shared memory a program, and the text of the machine code.
    """

    registers: int
    spills: int
    shared: int
    instructions: str


def compile_for(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    arch: int,
    num_warps: int,
    num_stages: int,
    divisible: tuple[str, ...] = (),
) -> Compiled:
    """Compile for compute capability `arch`, 80, 90 or 100.

    Args:
        kernel: a triton.jit function.
        signature: type of each argument that is no constant, in the kernel's order: "*fp32", "i32",
            "fp32", "tensordesc<bf16[128,64]>".
        constants: the constexpr arguments.
        divisible: arguments that are multiples of 16, which lets loads be wide, as the runtime
            finds out by itself.
    """
    names = list(kernel.arg_names)
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    order = {name: "constexpr" if name in constants else signature[name] for name in names}
    source = ASTSource(
        kernel,
        order,
        constexprs={(names.index(n),): v for n, v in constants.items()},
        attrs=attributes,
    )
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    usage, code = _inspected(made.asm["cubin"])
    found = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}
    return Compiled(
        registers=found["REG"],
        spills=found["STACK"] + found["LOCAL"],
        shared=made.metadata.shared,
        instructions=code,
    )


@cache
def _inspected(cubin: bytes) -> tuple[str, str]:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run(
                [str(tool), *flags, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, flags in (
                (TOOLS / "cuobjdump", ["--dump-resource-usage"]),
                (TOOLS / "nvdisasm", ["-c"]),
            )
        )
    return usage, code


def check_lean(made: Compiled, arch: int, registers: int) -> None:
    """No register is spilled, shared memory is there, and nothing is added by atomics."""
    assert made["spills"] == 0
    assert made["registers"] <= registers
    assert made["shared"] <= SHARED_LIMIT[arch]
    assert "ATOM" not in made["instructions"]
    assert "RED." not in made["instructions"]
