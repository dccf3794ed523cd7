"""Towers of timm (DINOv2, DINOv3, SigLIP, EfficientNet and others), by name, folder or instance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError, reason_of
from rewardlab.rewards.foreign_towers import ForeignTower, with_numbers
from rewardlab.rewards.tower_weights import load_weights, read_weights, weights_file
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import read_json

TIMM = "timm:"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_MODES = {"center": "shortest", "squash": "squash"}
_DEFAULT_SHARE = 0.875  # timm's, where a model names no crop_pct


class TimmTower(ForeignTower):
    """A timm model as an image half: its pooled features before the classifier.

    Preprocessing is what timm computes for the model's `pretrained_cfg`.

    Args:
        trunk: a model of timm, which is used in place.

    Raises:
        InputError: if its images or its features are of another kind.
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.visual = trunk
        self.numbers = numbers_of(trunk.pretrained_cfg, _image_size(trunk))
        self.unused = tuple(f"visual.{head}." for head in _classifiers(trunk))
        self.settings = _settings(trunk)

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Return the pooled features [B, D] of preprocessed images [B, 3, H, W].

        Raises:
            InputError: if the model was made without pooling.
        """
        hidden = self.visual.forward_features(images)
        features: Tensor = self.visual.forward_head(hidden, pre_logits=True)
        if features.dim() != 2:
            raise InputError(
                f"A tower of timm gives one row of features an image; this one gives "
                f"{list(features.shape)}. Make it with a global_pool."
            )
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def save(self, folder: Path, numbers: Mapping[str, Any]) -> None:
        """Write the model as timm does, so that `timm.create_model("local-dir:FOLDER")` loads it.

        Raises:
            InputError: if timm does not know how to build it again.
        """
        from safetensors.torch import save_file

        config = timm_config(self.visual)
        weights = {}
        for name, tensor in self.visual.state_dict().items():
            if not f"visual.{name}".startswith(self.unused):
                weights[name] = tensor.contiguous()
        _check_rebuilt(self, config, weights)
        config["rewardlab_preprocessing"] = dict(numbers)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / WEIGHTS)
        write_json(folder / CONFIG, config)


def is_timm(model: object) -> bool:
    """Tell whether an object is a model of timm."""
    names = ("forward_features", "forward_head", "pretrained_cfg")
    return all(hasattr(model, name) for name in names)


def open_timm(name: str, pretrained: str | None, preprocessing: Any) -> TimmTower:
    """Load a model of timm by its name, "timm:ARCHITECTURE.TAG".

    Args:
        name: the tag says how images are preprocessed; it may be left out where all of the
            architecture's tags agree, or `preprocessing` names one.
        pretrained: a weights file, "random", or the tag, which downloads its weights.
        preprocessing: one of the tags, or a mapping of numbers.

    Raises:
        InputError: if the name or the weights are not there or do not fit each other, or nothing
            decides the preprocessing.
    """
    import timm

    architecture, _, tag = name.removeprefix(TIMM).partition(".")
    tags = _tags(architecture)
    _check_source(name, pretrained, tags)
    downloads = pretrained in tags
    if downloads:
        tag = str(pretrained)
    elif isinstance(preprocessing, str):
        tag = preprocessing
    if tag and tag not in tags:
        raise InputError(
            f"timm has no weights {tag} of {architecture}; it has {', '.join(tags) or 'none'}."
        )
    if not tag and pretrained != "random" and not isinstance(preprocessing, Mapping):
        tag = _shared_tag(architecture, tags)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        full = f"{architecture}.{tag}" if tag else architecture
        trunk = timm.create_model(full, pretrained=downloads, num_classes=0)
    if pretrained != "random" and not downloads:
        _load(trunk, Path(str(pretrained)))
    tower = TimmTower(trunk)
    with_numbers(tower, preprocessing)
    return tower


def open_timm_folder(folder: Path, preprocessing: Any) -> TimmTower:
    """Load what `TimmTower.save` or timm's `save_for_hf` wrote.

    Raises:
        InputError: if files are missing, broken, or not of one model.
    """
    config = read_json(folder / CONFIG)
    file = weights_file(folder)
    if file is None:
        raise InputError(f"{folder} holds no weights file ({WEIGHTS}).")
    try:
        trunk = _rebuilt(config)
    except Exception as error:  # a foreign file can make timm raise anything
        raise InputError(
            f"timm cannot build the tower of {folder / CONFIG}: {reason_of(error)}. Is it edited?"
        ) from error
    _load(trunk, file)
    tower = TimmTower(trunk)
    with_numbers(tower, config.get("rewardlab_preprocessing"))
    with_numbers(tower, preprocessing)
    return tower


def numbers_of(config: Mapping[str, Any], size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the preprocessing numbers of a timm model's `pretrained_cfg`.

    Args:
        config: of the weights.
        size: height and width of the images, if the model was made for others.

    Raises:
        InputError: if images are cropped in another way, or have other than three channels.
    """
    from timm.data.config import resolve_data_config

    resolve: Any = resolve_data_config  # timm has no types
    data = resolve(pretrained_cfg=dict(config))
    channels, height, width = data["input_size"]
    mode = data["crop_mode"]
    if mode not in _MODES or channels != 3:
        raise InputError(
            f"Towers of timm take three channels and crop in the modes {', '.join(_MODES)}; this "
            f"one takes {channels} and crops in the mode {mode}."
        )
    return {
        "size": size or (height, width),
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "interpolation": data["interpolation"],
        "resize_mode": _MODES[mode],
        "crop_pct": data["crop_pct"] or _DEFAULT_SHARE,
    }


