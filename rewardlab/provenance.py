"""Where a result came from: fingerprints of its inputs, versions of packages, and devices."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import CellType, CodeType
from typing import Any

from rewardlab.errors import InputError

_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "peft",
    "trl",
    "safetensors",
    "torchmetrics",
    "omegaconf",
    "jsonargparse",
    "scikit-learn",
    "numpy",
    "pillow",
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
        >>> settings = fingerprint({"a": 1, "b": [2.0, None]})
        >>> settings == fingerprint({"b": [2.0, None], "a": 1}) != fingerprint({"a": 1})
        True
        >>> fingerprint("digits")
        '12563194afd6a85d'
    """
    return _named_by(_pieces(obj))


def fingerprint_of_files(digests: Sequence[bytes]) -> str:
    """Return the `fingerprint` of a list of files, from their SHA-256 digests.

    Example:
        >>> path = getfixture("tmp_path") / "a.txt"
        >>> _ = path.write_text("a")
        >>> digest = hashlib.sha256(b"a").digest()
        >>> fingerprint_of_files([digest, digest]) == fingerprint([path, path])
        True
    """
    pieces = [f"sequence {len(digests)}".encode()]
    for digest in digests:
        pieces += [b"file .", digest]
    return _named_by(pieces)


def _named_by(pieces: Iterable[bytes | bytearray | memoryview]) -> str:
    """Return 16 hexadecimal digits that name pieces of bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))  # so that ["ab"] and ["a", "b"] differ
        digest.update(piece)
    return digest.hexdigest()


def _pieces(obj: Any) -> Iterator[bytes | bytearray | memoryview]:
    """Walk `obj` and yield the bytes that tell it from others."""
    import torch

    if isinstance(obj, torch.nn.Module):
        obj = obj.state_dict()
    if isinstance(obj, torch.Tensor):
        yield from _tensor_pieces(obj)
    elif isinstance(obj, bytes | bytearray):
        yield b"bytes"
        yield obj
    elif isinstance(obj, str | int | float | None):
        yield json.dumps(obj).encode()
    elif isinstance(obj, Path):
        yield from _file_pieces(obj)
    elif isinstance(obj, Mapping | Sequence):
        yield from _collection_pieces(obj)
    elif is_dataclass(obj) and not isinstance(obj, type):
        yield type(obj).__qualname__.encode()
        yield from _pieces({name: getattr(obj, name) for name in obj.__dataclass_fields__})
    else:
        raise TypeError(
            "fingerprint reads bytes, strings, numbers, tensors, modules, paths "
            f"and collections of them; got {obj!r}."
        )


def _tensor_pieces(tensor: Any) -> Iterator[bytes | memoryview]:
    """Yield a tensor's dtype and shape, then its bytes."""
    import torch

    yield f"tensor {tensor.dtype} {list(tensor.shape)}".encode()
    column = tensor.detach().cpu().contiguous().reshape(-1)
    column = column.as_strided(column.shape, (1,))  # one row of a matrix's column keeps its stride
    yield memoryview(column.view(torch.uint8).numpy())


def _collection_pieces(
    collection: Mapping[Any, Any] | Sequence[Any],
) -> Iterator[bytes | bytearray | memoryview]:
    """Yield the size of a mapping or sequence, then the pieces of its items."""
    if isinstance(collection, Mapping):
        yield f"mapping {len(collection)}".encode()
        for key in sorted(collection, key=str):
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _pieces(collection[key])
    else:
        yield f"sequence {len(collection)}".encode()
        for item in collection:
            yield from _pieces(item)


def _file_pieces(path: Path) -> Iterator[bytes]:
    """Yield each file's path below `path` and the digest of its bytes."""
    if not path.exists():
        raise InputError(f"{path} is not there, so it has no fingerprint. Is the path right?")
    files = [path]
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
    for file in files:
        relative = file.relative_to(path).as_posix()
        yield f"file {relative}".encode("utf-8", "surrogatepass")
        with file.open("rb") as stream:
            yield hashlib.file_digest(stream, "sha256").digest()


