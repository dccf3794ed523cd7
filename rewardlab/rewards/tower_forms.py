"""The form that a tower's weights were trained in, where names alone do not decide it.

The same architecture of open_clip was trained with two activations and with several preprocessing
numbers. Its tags say which; a weights file does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rewardlab.errors import InputError

CONFIG = "open_clip_config.json"
TWIN = "-quickgelu"  # ends the name of an architecture that differs from another in its activation
NUMBERS = ("mean", "std", "interpolation", "resize_mode", "fill_color")

Gelu = Literal["quick", "exact"]
Numbers = Mapping[str, Any]


class Form(NamedTuple):
    """How weights want to be built and fed, beside their architecture.

    Attributes:
        is_quick: whether blocks have OpenAI's QuickGELU, x·σ(1.702·x), and not the exact GELU.
        numbers: preprocessing numbers that replace open_clip's.
    """

    is_quick: bool
    numbers: dict[str, Any]


class TagForm(NamedTuple):
    """The form of one of open_clip's published weights.

    Attributes:
        tag: its name.
        is_quick: as in `Form`.
        numbers: its preprocessing numbers.
    """

    tag: str
    is_quick: bool
    numbers: dict[str, Any]


def form_of_tag(name: str, tag: str, gelu: Gelu | None, preprocessing: Any) -> Form:
    """Return the form of a tag's weights.

    Args:
        name: the architecture.
        tag: one of its tags.
        gelu: what the user says of the activation.
        preprocessing: what the user says of the numbers, which counts.

    Raises:
        InputError: if `gelu` is not the tag's.
    """
    tag_form = _tag_form(name, tag)
    _check_gelu(gelu, tag_form.is_quick, f"open_clip's tag {tag} of {name}")
    return Form(tag_form.is_quick, _said_numbers(name, preprocessing) or {})


def form_of_file(name: str, file: Path, gelu: Gelu | None, preprocessing: Any) -> Form:
    """Return the form of a weights file: what the config beside it says, or what all tags share.

    Raises:
        InputError: if the architecture was trained in several forms and nothing decides; or if
            the config beside the file contradicts `gelu`.
    """
    beside = _config_beside(file)
    is_quick = _gelu_of_file(name, beside.get("model_cfg"), file, gelu)
    numbers = _said_numbers(name, preprocessing)
    if numbers is None:
        numbers = _picked(beside.get("preprocess_cfg", {}))
    if not numbers:
        numbers = _shared_numbers(name, is_quick, file)
    return Form(is_quick, numbers)


def form_of_random(name: str, gelu: Gelu | None, preprocessing: Any) -> Form:
    """Return the form of random weights: the architecture's own, and what the user says."""
    is_quick = _config_is_quick(name)
    if is_quick:
        _check_gelu(gelu, is_quick, f"the architecture {name}")
    numbers = _said_numbers(name, preprocessing)
    if numbers is None:
        sets = _distinct_numbers(_tag_forms(name))
        numbers = sets[0] if len(sets) == 1 else {}
    return Form(is_quick or gelu == "quick", numbers)


def form_of_folder(
    source: str, config: Mapping[str, Any], gelu: Gelu | None, preprocessing: Any
) -> Form:
    """Return the form of a folder, whose config decides.

    Raises:
        InputError: if `gelu` is not the config's.
    """
    is_quick = bool(config.get("quick_gelu", False))
    _check_gelu(gelu, is_quick, source)
    return Form(is_quick, _said_numbers("", preprocessing) or {})


def _tag_form(name: str, tag: str) -> TagForm:
    """Return a tag's form; where the architecture's config has QuickGELU, so has the tag."""
    from open_clip.pretrained import get_pretrained_cfg

    tag_config = get_pretrained_cfg(name, tag)
    is_quick = bool(tag_config.get("quick_gelu", False)) or _config_is_quick(name)
    return TagForm(tag, is_quick, _picked(tag_config))


def _tag_forms(name: str) -> list[TagForm]:
    """Return the forms of all tags of an architecture and of its twin."""
    import open_clip

    forms = []
    for relative in _relatives(name):
        for tag in open_clip.list_pretrained_tags_by_model(relative):
            forms.append(_tag_form(relative, tag))
    return forms


def _relatives(name: str) -> list[str]:
    """Return an architecture and its twin, those that open_clip has."""
    import open_clip

    plain = name.removesuffix(TWIN)
    architectures = open_clip.list_models()
    return [relative for relative in (plain, plain + TWIN) if relative in architectures]


