"""One sentence from jsonargparse's errors: which key, which class, what was meant."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Lines of a nested message that frame its reasons.
_FRAME = re.compile(
    r"^-? ?("
    r"Parser key \"[^\"]*\":|"
    r"Problem with given class_path '[^']*':|"
    r"Errors:|"
    r"Does not validate against.*|"
    r"Subtypes: .*|"
    r"Given value.*|"
    r"Expected a <class 'NoneType'>"
    r")?$"
)
_REFUSED_KEY = re.compile(
    r"(?:Group '(?P<group>[^']+)' does not accept option|Option) '(?P<key>[^']+)'"
)
_CLASS_PATH = re.compile(r"(?:given class_path '|Got value: Namespace\(class_path=')([^']+)'")
_GIVEN_VALUE = re.compile(
    r"^ *Given value: (?!.*(?:NestedArg|class_path|Namespace))(.{1,80})$", re.MULTILINE
)


# Keys of earlier versions, below the group that had them, and where they are since 0.2.
MOVED_KEYS = {
    "attack": dict.fromkeys(("kind", "z", "chosen", "per_prompt", "cap"), "attack.mining"),
    "rewardlab.rounds.adv_rm.AdvRMRounds": {
        "novelty": "tether.novelty",
        "novelty_weight": "tether.weight",
    },
}


def unknown_key(message: str, subject: Any, names: Iterable[str]) -> str | None:
    """Return the sentence for a key that a parser refused, or None if that is not what it says.

    Args:
        message: jsonargparse's message.
        subject: the class or function whose arguments were parsed; None for the whole config.
        names: the keys that the parser takes, dotted.

    Example:
        >>> unknown_key("Option 'bta' is not accepted", dict, ["beta", "lr"])
        "dict has no key 'bta'; did you mean 'beta'?"
    """
    match = _REFUSED_KEY.search(message)
    if match is None or not (match["group"] or "is not accepted" in message):
        return None
    group = match["group"]
    key = _root(match["key"])
    prefix = f"{group}." if group else ""
    below = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    valid = {_root(name) for name in below}
    owner = group or _owner(subject)
    moved = MOVED_KEYS.get(owner, {}).get(key)
    if moved is not None:
        return f"{owner} has no key {key!r} since version 0.2: it is in {moved} now"
    hint = nearest(key, valid, structural=subject is not None)
    return f"{owner} has no key {key!r}; {hint}"


def _owner(subject: Any) -> str:
    """Return the name of the class or function that has no such key."""
    if not subject:
        return "The config"
    return f"{subject.__module__}.{subject.__qualname__}".removeprefix("builtins.")


def _root(key: str) -> str:
    return key.split(".")[0]


def nearest(word: str, valid: Iterable[str], structural: bool = False) -> str:
    """Return "did you mean …?" with the nearest valid name, or the list of them.

    Args:
        word: the misspelt name.
        valid: the valid names.
        structural: whether `class_path` and `init_args` may be meant too.

    Example:
        >>> nearest("wieght", ["members", "weight"])
        "did you mean 'weight'?"
    """
    names = sorted(name for name in valid if _is_offered(name))
    structure = ["class_path", "init_args"] if structural else []
    near = get_close_matches(word, [*names, *structure], 1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"it takes {', '.join(names) or 'none'}."


def _is_offered(name: str) -> bool:
    """Tell whether a parser's key is a user's, and not one of the parser's own."""
    return name not in ("help", "config") and not name.startswith("print_")


def unknown_flags(message: str, flags: Iterable[str]) -> str | None:
    """Return the sentence for command line words that no argument takes, or None.

    Example:
        >>> unknown_flags("unrecognized arguments: --experiment.sed=3", ["--experiment.seed"])
        "There is no flag --experiment.sed; did you mean '--experiment.seed'?"
    """
    match = re.match(r"unrecognized arguments: (\S+)", message)
    if match is None:
        return None
    flag = match[1].split("=")[0]
    near = get_close_matches(flag, list(flags), 1)
    if near:
        return f"There is no flag {flag}; did you mean {near[0]!r}?"
    return f"There is no flag {flag}; --help-all lists them."


def shorten(message: str) -> str:
    r"""Return the key and the innermost reason of a nested message of jsonargparse, on one line.

    Example:
        >>> message = 'Parser key "a":\n  Problem with given class_path \'m.C\':\n'
        >>> shorten(message + '    Parser key "lr":\n      Not a float')
        'a.lr: m.C: Not a float'
    """
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        return f"The config lacks {missing[1]}; give it in a --config file."
    class_paths = _CLASS_PATH.findall(message)
    value = _GIVEN_VALUE.search(message)
    message = re.sub(
        r"Type \S*Callable\[.*?\] expects a function or a callable class: ", "", message
    )
    message = re.sub(r"\. Got value: Namespace\(.*", "", message)
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    reason = _reason(message)
    if reason.startswith("expected ") and ", got " not in reason and value:
        reason += f", got {value[1]}"
    owner = class_paths[-1] if class_paths else ""
    if owner in reason or " has no key " in reason:
        owner = ""
    parts = [key, owner, _nearest_attribute(reason)]
    return ": ".join(part for part in parts if part)


def _reason(message: str) -> str:
    """Return what a nested message says, without the lines that frame it."""
    reasons = []
    for line in message.splitlines():
        line = re.sub(r'^Parser key "[^"]*": *', "", line.strip())
        if not _FRAME.match(line):
            reasons.append(line.removeprefix("- "))
    separator = "; or " if "Errors:" in message else " "
    reason = separator.join(reasons) or message
    reason = re.sub(r"Expected a <class '([^']*)'>", r"expected \1", reason)
    return reason.replace(". Got value: ", ", got ")


def _nearest_attribute(reason: str) -> str:
    """Return a reason with the nearest name added, if it is that a module lacks one."""
    match = re.search(r"module '([^']+)' has no attribute '([^']+)'", reason)
    if not match or match[1] not in sys.modules:
        return reason
    module = sys.modules[match[1]]
    public = [name for name in vars(module) if not name.startswith("_")]
    names = getattr(module, "__all__", public)
    return f"{match[0]}; {nearest(match[2], names)}"