def _image_size(trunk: Any) -> tuple[int, int] | None:
    """Return height and width of the images that a model was made for, None if it does not say."""
    size = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    return tuple(size) if size else None


def timm_config(trunk: Any) -> dict[str, Any]:
    """Return what timm builds a model from again, as its folders hold it."""
    from tempfile import TemporaryDirectory

    from timm.models import _hub

    with TemporaryDirectory() as place:
        file = Path(place) / CONFIG
        _hub.save_config_for_hf(trunk, str(file))
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for part in (content, content["pretrained_cfg"], content.setdefault("model_args", {})):
        part["num_classes"] = 0  # the classifier is left out
    return content


def _rebuilt(config: Mapping[str, Any]) -> Any:
    """Build a model from what a folder holds, without its classifier and its weights."""
    import timm

    architecture = config["architecture"]
    args = dict(config.get("model_args") or {})
    args["num_classes"] = 0
    own_config = {"architecture": architecture} | dict(config.get("pretrained_cfg") or {})
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(architecture, pretrained=False, pretrained_cfg=own_config, **args)


@torch.no_grad()
def _check_rebuilt(
    tower: TimmTower, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Refuse a model whose rebuilt twin has other features for a fixed image."""
    like = next(tower.parameters())
    twin = TimmTower(_rebuilt(config)).to(like).eval()
    height, width = tower.numbers["size"]
    image = torch.arange(3 * height * width).sin().view(1, 3, height, width).to(like)
    was_training = tower.training
    tower.eval()
    try:
        twin.visual.load_state_dict(dict(weights))
        is_alike = torch.allclose(
            tower.encode_image(image), twin.encode_image(image), atol=1e-5, rtol=1e-3
        )
    except RuntimeError:  # other names or shapes
        is_alike = False
    tower.train(was_training)
    if not is_alike:
        raise InputError(
            f"timm builds another model than this {type(tower.visual).__name__} from its name "
            f"{config['architecture']} and the arguments {config.get('model_args')}, so it cannot "
            "be embedded. Give the tower by name (timm:ARCHITECTURE.TAG), or save with tower=False."
        )


def _tags(architecture: str) -> list[str]:
    """Return the tags of an architecture.

    Raises:
        InputError: if timm does not have it, naming the nearest.
    """
    import timm

    if not timm.is_model(architecture):
        names = timm.list_models()
        nearest = get_close_matches(architecture, names, 1, cutoff=0) or names[:1]
        raise InputError(f"timm has no model named {architecture}; the nearest is {nearest[0]}.")
    tags = []
    for name in timm.list_models(f"{architecture}.*", pretrained=True):
        if name.partition(".")[0] == architecture:
            tags.append(name.partition(".")[2])
    return tags


def _check_source(name: str, pretrained: str | None, tags: list[str]) -> None:
    """Refuse weights that are neither a tag's, a file nor random."""
    is_file = bool(pretrained) and Path(str(pretrained)).is_file()
    if pretrained != "random" and pretrained not in tags and not is_file:
        raise InputError(
            f"The tower {name} needs weights: got pretrained={pretrained}, which is neither a file "
            f"nor one of timm's tags for it ({', '.join(tags)}). A tag downloads them; random "
            "gives an untrained control."
        )


def _shared_tag(architecture: str, tags: list[str]) -> str:
    """Return a tag whose preprocessing all others share, an empty text where there are none.

    Raises:
        InputError: if they differ.
    """
    from timm.models import get_pretrained_cfg

    sets = []
    for tag in tags:
        config: Any = get_pretrained_cfg(f"{architecture}.{tag}")
        numbers = numbers_of(config.to_dict())
        if numbers not in sets:
            sets.append(numbers)
    if len(sets) > 1:
        raise InputError(
            f"Weights of {architecture} were trained with different preprocessing, and a file does "
            f"not say which. Name its tag: timm:{architecture}.TAG, where TAG is one of "
            f"{', '.join(tags)}."
        )
    return tags[0] if tags else ""


def _settings(trunk: Any) -> list[Any]:
    """Return what a model's features depend on beside its weights, but for its classifier."""
    kinds = set()
    heads = []
    for part in trunk.modules():
        heads.append(getattr(part, "num_heads", None))
        is_leaf = next(part.children(), None) is None
        if is_leaf and next(part.parameters(), None) is None:
            kinds.add(type(part).__name__)
    pool = getattr(trunk, "global_pool", "")
    return [
        trunk.pretrained_cfg["architecture"],
        [number for number in heads if number is not None],
        sorted(kinds - {"Identity", "Dropout"}),
        str(getattr(pool, "pool_type", pool)),
    ]


def _classifiers(trunk: Any) -> tuple[str, ...]:
    """Return the names of a model's classifiers."""
    names = trunk.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _load(trunk: Any, file: Path) -> None:
    """Load a weights file; a classifier in it is left out."""
    beginnings = tuple(f"{head}." for head in _classifiers(trunk))
    state = trunk.state_dict()
    weights = {}
    for name, tensor in read_weights(file).items():
        if name in state or not name.startswith(beginnings):
            weights[name] = tensor
    load_weights(trunk, weights, file)
