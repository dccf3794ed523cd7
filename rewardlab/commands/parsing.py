"""What `fit` and `rounds` share: the parser, the group `experiment`, quiet logs."""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings  # type: ignore[attr-defined]
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.cli import LightningArgumentParser

from rewardlab.commands.mistakes import shorten, unknown_flags, unknown_key
from rewardlab.errors import InputError


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


NULLS = ("null", "~")


class Parser(LightningArgumentParser):
    """Lightning's parser that names a misspelt key, its class and the nearest valid name."""

    subject: Any = None

    def add_class_arguments(
        self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        self.subject = theclass if nested_key is None else self.subject
        added: list[str] = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        return added

    def add_function_arguments(
        self, function: Any, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        self.subject = function if nested_key is None else self.subject
        added: list[str] = super().add_function_arguments(function, nested_key, *args, **kwargs)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        better = unknown_key(message, self.subject, [action.dest for action in self._actions])
        better = better or unknown_flags(message, self._option_string_actions)
        raise argparse.ArgumentError(None, better or message) from ex


def prepare(parser: ArgumentParser) -> None:
    """Add the flags that every command with a config has."""
    parser.add_argument("--experiment", type=Experiment, default=Experiment())
    parser.add_argument(
        "--resume", action="store_true", help="Go on in a run folder that the same config made."
    )


def make_parser() -> Parser:
    """Return a parser with `--config`, in the mode whose interpolations follow overrides; and quiet
    the libraries.
    """
    quiet()
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = Parser(prog="rewardlab", description="", parser_mode="omegaconf+", exit_on_error=False)
    parser.add_argument(
        "-c", "--config", action=ActionConfigFile, help="YAML file; may be repeated."
    )
    return parser


def parse(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Return the config that the words and their files give.

    Raises:
        InputError: for whatever is wrong with them, in one sentence.
    """
    flags = [
        word.replace("--out", "--experiment.out", 1) if word.split("=")[0] == "--out" else word
        for word in words
    ]
    _check_files(flags)
    _check_paths(flags)
    try:
        config: Namespace = parser.parse_args(_nulls(flags))
    except argparse.ArgumentError as error:
        raise InputError(shorten(str(error))) from None
    except OmegaConfBaseException as error:
        raise InputError(
            f"A ${{…}} in the config leads nowhere: {str(error).splitlines()[0]}."
        ) from None
    return config


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Return the config's objects. jsonargparse wraps what a constructor raises; an InputError
    comes out as it was.
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
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _nulls(flags: Sequence[str]) -> list[str]:
    """Make `--a.b=null` or `--a.b null` a config of its own; as a flag jsonargparse (4.53) reads
    the text "None" there.

    Example:
        >>> _nulls(["--rounds.init_args.seed", "null", "--seed=0"])
        ['--config={"rounds": {"init_args": {"seed": null}}}', '--seed=0']
    """
    found: list[str] = []
    for flag in flags:
        if (
            flag in NULLS
            and found
            and found[-1].startswith("--")
            and "." in found[-1]
            and "=" not in found[-1]
        ):
            flag = f"{found.pop()}={flag}"
        key, _, value = flag.partition("=")
        if value in NULLS and key.startswith("--") and "." in key:
            flag = "--config=" + reduce(
                lambda inner, name: f'{{"{name}": {inner}}}', reversed(key[2:].split(".")), "null"
            )
        found.append(flag)
    return found


def config_files(words: Sequence[str]) -> list[str]:
    """Return the files that `--config` names.

    Example:
        >>> config_files(["--config", "a.yaml", "--seed=1", "--config=b.yaml"])
        ['a.yaml', 'b.yaml']
    """
    pairs = zip(words, [*words, ""][1:], strict=True)
    return [
        word.partition("=")[2] or following
        for word, following in pairs
        if word.split("=")[0] in ("-c", "--config")
    ]


def _check_files(flags: Sequence[str]) -> None:
    """Read the files once, since the parser's complaints do not name the file."""
    for file in config_files(flags):
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The config {file!r} cannot be read: {error}.") from None
        except yaml.YAMLError as error:
            raise InputError(
                f"The config {file!r} is not YAML: {' '.join(str(error).split())}.".replace(
                    '"<unicode string>", ', ""
                )
            ) from None
        if not isinstance(content, dict):
            raise InputError(
                f"The config {file!r} holds no keys; expected a mapping such as `model: ...`, got {content!r:.60}."
            )


def _check_paths(flags: Sequence[str]) -> None:
    """Refuse a path for all parts that no part takes: it would be left out in silence."""
    words = [*flags, *(Path(file).read_text(encoding="utf-8") for file in config_files(flags))]
    for name in re.findall(r"^--experiment\.(\w+_path)\b", "\n".join(flags), re.MULTILINE):
        if not any(f"${{experiment.{name}}}" in word for word in words):
            raise InputError(
                f"--experiment.{name} is given and no config takes it: none has ${{experiment.{name}}}. Give the key that is "
                "meant itself, or a config that takes the path from there, such as those named own.yaml."
            )


def resolved(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return the config as plain data, interpolations resolved, without what says only where and
    how to run it.
    """
    tree: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    for key in ("config", "resume", "stages"):
        tree.pop(key, None)
    tree["experiment"].pop("out", None)
    return tree


def out_folder(config: Namespace, words: Sequence[str]) -> Path:
    """Return `--out`, or a folder in runs/ named after the last config file."""
    files = config_files(words) or ["unnamed"]
    return Path(config.experiment.out or Path("runs", Path(files[-1]).stem))


def quiet() -> None:
    """Leave one progress bar and what concerns the user; drop tips, device lists and the libraries'
    own business.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    own = logging.getLogger("rewardlab")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
        own.propagate = False
    for message in (
        ".isinstance.treespec, LeafSpec.",  # pytorch-lightning 2.6.6 on torch >= 2.13
        "The '.*' does not have many workers",
        "Experiment logs directory .* exists and is not empty",  # RunFolder has checked whose it is
        # 4.53, by Lightning 2.6.6
        r"\s*(By default only one Jsonargparse|``.*`` was deprecated in v4|.* parameter was)",
        "Checkpoint directory .* exists and is not empty",
        "Found .* module.s. in eval mode at the start of training",  # frozen parts are meant to be
        "Using ModelCheckpoint with manual optimization",
        # post-training's examples are all trained on
        "You defined a `validation_step` but have no `val_dataloader`",
        "The number of training batches .* is smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=message)
