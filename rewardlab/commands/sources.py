"""What `attack` and `curve` share: their parser, and what their flags name."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from rewardlab.commands.mistakes import unknown_flags
from rewardlab.data import read_prompts
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.policies.folders import load_policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward, load_reward
from rewardlab.rewards.scoring import member_scores
from rewardlab.seeds import row_seeds
from rewardlab.storage.metadata import read_text
from rewardlab.types import Samples


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake as one sentence."""

    def error(self, message: str) -> NoReturn:
        better = unknown_flags(message, self._option_string_actions)
        raise InputError(
            better or f"{message[0].upper()}{message[1:]}. `{self.prog} --help` shows the flags."
        )


def make_parser(command: str) -> Parser:
    """Return a parser with the flags that both commands have."""
    parser = Parser(prog=f"rewardlab {command}", allow_abbrev=False)
    add = parser.add_argument
    add(
        "--policy",
        required=True,
        help="folder of a policy, a transformers causal language model or a diffusers pipeline",
    )
    add("--prompts", required=True, help='text file, one prompt a line, or .jsonl with "prompt"')
    add("--out", required=True, help="run folder; never overwritten")
    add("--resume", action="store_true", help="go on in a run folder that the same flags made")
    add(
        "--max-length",
        type=int,
        help="most tokens of a response; the policy's own limit by default",
    )
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=64, help="outputs drawn at once")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--query", default="{prompt}{response}", help="what a reward behind a URL is sent")
    add("--key-variable", help="environment variable with the key of a reward behind a URL")
    add(
        "--trust",
        action="store_true",
        help="load folders that name classes from outside rewardlab, and so run their code",
    )
    return parser


def check_numbers(given: argparse.Namespace, **least: int) -> None:
    """Refuse numbers below their least.

    Raises:
        InputError: naming the flag.
    """
    for name, limit in {"batch_size": 1, "max_length": 1, **least}.items():
        value = getattr(given, name)
        if value is not None and value < limit:
            raise InputError(f"--{name.replace('_', '-')} is at least {limit}; got {value}.")


def config_of(given: argparse.Namespace) -> dict[str, object]:
    """Return what a run is known by: all flags but those that say only where and how to run, paths
    absolute.
    """
    where = ("out", "resume", "device", "batch_size", "trust", "key_variable", "allow_leak")
    return {name: _absolute(value) for name, value in vars(given).items() if name not in where}


def _absolute(value: object) -> object:
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    return (
        str(Path(value).absolute())
        if isinstance(value, str) and not is_url(value) and Path(value).exists()
        else value
    )


def is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def source(place: str) -> str:
    """Return the fingerprint of a folder's files, or of a URL: what stands behind it cannot be
    seen.
    """
    if not is_url(place) and not Path(place).is_dir():
        raise InputError(
            f"{place} is not a folder. Give one that save_pretrained wrote, or for a reward an http(s):// URL."
        )
    return fingerprint(place if is_url(place) else Path(place))


def open_reward(place: str, given: argparse.Namespace) -> Reward:
    """Load a reward from a folder, ours or a published sequence classifier, or reach one behind a
    URL.
    """
    if is_url(place):
        from rewardlab.rewards.remote import RemoteReward

        return RemoteReward(place, given.query, given.batch_size, key_variable=given.key_variable)
    return load_reward(place, trust=given.trust).to(given.device).eval()


def open_policy(given: argparse.Namespace) -> Policy:
    """Load the policy, with the flags' limits.

    Raises:
        InputError: if it cannot be loaded, or a length limit does not suit it.
    """
    policy = load_policy(given.policy, trust=given.trust).to(given.device).eval()
    if given.max_length is not None and not hasattr(policy, "max_new_tokens"):
        raise InputError(
            f"--max-length limits the tokens of a response, and a {type(policy).__name__} writes none. Leave it out."
        )
    if given.max_length is not None:
        policy.max_new_tokens = given.max_length  # type: ignore[assignment]
    if getattr(policy, "micro_batch", 0) is None:
        policy.micro_batch = given.batch_size  # type: ignore[assignment]
    return policy


def probe(policy: Policy, rewards: Mapping[str, Reward], prompts: Sequence[str], file: str) -> None:
    """Draw one output and score it, so that what does not fit together is known before anything is
    written.

    Raises:
        InputError: also if a prompt is too long for a policy of text; the line of `file` is named.
    """
    if policy.dimensions == 1:
        check_prompts(policy, prompts, file)
    sample = candidates(policy, prompts[:1], 1, 0)
    for reward in rewards.values():
        member_scores(reward, sample)


def check_prompts(policy: Policy, prompts: Sequence[str], file: str) -> None:
    """Let a policy of text read all prompts, with empty responses.

    Raises:
        InputError: naming the line of the first that it refuses.
    """

    def read(some: Sequence[str]) -> None:
        policy.encode(Samples(list(some), [""] * len(some)), seeds=row_seeds(0, len(some)))

    try:
        read(prompts)
    except InputError:
        for prompt in prompts:
            try:
                read([prompt])
            except InputError as error:
                raise InputError(f"{file}, line {line_of(file, prompt)}: {error}") from None
        raise


def line_of(file: str, prompt: str) -> int | None:
    """Return the number of the first line of a file of prompts that holds this one.

    Example:
        >>> path = getfixture("tmp_path") / "prompts.jsonl"
        >>> _ = path.write_text('\\n{"prompt": "a cat"}\\n')
        >>> line_of(str(path), "a cat")
        2
    """
    lines = read_text(Path(file)).replace("\r\n", "\n").split("\n")
    if Path(file).suffix == ".jsonl":
        lines = [json.loads(line)["prompt"] if line.strip() else "" for line in lines]
    return next((number for number, line in enumerate(lines, 1) if line == prompt), None)


def distinct_prompts(file: str, held_out: str | None = None, allow_leak: bool = False) -> list[str]:
    """Return the distinct prompts of a file, in order.

    Raises:
        InputError: if the file cannot be read, or prompts are also in the file `held_out`, unless
            `allow_leak`.
    """
    prompts = list(dict.fromkeys(read_prompts(file)))
    known = set(read_prompts(held_out)) if held_out else set()
    leaked = [prompt for prompt in prompts if prompt in known]
    if leaked and not allow_leak:
        raise InputError(
            f"{len(leaked)} of {len(prompts)} prompts in {file} are also in {held_out}, such as {leaked[0][:60]!r}: what is "
            "found with them must not be evaluated there. Remove them, or give --allow-leak."
        )
    return prompts


def tell() -> None:
    """Let rewardlab say on stderr what it has finished."""
    own = logging.getLogger("rewardlab")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
        own.propagate = False
