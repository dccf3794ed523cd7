"""The rows of a CSVLogger's metrics.csv, which a resumed run goes on from."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from rewardlab.storage.atomic import write_atomically

METRICS = "metrics.csv"
BACKUP = ".metrics.csv.kept"
COPY = ".metrics.csv.saved"
PARTIAL = ".metrics.csv.partial"


class CSVFolder(NamedTuple):
    """A local folder, and the logger that writes metrics.csv into it."""

    folder: Path
    logger: CSVLogger


class MetricsTable(NamedTuple):
    """Column names, and rows by column name."""

    header: list[str]
    rows: list[dict[str, str]]


def csv_folders(trainer: pl.Trainer) -> list[CSVFolder]:
    """Return the local folders that loggers write metrics.csv into from this process."""
    if not trainer.is_global_zero:
        return []
    folders = []
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger) and "://" not in logger.log_dir:
            folders.append(CSVFolder(Path(logger.log_dir), logger))
    return folders


class RowsToKeep(NamedTuple):
    """Which rows of a metrics.csv a resumed run goes on from.

    Attributes:
        rows: rows at the start of the file that stood when the checkpoint was written.
        step: rows of earlier steps count too; they may have come after a checkpoint that was
            written within its step.
    """

    rows: int
    step: int


def begin_rows(folder: Path, logger: CSVLogger, keep: RowsToKeep | None) -> None:
    """Start metrics.csv with the rows that are kept, under both of its names.

    If `keep` is None, it starts without rows.
    """
    current = folder / METRICS
    if keep is None and current.exists():
        link_rows(folder)  # the same trainer goes on fitting
        return
    table = MetricsTable(["step"], [])
    if keep is not None:
        table = _kept_rows(folder, keep)
    text = io.StringIO()
    writer = csv.DictWriter(text, table.header)
    writer.writeheader()
    writer.writerows(table.rows)
    write_atomically(current, text.getvalue())
    logger.experiment.metrics_keys = table.header
    link_rows(folder)


def _kept_rows(folder: Path, keep: RowsToKeep) -> MetricsTable:
    """Return the rows that are kept.

    A kill while the logger wrote the file anew, for a new column, leaves it short; then they are
    those of the copy.
    """
    table = _read_rows(folder / BACKUP)
    if len(table.rows) < keep.rows:
        table = _read_rows(folder / COPY)
    rows = []
    for index, row in enumerate(table.rows):
        number = row["step"] or ""
        is_earlier = number.isdigit() and int(number) < keep.step
        if index < keep.rows or is_earlier:
            rows.append(row)
    return MetricsTable(table.header, rows)


def _read_rows(path: Path) -> MetricsTable:
    """Return the rows of a file; none if it is missing or empty."""
    if not path.exists():
        return MetricsTable(["step"], [])
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if "step" in row]
        return MetricsTable(list(reader.fieldnames or ["step"]), rows)


def keep_rows(folder: Path, logger: CSVLogger) -> int:
    """Write the rows so far to the disk, keep a copy of them, and return how many they are."""
    logger.save()
    link_rows(folder)
    if not (folder / METRICS).exists():
        return 0
    partial = folder / PARTIAL
    shutil.copyfile(folder / METRICS, partial)
    os.replace(partial, folder / COPY)
    return len(_read_rows(folder / COPY).rows)


def link_rows(folder: Path) -> None:
    """Give metrics.csv its second name.

    It is a link, so that no row is missed, or a copy where the file system has no links.
    """
    current = folder / METRICS
    backup = folder / BACKUP
    if not current.exists() or (backup.exists() and backup.samefile(current)):
        return
    partial = folder / PARTIAL
    partial.unlink(missing_ok=True)
    try:
        os.link(current, partial)
    except OSError:
        shutil.copyfile(current, partial)
    os.replace(partial, backup)
