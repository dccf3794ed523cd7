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


def begin_rows(folder: Path, logger: CSVLogger, step: int | None) -> None:
    """Start metrics.csv with the kept rows before `step`, under both of its names.

    If `step` is None, it starts without rows.
    """
    current = folder / METRICS
    if step is None and current.exists():
        keep_rows(folder)  # the same trainer goes on fitting
        return
    table = MetricsTable(["step"], [])
    if step is not None and (folder / BACKUP).exists():
        table = _read_rows(folder / BACKUP, step)
    text = io.StringIO()
    writer = csv.DictWriter(text, table.header)
    writer.writeheader()
    writer.writerows(table.rows)
    write_atomically(current, text.getvalue())
    logger.experiment.metrics_keys = table.header
    keep_rows(folder)


def _read_rows(path: Path, step: int) -> MetricsTable:
    """Return the rows before `step`."""
    rows = []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            number = row["step"] or ""
            if number.isdigit() and int(number) < step:
                rows.append(row)
        header = list(reader.fieldnames or ["step"])
    return MetricsTable(header, rows)


def keep_rows(folder: Path) -> None:
    """Give metrics.csv its second name.

    It is a link, so that no row is missed, or a copy where the file system has no links.
    """
    current = folder / METRICS
    backup = folder / BACKUP
    if not current.exists() or (backup.exists() and backup.samefile(current)):
        return
    partial = folder / ".metrics.csv.partial"
    partial.unlink(missing_ok=True)
    try:
        os.link(current, partial)
    except OSError:
        shutil.copyfile(current, partial)
    os.replace(partial, backup)
