"""A reward's scores of a whole file or folder, one row a sample, in their order."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from rewardlab.bulk.ahead import made_ready
from rewardlab.bulk.entries import Numbered, Reading
from rewardlab.bulk.job import figures_of, job_of, record_of, write_record
from rewardlab.bulk.journal import Journal, Results, part_of
from rewardlab.bulk.judging import How, batches_for, chunks, judge
from rewardlab.bulk.sources import Source, open_source
from rewardlab.bulk.table_rows import Keep, columns_of, schema_of, table_row
from rewardlab.bulk.tables import GrowingTable, Row, check_out, check_row, write_table
from rewardlab.bulk.watch import Watch
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.storage.exchange_rows import CONVERSATION_KEYS, RESPONSE_KEYS
from rewardlab.types import Samples

log = logging.getLogger("rewardlab")
Sort = Literal["none", "best", "worst"]
Take = Callable[[Sequence[Numbered]], None]


@dataclass(frozen=True)
class Scored:
    """What came of scoring a file.

    Attributes:
        out: the table.
        rows: how many rows it has.
        unscored: how many of them are not scored.
        mean: of the scores; None if there is none.
        deviation: of the scores, over all of them.
        seconds: of this run alone.
        outside: share of the seconds of scoring in which the reward's network did not compute, but
            pictures were awaited, resized, or scores kept; None without pictures.
    """

    out: Path
    rows: int
    unscored: int
    mean: float | None
    deviation: float | None
    seconds: float
    outside: float | None = None


class Pass(NamedTuple):
    """What one pass over a source gave beside the scores.

    Attributes:
        columns: names of the rows' own columns.
        outside: see `Scored`.
    """

    columns: list[str]
    outside: float | None


def score_files(
    reward: Reward,
    samples: str | Path | Samples | Source | Sequence[str | Path],
    out: str | Path,
    reading: Reading | None = None,
    *,
    keep: Keep = "all",
    sort: Sort = "none",
    members: bool = False,
    batch_size: int = 64,
    resume: bool = False,
    origin: Mapping[str, Any] | None = None,
    tokens_per_batch: int | None = None,
    threads: int | None = None,
) -> Scored:
    """Score everything in files or folders, and write one row a sample, in the samples' order.

    Beside the table stands `OUT.json`, which says what was scored with what. Until both are
    whole, the scores so far are in `OUT.part`; a later call with `resume` goes on from them.

    Lines and CSV are read once to count and to name them, and once to score them, when their rows
    are written, too. They are read a third time where rows are sorted, `members` are asked for, or
    the table's columns depend on all rows, as those of lines in CSV or parquet do.

    Args:
        reward: what scores.
        samples: see `open_source`.
        out: a new .csv, .jsonl or .parquet file.
        reading: which columns are prompt and output, sizes, and what becomes of unreadable rows.
        keep: "all" keeps the samples' own columns, "scored" the prompt and the output, "none" only
            where each row comes from.
        sort: "best" writes the highest scores first, "worst" the lowest; rows that are not scored
            come last.
        members: add each member's score, and their deviation.
        batch_size: samples scored at once.
        resume: go on where `OUT.part` ends.
        origin: what names the reward and how it was opened; by default its class and weights.
        tokens_per_batch: tokens of texts scored at once, with padding, in place of `batch_size`.
        threads: that decode pictures ahead of the reward; see `How`.

    Raises:
        InputError: if the samples cannot be read or scored, `out` exists, or what `resume` would go
            on from is of other samples or another reward.

    Example:
        >>> from rewardlab.rewards import Length
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "answers.txt").write_text("four\\nit is four\\n")
        >>> score_files(Length(), folder / "answers.txt", folder / "scores.csv").mean
        2.0
        >>> print((folder / "scores.csv").read_text())
        row,score,reason,prompt,output
        0,1.0,,,four
        1,3.0,,,it is four
        <BLANKLINE>
    """
    out = Path(out)
    check_out(out, resume)
    reading = reading or Reading()
    start = time.monotonic()
    source = open_source(samples, reading)
    job = job_of(reward, source, reading, members, origin)
    whole_job = {**job, "table": {"keep": keep, "sort": sort}}
    stands = record_of(out, whole_job)
    if stands is not None:
        return Scored(out, **figures_of(Scored, stands))
    check_row(out, table_row(0, next(iter(source)), Results(1), keep))
    how = How(batch_size, members, reading.skip_unreadable, tokens_per_batch, threads)
    journal = Journal(part_of(out), job, Results(len(source)))
    results = journal.results
    table = None if sort != "none" or members else _growing(out, source, keep)
    with table or nullcontext():
        take = None if table is None else partial(_add_rows, table, results, keep)
        own, outside = scored_rows(reward, source, journal, how, resume, take)
        scored = _summary(out, results, time.monotonic() - start, outside)
        write_record(out, whole_job, _plain(scored), results)
        if table is not None:
            table.put_in_place()
        else:
            _write_whole(out, TableRows(source, results, keep, sort), own)
    journal.remove()
    return scored


def _growing(out: Path, source: Source, keep: Keep) -> GrowingTable | None:
    """Return a table to be written while rows are scored, so that they are not read again.

    None if not all of its columns are known before.
    """
    if out.suffix == ".jsonl":
        return GrowingTable(out, [])
    names = source.names if keep == "all" else []
    if names is None:
        return None
    results = Results(1)
    columns = columns_of(source, results, keep, names)
    if out.suffix == ".csv":
        return GrowingTable(out, columns)
    schema = schema_of(source, results, keep, names)
    return None if schema is None else GrowingTable(out, columns, schema)


def _add_rows(table: GrowingTable, results: Results, keep: Keep, chunk: Sequence[Numbered]) -> None:
    table.write([table_row(row, entry, results, keep) for row, entry in chunk])


def _write_whole(out: Path, rows: TableRows, own: list[str]) -> None:
    """Write a table whose columns or order are known only when all is scored."""
    described = (rows.source, rows.results, rows.keep, own)
    schema = schema_of(*described) if out.suffix == ".parquet" else None
    write_table(out, rows, columns_of(*described), schema)


def scored_rows(
    reward: Reward,
    source: Source,
    journal: Journal,
    how: How,
    resume: bool = False,
    take: Take | None = None,
) -> Pass:
    """Score the rows of a source that the journal does not hold.

    A bar shows rate and time left if stderr is a terminal.

    Args:
        reward: what scores.
        source: the rows.
        journal: their scores, so far and from now on.
        how: how they are scored.
        resume: whether the journal's file is read first.
        take: gets the rows in their order, some at a time, as soon as they are scored.

    Raises:
        InputError: if a row cannot be read or scored.
    """
    if not resume:
        journal.check_new()
    was_training = reward.training
    reward.eval()
    try:
        if resume:
            journal.resume()
        done = _score_chunks(reward, source, journal, how, take)
    finally:
        journal.close()
        reward.train(was_training)
    if not journal.results.scored.any():
        first_reason = next(iter(journal.results.reasons.values()))
        raise InputError(f"None of {len(source)} rows is scored. The first: {first_reason}")
    return done


class _Chunks:
    """Chunks of rows whose batches are being scored, handed on in their order when all are.

    Args:
        take: gets each chunk; None for nobody.
    """

    def __init__(self, take: Take | None) -> None:
        self._take = take
        self._open: deque[list[Numbered]] = deque()
        self._left: deque[int] = deque()

    def begin(self, chunk: list[Numbered], batches: int) -> None:
        """Note a chunk, of which so many batches are to be scored."""
        self._open.append(chunk)
        self._left.append(batches)
        self._hand_on()

    def scored(self) -> None:
        """Note that the next batch is scored."""
        self._left[0] -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        while self._left and not self._left[0]:
            self._left.popleft()
            chunk = self._open.popleft()
            if self._take is not None:
                self._take(chunk)


def _score_chunks(
    reward: Reward, source: Source, journal: Journal, how: How, take: Take | None
) -> Pass:
    """Score what is not yet done, batch by batch."""
    open_chunks = _Chunks(take)
    columns: dict[str, None] = {}
    first = int(journal.results.done.sum())
    batches_to_do = _to_do(reward, source, journal.results, how, columns, open_chunks)
    watch = Watch(reward)
    has_pictures = False
    ahead = made_ready(
        batches_to_do, reward, skip_unreadable=how.skip_unreadable, threads=how.threads
    )
    with (
        closing(ahead) as ready_batches,
        tqdm(
            total=len(source), initial=first, desc="scoring", unit=" samples", disable=None
        ) as bar,
    ):
        for ready in ready_batches:
            has_pictures = has_pictures or ready.has_pictures
            with watch:
                verdict = judge(reward, ready, how)
            journal.add(ready.rows, verdict)
            open_chunks.scored()
            bar.update(len(ready.rows))
    return Pass(list(columns), watch.outside if has_pictures else None)


def _to_do(
    reward: Reward,
    source: Source,
    results: Results,
    how: How,
    columns: dict[str, None],
    open_chunks: _Chunks,
) -> Iterator[list[Numbered]]:
    """Give the batches of rows that are not yet scored, and note the columns of all rows."""
    has_prompts = False
    has_texts = False
    done = results.done.clone()
    for chunk in chunks(source, how.batch_size):
        for _, entry in chunk:
            columns.update(dict.fromkeys(entry.columns))
            has_prompts = has_prompts or bool(entry.prompt)
            has_texts = has_texts or bool(entry.output and isinstance(entry.output, str))
        to_do = []
        for batch in batches_for(reward, chunk, how):
            rows = [numbered for numbered in batch if not done[numbered.row]]
            if rows:
                to_do.append(rows)
        open_chunks.begin(chunk, len(to_do))
        yield from to_do
    if not has_prompts:
        _tell_of_no_prompts(reward, list(columns), has_texts)


def _tell_of_no_prompts(reward: Reward, columns: Sequence[str], has_texts: bool) -> None:
    """Warn of samples without prompts where the reward reads them, or a column may hold them."""
    listed = ", ".join(map(str, columns))[:300]
    if reward.conditional:
        log.warning(
            "The reward reads prompts, and no sample has one: --prompts FILE gives them, or "
            "--prompt-column NAME of the columns %s.",
            listed or "(there are none)",
        )
    elif has_texts and not set(columns) <= {"prompt", *RESPONSE_KEYS, *CONVERSATION_KEYS}:
        log.warning(
            "No sample has a prompt, and texts are scored without. If it is in one of the columns "
            "%s, name that by --prompt-column.",
            listed,
        )


class TableRows:
    """The rows of a table of scores, as often as they are asked for.

    Args:
        source: the samples.
        results: their scores.
        keep: which columns of the samples stay.
        sort: in which order they come.
    """

    def __init__(self, source: Source, results: Results, keep: Keep, sort: Sort = "none") -> None:
        self.source = source
        self.results = results
        self.keep: Keep = keep
        self.sort = sort

    def __call__(self) -> Iterator[Row]:
        rows = self._in_order()
        if self.sort == "none":
            yield from rows
            return
        yield from sorted(rows, key=self._rank)

    def _in_order(self) -> Iterator[Row]:
        for number, entry in enumerate(self.source):
            yield table_row(number, entry, self.results, self.keep)

    def _rank(self, row: Row) -> tuple[bool, float]:
        score = row["score"]
        if score is None:
            return True, 0.0
        return False, -score if self.sort == "best" else score


def _summary(out: Path, results: Results, seconds: float, outside: float | None) -> Scored:
    """Return what came of scoring."""
    scores = results.scores[results.scored].double()
    return Scored(
        out,
        rows=len(results.scores),
        unscored=len(results.scores) - len(scores),
        mean=scores.mean().item() if len(scores) else None,
        deviation=scores.std(correction=0).item() if len(scores) else None,
        seconds=round(seconds, 3),
        outside=None if outside is None else round(outside, 4),
    )


def _plain(scored: Scored) -> dict[str, Any]:
    figures = asdict(scored)
    del figures["out"]
    return figures
