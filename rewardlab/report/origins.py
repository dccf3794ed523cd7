"""Make the section that says where a run's figures come from."""

from __future__ import annotations

import json

from rewardlab.report.markup import details, tag
from rewardlab.report.run_tables import provenance_table, time_table
from rewardlab.runs.read import Run, yaml_text


def origins(run: Run) -> str:
    """Return times, versions, seeds, fingerprints, config and raw figures of one run, folded."""
    config = yaml_text(run.config)
    figures = ""
    if run.results:
        figures = json.dumps(run.results, indent=1, ensure_ascii=False)
    parts = [
        tag("h3", run.name),
        details("Where the time went", time_table(run)),
        details("Versions, device, seeds, fingerprints", provenance_table(run)),
        details("Config", _code(config)),
        details("All figures", _code(figures)),
    ]
    return "".join(parts)


def _code(text: str) -> str:
    if not text:
        return ""
    return tag("pre", text)
