"""What `fit` and `rounds` share: the parser of configs, and the passes over the command line."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch
import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
    set_parsing_settings,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.cli import LightningArgumentParser

from rewardlab.commands.composing import Composition, Signature, plain_defaults
from rewardlab.commands.earlier_names import current_names
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.mistakes import shorten, unknown_flags, unknown_key
from rewardlab.commands.settling import restore_words, settle
from rewardlab.commands.words import (
    CONFIG_FLAGS,
    Experiment,
    config_files,
    joined_configs,
    out_in_experiment,
    readable_configs,
)
from rewardlab.errors import InputError, reason_of

NULLS = ("null", "~")
# Keys that say only where and how to run, so that a run is not known by them.
NOT_IN_CONFIG = ("config", "resume", "stages", "report", "dry_run")


class Parser(LightningArgumentParser):
    """Lightning's parser that names a misspelt key, its class and the nearest valid name."""

    subject: Any = None
    written: Composition | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_class_arguments(
        self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        if nested_key is None:
            self.subject = theclass
        added: list[str] = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        return added

    def add_function_arguments(
        self, function: Any, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        if nested_key is None:
            self.subject = function
        added: list[str] = super().add_function_arguments(function, nested_key, *args, **kwargs)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        keys = [action.dest for action in self._actions]
        sentence = unknown_key(message, self.subject, keys)
        sentence = sentence or unknown_flags(message, self._option_string_actions)
        raise argparse.ArgumentError(None, sentence or message) from ex


def make_parser() -> Parser:
    """Return a parser with `--config`, and set up the logs.

    Its mode lets interpolations follow overrides.
    """
    set_up_logs()
    yaml.SafeDumper.add_multi_representer(Enum, _represent_enum)
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = Parser(prog="rewardlab", description="", parser_mode="omegaconf+", exit_on_error=False)
    help_text = "YAML file; may be repeated."
    parser.add_argument(*CONFIG_FLAGS, action=ActionConfigFile, help=help_text)
    return parser


def _represent_enum(dumper: yaml.SafeDumper, member: Enum) -> yaml.Node:
    """Write a member of an enumeration by its value, as Lightning's callbacks take it."""
    return dumper.represent_data(member.value)


def prepare(parser: ArgumentParser) -> None:
    """Add the flags that every command with a config has."""
    parser.add_argument("--experiment", type=Experiment, default=Experiment())
    parser.add_argument(
        "--resume", action="store_true", help="Go on in a run folder that the same config made."
    )
    parser.add_argument(
        "--report", type=bool, default=True, help="Write the run's report.html at the end."
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Build everything on one tiny batch; write nothing."
    )


def leads_nowhere(error: OmegaConfBaseException) -> InputError:
    """Return the sentence for a reference of a config that cannot be resolved."""
    reason = str(error).splitlines()[0][:300]
    return InputError(f"A ${{…}} in the config leads nowhere: {reason}.")


def parse(parser: Parser, argv: Sequence[str]) -> Namespace:
    """Return the config that a command line and its files give.

    Raises:
        InputError: for whatever is wrong with them, in one sentence.
    """
    argv = prepared(argv)
    written = Composition(signature_of)
    argv = written.words(argv)
    parser.written = written
    try:
        config: Namespace = parser.parse_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(shorten(str(error))) from None
    except OmegaConfBaseException as error:
        raise leads_nowhere(error) from None
    settle(config, written)
    return config


def signature_of(factory: Any) -> Signature:
    """Return the arguments of a class or a function and its own defaults, as the parser sees them.

    Example:
        >>> from torch.optim import Adagrad
        >>> signature_of(Adagrad).defaults["lr"]
        0.01
    """
    parser = Parser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(factory, type) else parser.add_function_arguments
    try:
        add(factory, fail_untyped=False, sub_configs=True)
        defaults = parser.get_defaults(skip_validation=True).as_dict()
    except Exception:  # what is wrong with it is said where the config is parsed
        return Signature(frozenset(), {})
    left_out = _required(factory, parser) | _networks(parser)
    return Signature(frozenset(defaults), plain_defaults(defaults, left_out))


def _networks(parser: ArgumentParser) -> set[str]:
    """Return the names of the arguments that are networks, which are None by default or required.

    A loop that rounds make is handed its policy and its reward: they are no keys of its config, so
    nothing may be written for them.
    """
    names = set()
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
                names.add(action.dest)
    return names


def _required(factory: Any, parser: ArgumentParser) -> set[str]:
    """Return the names of the arguments that have no default."""
    required = {action.dest for action in parser._actions if action.required}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            required.add(name)
    return required


def prepared(argv: Sequence[str]) -> list[str]:
    """Return a command line as the parser takes it, after each of PASSES in turn.

    Raises:
        InputError: if a config file cannot be read, or a path is given that no config takes.

    Example:
        >>> prepared(["--out", "runs/a", "--rounds.init_args.seed", "null"])
        ['--experiment.out', 'runs/a', '--config={"rounds": {"init_args": {"seed": null}}}']
    """
    argv = list(argv)
    for step in PASSES:
        argv = step(argv)
    return argv


def used_paths(argv: Sequence[str]) -> list[str]:
    """Refuse a path of `experiment` that no config takes: it would be left out in silence."""
    files = [Path(file).read_text(encoding="utf-8") for file in config_files(argv)]
    texts = [*argv, *files]
    for name in re.findall(r"^--experiment\.(\w+_path)\b", "\n".join(argv), re.MULTILINE):
        if not any(f"${{experiment.{name}}}" in text for text in texts):
            raise InputError(
                f"--experiment.{name} is given and no config takes it: none has "
                f"${{experiment.{name}}}. Give the key that is meant itself, or a config that "
                "takes the path from there, such as those named own.yaml."
            )
    return list(argv)


def null_configs(argv: Sequence[str]) -> list[str]:
    """Make `--a.b=null` or `--a.b null` a config of its own.

    As a flag jsonargparse (4.53) reads the text "None" there.

    Example:
        >>> null_configs(["--rounds.init_args.seed", "null", "--seed=0"])
        ['--config={"rounds": {"init_args": {"seed": null}}}', '--seed=0']
    """
    flags: list[str] = []
    for word in argv:
        if word in NULLS and flags and _takes_a_value(flags[-1]):
            word = f"{flags.pop()}={word}"
        key, _, value = word.partition("=")
        if value in NULLS and _is_dotted(key):
            word = f"--config={_null_at(key)}"
        flags.append(word)
    return flags


def _is_dotted(key: str) -> bool:
    return key.startswith("--") and "." in key


def _takes_a_value(flag: str) -> bool:
    return _is_dotted(flag) and "=" not in flag


def _null_at(key: str) -> str:
    """Return the JSON of a config in which a flag's dotted key is null."""
    text = "null"
    for name in reversed(key.removeprefix("--").split(".")):
        text = f'{{"{name}": {text}}}'
    return text


PASSES: tuple[Callable[[Sequence[str]], list[str]], ...] = (
    out_in_experiment,
    joined_configs,
    readable_configs,
    used_paths,
    current_names,
    null_configs,
)


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Return the config's objects.

    jsonargparse wraps what a constructor raises; an InputError comes out as it was.

    Raises:
        InputError: also if a class needs a package that is not installed.
    """
    try:
        objects: Namespace = parser.instantiate(config)
    except Exception as error:
        for cause in _chain(error):
            if isinstance(cause, InputError):
                raise cause from None
            if isinstance(cause, ImportError):
                raise _not_installed(error, cause) from error
        raise
    return objects


def _not_installed(error: Exception, cause: ImportError) -> InputError:
    """Return the sentence for a class of the config whose package is not there."""
    named = re.search(r"class_path '([\w.]+)'", str(error))
    who = named.group(1) if named else "A class of the config"
    return InputError(
        f"{who} cannot be made, since a package that it needs is not installed: "
        f"{reason_of(cause)}. "
        "Install it, or take the class out of the config."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, back to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def resolved(parser: Parser, config: Namespace) -> dict[str, Any]:
    """Return the config as plain data, interpolations resolved.

    What says only where and how to run it is left out.
    """
    tree = _plain(parser, config)
    for key in NOT_IN_CONFIG:
        tree.pop(key, None)
    tree["experiment"].pop("out", None)
    return tree


def _plain(parser: Parser, config: Namespace) -> dict[str, Any]:
    """Return a config as plain data: as parsed, or in the words it was given.

    Words are all there is where an argument became an object that no YAML holds.
    """
    written = parser.written
    assert written is not None
    tree: dict[str, Any]
    try:
        tree = yaml.safe_load(parser.dump(config, skip_unset=False))
    except (yaml.YAMLError, ValueError, TypeError):
        words = OmegaConf.to_container(OmegaConf.create(written.tree()), resolve=True)
        assert isinstance(words, dict)
        tree = {"experiment": {}}
        tree.update({str(key): value for key, value in words.items()})
    restore_words(tree, written)
    return tree


def out_folder(config: Namespace, argv: Sequence[str]) -> Path:
    """Return `--out`, or a folder in runs/ named after the last config file."""
    files = config_files(argv) or ["unnamed"]
    return Path(config.experiment.out or Path("runs", Path(files[-1]).stem))
