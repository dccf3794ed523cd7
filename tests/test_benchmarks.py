"""What notices a regression: rows by commit and device, and what fell since the last of them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted((ROOT / "experiments" / "benchmarks").glob("*.py"))
HERE = {"device": "EPYC, 1 thread", "case": "DPO step", "provider": "TRL"}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "benchmarks"))
    from end_to_end_cases import history, writing

    return history, writing


def figures(ratio, low, high, mib_ratio=2.0, cpu=True):
    columns = {"commit": "abc", "mib": 200.0, "mib_ratio": mib_ratio}
    columns |= {"mib_lowest": mib_ratio, "mib_highest": mib_ratio}
    columns |= {"seconds_ratio": 9.0, "seconds_lowest": 9.0, "seconds_highest": 9.0}
    if not cpu:
        columns |= {"cpu_ratio": "", "seconds_ratio": ratio}
        return {**HERE, **columns, "seconds_lowest": low, "seconds_highest": high}
    return {**HERE, **columns, "cpu_ratio": ratio, "cpu_lowest": low, "cpu_highest": high}


@pytest.mark.parametrize(
    ("before", "now", "fallen"),
    [
        (figures(4.0, 3.9, 4.1), figures(3.5, 3.5, 3.5), []),  # less than is looked at
        (figures(4.0, 3.9, 4.1), figures(3.3, 3.3, 3.3), ["cpu"]),
        (figures(4.0, 3.0, 5.0), figures(3.1, 3.0, 3.2), []),  # inside the spread before
        (figures(4.0, 3.9, 4.1), figures(3.1, 2.3, 4.2), []),  # inside that of now
        (figures(4.0, 3.9, 4.1), figures(4.0, 3.9, 4.1, mib_ratio=1.5), ["mib"]),
        (figures(4.0, 4.0, 4.0, cpu=False), figures(2.0, 2.0, 2.0), []),  # seconds with seconds
        (figures(4.0, 4.0, 4.0, cpu=False), figures(3.0, 3.0, 3.0, cpu=False), ["seconds"]),
    ],
)
def test_what_fell_by_more_than_the_spread_is_marked(benchmarks, before, now, fallen):
    history, _ = benchmarks
    older = figures(1.0, 1.0, 1.0)
    elsewhere = figures(100.0, 100.0, 100.0) | {"device": "another"}
    changes = history.changes([now], [older, before, elsewhere])
    assert [change.figure for change in changes if change.has_fallen] == fallen
    marked = [str(change) for change in changes if "FELL" in str(change)]
    assert len(marked) == len(fallen)


def test_little_memory_and_another_device_are_not_compared(benchmarks):
    history, _ = benchmarks
    small = figures(4.0, 4.0, 4.0) | {"mib": 9.0}
    changes = history.changes([small], [small])
    assert [change.figure for change in changes] == ["cpu"]
    assert history.changes([small], [small | {"device": "another"}]) == []


def test_rows_are_written_behind_those_that_stand_and_read_as_they_were(benchmarks, tmp_path):
    history, writing = benchmarks
    from end_to_end_cases.measuring import Figures

    measured = {"ours": [Figures(1.0, 0.5, 20.0)] * 2, "TRL": [Figures(3.0, 2.0, 30.0)] * 2}
    stamp = history.stamp()
    assert set(stamp) == {"date", "commit", "device", "torch"}
    records = [writing.record(writing.row("DPO step", name, measured), stamp) for name in measured]
    file = tmp_path / "rows.csv"
    history.append(records[:1], file)
    history.append(records[1:], file)
    rows = history.read(file)
    assert [row["provider"] for row in rows] == ["ours", "TRL"]
    assert (rows[1]["cpu_ratio"], rows[1]["mib_ratio"], rows[1]["rounds"]) == ("4", "1.5", "2")
    committed = history.read()
    assert list(committed[0]) == list(rows[0])
    assert history.changes(records, committed + rows) != []


def test_the_page_has_a_place_for_the_table(benchmarks, tmp_path):
    _, writing = benchmarks
    from end_to_end_cases.measuring import Figures

    measured = {"ours": [Figures(1.0, 0.5, 20.0)], "TRL": [Figures(3.0, 2.0, 30.0)]}
    row = writing.row("DPO step", "TRL", measured)
    page = tmp_path / "page.md"
    page.write_text(writing.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):
        writing.insert_table([row], page)
    text = page.read_text(encoding="utf-8")
    assert text.count("| DPO step | TRL | 3.00 (aim 4.5) | 4.00 | 1.50 (aim 1.4) |") == 1
    assert text.count(writing.HEADING) == 1
    assert text.startswith("# Performance")
    page.write_text("no table", encoding="utf-8")
    with pytest.raises(SystemExit, match="no place for the table"):
        writing.insert_table([row], page)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_every_benchmark_parses_its_command_line(path):
    """Without a parser a misspelt flag would run for minutes, and so would --help."""
    text = path.read_text(encoding="utf-8")
    assert "ArgumentParser(" in text
    assert ".parse_args(" in text
