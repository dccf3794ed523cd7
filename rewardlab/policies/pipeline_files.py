"""Folders of diffusers pipelines: each part is loaded with all of its weights, or refused."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.networks.wrappers import plain_name
from rewardlab.storage.class_files import read_json

INDEX = "model_index.json"
VARIANTS = ("fp16", "bf16", "fp32")  # of weights, in the order in which they are tried
WEIGHTS = (".safetensors", ".bin")
FILES = (".safetensors", ".ckpt", ".gguf", ".pt", ".pth", ".bin")  # that hold a whole model
# buffers that older versions of transformers saved, and newer ones compute
COMPUTED = ("position_ids", "inv_freq", "masked_bias")
PartDtype = Callable[[str, Path], torch.dtype]


def pipeline_folder(source: str | os.PathLike[str]) -> Path:
    """Return the folder of a pipeline; a hub id is downloaded first.

    Raises:
        InputError: if there is none, or it is one file.
    """
    folder = Path(source)
    if folder.suffix in FILES and folder.suffix != ".safetensors":
        raise InputError(
            f"DiffusionPolicy loads folders of pipelines, and {str(source)!r} is one file, which "
            "is no safetensors. Convert it in the program that made it, or with diffusers' "
            "from_single_file and save_pretrained if you trust it, and give the folder."
        )
    if folder.is_file() or folder.suffix in FILES:
        raise InputError(
            f"DiffusionPolicy loads folders of pipelines, and {str(source)!r} is one file. Write "
            "it out as a folder once, beside a folder of the same kind (FOLDER, configs are "
            "enough), and give that:\n  from rewardlab.policies import folder_from_single_file\n"
            f"  folder_from_single_file({str(source)!r}, config='FOLDER', folder='MODEL')"
        )
    if not folder.is_dir():
        folder = _downloaded(str(source))
    if not (folder / INDEX).is_file():
        raise _unloadable(source, f"holds no diffusers pipeline (is {INDEX} there?)")
    return folder


def class_name(folder: Path) -> str:
    """Return the name of the pipeline's class, as its index has it."""
    name = read_json(folder / INDEX).get("_class_name", "")
    if isinstance(name, list):  # a class of the folder's own file
        name = name[-1]
    return str(name)


def load_folder(folder: Path, dtype_of: PartDtype, skipped: Sequence[str] = ()) -> Any:
    """Load a pipeline's networks one by one, and then the pipeline around them.

    Args:
        folder: that `save_pretrained` of a pipeline wrote.
        dtype_of: gives the precision of a part, by its name and its folder.
        skipped: names of parts that are left out; the pipeline has None for them.

    Raises:
        InputError: if a weight is missing or is not the network's, or diffusers cannot load it.
    """
    import diffusers
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # diffusers shows one per component; ours is one per run
    parts: dict[str, Any] = dict.fromkeys(absent_parts(folder))
    for name, kind in network_classes(folder).items():
        if name in skipped:
            parts[name] = None
            continue
        part_folder = folder / name
        parts[name] = load_part(part_folder, kind, dtype_of(name, part_folder))
    # the base class (0.42) loads parts anew that its subclass may lack, such as Wan's transformer
    base: Any = diffusers.DiffusionPipeline
    pipeline: Any = getattr(diffusers, class_name(folder), base)
    try:
        with silent():
            return pipeline.from_pretrained(str(folder), local_files_only=True, **parts)
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise _unloadable(folder, "holds no pipeline that diffusers loads", error) from error


def network_classes(folder: Path) -> dict[str, Any]:
    """Return the class of each part of a pipeline that is a network, by the part's name."""
    classes = {}
    for name, entry in read_json(folder / INDEX).items():
        if not isinstance(entry, list) or len(entry) != 2 or not (folder / name).is_dir():
            continue
        library, class_name_of_part = entry
        if library not in ("diffusers", "transformers"):
            continue
        kind = getattr(import_module(library), class_name_of_part, None)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            classes[name] = kind
    return classes


def absent_parts(folder: Path) -> list[str]:
    """Return the parts that the pipeline was saved without, which diffusers wants to be told of."""
    index = read_json(folder / INDEX)
    return [name for name, entry in index.items() if entry == [None, None]]


