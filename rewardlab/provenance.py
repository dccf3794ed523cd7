"""Where a result came from: fingerprints of its inputs, versions, devices; and files that appear
whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import CellType, CodeType
from typing import Any

from rewardlab.errors import InputError

_PACKAGES = (
    *(
        "torch",
        "torchvision",
        "pytorch-lightning",
        "diffusers",
        "transformers",
        "open_clip_torch",
        "peft",
        "trl",
    ),
    *(
        "safetensors",
        "torchmetrics",
        "omegaconf",
        "jsonargparse",
        "scikit-learn",
        "numpy",
        "pillow",
    ),
)


def fingerprint(obj: Any) -> str:
    """Return 16 hexadecimal digits that name the contents of `obj`, on whatever device it lies.

    Args:
        obj: bytes, a string, a number, None; a tensor (dtype, shape and bytes count); a `Path` (the
            file's bytes, or a folder's names and bytes); a module (its state dict); a dataclass, or
            a mapping or sequence of these. A mapping's order does not count.

    Raises:
        TypeError: for anything else.

    Example:
        >>> fingerprint({"a": 1, "b": [2.0, None]}) == fingerprint({"b": [2.0, None], "a": 1}) != fingerprint({"a": 1})
        True
        >>> fingerprint("digits")
        '12563194afd6a85d'
    """
    digest = hashlib.blake2b(digest_size=8)
    for piece in _pieces(obj):
        digest.update(len(piece).to_bytes(8, "little"))  # so that ["ab"] and ["a", "b"] differ
        digest.update(piece)
    return digest.hexdigest()


def _pieces(obj: Any) -> Iterator[bytes | bytearray | memoryview]:
    """Walk `obj` and yield the bytes that tell it from others."""
    import torch

    if isinstance(obj, torch.nn.Module):
        obj = obj.state_dict()
    if isinstance(obj, torch.Tensor):
        yield f"tensor {obj.dtype} {list(obj.shape)}".encode()
        yield memoryview(obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    elif isinstance(obj, bytes | bytearray):
        yield from (b"bytes", obj)
    elif isinstance(obj, str | int | float | None):
        yield json.dumps(obj).encode()
    elif isinstance(obj, Path):
        yield from _file_pieces(obj)
    elif isinstance(obj, Mapping):
        yield f"mapping {len(obj)}".encode()
        for key in sorted(obj, key=str):
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _pieces(obj[key])
    elif isinstance(obj, Sequence):
        yield f"sequence {len(obj)}".encode()
        for item in obj:
            yield from _pieces(item)
    elif is_dataclass(obj) and not isinstance(obj, type):
        yield type(obj).__qualname__.encode()
        yield from _pieces({name: getattr(obj, name) for name in obj.__dataclass_fields__})
    else:
        raise TypeError(
            f"fingerprint reads bytes, strings, numbers, tensors, modules, paths and collections of them; got {obj!r}."
        )


def _file_pieces(path: Path) -> Iterator[bytes]:
    if not path.exists():
        raise InputError(f"{path} is not there, so it has no fingerprint. Is the path right?")
    for file in (
        sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    ):
        yield f"file {file.relative_to(path).as_posix()}".encode("utf-8", "surrogatepass")
        with file.open("rb") as stream:
            yield hashlib.file_digest(stream, "sha256").digest()


def described(thing: Any) -> Any:
    """Return plain data that names an object by its class and its public attributes: for keys,
    where no config says it.

    Factories (`functools.partial`, functions, classes) are named too; a lambda by its code and by
    the plain data, tensors and modules that it takes from around it.

    Example:
        >>> from functools import partial
        >>> described(partial(round, ndigits=2))
        {'class': 'builtins.round', 'args': [], 'ndigits': 2}
        >>> one, other = (described(lambda: rate) for rate in (0.1, 0.2))
        >>> one == other
        False
    """
    if thing is None or isinstance(thing, str | bool | int | float):
        return thing
    if isinstance(thing, Mapping):
        return {str(key): described(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple | set):
        return [described(item) for item in thing]
    if isinstance(thing, partial):
        return {
            "class": _name(thing.func),
            "args": described(thing.args),
            **described(thing.keywords),
        }
    if hasattr(thing, "__qualname__"):
        return (
            f"{_name(thing)} {_code(thing)}" if "<lambda>" in thing.__qualname__ else _name(thing)
        )
    if (hasattr(thing, "state_dict") and hasattr(thing, "parameters")) or hasattr(
        thing, "numel"
    ):  # a module or a tensor
        return {"class": _name(type(thing)), "fingerprint": fingerprint(thing)}
    public = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    return {"class": _name(type(thing)), **described(public)}


def _code(function: Any) -> str:
    """Return the fingerprint of what a lambda does: its code, its defaults and what it takes from
    around it.
    """
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return fingerprint(
        [_words(function.__code__), list(map(_taken, cells)), list(map(_taken, given))]
    )


def _words(code: CodeType) -> list[Any]:
    """Return what a code object does, without where it lies in memory."""
    inner = [_words(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code, list(code.co_names), inner]


def _taken(thing: Any) -> Any:
    """Describe data, factories, modules and tensors; of anything else say the class, as its
    attributes may be without end.
    """
    plain = isinstance(thing, str | int | float | list | tuple | Mapping | partial | type(None))
    told = plain or any(hasattr(thing, name) for name in ("__qualname__", "state_dict", "numel"))
    return described(thing) if told else _name(type(thing))


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def versions() -> dict[str, str | None]:
    """Return the versions of Python, rewardlab and what it stands on, importing none; None where
    one is not installed.

    Example:
        >>> sorted(versions())[:3], versions()["torch"] is None
        (['diffusers', 'jsonargparse', 'numpy'], False)
    """
    from rewardlab.version import __version__

    found: dict[str, str | None] = {"python": platform.python_version(), "rewardlab": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def device_facts() -> dict[str, Any]:
    """Return what this machine computes with: system, processors, threads of torch, and each GPU's
    name and memory in GiB.

    Example:
        >>> facts = device_facts()
        >>> facts["threads"] >= 1, isinstance(facts["gpus"], list)
        (True, True)
    """
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
    }
