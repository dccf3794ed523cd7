"""An n-gram model with Witten and Bell's smoothing: a judge of text that is counted, not trained."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class WittenBell:
    """p(w | h) = (c(hw) + T(h)·p(w | h')) / (c(h) + T(h)), with h' one token shorter than h, down
    to the uniform 1/V.

    c counts n-grams; T(h) is how many different tokens were seen after h. A context that was not
    seen hands on to its shorter one. Witten and Bell, IEEE Transactions on Information Theory 37,
    1991, method C, interpolated.

    Args:
        tokens: int64 [N], the text that is counted, each in [0, V).
        vocabulary: V.
        order: the longest n-gram.

    Example:
        >>> model = WittenBell(np.array([0, 1, 0, 1, 0, 2]), vocabulary=3, order=2)
        >>> np.exp(model.log_prob(np.array([[0, 1], [0, 2], [0, 0]]))).round(4).tolist()
        [0.5333, 0.2889, 0.1778]
    """

    def __init__(self, tokens: Array, vocabulary: int, order: int = 4) -> None:
        self.vocabulary = vocabulary
        self.order = order
        self._levels = [self._count(tokens, length) for length in range(1, order + 1)]

    def log_prob(self, grams: Array) -> Array:
        """Return log p of the last token of each row after the ones before it, float64 [N].

        Args:
            grams: int64 [N, order]; the token V stands for "nothing", before the start of a text.
        """
        found = np.full(len(grams), 1 / self.vocabulary)
        for length, (codes, counts, contexts, totals, kinds) in enumerate(self._levels, 1):
            code = self._codes(grams[:, self.order - length :])
            own = _looked_up(codes, counts, code)
            total, seen = (
                _looked_up(contexts, column, code // (self.vocabulary + 1))
                for column in (totals, kinds)
            )
            found = np.where(total > 0, (own + seen * found) / np.maximum(total + seen, 1), found)
        return np.log(found)

    def _codes(self, grams: Array) -> Array:
        """One number for each row of tokens; a row's number over V + 1 is that of its context."""
        codes = np.zeros(len(grams), dtype=np.int64)
        for column in grams.T:
            codes = codes * (self.vocabulary + 1) + column
        return codes

    def _count(self, tokens: Array, length: int) -> tuple[Array, ...]:
        """N-grams of one length and their counts; their contexts, with how often and before how
        many tokens they stand.
        """
        grams = np.lib.stride_tricks.sliding_window_view(tokens, length)
        codes, counts = np.unique(self._codes(grams), return_counts=True)
        contexts, place, kinds = np.unique(
            codes // (self.vocabulary + 1), return_inverse=True, return_counts=True
        )
        return codes, counts, contexts, np.bincount(place, counts), kinds


def _looked_up(known: Array, values: Array, wanted: Array) -> Array:
    """The value of each wanted number among known, sorted ones; 0 where it is not known."""
    place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[place] == wanted, values[place], 0)
