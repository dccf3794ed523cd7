"""Preference pairs from files, and as a data module: clean pairs, and adversarial ones beside them."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.errors import InputError
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.metadata import read_text
from rewardlab.storage.samples import load_pairs
from rewardlab.types import PreferencePairs, Samples, concatenate

SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
DEFAULTS = {"margin": 0.0, "label": 1.0}
_log = logging.getLogger("rewardlab")


def read_preferences(path: str | Path, strict: bool = False) -> PreferencePairs:
    r"""Read preference pairs from a UTF-8 .jsonl file, or a folder that `save_pairs` wrote.

    A line has the keys prompt, chosen and rejected, as strings or as TRL's lists of messages
    {"role", "content"}. Of messages the last assistant message is the response; all before it is
    the prompt, which may then stand in chosen and rejected instead of a key of its own. A single
    user message is its text, longer conversations are "role: text" in paragraphs. Two more keys are
    read, and become facts of the chosen half if a line has them: "margin" (by how much chosen
    should lead, 0 elsewhere) and "label" (the chance that chosen is preferred: 0.5 for a tie, 1
    elsewhere).

    Lines that are no such pairs, and pairs whose outputs are identical, are skipped, counted and
    logged. Empty responses are kept, since to say nothing is an answer, and counted.

    Args:
        path: the file or folder.
        strict: refuse what would be skipped.

    Raises:
        InputError: if the file is missing, is not UTF-8, or holds no pairs; under `strict`, naming
            the first unusable line.

    Example:
        >>> path = getfixture("tmp_path") / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "hi", "chosen": "hello", "rejected": "go away"}\n')
        >>> read_preferences(path)[0:1].chosen
        Samples(prompts=['hi'], outputs=['hello'], facts={})
    """
    path = Path(path)
    if path.is_dir():
        return load_pairs(path)
    rows = []
    skipped = defaultdict(list)
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                rows.append(_pair(line))
            except _UnusableError as reason:
                skipped[str(reason)].append(number)
    _report(path, rows, skipped, strict)
    prompts, chosen, rejected, facts = zip(*rows, strict=True)
    names = [name for name in DEFAULTS if any(name in row for row in facts)]
    columns = {
        name: torch.tensor([row.get(name, DEFAULTS[name]) for row in facts]) for name in names
    }
    return PreferencePairs(
        Samples(list(prompts), list(chosen), columns), Samples(list(prompts), list(rejected))
    )


class Preferences(pl.LightningDataModule):
    """Preference pairs to train a reward on, some of the clean ones held out.

    Batches are PreferencePairs, texts or images. Facts of the chosen half: "row" (clean pairs
    first, so that a pair keeps its number when adversarial ones join), "margin", "label", and
    "extra" (1 for adversarial pairs).

    Where there are at least twice as many prompts as pairs to hold out, whole prompts are held out,
    so that no pair of a held-out prompt is trained on; where prompts are few (class names, or none)
    single pairs are.

    Args:
        pairs: clean pairs: a .jsonl file or a folder (see `read_preferences`), or PreferencePairs.
        extra: the same of adversarial pairs; all are trained on, none held out.
        held_out: how many clean pairs (a number), or what share of them (below 1), are held out,
            about; 0 for none.
        batch_size: pairs a step, on each device.
        seed: of the split and the order.
        strict: refuse unusable lines instead of skipping them.

    Raises:
        InputError: if the pairs cannot be read, `held_out` leaves none to train on, or clean and
            adversarial ones differ in kind.

    Example:
        >>> texts = [str(number) for number in range(10)]
        >>> pairs = PreferencePairs(Samples(texts, ["yes"] * 10), Samples(texts, ["no"] * 10))
        >>> data = Preferences(pairs, extra=pairs[:2], held_out=2)
        >>> len(data.split("train")), len(data.split("held_out"))
        (10, 2)
    """

    def __init__(
        self,
        pairs: str | Path | PreferencePairs,
        extra: str | Path | PreferencePairs | None = None,
        held_out: float = 0.1,
        batch_size: int = 32,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.extra = extra
        self.held_out = held_out
        self.batch_size = batch_size
        self.seed = seed
        self.strict = strict
        self.order_seed = seed
        self._splits: dict[str, PreferencePairs] | None = None

    def extended(self, extra: PreferencePairs, seed: int | None = None) -> Preferences:
        """Return the same clean pairs and split, with `extra` in place of the adversarial ones;
        another seed only reorders.
        """
        other = Preferences(
            self.pairs,
            extra if len(extra) else None,
            self.held_out,
            self.batch_size,
            self.seed,
            self.strict,
        )
        other.order_seed = self.order_seed if seed is None else seed
        return other

    def setup(self, stage: str) -> None:
        """Read and split the pairs, once."""
        if self._splits is None:
            clean = _with_facts(self._open(self.pairs), 0, extra=0)
            train, held_out = self._rows(list(clean.chosen.prompts))
            parts = [clean[train]]
            if self.extra is not None:
                parts.append(_with_facts(self._open(self.extra), len(clean), extra=1))
                _check_kinds(*parts)
            self._splits = {"train": concatenate(parts), "held_out": clean[held_out]}

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Rows(self.split("train")), self.batch_size, seed=self.order_seed)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Return the held-out pairs' loader; no batches, of which Lightning warns, if there are
        none.
        """
        held_out = self.split("held_out")
        return (
            ResumableLoader(Rows(held_out), self.batch_size, shuffle=False) if len(held_out) else []
        )

    def split(self, part: Literal["train", "held_out"]) -> PreferencePairs:
        """Return the pairs that are trained on, or those that are held out."""
        self.setup("fit")
        return self._splits[part]

    def _open(self, source: str | Path | PreferencePairs) -> PreferencePairs:
        return (
            source if isinstance(source, PreferencePairs) else read_preferences(source, self.strict)
        )

    def _rows(self, prompts: list[str]) -> tuple[list[int], list[int]]:
        """Row numbers to train on and to hold out."""
        count = len(prompts)
        held = round(self.held_out * count) if self.held_out < 1 else int(self.held_out)
        if not 0 <= held < count:
            raise InputError(
                f"Preferences was asked to hold out {self.held_out:g} of {count} pairs, which leaves none to train on."
            )
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        groups = (
            [numbers[prompt] for prompt in prompts]
            if 2 * held <= len(numbers)
            else list(range(count))
        )
        order = (
            row_seeds(derive(self.seed, "held out"), max(groups) + 1)[groups]
            .argsort(stable=True)
            .tolist()
        )
        while 0 < held < count and groups[order[held]] == groups[order[held - 1]]:
            held += 1
        if held == count:
            raise InputError(
                f"Preferences holds out whole prompts, and {count} pairs have too few. Give a smaller held_out."
            )
        return sorted(order[held:]), sorted(order[:held])


