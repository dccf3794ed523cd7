"""The page that `fit` and `rounds` write at their end."""

from __future__ import annotations

import logging
from pathlib import Path

from rewardlab.errors import reason_of

log = logging.getLogger("rewardlab")


def write_page(out: Path) -> Path | None:
    """Write a run's report.html and print its path; a page that fails does not fail the run.

    Args:
        out: the run folder.

    Returns:
        The page's path, or None where it could not be written.
    """
    try:
        from rewardlab.report import write_report

        page = write_report([out])
    except Exception as error:
        log.warning(
            "The run is finished, and its page could not be written (%s). "
            "`rewardlab report %s` writes it anew.",
            reason_of(error),
            out,
        )
        return None
    print(page)
    return page
