"""Where open_clip models come from and go to: names, folders and weights files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rewardlab.errors import InputError, reason_of
from rewardlab.rewards.foreign_towers import ForeignTower
from rewardlab.rewards.timm_towers import TIMM, TimmTower, is_timm, open_timm, open_timm_folder
from rewardlab.rewards.tower_description import described
from rewardlab.rewards.tower_forms import (
    CONFIG,
    Form,
    Gelu,
    form_of_file,
    form_of_folder,
    form_of_random,
    form_of_tag,
)
from rewardlab.rewards.tower_weights import (
    in_clip_form,
    load_weights,
    read_weights,
    weights_file,
)
from rewardlab.rewards.transformers_towers import open_transformers_folder
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import read_json

LOCAL = "local-dir:"
HUB = "hf-hub:"
WEIGHTS = "open_clip_model.safetensors"
NUMPY = (".npz", ".npy")  # big_vision's weights files, which open_clip reads


class TowerOptions(NamedTuple):
    """Which weights a named tower gets, and what the user says of their form.

    Attributes:
        pretrained: for an architecture: a tag, a weights file, or "random".
        gelu: "quick" or "exact", the activation that the weights were trained with.
        preprocessing: a tag whose numbers they were trained with, or a mapping of numbers.
    """

    pretrained: str | None = None
    gelu: Gelu | None = None
    preprocessing: str | Mapping[str, Any] | None = None


class OpenedModel(NamedTuple):
    """An open_clip model as it was loaded.

    Attributes:
        model: the model.
        tokenizer: of its text tower, or None if that was not asked for.
        config: what open_clip builds the model from; None for one of another library.
    """

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any] | None


def open_model(name: str, text: bool, options: TowerOptions) -> OpenedModel:
    """Load a model by its name; see `load_tower`.

    Args:
        name: an architecture of open_clip, "timm:ARCHITECTURE.TAG", "local-dir:FOLDER" or
            "hf-hub:ORGANISATION/NAME".
        text: whether the text tower's own tokenizer is loaded too.
        options: which weights, and the form that they are in.

    Raises:
        InputError: if the name, the folder or the weights are not there or do not fit each other,
            or nothing decides the weights' form.
    """
    import open_clip

    foreign = _open_foreign(name, text, options)
    if foreign is not None:
        return OpenedModel(foreign, foreign.tokenizer, None)
    if name.startswith((LOCAL, HUB)):
        _check_source(name, options.pretrained)
    else:
        _check_architecture(name)
        name = name.replace("/", "-")
        _check_weights(name, options.pretrained, text)
    try:
        form = _form(name, options)
        model, config = _built(name, options.pretrained, form)
        tokenizer = open_clip.get_tokenizer(name) if text else None
        return OpenedModel(model, tokenizer, config)
    except InputError:
        raise
    except Exception as error:  # a foreign file can make open_clip raise anything
        raise InputError(
            f"open_clip cannot load the tower {name} with pretrained={options.pretrained}: "
            f"{reason_of(error)} … Are the weights whole, and do they belong to it?"
        ) from error


def _form(name: str, options: TowerOptions) -> Form:
    """Return the form of a tower's weights."""
    import open_clip

    source, gelu, numbers = options.pretrained, options.gelu, options.preprocessing
    if name.startswith((LOCAL, HUB)):
        return form_of_folder(name, open_clip.get_model_config(name), gelu, numbers)
    if source == "random":
        return form_of_random(name, gelu, numbers)
    if source in open_clip.list_pretrained_tags_by_model(name):
        return form_of_tag(name, str(source), gelu, numbers)
    return form_of_file(name, Path(str(source)), gelu, numbers)


def _built(name: str, pretrained: str | None, form: Form) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model in the form of its weights and load them; return its config too."""
    import open_clip

    config = open_clip.get_model_config(name)
    options = {"force_quick_gelu": True} if form.is_quick else {}
    file = _local_file(name, pretrained)
    tag = None if file or pretrained == "random" else pretrained
    with torch.random.fork_rng(devices=[]), _quiet(file is not None):
        torch.default_generator.manual_seed(0)
        model = open_clip.create_model(
            name,
            tag,
            load_weights=file is None,
            require_pretrained=file is None and pretrained != "random",
            pretrained_text=False,
            force_preprocess_cfg=form.numbers,
            **options,
        )
    if file is not None and file.suffix in NUMPY:
        open_clip.factory.load_checkpoint(model, str(file))
    elif file is not None:
        load_weights(model, in_clip_form(model, read_weights(file)), file)
    return model, config | ({"quick_gelu": True} if form.is_quick else {})


@contextmanager
def _quiet(is_quiet: bool) -> Iterator[None]:
    """Keep back open_clip's warning of random weights where they are loaded right after.

    Its warnings give the root logger a handler, which is taken away again.
    """
    handlers = logging.root.handlers[:]
    level = logging.root.manager.disable
    if is_quiet:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers


def _local_file(name: str, pretrained: str | None) -> Path | None:
    """Return the weights file to load, None for a tag, a hub's name or random weights."""
    import open_clip

    if name.startswith(LOCAL):
        return weights_file(Path(name.removeprefix(LOCAL)))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if name.startswith(HUB) or pretrained == "random" or pretrained in tags:
        return None
    return Path(str(pretrained))


