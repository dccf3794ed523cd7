"""The words of a command line, before any parser: configs, their files, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rewardlab.errors import InputError

CONFIG_FLAGS = ("-c", "--config")


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
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        sentence = f"The config {file!r} is not YAML: {reason}."
        raise InputError(sentence.replace('"<unicode string>", ', "")) from None
    if not isinstance(content, dict):
        raise InputError(
            f"The config {file!r} holds no keys; expected a mapping such as `model: ...`, got "
            f"{content!r:.60}."
        )


def config_files(argv: Sequence[str]) -> list[str]:
    """Return the files that `--config` names.

    Example:
        >>> config_files(["--config", "a.yaml", "--seed=1", "--config=b.yaml"])
        ['a.yaml', 'b.yaml']
    """
    configs = [word for word in joined_configs(argv) if word.startswith("--config=")]
    return [word.removeprefix("--config=") for word in configs]
