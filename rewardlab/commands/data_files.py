"""What a file of texts holds, for `rewardlab data check`: pairs, exchanges or prompts."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rewardlab.data.pair_checks import Texts, texts_of
from rewardlab.errors import InputError
from rewardlab.storage.contents import plain_suffix
from rewardlab.storage.exchange_rows import RESPONSE_KEYS, read_good_exchanges
from rewardlab.storage.preferences import read_pair_file
from rewardlab.storage.prompts import holds_rows, read_prompts
from rewardlab.storage.records import read_records
from rewardlab.types import Samples

ANSWERS = {"chosen", "rejected", "label", *RESPONSE_KEYS}  # columns that rows of prompts lack


def exchanges(path: Path) -> Samples | None:
    """Return a file's prompts and responses to imitate, None where it holds none."""
    try:
        return read_good_exchanges(path)
    except InputError:
        return None


def prompts(path: Path) -> Samples | None:
    """Return a file's prompts, with empty responses; None where it holds more, or none."""
    try:
        if holds_rows(path):
            names: set[str] = set()
            for record in read_records(path):
                names.update(str(name).lower() for name in record.row)
            if "prompt" not in names or names & ANSWERS:
                return None
        elif plain_suffix(path) != ".txt":
            return None
        prompts = read_prompts(path)
    except InputError:
        return None
    return Samples(prompts, [""] * len(prompts))


def others(file: str) -> Texts:
    """Return the prompts and responses of a file to compare with: a benchmark, pairs or prompts.

    Raises:
        InputError: if it is none of these.
    """
    path = Path(file)
    try:
        pairs = read_pair_file(path).pairs
    except InputError as error:
        samples = exchanges(path)
        if samples is None:
            samples = prompts(path)
        if samples is None:
            raise error from None
        return texts_of(samples.prompts, map(str, samples.outputs))
    if isinstance(pairs.chosen.outputs, Tensor):
        raise InputError(
            f"--against {file} holds pairs of pictures; texts are compared with texts."
        )
    return texts_of(pairs.chosen.prompts, [*pairs.chosen.outputs, *pairs.rejected.outputs])
