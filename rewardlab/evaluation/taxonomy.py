"""Kinds of exploits in texts: measures of a text, and labels where it leaves what references do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.types import Samples

_TOKEN = re.compile(r"\w+|[^\w\s]|\n")
_WORD = re.compile(r"\w+")
_PUNCTUATION_MARK = re.compile(r"[.,;:!?]")
_UNLIKE_WORDS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}|(.)\1\1", re.IGNORECASE)
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_MARKS_AROUND = "\"'`.,;:!?()[]{}<>*_-/\\|#~^=+&@$%…“”‘’«»"


def length(text: str) -> float:
    """Return the number of words, which are what blanks separate."""
    return float(len(text.split()))


def repetition(text: str) -> float:
    r"""Return the share of a text's pairs of neighboring tokens that occurred in it before.

    Words, marks and line breaks are tokens.

    Example:
        >>> repetition("of of of of of"), repetition("the sea"), repetition("***\n***\n")
        (0.75, 0.0, 0.5714285714285714)
    """
    tokens = _TOKEN.findall(text.lower())
    pairs = _runs(tokens, 2)
    if not pairs:
        return 0.0
    distinct = set(pairs)
    return 1 - len(distinct) / len(pairs)


def copying(prompt: str, text: str) -> float:
    """Return the share of a text's runs of three words that occur in the prompt.

    Shorter runs are used where the text is shorter.

    Example:
        >>> copying("Tell me about the sea.", "tell me about the sea")
        1.0
        >>> copying("Tell me", "The sea is deep")
        0.0
    """
    words = _WORD.findall(text.lower())
    prompt_words = _WORD.findall(prompt.lower())
    size = min(3, len(words))
    runs = _runs(words, size)
    prompt_runs = set(_runs(prompt_words, size))
    if not runs:
        return 0.0
    copied = [run for run in runs if run in prompt_runs]
    return len(copied) / len(runs)


def punctuation(text: str) -> float:
    """Return the number of marks . , ; : ! ? a word, at most 1.

    It is 1 where there are no words, since nothing is missing.

    Example:
        >>> punctuation("Well, yes."), punctuation("well yes"), punctuation("......")
        (1.0, 0.0, 1.0)
    """
    words = _WORD.findall(text)
    marks = _PUNCTUATION_MARK.findall(text)
    if not words:
        return 1.0
    return min(1.0, len(marks) / len(words))


def gibberish(text: str) -> float:
    """Return the share of chunks between blanks that do not look like words or numbers.

    Only the letters are looked at; there is no dictionary. A chunk, less the marks around it, looks
    like a word if its letters have a vowel, no five consonants in a row and no letter three times
    in a row. y counts as a vowel; up to two letters or five capitals need none. Chunks of digits,
    and those with letters beyond ASCII, pass. A chunk of nothing but marks does not.

    So it finds noise and broken tokens, not real words in a senseless order. It takes some
    abbreviations and hashes for noise: compare it with what references give.

    Example:
        >>> gibberish("The sea is 3 km deep."), gibberish("xqt zzzt brglmpf ***")
        (0.0, 1.0)
    """
    chunks = text.split()
    if not chunks:
        return 0.0
    unlike = [chunk for chunk in chunks if not _like_a_word(chunk)]
    return len(unlike) / len(chunks)


def _like_a_word(chunk: str) -> bool:
    core = chunk.strip(_MARKS_AROUND)
    letters = "".join(filter(str.isalpha, core))
    if not core or not letters or not letters.isascii():
        return bool(core)
    if _UNLIKE_WORDS.search(letters):
        return False
    if _VOWEL.search(letters):
        return True
    longest_without_vowel = 5 if letters.isupper() else 2
    return len(letters) <= longest_without_vowel


def _of_text(measure: Callable[[str], float]) -> Callable[[str, str], float]:
    """Return a measure of a text as one of a prompt and a text."""

    def of_prompt_and_text(prompt: str, text: str) -> float:
        return measure(text)

    return of_prompt_and_text


@dataclass(frozen=True)
class Label:
    """A kind of exploit: a text whose measure lies beyond that of nearly all references.

    Attributes:
        measure: takes a prompt and a text.
        above: True if a text above the limit gets the label; False if one below it does.
    """

    measure: Callable[[str, str], float]
    above: bool

    def values(self, prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
        """Return the measure of each text, float64 [B]."""
        values = []
        for prompt, text in zip(prompts, texts, strict=True):
            values.append(self.measure(prompt, text))
        return torch.tensor(values, dtype=torch.float64)

    def limit(self, values: Tensor, quantile: float) -> float:
        """Return the references' quantile, or the same far end below: the nearest value inwards."""
        if self.above:
            return values.quantile(quantile, interpolation="higher").item()
        return values.quantile(1 - quantile, interpolation="lower").item()

    def beyond(self, values: Tensor, limit: float) -> Tensor:
        """Return where values are strictly beyond the limit, bool [B]."""
        if self.above:
            return values > limit
        return values < limit