def load_part(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    """Load one network of a pipeline, with all of its weights and no others.

    Marks of wrappers (DDP, FSDP, torch.compile) are taken off. A folder whose weights are of one
    variant, such as fp16, is read from it.

    Raises:
        InputError: if weights are missing, superfluous or of another shape.
    """
    network, faults = _attempt(folder, kind, dtype)
    if any(plain_name(name) != name for name in faults):
        network, faults = _without_prefixes(folder, kind, dtype)
    if faults:
        raise _misfit(folder, kind, faults)
    return network.eval()


def _attempt(folder: Path, kind: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Return a network as its library loads it, and the names of weights that do not fit."""
    try:
        with silent(), quiet_diffusers(), torch.random.fork_rng():
            network, info = kind.from_pretrained(
                str(folder),
                torch_dtype=dtype,
                variant=_variant(folder),
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # a foreign file can make the libraries raise anything
        raise _unloadable(folder, f"holds no {kind.__name__}", error) from error
    faults = [*info["missing_keys"], *info.get("mismatched_keys", ())]
    faults += [name for name in info["unexpected_keys"] if _is_superfluous(name, network)]
    faults += [name for name, tensor in network.named_parameters() if tensor.is_meta]
    return network, sorted({str(name) for name in faults})


def _is_superfluous(name: str, network: nn.Module) -> bool:
    """Tell whether an unexpected weight speaks of another network.

    A transformers network may be a part of the checkpoint's own, such as an encoder without its
    decoder: then whole sub-networks are left out. Buffers that are computed now are left out too.
    """
    if name.endswith(COMPUTED):
        return False
    if plain_name(name) != name or "lora_" in name:
        return True
    is_diffusers = type(network).__module__.startswith("diffusers")
    children = {child for child, _ in network.named_children()}
    return is_diffusers or name.partition(".")[0] in children


def _without_prefixes(folder: Path, kind: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Load a network whose weights' names bear marks of wrappers, from a copy without them."""
    weights = {}
    for name, tensor in _stored_weights(folder).items():
        weights[plain_name(name)] = tensor
    own = kind.__module__.startswith("diffusers")
    file_name = "diffusion_pytorch_model" if own else "model"
    with tempfile.TemporaryDirectory() as copy:
        for config in folder.glob("*config.json"):
            shutil.copy(config, copy)
        save_file(weights, Path(copy) / f"{file_name}.safetensors", metadata={"format": "pt"})
        return _attempt(Path(copy), kind, dtype)


def _stored_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder's weight files, of its one variant."""
    variant = _variant(folder)
    weights: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        if (variant is None) == (_variant_of(file) is None):
            weights.update(_read(file))
    return weights


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS)


def _variant_of(file: Path) -> str | None:
    """Return the variant that a file's name has, as in "model.fp16-00001-of-00002.safetensors"."""
    for variant in VARIANTS:
        if f".{variant}." in file.name or f".{variant}-" in file.name:
            return variant
    return None


def _variant(folder: Path) -> str | None:
    """Return the variant to load: none where there are plain weights."""
    variants = {_variant_of(file) for file in _weight_files(folder)}
    if None in variants or not variants:
        return None
    return next(variant for variant in VARIANTS if variant in variants)


def _downloaded(name: str) -> Path:
    import diffusers

    pipeline: Any = diffusers.DiffusionPipeline
    try:
        return Path(pipeline.download(name))
    except Exception as error:  # of the hub's client, offline or online
        raise _unloadable(name, "is no folder, nor a hub id in reach", error) from error


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Keep diffusers' warnings back, which list every weight that does not fit."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _unloadable(source: Any, reason: str, error: Exception | None = None) -> InputError:
    detail = ""
    if error is not None:
        lines = str(error).strip().splitlines()
        detail = f" {lines[0][:200]}" if lines else ""
    return InputError(f"DiffusionPolicy cannot load {str(source)!r}: it {reason}.{detail}")


def _misfit(folder: Path, kind: Any, names: Sequence[str]) -> InputError:
    if any("lora_" in name or ".base_layer." in name for name in names):
        mend = (
            "It was saved with an adapter on it: merge the adapter first (fuse_lora and "
            "unload_lora_weights), or load the adapter into the pipeline and give that."
        )
    else:
        mend = "Are the weights another network's, or cut off? Take the whole folder."
    return InputError(
        f"{folder} does not fit a {kind.__name__}: {len(names)} weights are missing, unexpected or "
        f"of another shape, such as {names[0]}. {mend}"
    )
