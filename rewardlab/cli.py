"""The command `rewardlab`: dispatch on the first word. A command's module is imported only when
that command runs.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from rewardlab.commands import PAGES
from rewardlab.errors import InputError
from rewardlab.version import __version__

_HOME = dict.fromkeys(("fit", "validate", "test", "predict"), "fit") | {
    name: name for name in ("rounds", "attack", "curve", "report", "doctor")
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a bug of ours, 2 an input to mend, 130
    interrupted, 143 ended.

    Args:
        argv: the words after `rewardlab`; those of this process if None.

    Example:
        >>> main(["--version"])
        rewardlab 0.1.0
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except InputError as error:
        print(f"rewardlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as done:  # argparse's --help and errors, Lightning's exits
        if isinstance(
            done.__context__, KeyboardInterrupt
        ):  # Lightning's Trainer makes an exit of it
            return _interrupted()
        if type(done).__name__ == "SIGTERMException":
            return 143
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except Exception:
        traceback.print_exc()
        return 1


def _interrupted() -> int:
    print(
        "rewardlab: interrupted; the same command with --resume goes on from what stands.",
        file=sys.stderr,
    )
    return 130


def _dispatch(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command == "--version":
        print(f"rewardlab {__version__}")
        return 0
    if command in ("-h", "--help", "help"):
        print(PAGES["rewardlab"])
        return 0
    if command not in _HOME:
        near = get_close_matches(command, _HOME, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The commands are {', '.join(_HOME)}."
        raise InputError(f"There is no command {command!r}. {hint}")
    if "-h" in rest or "--help" in rest:
        print(PAGES[command])
        return 0
    rest = ["--help" if word == "--help-all" else word for word in rest]
    code: int = import_module(f"rewardlab.commands.{_HOME[command]}").run(command, rest)
    return code
