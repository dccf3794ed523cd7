"""The suite proves that it ran: skips and ignored warnings are counted, and each warning names its
library and version.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPS = 0
IGNORED_WARNINGS = 9
_SKIP = re.compile(
    r"pytest\.skip\(|mark\.skip|mark\.xfail|importorskip\(|pytest\.xfail\(|doctest: \+SKIP"
)


def test_the_count_of_skips():
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("rewardlab/**/*.py")]
    files = [
        file for file in files if ROOT / "tests" / "gpu" not in file.parents
    ]  # another suite, for machines with a GPU
    found = {
        file.name: len(_SKIP.findall(file.read_text(encoding="utf-8")))
        for file in files
        if file != Path(__file__)
    }
    assert sum(found.values()) == SKIPS, {name: count for name, count in found.items() if count}


def test_ignored_warnings_are_counted_and_say_whose_they_are():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    filters = tomllib.loads(text)["tool"]["pytest"]["ini_options"]["filterwarnings"]
    assert filters[0] == "error"
    assert len(filters) - 1 == IGNORED_WARNINGS
    lines = [line for line in text.splitlines() if line.strip().startswith('"ignore:')]
    assert len(lines) == IGNORED_WARNINGS
    for line in lines:
        assert re.search(r'",\s+# [\w-]+ \d+\.\d+', line), (
            f"say which library and version warns: {line}"
        )
