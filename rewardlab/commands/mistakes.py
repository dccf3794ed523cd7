"""One sentence from jsonargparse's errors: which key, which class, what was meant."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_FRAME = re.compile(
    r"^-? ?(Parser key \"[^\"]*\":|Problem with given class_path '[^']*':|Errors:|Does not validate against.*|"
    r"Subtypes: .*|Given value.*|Expected a <class 'NoneType'>)?$"
)


def unknown_key(message: str, subject: Any, names: Iterable[str]) -> str | None:
    """Return the sentence for a key that a parser refused, or None if the message says something
    else.

    Args:
        message: of jsonargparse.
        subject: the class or function whose arguments were parsed; None for the whole config.
        names: the keys that the parser takes, dotted.

    Example:
        >>> unknown_key("Option 'bta' is not accepted", dict, ["beta", "lr"])
        "dict has no key 'bta'; did you mean 'beta'?"
    """
    found = re.search(
        r"(?:Group '(?P<group>[^']+)' does not accept option|Option) '(?P<key>[^']+)'", message
    )
    if not found or not ("is not accepted" in message or found["group"]):
        return None
    prefix = f"{found['group']}." if found["group"] else ""
    valid = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    owner = found["group"] or (
        f"{subject.__module__}.{subject.__qualname__}".removeprefix("builtins.")
        if subject
        else "The config"
    )
    return f"{owner} has no key {_root(found['key'])!r}; {nearest(_root(found['key']), valid, structural=subject is not None)}"


def _root(key: str) -> str:
    return key.split(".")[0]


def nearest(word: str, valid: Iterable[str], structural: bool = False) -> str:
    """Return "did you mean …?" with the nearest valid name, or the list of them.

    Example:
        >>> nearest("wieght", ["members", "weight"])
        "did you mean 'weight'?"
    """
    names = sorted(
        name for name in valid if name not in ("help", "config") and not name.startswith("print_")
    )
    near = get_close_matches(
        word, [*names, *(("class_path", "init_args") if structural else ())], 1, cutoff=0.5
    )
    return f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names) or 'none'}."


def unknown_flags(message: str, flags: Iterable[str]) -> str | None:
    """Return the sentence for command line words that no argument takes, or None.

    Example:
        >>> unknown_flags("unrecognized arguments: --experiment.sed=3", ["--experiment.seed", "--resume"])
        "There is no flag --experiment.sed; did you mean '--experiment.seed'?"
    """
    found = re.match(r"unrecognized arguments: (\S+)", message)
    if not found:
        return None
    flag = found[1].split("=")[0]
    near = get_close_matches(flag, list(flags), 1)
    return f"There is no flag {flag}; " + (
        f"did you mean {near[0]!r}?" if near else "--help-all lists them."
    )


def shorten(message: str) -> str:
    """Return the place and the innermost reason of a nested message of jsonargparse, on one line.

    Example:
        >>> shorten('Parser key "a":\\n  Problem with given class_path \\'m.C\\':\\n    Parser key "lr":\\n      Not a float')
        'a.lr: m.C: Not a float'
    """
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        return f"The config lacks {missing[1]}; give it in a --config file."
    owner = (
        re.findall(r"(?:given class_path '|Got value: Namespace\(class_path=')([^']+)'", message)
        or [""]
    )[-1]
    value = re.search(
        r"^ *Given value: (?!.*(?:NestedArg|class_path|Namespace))(.{1,80})$", message, re.MULTILINE
    )
    message = re.sub(
        r"Type \S*Callable\[.*?\] expects a function or a callable class: ", "", message
    )
    message = re.sub(r"\. Got value: Namespace\(.*", "", message)
    place = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    lines = [re.sub(r'^Parser key "[^"]*": *', "", line.strip()) for line in message.splitlines()]
    reasons = [line.removeprefix("- ") for line in lines if not _FRAME.match(line)]
    reason = ("; or " if "Errors:" in message else " ").join(reasons) or message
    reason = re.sub(r"Expected a <class '([^']*)'>", r"expected \1", reason).replace(
        ". Got value: ", ", got "
    )
    if reason.startswith("expected ") and ", got " not in reason and value:
        reason += f", got {value[1]}"
    if owner in reason or " has no key " in reason:
        owner = ""
    return ": ".join(part for part in (place, owner, _nearest_attribute(reason)) if part)


def _nearest_attribute(reason: str) -> str:
    found = re.search(r"module '([^']+)' has no attribute '([^']+)'", reason)
    if not found or found[1] not in sys.modules:
        return reason
    module = sys.modules[found[1]]
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    return f"{found[0]}; {nearest(found[2], names)}"
