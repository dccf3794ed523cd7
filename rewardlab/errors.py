"""The one error that a user can mend, how a process is ended, and the check of abilities."""

from __future__ import annotations

import signal
from collections.abc import Iterable


class InputError(ValueError):
    """Something that was given cannot be used; the message says what, why and how to mend it.

    The command line prints the sentence and exits with 2. Every other exception is a bug of ours: a
    traceback, exit 1.

    Example:
        >>> raise InputError("targets/ holds no images, but 3 .txt files. Give a folder of PNGs.")
        Traceback (most recent call last):
        rewardlab.errors.InputError: targets/ holds no images, but 3 .txt files. Give ...
    """


def reason_of(error: BaseException) -> str:
    r"""Return what an exception of a library says, on one line and cut, for a sentence of ours.

    Example:
        >>> reason_of(ValueError("no\n  such key")), reason_of(KeyError())
        ('no such key', 'KeyError')
    """
    return " ".join(str(error)[:300].split()) or type(error).__name__


class AlikeError(InputError):
    """All of some samples score alike, so that nothing can be ranked or scaled by their scores."""


class Terminated(SystemExit):
    """A signal asked the process to end; its exit code is 128 and the signal's number.

    It is raised between two steps of a training, after a checkpoint, and at once elsewhere.

    Args:
        number: of the signal, such as `signal.SIGTERM`.

    Example:
        >>> Terminated(signal.SIGTERM).code, Terminated(signal.SIGHUP).code
        (143, 129)
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = signal.Signals(number)


def is_interruption(error: BaseException) -> bool:
    """Tell whether an exception means that somebody asked to stop, by Ctrl-C or another signal.

    Lightning's Trainer makes a SystemExit of a KeyboardInterrupt, and has a class of its own for
    SIGTERM.

    Example:
        >>> is_interruption(KeyboardInterrupt()), is_interruption(InputError("no"))
        (True, False)
    """
    if isinstance(error, KeyboardInterrupt | Terminated):
        return True
    is_lightnings = type(error).__name__ == "SIGTERMException"
    return is_lightnings or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    )


def check_abilities(cls: type, abilities: Iterable[type], earlier: dict[str, str]) -> None:
    """Refuse a class that defines a method of an ability without deriving from that ability.

    Nothing would call such a method, and nobody would be told.

    Args:
        cls: the class that was defined.
        abilities: abstract classes, each with the methods of one ability.
        earlier: names that methods of abilities had before, and their present names.

    Raises:
        InputError: naming the first such method, and the ability to add to the bases.

    Example:
        >>> from rewardlab.rewards import Reward
        >>> class Mine(Reward):
        ...     def features(self, samples): return samples.outputs
        Traceback (most recent call last):
        rewardlab.errors.InputError: Mine defines `features` but does not derive from ...
    """
    for name, present in earlier.items():
        if name in vars(cls):
            raise InputError(
                f"{cls.__name__} defines `{name}`, which is called `{present}` since version 0.2. "
                "Rename the method."
            )
    for ability in abilities:
        methods: frozenset[str] = getattr(ability, "__abstractmethods__", frozenset())
        defined = sorted(methods & vars(cls).keys())
        if defined and not issubclass(cls, ability):
            raise InputError(
                f"{cls.__name__} defines `{defined[0]}` but does not derive from "
                f"{ability.__name__}, so nothing would call it. Add {ability.__name__} to its "
                "bases."
            )
