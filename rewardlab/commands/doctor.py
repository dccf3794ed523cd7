"""`rewardlab doctor`: what is here, what works, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata, util
from typing import NamedTuple

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


class Finding(NamedTuple):
    """One row: what, what was found, whether it is as it should be (None: optional and absent), and
    the mend.
    """

    what: str
    found: str
    good: bool | None
    mend: str = ""


def run(command: str, words: Sequence[str]) -> int:
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
        mark = {True: "[green]ok", False: "[red]broken", None: "[yellow]absent"}[finding.good]
        table.add_row(finding.what, escape(finding.found), mark, escape(finding.mend))
    console.print(table)
    broken = [finding.what for finding in findings if finding.good is False]
    console.print(
        f"Broken: {', '.join(broken)}." if broken else "All that rewardlab needs is here."
    )
    return int(bool(broken))


def packages() -> Iterator[Finding]:
    """Import each package that rewardlab needs, and compare its version with the bounds."""
    bounds = _bounds()
    for name, module in CORE.items():
        wanted = f"{name}{bounds.get(name.lower().replace('_', '-'), '')}"
        mend = (
            f"pip install --upgrade '{wanted}'"
            if name not in ("torch", "torchvision")
            else "pip install --upgrade torch torchvision"
        )
        try:
            version = metadata.version(name)
            import_module(module)
        except metadata.PackageNotFoundError:
            yield Finding(name, "not installed", False, mend)
        except Exception as error:
            yield Finding(
                name,
                f"{version}, import fails: {str(error).splitlines()[0] if str(error) else error!r}",
                False,
                mend,
            )
        else:
            fits = Requirement(wanted).specifier.contains(version, prereleases=True)
            yield Finding(
                name, version if fits else f"{version}, needs {wanted}", fits, "" if fits else mend
            )


def _bounds() -> dict[str, str]:
    """Return each requirement's version bounds, as the installed rewardlab states them."""
    try:
        stated = metadata.requires("rewardlab") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return {}
    needed = [Requirement(line) for line in stated if "extra ==" not in line]
    return {item.name.lower().replace("_", "-"): str(item.specifier) for item in needed}


def devices() -> Iterator[Finding]:
    """Say what torch computes with."""
    try:
        import torch
    except Exception:
        return
    threads = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads of torch"
    yield Finding("cpu", threads, True, "OMP_NUM_THREADS=N sets the threads")
    build = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPU only"
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            yield Finding(
                f"gpu {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {build}", True
            )
    elif shutil.which("nvidia-smi"):
        mend = "update the driver, or pip install --upgrade torch torchvision"
        yield Finding("gpu", f"a driver is here, but torch ({build}) finds no GPU", None, mend)
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "Apple MPS", True)
    else:
        yield Finding("gpu", f"none; torch is a build for {build}", None)


def kernels() -> Iterator[Finding]:
    """Say whether the Triton kernels can be compiled here; without them the plain torch forms run."""
    if util.find_spec("triton") is None:
        yield Finding(
            "triton",
            "not installed: plain torch forms are used",
            None,
            "pip install triton (Linux)",
        )
        return
    try:
        import torch
        import triton
    except Exception as error:
        yield Finding("triton", f"import fails: {error}", None, "pip install --upgrade torch")
        return
    where = (
        "compiles for the GPU"
        if torch.cuda.is_available()
        else "no GPU to compile for: plain torch forms are used"
    )
    yield Finding(
        "triton", f"{triton.__version__}, {where}", True if torch.cuda.is_available() else None
    )


def extras() -> Iterator[Finding]:
    """Say which optional extras are installed."""
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if util.find_spec(module) is None]
        found = f"lacks {', '.join(absent)}" if absent else "installed"
        yield Finding(
            f"extra {extra}",
            found,
            None if absent else True,
            f"in the checkout: pip install -e '.[{extra}]'" if absent else "",
        )
