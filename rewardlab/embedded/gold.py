"""An n-gram model with Witten and Bell's smoothing: a judge of text, counted and not trained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray

__all__ = ["WittenBell"]


class _Counts(NamedTuple):
    """Counts of the n-grams of one length.

    Attributes:
        grams: codes of the distinct n-grams, sorted.
        gram_counts: number of times that each occurs.
        contexts: codes of the distinct contexts, which are n-grams less their last token, sorted.
        context_counts: number of times that each context occurs before a token.
        context_kinds: number of different tokens after each context.
    """

    grams: Array
    gram_counts: Array
    contexts: Array
    context_counts: Array
    context_kinds: Array


class WittenBell:
    """An n-gram model with interpolated Witten-Bell smoothing.

    p(w | h) = (c(hw) + T(h)·p(w | h')) / (c(h) + T(h)), with h' one token shorter than h, down to
    the uniform 1/V. c counts n-grams; T(h) is the number of different tokens seen after h. A
    context that was not seen hands on to its shorter one. Witten and Bell, IEEE Transactions on
    Information Theory 37, 1991, method C, interpolated.

    Args:
        tokens: the text that is counted, int64 [N], each in [0, V).
        vocabulary: V.
        order: length of the longest n-gram.

    Example:
        >>> model = WittenBell(np.array([0, 1, 0, 1, 0, 2]), vocabulary=3, order=2)
        >>> np.exp(model.log_prob(np.array([[0, 1], [0, 2], [0, 0]]))).round(4).tolist()
        [0.5333, 0.2889, 0.1778]
    """

    def __init__(self, tokens: Array, vocabulary: int, order: int = 4) -> None:
        self.vocabulary = vocabulary
        self.order = order
        self._counts = [self._count(tokens, length) for length in range(1, order + 1)]

    def log_prob(self, grams: Array) -> Array:
        """Return log p of the last token of each row after the ones before it, float64 [N].

        Args:
            grams: int64 [N, order]; the token V stands for "nothing", before the start of a text.
        """
        prob = np.full(len(grams), 1 / self.vocabulary)
        for length, counts in enumerate(self._counts, 1):
            gram = self._codes(grams[:, self.order - length :])
            context = self._context(gram)
            gram_count = _values_at(counts.grams, counts.gram_counts, gram)
            total = _values_at(counts.contexts, counts.context_counts, context)
            kinds = _values_at(counts.contexts, counts.context_kinds, context)
            smoothed = (gram_count + kinds * prob) / np.maximum(total + kinds, 1)
            prob = np.where(total > 0, smoothed, prob)
        log_prob: Array = np.log(prob)
        return log_prob

    def _codes(self, grams: Array) -> Array:
        """Return one number for each row of tokens."""
        codes: Array = np.zeros(len(grams), dtype=np.int64)
        for column in grams.T:
            codes = codes * (self.vocabulary + 1) + column
        return codes

    def _context(self, codes: Array) -> Array:
        """Return the codes of n-grams less their last token."""
        contexts: Array = codes // (self.vocabulary + 1)
        return contexts

    def _count(self, tokens: Array, length: int) -> _Counts:
        """Count the n-grams of one length."""
        windows = np.lib.stride_tricks.sliding_window_view(tokens, length)
        grams, gram_counts = np.unique(self._codes(windows), return_counts=True)
        contexts, positions, kinds = np.unique(
            self._context(grams), return_inverse=True, return_counts=True
        )
        return _Counts(
            grams=grams,
            gram_counts=gram_counts,
            contexts=contexts,
            context_counts=np.bincount(positions, gram_counts),
            context_kinds=kinds,
        )


def _values_at(keys: Array, values: Array, wanted: Array) -> Array:
    """Return the value of each wanted key, among sorted keys; 0 where there is none."""
    positions = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    present = keys[positions] == wanted
    return np.where(present, values[positions], 0)
