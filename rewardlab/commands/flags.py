"""The flags of `attack` and `curve`, which need no config file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

import torch

from rewardlab.commands.mistakes import unknown_flags
from rewardlab.errors import InputError

DIALECTS = ("openrlhf", "vllm", "sglang", "tei", "flow-factory")  # of a reward behind a URL
GLUED = "{prompt}{response}"  # what a URL is sent where neither query nor template is given
# Flags by which a run is known only where they are given, since runs of before had none.
LATER = ("query_template", "chat", "policy_chat", "dialect", "outliers")
# Flags that say only where and how to run, so that a run is not known by them.
NOT_IN_CONFIG = ("out", "resume", "device", "batch_size", "trust", "key_variable", "allow_leak")


class FlagParser(argparse.ArgumentParser):
    """argparse with mistakes as one sentence."""

    def error(self, message: str) -> NoReturn:
        sentence = unknown_flags(message, self._option_string_actions)
        if sentence is None:
            capitalized = f"{message[0].upper()}{message[1:]}"
            sentence = f"{capitalized}. `{self.prog} --help` shows the flags."
        raise InputError(sentence)


def audit_parser(command: str) -> FlagParser:
    """Return a parser with the flags that every audit has."""
    parser = FlagParser(prog=f"rewardlab {command}", allow_abbrev=False)
    add = parser.add_argument
    add("--policy", required=True, help=_POLICY)
    add("--prompts", required=True, help=_PROMPTS)
    add("--out", required=True, help="run folder; never overwritten")
    add("--resume", action="store_true", help="go on in a run folder that the same flags made")
    add("--max-length", type=int, help=_MAX_LENGTH)
    add(
        "--policy-chat",
        type=switch,
        metavar="true|false",
        help="the same as --chat, of the policy",
    )
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=64, help="outputs drawn at once")
    add_device_flags(parser)
    return parser


def add_device_flags(parser: FlagParser) -> None:
    """Add the flags that say where models run and what they are trusted with."""
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--query", help=_QUERY)
    add("--query-template", metavar="TOKENIZER", help=_QUERY_TEMPLATE)
    add("--dialect", choices=DIALECTS, metavar="FORM", help=_DIALECT)
    add("--key-variable", help="environment variable with the key of a reward behind a URL")
    add("--chat", type=switch, metavar="true|false", help=_CHAT)
    add("--trust", action="store_true", help=_TRUST)


def switch(word: str) -> bool:
    """Return a flag's true or false."""
    if word not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"it is true or false; got {word}")
    return word == "true"


_POLICY = "folder of a policy, a transformers causal language model or a diffusers pipeline"
_PROMPTS = 'text file, one prompt a line, or rows (JSON, CSV, parquet) with "prompt"'
_MAX_LENGTH = "most tokens of a response; the policy's own limit by default"
_QUERY = (
    "what a reward behind a URL is sent for a text, such as 'Q: {prompt}\\nA: {response}'; "
    "\\n is a line break. Without --query and --query-template it is the response right behind "
    "its prompt"
)
_QUERY_TEMPLATE = (
    "folder of the tokenizer whose chat template makes the query, as a chat model's reward behind "
    "a URL expects it; instead of --query"
)
_DIALECT = (
    "form of a reward behind a URL: openrlhf (/get_reward), vllm (/classify), sglang "
    "(/v1/embeddings), tei (/predict), or flow-factory (/compute) for pictures; openrlhf by default"
)
_CHAT = (
    "whether texts are formatted by the tokenizer's chat template, of the rewards (of the policy "
    "in generate); false for models that were trained on plain text. By default as the folder "
    "says, or wherever there is a template"
)
_TRUST = "load folders that name classes from outside rewardlab, and so run their code"


def check_numbers(flags: argparse.Namespace, **least: int) -> None:
    """Refuse numbers below their least.

    Raises:
        InputError: naming the flag.

    Example:
        >>> check_numbers(argparse.Namespace(batch_size=64, max_length=None, n=0), n=1)
        Traceback (most recent call last):
        rewardlab.errors.InputError: --n is at least 1; got 0.
    """
    for name, limit in {"batch_size": 1, "max_length": 1, **least}.items():
        value = getattr(flags, name)
        if value is not None and value < limit:
            raise InputError(f"--{name.replace('_', '-')} is at least {limit}; got {value}.")


def config_of(flags: argparse.Namespace) -> dict[str, object]:
    """Return what a run is known by: the flags that its figures depend on, paths absolute."""
    config = {}
    for name, value in vars(flags).items():
        if name not in NOT_IN_CONFIG:
            config[name] = _absolute(value)
    for name in LATER:
        if config.get(name) is None:
            config.pop(name, None)
    if "query_template" not in config:
        config["query"] = config.get("query") or GLUED
    return config


def _absolute(value: object) -> object:
    """Return a flag's value with paths that exist made absolute."""
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, str) and not is_url(value) and Path(value).exists():
        return str(Path(value).absolute())
    return value


def is_url(location: str) -> bool:
    """Tell whether a flag names a server instead of a folder."""
    return location.startswith(("http://", "https://"))
