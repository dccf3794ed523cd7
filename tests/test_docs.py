"""Every example in README and docs runs as it stands, with nothing given, and every file that they
point to is there.
"""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

from rewardlab.commands import PAGES as HELP

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
LINKED = [*PAGES, *ROOT.glob("[A-Z]*.md"), ROOT / "examples" / "README.md"]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FILES_OF_THE_TOUR = {"config.yaml", "pairs.jsonl", "parsing.py", "results.json"}


def title(page):
    return page.relative_to(ROOT).as_posix()


def read(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testfile(
        str(page), module_relative=False, globs={}, optionflags=FLAGS, encoding="utf-8"
    )
    assert failed == 0


def test_examples_are_found():
    assert read(ROOT / "README.md").count(">>> ") >= 8
    assert read(DOCS / "mathematics" / "dpo.md").count(">>> ") > 0


@pytest.mark.parametrize("page", LINKED, ids=title)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", read(page))
    files = [link for link in links if "://" not in link]
    missing = [link for link in files if not (page.parent / link).exists()]
    assert not missing


def headings(page):
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    outside = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=title)
def test_links_into_pages_name_their_headings(page):
    links = re.findall(r"\]\(([^):]*)#([^)]+)\)", read(page))
    missing = []
    for file, anchor in links:
        target = page.parent / file if file else page
        if target.suffix == ".md" and anchor not in headings(target):
            missing.append(f"{file}#{anchor}")
    assert not missing


def test_the_readme_has_a_line_for_every_command():
    elsewhere = {"rewardlab", "validate", "test", "predict"}  # the whole, and what `fit` stands for
    shown = set(re.findall(r"rewardlab ([a-z]+)", read(ROOT / "README.md")))
    assert set(HELP) - elsewhere - shown == set()


def test_the_index_lists_every_guide():
    listed = set(re.findall(r"\(guide/([a-z_]+)\.md", read(DOCS / "index.md")))
    assert listed == {page.stem for page in (DOCS / "guide").glob("*.md")}


def test_every_decision_is_in_the_table_and_numbered_in_turn():
    names = [page.name for page in DECISIONS]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    table = read(DOCS / "decisions" / "README.md")
    rows = re.findall(r"^\| \[\d+\]\((\S+)\)", table, re.MULTILINE)
    assert rows == names


@pytest.mark.parametrize("page", DECISIONS, ids=title)
def test_a_decision_has_a_context_and_a_consequence(page):
    heading, *paragraphs = read(page).strip().split("\n\n")
    assert heading.startswith(f"# {page.name[:4]}. ")
    openings = [paragraph.partition(".** ")[0] for paragraph in paragraphs]
    assert openings == ["**Context", "**Decision", "**Consequence"]


def names_of_the_tour():
    quoted = re.findall(r"`([a-z]+\.[A-Za-z_.]+)`", read(DOCS / "tour.md"))
    names = {name.removeprefix("rewardlab.") for name in quoted}
    return sorted(names - FILES_OF_THE_TOUR)


@pytest.mark.parametrize("name", names_of_the_tour())
def test_the_tour_names_what_exists(name):
    package, *attributes = name.split(".")
    value = import_module(f"rewardlab.{package}")
    for attribute in attributes:
        value = getattr(value, attribute)


def test_the_tour_answers_many_questions():
    assert read(DOCS / "tour.md").count("? | `") >= 25
    assert len(names_of_the_tour()) > 50
