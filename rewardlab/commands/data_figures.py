"""The figures of `rewardlab data check`, of each kind of file or folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.commands.data_files import others
from rewardlab.data.compared import evenly_spread, files_of
from rewardlab.data.diagnostics import report, separators
from rewardlab.data.pair_checks import leak, marks_in, pair_counts, plain_texts, split_leak
from rewardlab.data.pair_keys import pair_keys
from rewardlab.data.pair_lengths import context_figures, length_quantiles, pair_lengths
from rewardlab.data.picture_checks import folder_figures
from rewardlab.data.preferences import Preferences
from rewardlab.data.samples import open_samples
from rewardlab.data.splits import prompt_key
from rewardlab.data.targets import gather
from rewardlab.errors import InputError
from rewardlab.evaluation.pair_figures import share
from rewardlab.networks import TextFormat, load_tokenizer
from rewardlab.networks.chat import TextTokens
from rewardlab.storage.media_folder import MediaFolder
from rewardlab.storage.pair_layouts import LAYOUTS
from rewardlab.storage.preferences import PairFile
from rewardlab.types import PreferencePairs, Samples, distinct, kind_of

Figures = dict[str, Any]
_SIDE = 256  # to which pictures are resized to be compared
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")


class Reading(NamedTuple):
    """How a model reads texts.

    Attributes:
        tokens: None where characters are counted.
        context: the most tokens of a row, None where it is not known.
    """

    tokens: TextTokens | None
    context: int | None


def of_pairs(file: PairFile, flags: argparse.Namespace) -> Figures:
    """Return the figures of pairs of texts."""
    pairs = file.pairs
    reading = _reading(flags)
    special = [] if reading.tokens is None else reading.tokens.tokenizer.all_special_tokens
    responses = [*pairs.chosen.outputs, *pairs.rejected.outputs]
    figures = {
        "kind": "preference pairs of texts",
        **_how_read(file),
        **pair_counts(pairs),
        **_lengths(pairs, reading, flags),
        "longer": longer(pairs, flags.seed),
        "marks": {
            "prompts": marks_in(plain_texts(pairs.chosen.prompts), special),
            "responses": marks_in(map(str, responses), special),
        },
        "split": _split(pairs, flags),
    }
    return {**figures, **_against(pairs, flags)}


def _against(pairs: PreferencePairs, flags: argparse.Namespace) -> Figures:
    """Return what pairs share with the file of --against, if one is given."""
    if flags.against is None:
        return {}
    return {"against": {"file": flags.against, **leak(pairs, others(flags.against))}}


def _how_read(file: PairFile) -> Figures:
    """Return which layouts a file has, and what of it is left out."""
    unusable = {}
    for reason, places in file.skipped.items():
        unusable[reason] = {"rows": len(places), "first": places[0]}
    return {
        "rows": file.rows,
        "layouts": {name: {"rows": n, "read": LAYOUTS[name]} for name, n in file.layouts.items()},
        "unusable_rows": unusable,
        "called_equal": file.equal,
        "equal_scores": file.equal_scores,
    }


def _reading(flags: argparse.Namespace) -> Reading:
    """Return how the model whose tokenizer is named reads texts."""
    if flags.tokenizer is None:
        return Reading(None, None)
    folder = flags.tokenizer
    tokenizer = load_tokenizer(folder, folder, "data check", local_files_only=True)
    context = flags.context
    if context is None:
        context = _context_of(Path(folder) / "config.json")
    return Reading(TextTokens(tokenizer, TextFormat(chat=flags.chat)), context)


def _context_of(config: Path) -> int | None:
    """Return the context that a model's config names, None if it names none."""
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in _CONTEXT_KEYS if isinstance(settings, dict) else ():
        if isinstance(settings.get(key), int):
            return int(settings[key])
    return None


def _lengths(pairs: PreferencePairs, reading: Reading, flags: argparse.Namespace) -> Figures:
    """Return the lengths of texts, and what does not fit."""
    lengths = pair_lengths(pairs, reading.tokens)
    figures: Figures = {
        "unit": lengths.unit,
        "tokenizer": flags.tokenizer,
        "lengths": length_quantiles(lengths),
        "unreadable": {
            "pairs": len(lengths.refused),
            "first": next(iter(lengths.refused.values()), None),
        },
        "context": None,
    }
    if reading.context is not None:
        figures["context"] = context_figures(lengths, reading.context)
    return figures