def described(thing: Any) -> Any:
    """Return plain data that names an object by its class and its public attributes.

    Stages use it as a key where no config describes the object. Factories (`functools.partial`,
    functions, classes) are named too. A lambda is named by its code, and by the plain data, tensors
    and modules that it captures.

    Example:
        >>> from functools import partial
        >>> described(partial(round, ndigits=2))
        {'class': 'builtins.round', 'args': [], 'ndigits': 2}
        >>> def constant(rate):
        ...     return lambda: rate
        >>> described(constant(0.1)) == described(constant(0.2))
        False
    """
    if thing is None or isinstance(thing, str | bool | int | float):
        return thing
    if isinstance(thing, Mapping):
        return {str(key): described(value) for key, value in thing.items()}
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, set | frozenset):
        return sorted((described(item) for item in thing), key=str)
    if isinstance(thing, list | tuple):
        return [described(item) for item in thing]
    if isinstance(thing, partial):
        arguments = described(thing.args)
        return {"class": _name(thing.func), "args": arguments, **described(thing.keywords)}
    if hasattr(thing, "__qualname__"):
        return _describe_factory(thing)
    if _has_weights(thing):
        return {"class": _name(type(thing)), "fingerprint": fingerprint(thing)}
    public = {name: value for name, value in _attributes(thing).items() if name[:1] != "_"}
    return {"class": _name(type(thing)), **described(public)}


def _attributes(thing: Any) -> dict[str, Any]:
    """Return an object's attributes, also those that stand in slots."""
    attributes = dict(getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if hasattr(thing, name) and name != "__dict__":
                attributes[name] = getattr(thing, name)
    return attributes


def _describe_factory(function: Any) -> str:
    """Return the name of a function or class, for a lambda with the fingerprint of what it does."""
    if "<lambda>" in function.__qualname__:
        return f"{_name(function)} {_lambda_fingerprint(function)}"
    return _name(function)


def _has_weights(thing: Any) -> bool:
    """Tell whether an object is a module or a tensor."""
    is_module = hasattr(thing, "state_dict") and hasattr(thing, "parameters")
    return is_module or hasattr(thing, "numel")


def _lambda_fingerprint(function: Any) -> str:
    """Return the fingerprint of a lambda's code, captured variables and default arguments."""
    captured = []
    for cell in function.__closure__ or ():
        if cell != CellType():  # an empty cell is a variable without a value yet
            captured.append(_describe_captured(cell.cell_contents))
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    code = _code_parts(function.__code__)
    return fingerprint([code, captured, [_describe_captured(value) for value in defaults]])


def _code_parts(code: CodeType) -> list[Any]:
    """Return what a code object does, without its address in memory."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_code_parts(constant))
        else:
            constants.append(repr(constant))
    return [code.co_code, list(code.co_names), constants]


def _describe_captured(thing: Any) -> Any:
    """Describe data, factories, modules and tensors; name only the class of anything else.

    The attributes of other objects may be without end.
    """
    is_data = isinstance(thing, str | int | float | list | tuple | Mapping | partial | type(None))
    if is_data or any(hasattr(thing, name) for name in ("__qualname__", "state_dict", "numel")):
        return described(thing)
    return _name(type(thing))


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def versions() -> dict[str, str | None]:
    """Return the versions of Python, rewardlab and the packages that it needs, importing none.

    A package that is not installed has the version None.

    Example:
        >>> sorted(versions())[:3], versions()["torch"] is None
        (['diffusers', 'jsonargparse', 'numpy'], False)
    """
    from rewardlab.version import __version__

    numbers: dict[str, str | None] = {}
    numbers["python"] = platform.python_version()
    numbers["rewardlab"] = __version__
    for package in _PACKAGES:
        try:
            numbers[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            numbers[package] = None
    return numbers


def device_facts() -> dict[str, Any]:
    """Return what this machine computes with.

    These are the system, the processors, the threads of torch, and each GPU's name and memory in
    GiB.

    Example:
        >>> facts = device_facts()
        >>> facts["threads"] >= 1, isinstance(facts["gpus"], list)
        (True, True)
    """
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        gpus.append({"name": gpu.name, "memory": round(gpu.total_memory / 2**30, 1)})
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
    }
