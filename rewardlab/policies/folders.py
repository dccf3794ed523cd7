"""Policy folders: what a policy, transformers or diffusers saved."""

from __future__ import annotations

from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.networks.adapters import Adapter, read_adapter
from rewardlab.networks.loading import config_of, text_class
from rewardlab.policies.base import Generator, Policy
from rewardlab.storage.class_files import POLICY_FILE, read_class_file
from rewardlab.storage.class_paths import named_class
from rewardlab.storage.loading import loading
from rewardlab.storage.saved_settings import check_settings

TO_TRUST = "call load_policy(path, trust=True), or give --trust"


def load_policy(path: str | Path, *, trust: bool = False) -> Policy:
    """Load the policy that a folder holds, of the class that `class_path` in its policy.json names.

    A folder of a transformers causal language model, or of a diffusers pipeline, is a policy too. A
    best-of-n folder gives a `BestOf`, and one of `BaseFinish` that, which generate and cannot be
    trained.

    Args:
        path: a folder that a policy's, a transformers model's or a diffusers pipeline's
            `save_pretrained` wrote.
        trust: whether to import classes from outside rewardlab too. Loading such a folder runs the
            code that its policy.json names, and that the folders of its parts name.

    Raises:
        InputError: if the folder is missing, is no policy's, or names a class that is not trusted
            or does not exist.

    Example:
        >>> load_policy("runs/none")
        Traceback (most recent call last):
        rewardlab.errors.InputError: runs/none is not a folder. ...
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder. "
            "Give one that a policy's or a model's save_pretrained wrote."
        )
    if (folder / POLICY_FILE).is_file():
        return _load_as(_class_of(folder, trust), folder, trust)
    if (folder / "model_index.json").is_file():
        from rewardlab.policies.diffusion import DiffusionPolicy

        with loading(folder):
            return DiffusionPolicy(folder)
    adapter = read_adapter(folder)
    if adapter is not None or (folder / "config.json").is_file():
        _check_generates(folder, adapter)
        from rewardlab.policies.causal_lm import CausalLMPolicy

        with loading(folder):
            return CausalLMPolicy(folder)
    raise InputError(
        f"{folder} holds no {POLICY_FILE}, model_index.json (diffusers) or config.json "
        "(transformers): it is no policy."
    )


def _load_as(kind: Any, folder: Path, trust: bool) -> Policy:
    """Load a folder as a class, which is told of `trust` if its `from_pretrained` takes it."""
    options = {}
    if "trust" in signature(kind.from_pretrained).parameters:
        options["trust"] = trust
    is_ours = kind.__module__.startswith("rewardlab.")
    with loading(folder) if is_ours else nullcontext():
        policy: Policy = kind.from_pretrained(folder, **options)
    return policy


def _class_of(folder: Path, trust: bool) -> Any:
    content = read_class_file(folder / POLICY_FILE)
    kind = named_class(folder, content["class_path"], Generator, trust=trust, mend=TO_TRUST)
    check_settings(kind, content.get("init_args", {}), folder / POLICY_FILE)
    return kind


def _check_generates(folder: Path, adapter: Adapter | None) -> None:
    """Refuse a model whose head, by its config, draws no text.

    Transformers would give such a model a random language-modelling head.
    """
    if adapter is not None and adapter.classifies:
        raise InputError(
            f"{folder} holds the adapter of a sequence classifier, which writes no text. "
            "Give the folder of a causal language model or its adapter."
        )
    config = config_of(str(folder))
    names = [str(name) for name in config.architectures or []]
    if names and text_class(config) is None:
        raise InputError(
            f"{folder} holds a {names[0]}, which writes no text. "
            "Give the folder of a causal language model."
        )
