"""`rewardlab serve`: rewards behind HTTP, in the forms that trainers speak."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rewardlab.commands.flags import FlagParser, add_device_flags, check_numbers
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.sources import open_reward
from rewardlab.endpoints.client import is_header_text
from rewardlab.errors import InputError
from rewardlab.storage import write_atomically

if TYPE_CHECKING:
    from rewardlab.serving import Limits, Scorer

NAMED = re.compile(r"([\w.-]+)=(.+)")  # NAME=REWARD
MIB = 2**20


class Place(NamedTuple):
    """A reward that is to be served.

    Attributes:
        name: by which requests ask for it.
        location: a folder or a URL.
    """

    name: str
    location: str


def run(command: str, argv: Sequence[str]) -> int:
    """Bind the port, load the rewards, and answer until a signal."""
    flags = parse(argv)
    _check_extra()
    places = places_of(flags.rewards)
    set_up_logs()
    from rewardlab.serving.server import bound_socket, is_loopback

    is_local = is_loopback(flags.host)
    token = token_of(flags.token_variable, flags.host, is_local)
    bound = bound_socket(flags.host, flags.port)
    from rewardlab.serving import RewardApp, RewardServer

    try:
        scorers = _scorers(places, flags)
        aliases = {place.location: place.name for place in places}
        app = RewardApp(scorers, _limits(flags), token, aliases, is_local)
        names = ", ".join(place.name for place in places)
        server = RewardServer(app, bound, _announce(names, flags.ready_file))
        server.serve_rewards()
    finally:
        bound.close()
        if flags.ready_file is not None:
            Path(flags.ready_file).unlink(missing_ok=True)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = FlagParser(prog="rewardlab serve", allow_abbrev=False)
    add = parser.add_argument
    add(
        "rewards", nargs="+", metavar="REWARD", help="a folder or URL, or NAME=that; first: default"
    )
    add("--host", default="127.0.0.1", help="address to listen on; off loopback a token is needed")
    add("--port", type=int, default=5000, help="0 takes a free one and prints it")
    add("--token-variable", metavar="NAME", help="environment variable with the token to ask for")
    add("--ready-file", help="file that holds the URL while requests are answered")
    add("--batch-size", type=int, default=32, help="most rows scored at once")
    add("--max-wait-ms", type=float, default=5.0, help="most a row waits for others to join it")
    add("--max-queue", type=int, default=4096, help="rows that wait; beyond them 429")
    add("--max-rows", type=int, default=1024, help="texts or pictures of a request; else 413")
    add("--max-body-mib", type=int, default=64, help="size of a request; else 413")
    add("--max-megapixels", type=int, default=64, help="of a request's pictures; else 413")
    add("--read-seconds", type=float, default=10.0, help="for a request to arrive; else 408")
    add("--drain-seconds", type=float, default=30.0, help="for what was accepted, at a stop")
    add_device_flags(parser)
    flags = parser.parse_args(argv)
    flags.max_length = None
    check_numbers(flags, max_wait_ms=0, max_queue=1, max_rows=1, max_body_mib=1, max_megapixels=1)
    return flags


def places_of(words: Sequence[str]) -> list[Place]:
    """Return the rewards that the command line names: REWARD or NAME=REWARD.

    Without a name it is that of the folder, or the server's host and port.

    Raises:
        InputError: if two have one name.

    Example:
        >>> places_of(["runs/rm", "judge=gold/"])
        [Place(name='rm', location='runs/rm'), Place(name='judge', location='gold/')]
    """
    places: list[Place] = []
    for word in words:
        named = NAMED.fullmatch(word)
        if named and not Path(word).exists():
            place = Place(named[1], named[2])
        else:
            place = Place(Path(word).resolve().name, word)
        for other in places:
            if other.name == place.name:
                raise InputError(
                    f"Two rewards are called {place.name}: {other.location} and {place.location}. "
                    "Give one another name: NAME=REWARD."
                )
        places.append(place)
    return places


def token_of(variable: str | None, host: str, is_local: bool) -> str | None:
    """Return the token that requests have to bring, from an environment variable.

    Raises:
        InputError: if the variable is not set, or holds what HTTP cannot carry, or there is none
            and others reach the server.

    Example:
        >>> token_of(None, "0.0.0.0", False)
        Traceback (most recent call last):
        rewardlab.errors.InputError: --host 0.0.0.0 is reached by other machines, ...
    """
    if variable is None:
        if is_local:
            return None
        raise InputError(
            f"--host {host} is reached by other machines, so requests have to bring a token. Put "
            "one into an environment variable and name it: --token-variable NAME."
        )
    token = os.environ.get(variable, "").strip()
    if not token:
        raise InputError(
            f"The environment variable {variable} should hold the token that requests bring, and "
            "is not set. Export it first."
        )
    if not is_header_text(token):
        raise InputError(
            f"The environment variable {variable} should hold a token of ASCII letters, digits and "
            "marks, without spaces, since HTTP carries no other. Take `openssl rand -hex 32`."
        )
    return token


def _check_extra() -> None:
    """Refuse to begin without the web server's packages."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"rewardlab serve needs {' and '.join(missing)}: pip install 'rewardlab[serve]'."
        )


def _scorers(places: Sequence[Place], flags: argparse.Namespace) -> list[Scorer]:
    """Load the rewards, each with its queue."""
    from rewardlab.serving import Scorer

    rewards = [open_reward(place.location, flags) for place in places]
    scorers = []
    for place, reward in zip(places, rewards, strict=True):
        scorers.append(
            Scorer(place.name, reward, flags.batch_size, flags.max_wait_ms / 1000, flags.max_queue)
        )
    return scorers


def _limits(flags: argparse.Namespace) -> Limits:
    from rewardlab.serving import Limits

    return Limits(
        body_bytes=flags.max_body_mib * MIB,
        rows=flags.max_rows,
        pixels=flags.max_megapixels * MIB,
        queue=flags.max_queue,
        read_seconds=flags.read_seconds,
        drain_seconds=flags.drain_seconds,
    )


def _announce(names: str, ready_file: str | None) -> Callable[[str], None]:
    """Return what says that requests are answered: a line, and the file for scripts."""

    def announce(url: str) -> None:
        print(f"rewardlab serve: {url} answers for {names}", flush=True)
        if ready_file is not None:
            write_atomically(ready_file, url + "\n")

    return announce