def _config_is_quick(name: str) -> bool:
    import open_clip

    return bool(open_clip.get_model_config(name).get("quick_gelu", False))


def _gelu_of_file(name: str, config: Any, file: Path, gelu: Gelu | None) -> bool:
    """Return whether a weights file's blocks have QuickGELU."""
    if isinstance(config, Mapping):
        is_quick = bool(config.get("quick_gelu", False))
        _check_gelu(gelu, is_quick, f"the {CONFIG} beside {file}")
        return is_quick
    if _config_is_quick(name):
        _check_gelu(gelu, True, f"the architecture {name}")
        return True
    if gelu is not None:
        return gelu == "quick"
    quick = sorted({form.tag for form in _tag_forms(name) if form.is_quick})
    if quick or name + TWIN in _relatives(name):
        raise InputError(
            f"Weights of {name} were trained with OpenAI's QuickGELU"
            f"{_listed(quick)} or with the exact GELU, and a file does not say which; the wrong "
            f"one gives other features in silence. Say gelu='quick' or gelu='exact' for {file}."
        )
    return False


def _shared_numbers(name: str, is_quick: bool, file: Path) -> dict[str, Any]:
    """Return the preprocessing numbers that an architecture's tags share; empty without tags."""
    forms = _tag_forms(name)
    alike = [form for form in forms if form.is_quick == is_quick]
    sets = _distinct_numbers(alike or forms)
    if len(sets) > 1:
        lines = []
        for numbers in sets:
            tags = [form.tag for form in forms if form.numbers == numbers]
            lines.append(f"{tags[0]} has {_short(numbers)}")
        raise InputError(
            f"Weights of {name} were trained with different preprocessing ({'; '.join(lines)}), "
            f"and a file does not say which. Say preprocessing=TAG, such as "
            f"preprocessing={tags[0]!r}, or give the numbers as a mapping, for {file}."
        )
    return sets[0] if sets else {}


def _distinct_numbers(forms: list[TagForm]) -> list[dict[str, Any]]:
    sets: list[dict[str, Any]] = []
    for form in forms:
        if form.numbers not in sets:
            sets.append(form.numbers)
    return sets


def _said_numbers(name: str, preprocessing: Any) -> dict[str, Any] | None:
    """Return the preprocessing numbers that the user names, None if there are none.

    Raises:
        InputError: if a tag is none of the architecture's, or a number is unknown.
    """
    if preprocessing is None:
        return None
    if isinstance(preprocessing, Mapping):
        unknown = sorted(map(str, preprocessing.keys() - {*NUMBERS, "size"}))
        if unknown:
            raise InputError(
                f"preprocessing takes {', '.join(NUMBERS)}; got {', '.join(unknown)} as well."
            )
        return _picked(preprocessing)
    numbers = {form.tag: form.numbers for form in _tag_forms(name)}
    if preprocessing not in numbers:
        raise InputError(
            f"preprocessing={preprocessing!r} is none of open_clip's tags for {name or 'a folder'}"
            f"{_listed(sorted(numbers))}. Give one of them, or a mapping of "
            f"{', '.join(NUMBERS)}."
        )
    return numbers[preprocessing]


def _check_gelu(gelu: Gelu | None, is_quick: bool, source: str) -> None:
    if gelu not in (None, "quick", "exact"):
        raise InputError(f"gelu is 'quick' or 'exact'; got {gelu!r}.")
    if gelu is not None and (gelu == "quick") != is_quick:
        own = "quick" if is_quick else "exact"
        raise InputError(
            f"gelu={gelu!r} contradicts {source}, which has gelu={own!r}. Leave gelu out, or give "
            "the weights that you mean."
        )


def _config_beside(file: Path) -> dict[str, Any]:
    """Return the open_clip config in a weights file's folder, empty if there is none."""
    config_file = file.parent / CONFIG
    if not config_file.is_file():
        return {}
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{config_file} is not readable JSON: {error}. Is it cut off?") from error
    return content if isinstance(content, dict) else {}


def _picked(numbers: Any) -> dict[str, Any]:
    """Return the preprocessing numbers of a mapping, without those that are not set."""
    picked = {}
    for name in NUMBERS:
        if isinstance(numbers, Mapping) and numbers.get(name) is not None:
            picked[name] = numbers[name]
    return picked


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _short(numbers: Mapping[str, Any]) -> str:
    """Return how a message shows preprocessing numbers."""
    shown = []
    for name, value in numbers.items():
        if name == "mean":
            value = [round(number, 2) for number in value]
        if name != "std":
            shown.append(f"{name} {value}")
    return ", ".join(shown)
