"""`rewardlab data check`: what a fit would see in a file of pairs, or in a folder of pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from rewardlab.commands.data_figures import (
    Figures,
    of_exchanges,
    of_folder,
    of_pairs,
    of_picture_pairs,
    of_prompts,
)
from rewardlab.commands.data_files import exchanges, prompts
from rewardlab.commands.data_table import as_table
from rewardlab.commands.flags import FlagParser, check_numbers, switch
from rewardlab.commands.logs import set_up_logs
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.storage import write_atomically
from rewardlab.storage.preferences import read_pair_file
from rewardlab.storage.tables import is_dataset

VERBS = ("check",)


def run(command: str, argv: Sequence[str]) -> int:
    """Look at a file or folder, print a table, and write the figures if they are asked for."""
    verb = argv[0] if argv else ""
    if verb not in VERBS:
        raise InputError(
            f"`rewardlab data` takes the verb check; got {verb!r}. "
            "`rewardlab data check FILE` says what a fit would see."
        )
    flags = parse(argv[1:])
    set_up_logs()
    path = Path(flags.file)
    if not path.exists():
        raise InputError(f"{path} does not exist. Give a local file or folder.")
    figures = {"file": flags.file, "fingerprint": fingerprint(path), **checked(path, flags)}
    print(as_table(figures))
    if flags.out is not None:
        write_atomically(flags.out, json.dumps(figures, indent=2) + "\n")
        print(flags.out)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags of `data check`.

    Raises:
        InputError: for a mistake in them, or if --out exists.
    """
    parser = FlagParser(prog="rewardlab data check", allow_abbrev=False)
    add = parser.add_argument
    add("file", metavar="FILE", help="a file or folder of pairs, or a folder of pictures or videos")
    add("--tokenizer", metavar="FOLDER", help="of the model that will read it, for tokens")
    add("--context", type=int, help="tokens that fit; by default as config.json in FOLDER says")
    add("--chat", type=switch, metavar="true|false", help="false: plain text, no chat template")
    add("--dialogues", choices=("text", "turns"), default="text", help="as Preferences has it")
    add("--against", metavar="FILE", help="a benchmark, pairs, prompts or pictures to compare with")
    add("--held-out", type=float, default=0.1, help="share or number held out, as Preferences does")
    add("--held-out-by", choices=("auto", "prompts", "pairs"), default="auto")
    add("--seed", type=int, default=0, help="seed of the split")
    add("--out", help="a new .json file with all figures")
    flags = parser.parse_args(argv)
    flags.batch_size = flags.max_length = None
    check_numbers(flags, context=1, held_out=0)
    if flags.tokenizer is None and (flags.context is not None or flags.chat is not None):
        raise InputError("--context and --chat are about tokens; give --tokenizer FOLDER too.")
    if flags.tokenizer is not None and not Path(flags.tokenizer).is_dir():
        raise InputError(f"--tokenizer {flags.tokenizer} is no folder. Nothing is downloaded.")
    if flags.out is not None and Path(flags.out).exists():
        raise InputError(f"{flags.out} exists and is never overwritten. Give another --out.")
    return flags


def checked(path: Path, flags: argparse.Namespace) -> Figures:
    """Return the figures of a file or folder, whichever it is.

    Raises:
        InputError: if it cannot be read.
    """
    is_pairs = (path / "chosen").is_dir() and (path / "rejected").is_dir()
    if path.is_dir() and not is_pairs and not is_dataset(path):
        return of_folder(path, flags)
    try:
        file = read_pair_file(path, dialogues=flags.dialogues)
    except InputError:
        samples = exchanges(path)
        if samples is not None:
            return of_exchanges(samples, flags)
        samples = prompts(path)
        if samples is None:
            raise
        return of_prompts(samples, flags)
    if isinstance(file.pairs.chosen.outputs, Tensor):
        return of_picture_pairs(file, flags)
    return of_pairs(file, flags)