def longer(pairs: PreferencePairs, seed: int = 0) -> Figures | None:
    """Return how often the longer response is the chosen one, by characters; ties are left out.

    Returns:
        `share` of the pairs whose responses differ in length, with "equal", the number of the
        others, and "accuracy", what always choosing the longer would score, with one half for
        these. None where there is no decided pair.
    """
    labels = torch.ones(len(pairs))
    if "label" in pairs.chosen.facts:
        labels = pairs.chosen.facts["label"]
    gaps = []
    for chosen, rejected in zip(pairs.chosen.outputs, pairs.rejected.outputs, strict=True):
        gaps.append(len(chosen) - len(rejected))
    gap = torch.tensor(gaps) * (labels - 0.5).sign().long()
    decided = labels != 0.5
    differ = decided & (gap != 0)
    if not differ.any():
        return None
    prompts = distinct([prompt_key(prompt) for prompt in pairs.chosen.prompts]).places
    figure = share((gap[differ] > 0).double(), torch.tensor(prompts)[differ], seed)
    equal = int((decided & (gap == 0)).sum())
    wins = int((gap > 0).sum()) + 0.5 * equal
    return {**figure, "equal": equal, "accuracy": wins / int(decided.sum())}


def _split(pairs: PreferencePairs, flags: argparse.Namespace) -> Figures | None:
    """Return what the parts of `Preferences`' split share; None where it leaves none to train on.

    A split that holds nothing out shares nothing.
    """
    data = _split_data(pairs, flags)
    try:
        train = data.split("train")
    except InputError:
        return None
    held_out = data.split("held_out")
    return {"train": len(train), "held_out": len(held_out), **split_leak(train, held_out)}


def of_exchanges(samples: Samples, flags: argparse.Namespace) -> Figures:
    """Return the figures of prompts with one response each, as SFT learns from."""
    pairs = PreferencePairs(samples, samples)
    counts = pair_counts(pairs)
    figures: Figures = {
        "kind": "prompts with one response each",
        "rows": len(samples),
        "pairs": len(samples),
        **_lengths(pairs, _reading(flags), flags),
    }
    for name in ("prompts", "several", "most", "conversations", "with_system", "empty_prompt"):
        figures[name] = counts[name]
    figures["empty_response"] = counts["empty_chosen"]
    figures["duplicated"] = counts["duplicated"]
    del figures["lengths"]["rejected"]
    return {**figures, **_against(pairs, flags)}


def of_prompts(samples: Samples, flags: argparse.Namespace) -> Figures:
    """Return the figures of prompts alone, as PPO draws responses to."""
    figures = of_exchanges(samples, flags)
    del figures["empty_response"]
    lengths = {"prompt": figures["lengths"].get("prompt", {})}
    return {**figures, "kind": "prompts", "lengths": lengths}


def of_picture_pairs(file: PairFile, flags: argparse.Namespace) -> Figures:
    """Return the figures of a folder of pairs of pictures or videos."""
    pairs = file.pairs
    keys = pair_keys(pairs)
    prompts = distinct([prompt_key(prompt) for prompt in pairs.chosen.prompts]).values
    return {
        "kind": f"preference pairs of {kind_of(pairs.chosen)}",
        "rows": file.rows,
        "pairs": len(pairs),
        "prompts": len(prompts),
        "duplicated": len(keys) - len(set(keys)),
        "identical": sum(chosen == rejected for _, chosen, rejected in keys),
        "split": _split_sizes(pairs, flags),
    }


def _split_data(pairs: PreferencePairs, flags: argparse.Namespace) -> Preferences:
    """Return the pairs as a data module that splits them as the flags say."""
    return Preferences(
        pairs, held_out=flags.held_out, seed=flags.seed, held_out_by=flags.held_out_by
    )


def _split_sizes(pairs: PreferencePairs, flags: argparse.Namespace) -> Figures | None:
    """Return how many pairs each part of the split has; None where it leaves none to train on."""
    data = _split_data(pairs, flags)
    try:
        train = data.split("train")
    except InputError:
        return None
    return {"train": len(train), "held_out": len(data.split("held_out"))}


def of_folder(path: Path, flags: argparse.Namespace) -> Figures:
    """Return the figures of a folder of pictures, videos or saved texts."""
    rows = open_samples(path, size=_SIDE)
    if not isinstance(rows, MediaFolder):
        samples = gather(rows)
        if isinstance(samples.outputs, Tensor):
            return {"kind": kind_of(samples), "rows": len(samples)}
        return of_exchanges(samples, flags)
    figures = {"kind": rows.noun, **folder_figures(rows)}
    if flags.against is None:
        return figures
    against = open_samples(flags.against, size=_SIDE)
    if not isinstance(against, MediaFolder):
        raise InputError(f"--against {flags.against} should be a folder of {rows.noun} too.")
    figures["against"] = {"file": flags.against, **_separators(rows, against)}
    return figures


def _separators(targets: MediaFolder, generated: MediaFolder) -> Figures:
    """Return what trivially tells two folders apart, as a fit on both would warn."""
    compared = [evenly_spread(targets), evenly_spread(generated)]
    attributes = separators(
        gather(compared[0]),
        gather(compared[1]),
        target_files=files_of(compared[0]),
        generated_files=files_of(compared[1]),
    )
    auc = {attribute.name: attribute.auc for attribute in attributes}
    return {"files": len(generated), "auc": auc, "report": report(attributes)}