def wrapped(model: nn.Module) -> nn.Module:
    """Return a model in the form in which `Tower` takes one.

    Raises:
        InputError: if it is of none of the libraries that are known.
    """
    if hasattr(model, "visual") and hasattr(model, "encode_image"):
        return model
    if is_timm(model):
        return TimmTower(model)
    raise InputError(
        "A tower is an open_clip model with an image tower, a model that timm.create_model made, "
        f"or a TransformersTower; got a {type(model).__name__}."
    )


def _open_foreign(name: str, text: bool, options: TowerOptions) -> ForeignTower | None:
    """Load a tower of another library than open_clip, None if it is open_clip's."""
    folder = Path(name.removeprefix(LOCAL))
    config_file = folder / "config.json"
    is_timm_name = name.startswith(TIMM)
    is_folder = name.startswith(LOCAL) and not (folder / CONFIG).is_file()
    if not is_timm_name and not (is_folder and config_file.is_file()):
        return None
    if options.gelu is not None or (is_folder and options.pretrained is not None):
        raise InputError(
            f"The tower {name} says itself what it is; got gelu={options.gelu} and "
            f"pretrained={options.pretrained} as well. Leave them out."
        )
    if is_timm_name:
        return open_timm(name, options.pretrained, options.preprocessing)
    if "architecture" in read_json(config_file):
        return open_timm_folder(folder, options.preprocessing)
    return open_transformers_folder(folder, text, options.preprocessing)


def save_tower(
    model: nn.Module,
    folder: str | Path,
    config: dict[str, Any] | None = None,
    numbers: dict[str, Any] | None = None,
) -> None:
    """Write an open_clip model into a folder that "local-dir:FOLDER" loads, also in open_clip.

    Args:
        model: its image and text towers are both written, with their weights.
        folder: made if missing; a tower in it is overwritten.
        config: what open_clip builds the model from; by default it is read off the model, see
            `described`.
        numbers: the preprocessing numbers; by default the model's own.

    Raises:
        InputError: if the config cannot be read off the model.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    content = {
        "model_cfg": config or described(model),
        "preprocess_cfg": numbers or preprocessing_numbers(model),
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    write_json(folder / CONFIG, content)


def preprocessing_numbers(model: nn.Module) -> dict[str, Any]:
    """Return the preprocessing numbers of a model; open_clip's defaults for those that lack."""
    import open_clip

    if isinstance(model, ForeignTower):
        return model.numbers

    defaults = asdict(open_clip.transform.PreprocessCfg())
    return defaults | open_clip.get_model_preprocess_cfg(model)


def _check_source(name: str, pretrained: str | None) -> None:
    """Refuse a folder that is no tower's, and weights beside one that brings its own."""
    if name.startswith(LOCAL):
        _check_folder(name)
    if pretrained is not None:
        raise InputError(
            f"The tower {name} brings its own weights; got pretrained={pretrained} as well, which "
            "open_clip would ignore. Leave one of the two out."
        )


def _check_folder(name: str) -> None:
    folder = Path(name.removeprefix(LOCAL))
    missing = None
    if not folder.is_dir():
        missing = "folder"
    elif not (folder / CONFIG).is_file():
        missing = CONFIG
    elif weights_file(folder) is None:
        missing = "weights file"
    if missing:
        raise InputError(
            f"The tower {name} has to be a folder with {CONFIG} and a weights file ({WEIGHTS}); "
            f"there is no {missing}."
        )


def _check_architecture(name: str) -> None:
    """Refuse an architecture that open_clip does not have, naming the nearest."""
    import open_clip

    architectures = open_clip.list_models()
    if name.replace("/", "-") not in architectures:
        nearest = get_close_matches(name, architectures, 1, cutoff=0) or architectures[:1]
        raise InputError(
            f"open_clip has no tower named {name}; the nearest is {nearest[0]}. A folder is given "
            "as local-dir:FOLDER."
        )


def _check_weights(name: str, pretrained: str | None, text: bool) -> None:
    """Refuse what open_clip would meet with a guess, random weights or a silent download."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if pretrained in tags:
        return
    is_file = bool(pretrained) and Path(str(pretrained)).is_file()
    if pretrained != "random" and not is_file:
        raise InputError(
            f"The tower {name} needs weights: got pretrained={pretrained}, which is neither a file "
            f"nor one of open_clip's tags for it ({', '.join(tags)}). A tag downloads them; random "
            "gives an untrained control."
        )
    text_config = open_clip.get_model_config(name)["text_cfg"]
    if "hf_model_name" in text_config or (text and "hf_tokenizer_name" in text_config):
        raise InputError(
            f"The tower {name} takes its text half from the Hugging Face hub, which a weights file "
            f"does not bring. Give a tag ({', '.join(tags)}), which downloads it, or a folder as "
            "local-dir:FOLDER."
        )
