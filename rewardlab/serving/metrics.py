"""Counters of a server, in the text form that Prometheus reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = tuple(0.005 * 2**step for step in range(14))  # up to 41 s
SIZES = tuple(2.0**step for step in range(9))  # up to 256 rows


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
        edges = [f"{bound:g}" for bound in self.bounds]
        edges.append("+Inf")
        lines = []
        count = 0
        for edge, number in zip(edges, self.counts, strict=True):
            count += number
            edge_labels = (*labels, ("le", edge))
            lines.append(_line(f"{name}_bucket", edge_labels, count))
        lines.append(_line(f"{name}_sum", labels, self.total))
        lines.append(_line(f"{name}_count", labels, count))
        return lines


class Counter:
    """How often something happened, by its labels.

    Example:
        >>> counter = Counter()
        >>> counter.add((("reward", "rm"),), 2)
        >>> counter.lines("rows")
        ['rows{reward="rm"} 2']
    """

    def __init__(self) -> None:
        self.counts: dict[Labels, int] = {}

    def add(self, labels: Labels, number: int) -> None:
        """Count so many more."""
        self.counts[labels] = self.counts.get(labels, 0) + number

    def lines(self, name: str) -> list[str]:
        """Return a line for each set of labels."""
        return [_line(name, labels, count) for labels, count in self.counts.items()]


class Family:
    """Histograms of one quantity, by their labels.

    Args:
        bounds: of each histogram.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.histograms: dict[Labels, Histogram] = {}

    def add(self, labels: Labels, value: float) -> None:
        """Count a value."""
        if labels not in self.histograms:
            self.histograms[labels] = Histogram(self.bounds)
        self.histograms[labels].add(value)

    def lines(self, name: str) -> list[str]:
        """Return the lines of all histograms."""
        lines = []
        for labels, histogram in self.histograms.items():
            lines += histogram.lines(name, labels)
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
        self._requests = Counter()
        self._seconds = Family(SECONDS)
        self._batches = Family(SIZES)
        self._rows = Counter()
        self._unscored = Counter()
        self._unparted = Counter()

    def count_request(self, dialect: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        label = ("dialect", dialect)
        with self._lock:
            self._requests.add((label, ("status", str(status))), 1)
            self._seconds.add((label,), seconds)

    def count_batch(self, reward: str, scored: Sequence[bool]) -> None:
        """Count a batch, by which of its rows were scored."""
        labels = (("reward", reward),)
        with self._lock:
            self._batches.add(labels, len(scored))
            self._rows.add(labels, len(scored))
            self._unscored.add(labels, len(scored) - sum(scored))
            self._unparted.add(labels, 0)  # so that it is there before it is above 0

    def count_unparted(self, reward: str, number: int) -> int:
        """Count queries that do not begin with their prompts, and return how many there were."""
        labels = (("reward", reward),)
        with self._lock:
            self._unparted.add(labels, number)
            return self._unparted.counts[labels]

    def text(self, queues: Mapping[str, int]) -> str:
        """Return all counters as text.

        Args:
            queues: how many rows wait for each reward now.
        """
        waiting = Counter()
        for name, count in queues.items():
            waiting.add((("reward", name),), count)
        lines: list[str] = []
        with self._lock:
            lines += _family("requests_total", "Requests answered.", self._requests)
            lines += _family("request_seconds", "Seconds to an answer.", self._seconds)
            lines += _family("batch_rows", "Rows scored in one batch.", self._batches)
            lines += _family("rows_total", "Rows that were to be scored.", self._rows)
            lines += _family("unscored_total", "Rows that were not scored.", self._unscored)
            what = "Queries that do not begin with their prompts, and were scored whole."
            lines += _family("unparted_total", what, self._unparted)
        lines += _family("queue_rows", "Rows that wait.", waiting)
        return "\n".join([*lines, ""])


def _family(short_name: str, help_text: str, family: Counter | Family) -> list[str]:
    """Return the lines of what is counted under one name."""
    name = f"rewardlab_{short_name}"
    kind = "histogram"
    if isinstance(family, Counter):
        kind = "counter" if name.endswith("_total") else "gauge"
    head = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    return head + family.lines(name)


def _line(name: str, labels: Labels, value: float) -> str:
    r"""Return one line of a sample.

    Example:
        >>> _line("requests", (("model", 'a"b'),), 2)
        'requests{model="a\\"b"} 2'
    """
    pairs = []
    for key, word in labels:
        escaped = _escaped(word)
        pairs.append(f'{key}="{escaped}"')
    joined = ",".join(pairs)
    return f"{name}{{{joined}}} {value!r}"


def _escaped(word: str) -> str:
    """Return a label's value as the text form writes it."""
    escaped = word.replace("\\", r"\\")
    escaped = escaped.replace('"', r"\"")
    return escaped.replace("\n", r"\n")
