"""What `fit` and `rounds` share: the parser of configs, and the passes over the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
    set_parsing_settings,
)
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.cli import LightningArgumentParser

from rewardlab.commands.earlier_names import current_names
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.mistakes import shorten, unknown_flags, unknown_key
from rewardlab.errors import InputError

CONFIG_FLAGS = ("-c", "--config")
NULLS = ("null", "~")
# Keys that say only where and how to run, so that a run is not known by them.
NOT_IN_CONFIG = ("config", "resume", "stages")


@dataclass
class Experiment:
    """What several parts of a config share; other keys take a value as `${experiment.seed}`.

    Args:
        policy_path: the base generator: a folder, or a name on the model hub.
        reward_path: a saved reward.
        tower_path: the frozen network of a vision reward: an open_clip name, a weights file or
            `local-dir:` and a folder.
        data_path: the target samples, or the preference pairs.
        prompts_path: the prompts, one a line.
        out: the run folder.
        seed: from which every other seed is derived.
    """

    policy_path: str | None = None
    reward_path: str | None = None
    tower_path: str | None = None
    data_path: str | None = None
    prompts_path: str | None = None
    out: str | None = None
    seed: int = 0


class Parser(LightningArgumentParser):
    """Lightning's parser that names a misspelt key, its class and the nearest valid name."""

    subject: Any = None

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
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = Parser(prog="rewardlab", description="", parser_mode="omegaconf+", exit_on_error=False)
    help_text = "YAML file; may be repeated."
    parser.add_argument(*CONFIG_FLAGS, action=ActionConfigFile, help=help_text)
    return parser


def prepare(parser: ArgumentParser) -> None:
    """Add the flags that every command with a config has."""
    parser.add_argument("--experiment", type=Experiment, default=Experiment())
    parser.add_argument(
        "--resume", action="store_true", help="Go on in a run folder that the same config made."
    )


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Return the config that a command line and its files give.

    Raises:
        InputError: for whatever is wrong with them, in one sentence.
    """
    argv = prepared(argv)
    try:
        config: Namespace = parser.parse_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(shorten(str(error))) from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"A ${{…}} in the config leads nowhere: {reason}.") from None
    return config


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


def out_in_experiment(argv: Sequence[str]) -> list[str]:
    """Spell `--out` as `--experiment.out`, where the config keeps it."""
    renamed = []
    for word in argv:
        if word.split("=")[0] == "--out":
            word = word.replace("--out", "--experiment.out", 1)
        renamed.append(word)
    return renamed


def joined_configs(argv: Sequence[str]) -> list[str]:
    """Make each config one word.

    Example:
        >>> joined_configs(["--config", "a.yaml", "--seed", "1", "-c=b.yaml"])
        ['--config=a.yaml', '--seed', '1', '--config=b.yaml']
    """
    joined = []
    words = iter(argv)
    for word in words:
        flag, equals, file = word.partition("=")
        if flag not in CONFIG_FLAGS:
            joined.append(word)
        elif equals:
            joined.append(f"--config={file}")
        else:
            joined.append(f"--config={next(words, '')}")
    return joined


def readable_configs(argv: Sequence[str]) -> list[str]:
    """Refuse config files that cannot be read, since the parser's complaints do not name them."""
    for file in config_files(argv):
        _check_file(file)
    return list(argv)


def _check_file(file: str) -> None:
    """Refuse a file that is no YAML mapping."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The config {file!r} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        sentence = f"The config {file!r} is not YAML: {reason}."
        raise InputError(sentence.replace('"<unicode string>", ', "")) from None
    if not isinstance(content, dict):
        raise InputError(
            f"The config {file!r} holds no keys; expected a mapping such as `model: ...`, got "
            f"{content!r:.60}."
        )


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


def config_files(argv: Sequence[str]) -> list[str]:
    """Return the files that `--config` names.

    Example:
        >>> config_files(["--config", "a.yaml", "--seed=1", "--config=b.yaml"])
        ['a.yaml', 'b.yaml']
    """
    configs = [word for word in joined_configs(argv) if word.startswith("--config=")]
    return [word.removeprefix("--config=") for word in configs]


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Return the config's objects.

    jsonargparse wraps what a constructor raises; an InputError comes out as it was.
    """
    try:
        objects: Namespace = parser.instantiate(config)
    except Exception as error:
        for cause in _chain(error):
            if isinstance(cause, InputError):
                raise cause from None
        raise
    return objects


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, back to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def resolved(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return the config as plain data, interpolations resolved.

    What says only where and how to run it is left out.
    """
    tree: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    for key in NOT_IN_CONFIG:
        tree.pop(key, None)
    tree["experiment"].pop("out", None)
    return tree


def out_folder(config: Namespace, argv: Sequence[str]) -> Path:
    """Return `--out`, or a folder in runs/ named after the last config file."""
    files = config_files(argv) or ["unnamed"]
    return Path(config.experiment.out or Path("runs", Path(files[-1]).stem))
