"""The command `rewardlab`: dispatch on the first word.

A command's module is imported only when that command runs.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from rewardlab.commands import PAGES
from rewardlab.commands.signals import ending_signals
from rewardlab.errors import InputError, Terminated, is_interruption
from rewardlab.runs.early_records import EARLY
from rewardlab.version import __version__

# The module of each command in rewardlab.commands.
_HOMES = {
    "fit": "fit",
    "validate": "fit",
    "test": "fit",
    "predict": "fit",
    "rounds": "rounds",
    "sweep": "sweep",
    "attack": "attack",
    "curve": "curve",
    "score": "score",
    "select": "select",
    "evaluate": "evaluate",
    "data": "data",
    "export": "export",
    "serve": "serve",
    "generate": "generate",
    "plan": "plan",
    "report": "report",
    "advise": "advise",
    "doctor": "doctor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `rewardlab`; those of this process if None.

    Returns:
        0 if it is done, 1 for a bug of ours, 2 for an input to mend, 130 if Ctrl-C interrupted it,
        143 if SIGTERM did, 129 if SIGHUP did, 141 if nobody reads its output any more.

    Example:
        >>> main(["--version"])
        rewardlab 0.2.0
        0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _import_from_here()
    try:
        with ending_signals(), EARLY.kept():
            return _dispatch(argv)
    except InputError as error:
        print(f"rewardlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as exit_:
        return _exit_code(exit_)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_unheard():
            return 141
        traceback.print_exc()
        return 1


def _import_from_here() -> None:
    """Let configs name classes of modules in the current folder, as `python -m` does."""
    folder = os.getcwd()
    if not sys.flags.safe_path and not {"", folder} & set(sys.path):
        sys.path.insert(0, folder)


def _exit_code(exit_: SystemExit) -> int:
    """Return the exit code of argparse's --help and errors, and of Lightning's exits."""
    if isinstance(exit_, Terminated):
        return _interrupted(f"ended by {exit_.number.name}", 128 + exit_.number)
    if is_interruption(exit_):
        is_keyboard = isinstance(exit_.__context__, KeyboardInterrupt)  # Lightning's Trainer's exit
        return _interrupted() if is_keyboard else _interrupted("ended by SIGTERM", 143)
    if isinstance(exit_.code, int):
        return exit_.code
    return 0 if exit_.code is None else 1


def _interrupted(how: str = "interrupted", exit_code: int = 130) -> int:
    """Say how to go on, and return the exit code of an interrupted command."""
    print(
        f"rewardlab: {how}; the same command with --resume goes on from what stands.",
        file=sys.stderr,
    )
    return exit_code


def _is_unheard() -> bool:
    """Tell whether nobody reads the output any more, as behind `| head`; then the rest is dropped.

    A broken pipe to a server or another process is not that.
    """
    output = select.poll()
    output.register(1, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # else the interpreter complains at its end
    os.close(nowhere)
    return True


def _dispatch(argv: Sequence[str]) -> int:
    """Print a page, or run the command that the first word names."""
    command = argv[0] if argv else "--help"
    options = argv[1:]
    if command == "--version":
        print(f"rewardlab {__version__}")
        return 0
    if command in ("-h", "--help", "help"):
        print(PAGES["rewardlab"])
        return 0
    if command not in _HOMES:
        raise _unknown(command)
    if "-h" in options or "--help" in options:
        print(PAGES[command])
        return 0
    options = ["--help" if word == "--help-all" else word for word in options]
    if _HOMES[command] in ("fit", "rounds"):
        import_module("rewardlab.commands.early").check(command, options)
    module = import_module(f"rewardlab.commands.{_HOMES[command]}")
    exit_code: int = module.run(command, options)
    return exit_code


def _unknown(command: str) -> InputError:
    """Return the error for a word that is no command, with the nearest that is."""
    near = get_close_matches(command, _HOMES, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"The commands are {', '.join(_HOMES)}."
    return InputError(f"There is no command {command!r}. {hint}")
