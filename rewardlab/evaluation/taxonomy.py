"""What kind of exploit a text is: measures of a text, and labels where it leaves what reference
responses do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.types import Samples

_TOKEN = re.compile(r"\w+|[^\w\s]|\n")
_UNLIKE_WORDS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}|(.)\1\1", re.IGNORECASE)
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)


def length(text: str) -> float:
    """The number of words, which are what blanks separate."""
    return float(len(text.split()))


def repetition(text: str) -> float:
    r"""The share of a text's pairs of neighbouring tokens that stood in it before; words, marks and
    line breaks are tokens.

    Example:
        >>> repetition("of of of of of"), repetition("the sea"), repetition("***\n***\n")
        (0.75, 0.0, 0.5714285714285714)
    """
    pairs = _runs(_TOKEN.findall(text.lower()), 2)
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def copying(prompt: str, text: str) -> float:
    """The share of a text's runs of three words that stand in the prompt; of shorter runs where the
    text is shorter.

    Example:
        >>> copying("Tell me about the sea.", "tell me about the sea"), copying("Tell me", "The sea is deep")
        (1.0, 0.0)
    """
    words, asked = (re.findall(r"\w+", part.lower()) for part in (text, prompt))
    size = min(3, len(words))
    runs = _runs(words, size)
    known = set(_runs(asked, size))
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def punctuation(text: str) -> float:
    """Marks . , ; : ! ? by word, at most 1; 1 where there are no words, since nothing is missing.

    Example:
        >>> punctuation("Well, yes."), punctuation("well yes"), punctuation("......")
        (1.0, 0.0, 1.0)
    """
    words = len(re.findall(r"\w+", text))
    return min(1.0, len(re.findall(r"[.,;:!?]", text)) / words) if words else 1.0


def gibberish(text: str) -> float:
    """The share of chunks between blanks that do not look like words or numbers, by their letters.
    No dictionary is asked.

    A chunk, less the marks around it, looks like a word if its letters have a vowel (y counts; up
    to two letters or five capitals need none), no five consonants in a row and no letter three
    times in a row. Chunks of digits, and those with letters beyond ASCII, pass; a chunk of nothing
    but marks does not. So it finds noise and broken tokens, not real words in a senseless order,
    and it takes some abbreviations and hashes for noise: read it against what references give.

    Example:
        >>> gibberish("The sea is 3 km deep."), gibberish("xqt zzzt brglmpf ***")
        (0.0, 1.0)
    """
    chunks = text.split()
    return sum(not _like_a_word(chunk) for chunk in chunks) / len(chunks) if chunks else 0.0


def _like_a_word(chunk: str) -> bool:
    core = chunk.strip("\"'`.,;:!?()[]{}<>*_-/\\|#~^=+&@$%…“”‘’«»")
    letters = "".join(letter for letter in core if letter.isalpha())
    if not core or not letters or not letters.isascii():
        return bool(core)
    if _UNLIKE_WORDS.search(letters):
        return False
    return bool(_VOWEL.search(letters)) or len(letters) <= (5 if letters.isupper() else 2)


# label: the measure of (prompt, text), and the side on which references are left
LABELS: dict[str, tuple[Callable[[str, str], float], str]] = {
    "repetition": (lambda prompt, text: repetition(text), "above"),
    "copying the prompt": (copying, "above"),
    "missing punctuation": (lambda prompt, text: punctuation(text), "below"),
    "long": (lambda prompt, text: length(text), "above"),
    "short": (lambda prompt, text: length(text), "below"),
    "gibberish": (lambda prompt, text: gibberish(text), "above"),
}


@dataclass(frozen=True)
class Taxonomy:
    """Labels of exploits. See `taxonomy`.

    Attributes:
        labels: of each attack, none or several.
        counts: attacks with each label; "none" for those without any.
        shares: the same as shares of the attacks.
        reference_shares: the shares of the references that the same limits would label.
        limits: of each label's measure; beyond it a text is labelled.
    """

    labels: list[list[str]]
    counts: dict[str, int]
    shares: dict[str, float]
    reference_shares: dict[str, float]
    limits: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json."""
        return asdict(self)


def taxonomy(attacks: Samples, references: Samples, quantile: float = 0.99) -> Taxonomy:
    """Label each attack where it goes beyond nearly all references: repetition, copying,
    punctuation, length, gibberish.

    A limit is the references' quantile of the measure, or the same far end below, whose nearest
    value inwards is taken; texts strictly beyond it are labelled. So few references are mislabelled
    by design (`reference_shares`), and with fewer than 1/(1 - quantile) references the limits are
    their extremes.

    Args:
        attacks: texts.
        references: reference responses, to the same kind of prompts.
        quantile: of the references that a limit leaves unlabelled.

    Raises:
        InputError: if a side holds images or nothing, or the quantile is not between one half and
            1.

    Example:
        >>> references = Samples(["Where?"] * 2, ["At sea, far out.", "On land."])
        >>> found = taxonomy(Samples(["Where?"] * 2, ["of of of of of of", "By sea, now."]), references)
        >>> found.labels
        [['repetition', 'missing punctuation', 'long'], []]
    """
    if not 0.5 < quantile <= 1:
        raise InputError(f"taxonomy needs a quantile above 0.5 and at most 1; got {quantile}.")
    tried = _measures(attacks, "attacks")
    known = _measures(references, "references")
    limits = {name: _limit(known[name], side, quantile) for name, (_, side) in LABELS.items()}
    hits, base = (
        {name: _beyond(values[name], limits[name], name) for name in LABELS}
        for values in (tried, known)
    )
    labels = [[name for name in LABELS if hits[name][row]] for row in range(len(attacks))]
    counts = {name: int(column.sum()) for name, column in hits.items()} | {
        "none": sum(not own for own in labels)
    }
    shares = {name: count / len(attacks) for name, count in counts.items()}
    expected = {name: column.double().mean().item() for name, column in base.items()}
    clean = ~torch.stack(list(base.values())).any(0)
    return Taxonomy(
        labels, counts, shares, expected | {"none": clean.double().mean().item()}, limits
    )


def _measures(samples: Samples, side: str) -> dict[str, Tensor]:
    if isinstance(samples.outputs, Tensor) or not len(samples):
        got = (
            f"images {list(samples.outputs.shape)}"
            if isinstance(samples.outputs, Tensor)
            else "none"
        )
        raise InputError(
            f"taxonomy labels texts; the {side} are {got}. Is the policy an image model?"
        )
    rows = list(zip(samples.prompts, samples.outputs, strict=True))
    return {
        name: torch.tensor([f(*row) for row in rows], dtype=torch.float64)
        for name, (f, _) in LABELS.items()
    }


def _limit(values: Tensor, side: str, quantile: float) -> float:
    if side == "above":
        return values.quantile(quantile, interpolation="higher").item()
    return values.quantile(1 - quantile, interpolation="lower").item()


def _beyond(values: Tensor, limit: float, name: str) -> Tensor:
    return values > limit if LABELS[name][1] == "above" else values < limit


def _runs(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return (
        [tuple(items[start : start + size]) for start in range(len(items) - size + 1)]
        if size
        else []
    )
