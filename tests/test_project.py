"""What stands around the code: version, changelog, citation, types, templates."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import rewardlab

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", re.MULTILINE)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    releases = RELEASE.findall(read("CHANGELOG.md"))
    assert len(releases) == len(headings) - 1
    dates = [date for _, date in releases]
    assert dates == sorted(dates, reverse=True)


def test_the_citation_is_of_the_last_release():
    citation = yaml.safe_load(read("CITATION.cff"))
    version, date = RELEASE.findall(read("CHANGELOG.md"))[0]
    assert citation["version"] == version
    assert str(citation["date-released"]) == date
    assert citation["license"] == tomllib.loads(read("pyproject.toml"))["project"]["license"]
    papers = [paper["identifiers"][0]["value"] for paper in citation["references"]]
    assert papers == ["arXiv:2506.13846", "arXiv:2504.06141"]


def test_the_package_says_that_it_is_typed():
    assert (Path(rewardlab.__file__).parent / "py.typed").is_file()
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["rewardlab"]


def test_the_mark_of_types_is_among_the_files_that_are_built(tmp_path):
    setup = [sys.executable, "-c", "from setuptools import setup; setup()", "-q"]
    steps = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path / "built"]
    subprocess.run([*setup, *steps], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "built" / "rewardlab" / "py.typed").is_file()
    assert (tmp_path / "built" / "rewardlab" / "runs" / "__init__.py").is_file()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_a_name_and_says_what_it_is_for(template):
    _, front, body = template.read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["name"].lower() == template.stem
    assert fields["about"]
    assert body.count("**") >= 6


def test_there_is_a_template_for_each_kind():
    assert [path.stem for path in TEMPLATES] == ["bug", "feature", "question"]
    assert "CHANGELOG.md" in read(".github/PULL_REQUEST_TEMPLATE.md")