LABELS = {
    "repetition": Label(_of_text(repetition), above=True),
    "copying the prompt": Label(copying, above=True),
    "missing punctuation": Label(_of_text(punctuation), above=False),
    "long": Label(_of_text(length), above=True),
    "short": Label(_of_text(length), above=False),
    "gibberish": Label(_of_text(gibberish), above=True),
}


@dataclass(frozen=True)
class Taxonomy:
    """Labels of exploits. See `taxonomy`.

    Attributes:
        labels: none or several labels for each attack.
        counts: number of attacks with each label; "none" counts those without any.
        shares: `counts` as shares of the attacks.
        reference_shares: shares of the references that the same limits would label.
        limits: limit of each label's measure; beyond it a text is labeled.
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
    """Label each attack where a measure goes beyond nearly all references.

    The measures are repetition, copying, punctuation, length and gibberish. A limit is the
    references' quantile of the measure, or the same far end below; its nearest value inwards is
    taken. Texts strictly beyond it are labeled. So few references are mislabeled by design
    (`reference_shares`). With fewer than 1/(1 - quantile) references the limits are their extremes.

    Args:
        attacks: texts.
        references: reference responses to the same kind of prompts.
        quantile: share of the references that a limit leaves unlabeled.

    Raises:
        InputError: if a side holds images or nothing, or the quantile is not between one half and
            1.

    Example:
        >>> references = Samples(["Where?"] * 2, ["At sea, far out.", "On land."])
        >>> attacks = Samples(["Where?"] * 2, ["of of of of of of", "By sea, now."])
        >>> taxonomy(attacks, references).labels
        [['repetition', 'missing punctuation', 'long'], []]
    """
    if not 0.5 < quantile <= 1:
        raise InputError(f"taxonomy needs a quantile above 0.5 and at most 1; got {quantile}.")
    attack_values = _measures(attacks, "attacks")
    reference_values = _measures(references, "references")
    limits = {}
    for name, label in LABELS.items():
        limits[name] = label.limit(reference_values[name], quantile)
    hits = _hits(attack_values, limits)
    reference_hits = _hits(reference_values, limits)
    return Taxonomy(
        labels=_labels(hits, len(attacks)),
        counts=_counts(hits),
        shares=_shares(hits, len(attacks)),
        reference_shares=_shares(reference_hits, len(references)),
        limits=limits,
    )


def _measures(samples: Samples, side: str) -> dict[str, Tensor]:
    """Return each label's measure of the texts, float64 [B].

    Raises:
        InputError: if there are images or nothing.
    """
    texts = samples.outputs
    if isinstance(texts, Tensor):
        raise _not_texts(side, f"images {list(texts.shape)}")
    if not texts:
        raise _not_texts(side, "none")
    prompts = [str(prompt) for prompt in samples.prompts]
    return {name: label.values(prompts, texts) for name, label in LABELS.items()}


def _not_texts(side: str, content: str) -> InputError:
    return InputError(
        f"taxonomy labels texts; the {side} are {content}. Is the policy an image model?"
    )


def _hits(values: Mapping[str, Tensor], limits: Mapping[str, float]) -> dict[str, Tensor]:
    """Return which texts get each label, and which get "none" of them: bool [B]."""
    hits = {}
    for name, label in LABELS.items():
        hits[name] = label.beyond(values[name], limits[name])
    labeled = torch.stack(list(hits.values())).any(0)
    hits["none"] = ~labeled
    return hits


def _labels(hits: Mapping[str, Tensor], count: int) -> list[list[str]]:
    """Return the labels of each text."""
    labels: list[list[str]] = [[] for _ in range(count)]
    for name in LABELS:
        for row in hits[name].nonzero().flatten().tolist():
            labels[row].append(name)
    return labels


def _counts(hits: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: int(column.sum()) for name, column in hits.items()}


def _shares(hits: Mapping[str, Tensor], count: int) -> dict[str, float]:
    return {name: hit_count / count for name, hit_count in _counts(hits).items()}


def _runs(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Return all runs of `size` neighboring items; none for a size of 0."""
    if size == 0:
        return []
    starts = range(len(items) - size + 1)
    return [tuple(items[start : start + size]) for start in starts]
