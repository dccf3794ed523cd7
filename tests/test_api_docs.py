"""The reference (docs/api) and the code offer the same names: a package without a page fails."""

import importlib.util
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import rewardlab

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
WITHOUT_A_PAGE = {"commands"}  # flags of the command line, which `rewardlab --help` describes
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
RELATIVE_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


def stem(page):
    return page.stem


def module_of(page):
    """Return the module that a page is about, by its file's name."""
    name = "rewardlab" if page.stem == "rewardlab" else f"rewardlab.{page.stem}"
    return import_module(name)


def public_modules(module):
    """Return a package and its modules that have `__all__`; all of them where none has."""
    modules = [module]
    if module is not rewardlab:
        for info in iter_modules(getattr(module, "__path__", [])):
            modules.append(import_module(f"{module.__name__}.{info.name}"))
    listed = [module for module in modules if hasattr(module, "__all__")]
    return listed or modules


def public_names(module):
    """Return `__all__`, or the functions and classes without an underscore that are defined."""
    if hasattr(module, "__all__"):
        return module.__all__
    names = []
    for name, value in vars(module).items():
        defined = getattr(value, "__module__", "") == module.__name__
        if defined and not name.startswith("_"):
            names.append(name)
    return names


def offered(package):
    """Return the objects that a package offers, by their full names."""
    objects = {}
    for module in public_modules(package):
        for name in public_names(module):
            objects[f"{module.__name__}.{name}"] = getattr(module, name)
    return objects


def directives(page):
    """Return the full names in a page's directives, in order."""
    return DIRECTIVE.findall(page.read_text(encoding="utf-8"))


def documented(page):
    """Return the objects that a page's directives name, by their full names."""
    objects = {}
    for path in directives(page):
        module, _, name = path.rpartition(".")
        objects[path] = getattr(import_module(module), name)
    return objects


def absent(objects, others):
    """Return the names of those objects that are not among the others."""
    identities = {id(value) for value in others.values()}
    return [name for name, value in objects.items() if id(value) not in identities]


@pytest.mark.parametrize("page", PAGES, ids=stem)
def test_a_page_has_every_name_that_is_offered_and_no_other(page):
    in_code = offered(module_of(page))
    on_page = documented(page)
    assert absent(in_code, on_page) == []
    assert absent(on_page, in_code) == []


@pytest.mark.parametrize("page", PAGES, ids=stem)
def test_a_page_describes_nothing_twice(page):
    identities = {id(value) for value in documented(page).values()}
    assert len(identities) == len(directives(page))


def test_every_package_has_a_page():
    folders = {file.parent.name for file in (ROOT / "rewardlab").glob("*/__init__.py")}
    assert folders - {page.stem for page in PAGES} == WITHOUT_A_PAGE


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page.stem for page in PAGES if f"api/{page.name}" not in navigation]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=stem)
def test_a_page_begins_with_a_paragraph_about_the_package(page):
    text = page.read_text(encoding="utf-8")
    title, _, rest = text.partition("\n")
    assert title.removeprefix("# ") == module_of(page).__name__
    paragraph = rest.strip().split("\n\n")[0]
    words = RELATIVE_LINK.sub(r"\1", paragraph).split()
    assert len(words) >= 30, "say what the package is for, and when to take which name"
    assert paragraph.endswith("."), (
        "a paragraph of whole sentences, before any heading or directive"
    )
    assert not paragraph.startswith(("#", ":::", "|", "*"))


def test_docstrings_are_put_in_the_form_that_the_builder_reads():
    path = ROOT / "docs" / "extensions" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", path)
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    text = (
        "Args:\n    low, high: the ends\n        of a scale.\n    n: how many.\n\nExample:\n    1"
    )
    assert extension.plain(text).split("\n") == [
        "Args:",
        "    low: the ends",
        "        of a scale.",
        "    high: the ends",
        "        of a scale.",
        "    n: how many.",
        "",
        "Examples:",
        "    1",
    ]
