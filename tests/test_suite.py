"""The suite proves that it ran: skips and ignored warnings are counted, and each warning names its
library and version.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPS = 2  # of other systems than Linux, whose memory is not told by /proc; without Ray, nightly
REAL_SKIPS = 2  # of tests/real, run by `make test-real`: weights, and a user's own folders
OTHER_SUITES = ("gpu", "real")  # of machines with a GPU, and with pretrained weights
IGNORED_WARNINGS = 9
_SKIP = re.compile(
    r"pytest\.skip\(|mark\.skip|mark\.xfail|importorskip\(|pytest\.xfail\(|doctest: \+SKIP"
)


def skips(files):
    """Return the number of skips of each file that has some."""
    counts = {}
    for file in files:
        if file != Path(__file__):
            counts[file.name] = len(_SKIP.findall(file.read_text(encoding="utf-8")))
    return {name: count for name, count in counts.items() if count}


def test_the_count_of_skips():
    others = [ROOT / "tests" / suite for suite in OTHER_SUITES]
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("rewardlab/**/*.py")]
    counts = skips(file for file in files if not set(others) & set(file.parents))
    assert sum(counts.values()) == SKIPS, counts


def test_the_count_of_skips_on_real_weights():
    counts = skips(ROOT.glob("tests/real/*.py"))
    assert sum(counts.values()) == REAL_SKIPS, counts


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
