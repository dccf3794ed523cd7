"""`rewardlab doctor`: what is here, what works, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata, util
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rewardlab.version import __version__

# distribution: module; the imports are run, since a torchvision that does not fit its torch shows
# only then
CORE = {
    "torch": "torch",
    "torchvision": "torchvision.ops",
    "pytorch-lightning": "pytorch_lightning",
    "omegaconf": "omegaconf",
    "jsonargparse": "jsonargparse",
    "open_clip_torch": "open_clip",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "trl": "trl",
    "peft": "peft",
    "safetensors": "safetensors",
    "torchmetrics": "torchmetrics",
    "tensorboard": "tensorboard",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib",
    "pillow": "PIL",
}
EXTRAS = {
    "test": ("pytest", "xdist", "ruff", "mypy", "importlinter"),
    "docs": ("mkdocs", "mkdocstrings"),
    "wandb": ("wandb",),
}
MARKS = {True: "[green]ok", False: "[red]broken", None: "[yellow]absent"}
UPGRADE_TORCH = "pip install --upgrade torch torchvision"


class Finding(NamedTuple):
    """One row of the table.

    Attributes:
        what: the package, device or extra.
        found: what was found of it.
        good: whether it is as it should be; None if it is optional and absent.
        mend: the command that mends it.
    """

    what: str
    found: str
    good: bool | None
    mend: str = ""


def run(command: str, argv: Sequence[str]) -> int:
    """Print the table; return 1 if anything that is needed is missing or broken."""
    console = Console(width=None if os.isatty(1) else 120)
    findings = [
        Finding("python", platform.python_version(), True),
        Finding("rewardlab", __version__, True),
    ]
    with console.status("importing what rewardlab stands on"):
        findings += [*packages(), *devices(), *kernels(), *extras()]
    table = Table("", "found", "", "mend")
    for finding in findings:
        mark = MARKS[finding.good]
        table.add_row(finding.what, escape(finding.found), mark, escape(finding.mend))
    console.print(table)
    broken = [finding.what for finding in findings if finding.good is False]
    if broken:
        console.print(f"Broken: {', '.join(broken)}.")
    else:
        console.print("All that rewardlab needs is here.")
    return int(bool(broken))


def packages() -> Iterator[Finding]:
    """Import each package that rewardlab needs, and compare its version with the bounds."""
    bounds = _bounds()
    for name, module in CORE.items():
        requirement = f"{name}{bounds.get(_normalized(name), '')}"
        yield _package(name, module, requirement)


def _package(name: str, module: str, requirement: str) -> Finding:
    """Import a package and compare its version with a requirement."""
    mend = f"pip install --upgrade '{requirement}'"
    if name in ("torch", "torchvision"):
        mend = UPGRADE_TORCH
    try:
        version = metadata.version(name)
        import_module(module)
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", False, mend)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        return Finding(name, f"{version}, import fails: {reason}", False, mend)
    if Requirement(requirement).specifier.contains(version, prereleases=True):
        return Finding(name, version, True)
    return Finding(name, f"{version}, needs {requirement}", False, mend)


def _bounds() -> dict[str, str]:
    """Return each requirement's version bounds, as the installed rewardlab states them."""
    try:
        lines = metadata.requires("rewardlab") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return {}
    requirements = [Requirement(line) for line in lines if "extra ==" not in line]
    return {_normalized(item.name): str(item.specifier) for item in requirements}


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-")


def devices() -> Iterator[Finding]:
    """Say what torch computes with."""
    try:
        import torch
    except Exception:
        return
    threads = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads of torch"
    yield Finding("cpu", threads, True, "OMP_NUM_THREADS=N sets the threads")
    build = _build(torch)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            memory = f"{gpu.total_memory / 2**30:.0f} GiB"
            yield Finding(f"gpu {index}", f"{gpu.name}, {memory}, {build}", True)
    elif shutil.which("nvidia-smi"):
        mend = f"update the driver, or {UPGRADE_TORCH}"
        yield Finding("gpu", f"a driver is here, but torch ({build}) finds no GPU", None, mend)
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "Apple MPS", True)
    else:
        yield Finding("gpu", f"none; torch is a build for {build}", None)


def _build(torch: Any) -> str:
    """Return what torch was built for."""
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return "CPU only"


def kernels() -> Iterator[Finding]:
    """Say whether the Triton kernels can be compiled; without them the plain torch forms run."""
    if util.find_spec("triton") is None:
        absent = "not installed: plain torch forms are used"
        yield Finding("triton", absent, None, "pip install triton (Linux)")
        return
    try:
        import torch
        import triton
    except Exception as error:
        yield Finding("triton", f"import fails: {error}", None, "pip install --upgrade torch")
        return
    if torch.cuda.is_available():
        yield Finding("triton", f"{triton.__version__}, compiles for the GPU", True)
    else:
        state = "no GPU to compile for: plain torch forms are used"
        yield Finding("triton", f"{triton.__version__}, {state}", None)


def extras() -> Iterator[Finding]:
    """Say which optional extras are installed."""
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if util.find_spec(module) is None]
        if absent:
            mend = f"in the checkout: pip install -e '.[{extra}]'"
            yield Finding(f"extra {extra}", f"lacks {', '.join(absent)}", None, mend)
        else:
            yield Finding(f"extra {extra}", "installed", True)
