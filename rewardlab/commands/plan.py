"""`rewardlab plan`: the memory that a config needs, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rewardlab.commands.composing import Composition
from rewardlab.commands.parsing import leads_nowhere, prepared, signature_of
from rewardlab.commands.words import Experiment
from rewardlab.errors import InputError
from rewardlab.planning import plans_of

OWN = ("--gpu-memory", "--tokens")  # the command's own flags


def run(command: str, argv: Sequence[str]) -> int:
    """Print the plan of each loop that a config trains; 1 if one does not fit the memory given."""
    numbers, words = _own_flags(argv)
    gpu_memory = numbers.get("--gpu-memory")
    tokens = numbers.get("--tokens")
    plans = plans_of(config_tree(words), None if tokens is None else int(tokens))
    print("\n\n".join(plan.text(gpu_memory) for plan in plans))
    fits = gpu_memory is None or all(plan.fits(gpu_memory) for plan in plans)
    return 0 if fits else 1


def config_tree(argv: Sequence[str]) -> dict[str, Any]:
    """Return the config that a command line and its files give, as plain data.

    Raises:
        InputError: if a file cannot be read, or a reference leads nowhere.
    """
    written = Composition(signature_of)
    written.words(prepared(argv))
    tree = written.tree()
    tree["experiment"] = asdict(Experiment()) | dict(tree.get("experiment") or {})
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise leads_nowhere(error) from None
    assert isinstance(resolved, Mapping)
    content = {str(key): value for key, value in resolved.items()}
    if not {"model", "rounds"} & set(content):
        raise InputError("The plan needs a config: rewardlab plan --config FILE.")
    return content


def _own_flags(argv: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Return the values of the command's own flags, and the other words."""
    numbers = {}
    others = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        if name not in OWN:
            others.append(word)
            continue
        if not equals and words:
            text = words.pop(0)
        numbers[name] = _positive(name, text)
    return numbers, others


def _positive(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise InputError(f"{name} takes a number above 0; got {text!r}.")
    return number
