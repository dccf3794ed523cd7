"""Policy folders: whatever a policy, transformers or diffusers saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.policies.base import Generator, Policy
from rewardlab.storage.class_paths import named_class

POLICY = "policy.json"


def load_policy(path: str | Path, *, trust: bool = False) -> Policy:
    """Load the policy that a folder holds, whatever its class: `class_path` in its policy.json says
    which.

    A folder of a transformers causal language model, or of a diffusers pipeline, is a policy too. A
    best-of-n folder gives a `BestOf`, which generates and cannot be trained.

    Args:
        path: a folder that a policy's, a transformers model's or a diffusers pipeline's
            `save_pretrained` wrote.
        trust: import classes from outside rewardlab too. Loading such a folder runs code that its
            policy.json names.

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
            f"{folder} is not a folder. Give one that a policy's or a model's save_pretrained wrote."
        )
    if (folder / POLICY).is_file():
        return _class_of(folder, trust).from_pretrained(folder)  # type: ignore[no-any-return]
    if (folder / "model_index.json").is_file():
        from rewardlab.policies.diffusion import DiffusionPolicy

        return DiffusionPolicy(folder)
    if (folder / "config.json").is_file():
        _check_generates(folder)
        from rewardlab.policies.causal_lm import CausalLMPolicy

        return CausalLMPolicy(folder)
    raise InputError(
        f"{folder} holds no {POLICY}, model_index.json (diffusers) or config.json (transformers): it is no policy."
    )


def _class_of(folder: Path, trust: bool) -> Any:
    class_path = read_policy_config(folder)["class_path"]
    mend = "call load_policy(path, trust=True), or give --trust"
    return named_class(folder, class_path, Generator, trust=trust, mend=mend)


def read_policy_config(folder: str | Path) -> dict[str, Any]:
    """Read a folder's policy.json, a mapping with at least `class_path`.

    Raises:
        InputError: if it is missing or not such a mapping.
    """
    file = Path(folder) / POLICY
    if not file.is_file():
        raise InputError(f"{folder} holds no {POLICY}. Was the folder copied in part?")
    config = _read(file)
    if not isinstance(config.get("class_path"), str):
        raise InputError(f"{file} names no class_path. Is it edited?")
    return config


def _check_generates(folder: Path) -> None:
    """Refuse a model whose config names a head that draws no text; transformers would give it a
    random one.
    """
    kinds = [str(name) for name in _read(folder / "config.json").get("architectures") or []]
    if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise InputError(
            f"{folder} holds a {kinds[0]}, which writes no text. Give the folder of a causal language model."
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{file} is not readable JSON: {error}. Is the file cut off or edited?"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} should hold a mapping; got {str(content)[:60]}. Is it edited?")
    return content