class _UnusableError(Exception):
    """Why a line is no pair, in words that are counted."""


def _pair(line: str) -> tuple[str, str, str, dict[str, float]]:
    """Return prompt, chosen, rejected and facts of a line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        raise _UnusableError("not JSON") from None
    if not isinstance(row, dict):
        raise _UnusableError(f"not an object such as {SHAPE}")
    missing = [name for name in ("chosen", "rejected") if row.get(name) is None]
    if row.get("prompt") is None and not isinstance(row.get("chosen"), list):
        missing.insert(0, "prompt")
    if missing:
        raise _UnusableError("without " + " and ".join(f'"{name}"' for name in missing))
    (prompt, chosen), (other, rejected) = (
        _texts(row.get("prompt"), row[name]) for name in ("chosen", "rejected")
    )
    if any("\ud800" <= letter <= "\udfff" for letter in prompt + chosen + rejected):
        raise _UnusableError("with half a surrogate pair, which is no character")
    if prompt != other:
        raise _UnusableError("with another prompt for chosen than for rejected")
    if chosen == rejected:
        raise _UnusableError("with identical chosen and rejected")
    return prompt, chosen, rejected, dict(_facts(row))


def _texts(prompt: Any, response: Any) -> tuple[str, str]:
    """Return prompt and response as texts, from strings or lists of messages."""
    if isinstance(response, list):
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
        *before, last = [*_messages(asked), *_messages(response)] or [("", "")]
        if last[0] != "assistant":
            raise _UnusableError("whose messages do not end with the assistant's")
        alone = len(before) == 1 and before[0][0] == "user"
        return before[0][1] if alone else "\n\n".join(
            f"{role}: {text}" for role, text in before
        ), last[1]
    if isinstance(prompt, list):
        return _texts(prompt, [{"role": "assistant", "content": response}])
    for text in (prompt, response):
        if not isinstance(text, str):
            raise _UnusableError(
                "whose prompt, chosen or rejected is neither a string nor a list of messages"
            )
    return prompt, response


def _messages(messages: Any) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise _UnusableError('with messages that are not {"role": "…", "content": "…"}')
    return [(message["role"], message["content"]) for message in messages]


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, low, high in (("margin", -math.inf, math.inf), ("label", 0, 1)):
        value = row.get(name)
        if value is None:
            continue
        if (
            not isinstance(value, int | float)
            or not math.isfinite(value)
            or not low <= value <= high
        ):
            raise _UnusableError(
                f'whose "{name}" is not a number' + (" from 0 to 1" if name == "label" else "")
            )
        yield name, float(value)


def _report(path: Path, rows: list[Any], skipped: dict[str, list[int]], strict: bool) -> None:
    """Log what was skipped, or refuse it."""
    total = len(rows) + sum(map(len, skipped.values()))
    reasons = [
        f"{len(lines)} {reason} (the first: line {lines[0]})" for reason, lines in skipped.items()
    ]
    if not rows:
        found = "; its lines are " + ", ".join(reasons) if reasons else ", no line at all"
        raise InputError(f"{path} holds no preference pairs{found}. A line should be {SHAPE}.")
    if strict and skipped:
        reason, lines = min(skipped.items(), key=lambda item: item[1][0])
        raise InputError(
            f"{path}, line {lines[0]} is a line {reason}. Mend or remove it, or leave `strict` off."
        )
    if skipped:
        _log.warning(
            "Skipped %d of %d lines in %s: %s", total - len(rows), total, path, ", ".join(reasons)
        )
    empty = sum(not (chosen.strip() and rejected.strip()) for _, chosen, rejected, _ in rows)
    if empty:
        _log.warning(
            "%d of %d pairs in %s have an empty response; they are kept", empty, len(rows), path
        )


def _with_facts(pairs: PreferencePairs, first: int, extra: int) -> PreferencePairs:
    """Give pairs their numbers and what they lack of margin and label; other facts go, as the parts
    may not share them.
    """
    known = pairs.chosen.facts
    count = len(pairs)
    facts = {
        name: known[name].float() if name in known else torch.full((count,), value)
        for name, value in DEFAULTS.items()
    }
    row = torch.arange(first, first + count)
    chosen = Samples(
        pairs.chosen.prompts,
        pairs.chosen.outputs,
        facts | {"row": row, "extra": torch.full((count,), extra)},
    )
    return PreferencePairs(
        chosen, Samples(pairs.rejected.prompts, pairs.rejected.outputs, {"row": row})
    )


def _check_kinds(clean: PreferencePairs, extra: PreferencePairs) -> None:
    """Refuse to join texts with images, or images of several shapes."""
    kinds = [
        f"images {list(half.outputs.shape[1:])}"
        if isinstance(half.outputs, torch.Tensor)
        else "texts"
        for pairs in (clean, extra)
        for half in (pairs.chosen, pairs.rejected)
    ]
    if len(set(kinds)) > 1:
        raise InputError(
            f"Clean and extra pairs must be of one kind and size; got {', '.join(dict.fromkeys(kinds))}."
        )
