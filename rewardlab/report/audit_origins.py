"""Say where the figures of an attack or a curve come from: by names, then by fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewardlab.report.figures import MISSING
from rewardlab.report.markup import details, table, tag
from rewardlab.report.run_tables import fact_rows
from rewardlab.report.state import about_run
from rewardlab.runs.read import Run, at

NOT_NAMES = ("out", "resume", "prompts_fingerprint")


def audit_origins(made_by: Mapping[str, Any], run: Run | None) -> str:
    """Return the command, its flags, and the fingerprints and versions, which are folded away.

    Args:
        made_by: fingerprints of what took part.
        run: the run folder; None where only fingerprints are known.
    """
    if run is None:
        return table(["what", "value"], _plain_rows(made_by), kind="facts")
    said = about_run(run)
    flags = {}
    for name, value in at(run.config, run.kind).items():
        if name not in NOT_NAMES and value not in (None, [], False):
            flags[name.replace("_", " ")] = value
    return "".join(
        [
            tag("p", said) if said else "",
            table(["flag", "value"], _plain_rows(flags), kind="facts"),
            details("Fingerprints", table(["what", "value"], _plain_rows(made_by), kind="facts")),
            details("Versions, device", _versions(run)),
        ]
    )


def _plain_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return facts as rows of a table."""
    rows = []
    for name, value in facts.items():
        if value is None:
            rows.append([name, MISSING])
        elif isinstance(value, list):
            rows.append([name, ", ".join(map(str, value))])
        else:
            rows.append([name, str(value)])
    return rows


def _versions(run: Run) -> str:
    facts = {name: run.facts[name] for name in ("versions", "device") if name in run.facts}
    return table(["fact", "value"], fact_rows(facts), kind="facts")
