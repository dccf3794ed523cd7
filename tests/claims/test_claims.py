"""Every claim at its small size, and the pages of docs/results against their rows."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
NAMES = sorted(
    file.stem.upper() for file in (ROOT / "experiments" / "claims").glob("[ag][0-9]*.py")
)


MEASURED = sorted(file.stem for file in RESULTS.glob("[AG]*.csv"))


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        import study

        yield study
    for name in [name for name in sys.modules if name.split(".")[0] in ("study", "claims")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def run(study, tmp_path, work, *more):
    return study.main([*more, "--small", f"--out={tmp_path}", f"--work={work}"])


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_is_measured_judged_and_drawn(study, tmp_path, work, name, capsys):
    assert run(study, tmp_path, work, name) == 0
    claim = study.claims.claim_of(name)
    rows = study.claims.files.read_rows(tmp_path / f"{name}.csv")
    assert [(row["setting"], row["seed"]) for row in rows] == sorted(
        claim.points(small=True), key=lambda point: (claim.settings.index(point[0]), point[1])
    )
    page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}: {claim.title}\n\n**")
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    assert claim.judge(rows).word in page.lower()
    capsys.readouterr()
    assert run(study, tmp_path, work, name) == 0
    assert "left" not in capsys.readouterr().out, "what stands was measured again"


def test_rows_of_another_size_are_not_mixed(study, tmp_path, work):
    assert run(study, tmp_path, work, NAMES[0]) == 0
    with pytest.raises(SystemExit, match="rows of another size"):
        study.main([NAMES[0], f"--out={tmp_path}", f"--work={work}"])


def test_a_name_that_is_no_claim_is_told_what_there_is(study):
    with pytest.raises(SystemExit, match="There is no claim 'G99'; there are G1"):
        study.main(["G99"])


@pytest.mark.parametrize("name", MEASURED)
def test_a_page_is_what_its_rows_say(study, name):
    rows = study.claims.files.read_rows(RESULTS / f"{name}.csv")
    claim = study.claims.claim_of(name)
    assert {row["setting"] for row in rows} == set(claim.settings)
    assert len({row["seed"] for row in rows}) >= min(5, len(claim.seeds))
    assert {row["size"] for row in rows} == {"full"}
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert page == study.claims.files.page(claim, rows, claim.judge(rows))


def test_the_table_of_claims_is_of_their_rows(study, tmp_path):
    claims = [study.claims.claim_of(name) for name in study.claims.names()]
    study.claims.files.write_index(RESULTS, claims, tmp_path)
    table = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert table == (RESULTS / "index.md").read_text(encoding="utf-8")


def test_the_readme_says_of_each_claim_what_its_rows_say(study):
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    claims = [study.claims.claim_of(name) for name in study.claims.names()]
    lines = study.claims.files.summary(RESULTS, claims)
    assert [line for line in readme if "](docs/results/" in line and line[0] == "|"] == lines
    assert len(lines) == 25


def test_a_claim_of_one_seed_is_no_line_of_the_table_yet(study, tmp_path):
    row = {"size": "full", "setting": "gate", "seed": 0, "success": 0.5, "seconds": 1}
    study.claims.files.write_rows(tmp_path / "A3.csv", [row])
    study.claims.files.write_index(tmp_path, [study.claims.claim_of("A3")], tmp_path)
    assert "A3" not in (tmp_path / "index.md").read_text(encoding="utf-8")
