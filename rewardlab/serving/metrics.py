"""Counters of a server, in the text form that Prometheus reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass
class Histogram:
    """How often a value fell under each bound.

    Attributes:
        bounds: upper bounds, rising.
        counts: how many values are at most each bound and above the one before; the last entry
            counts those above all.
        total: sum of the values.

    Example:
        >>> sizes = Histogram((1.0, 2.0))
        >>> sizes.add(2.0)
        >>> sizes.counts, sizes.total
        ([0, 1, 0], 2.0)
    """

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: Labels) -> list[str]:
        """Return the lines of its buckets, each with those below it, its sum and its count."""
        lines = []
        count = 0
        for bound, number in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            count += number
            edge = bound if isinstance(bound, str) else f"{bound:g}"
            lines.append(_line(f"{name}_bucket", (*labels, ("le", edge)), count))
        lines.append(_line(f"{name}_sum", labels, self.total))
        lines.append(_line(f"{name}_count", labels, count))
        return lines


class Metrics:
    """What a server counts; threads may count at once.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count_batch("rm", [True, False])
        >>> print(metrics.text({"rm": 3}).splitlines()[-1])
        rewardlab_queue_rows{reward="rm"} 3
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[Labels, int] = {}
        self._seconds: dict[Labels, Histogram] = {}
        self._batches: dict[Labels, Histogram] = {}
        self._rows: dict[Labels, int] = {}
        self._unscored: dict[Labels, int] = {}

    def count_request(self, dialect: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        labels = (("dialect", dialect), ("status", str(status)))
        with self._lock:
            self._requests[labels] = self._requests.get(labels, 0) + 1
            histogram = self._seconds.setdefault((("dialect", dialect),), Histogram(SECONDS))
            histogram.add(seconds)

    def count_batch(self, reward: str, scored: Sequence[bool]) -> None:
        """Count a batch, by which of its rows were scored."""
        labels = (("reward", reward),)
        with self._lock:
            self._batches.setdefault(labels, Histogram(SIZES)).add(len(scored))
            self._rows[labels] = self._rows.get(labels, 0) + len(scored)
            unscored = len(scored) - sum(scored)
            self._unscored[labels] = self._unscored.get(labels, 0) + unscored

    def text(self, queues: Mapping[str, int]) -> str:
        """Return all counters as text.

        Args:
            queues: how many rows wait for each reward now.
        """
        waiting: dict[Labels, int] = {}
        for name, count in queues.items():
            waiting[(("reward", name),)] = count
        with self._lock:
            return "\n".join(
                [
                    *_head("rewardlab_requests_total", "counter", "Requests answered."),
                    *_lines("rewardlab_requests_total", self._requests),
                    *_head("rewardlab_request_seconds", "histogram", "Seconds to an answer."),
                    *_histograms("rewardlab_request_seconds", self._seconds),
                    *_head("rewardlab_batch_rows", "histogram", "Rows scored in one batch."),
                    *_histograms("rewardlab_batch_rows", self._batches),
                    *_head("rewardlab_rows_total", "counter", "Rows that were to be scored."),
                    *_lines("rewardlab_rows_total", self._rows),
                    *_head("rewardlab_unscored_total", "counter", "Rows that were not scored."),
                    *_lines("rewardlab_unscored_total", self._unscored),
                    *_head("rewardlab_queue_rows", "gauge", "Rows that wait."),
                    *_lines("rewardlab_queue_rows", waiting),
                    "",
                ]
            )


def _head(name: str, kind: str, help_text: str) -> list[str]:
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]


def _lines(name: str, counts: Mapping[Labels, int]) -> list[str]:
    return [_line(name, labels, count) for labels, count in counts.items()]


def _histograms(name: str, histograms: Mapping[Labels, Histogram]) -> list[str]:
    lines = []
    for labels, histogram in histograms.items():
        lines += histogram.lines(name, labels)
    return lines


def _line(name: str, labels: Labels, value: float) -> str:
    r"""Return one line of a sample.

    Example:
        >>> _line("requests", (("model", 'a"b'),), 2)
        'requests{model="a\\"b"} 2'
    """
    pairs = [f'{key}="{_escaped(word)}"' for key, word in labels]
    return f"{name}{{{','.join(pairs)}}} {value!r}"


def _escaped(word: str) -> str:
    return word.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
