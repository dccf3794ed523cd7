"""The pages for each audience: every command that they print is known, builds, and, nightly, runs
in the order of the page, on the files that the page itself writes.
"""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from rewardlab.cli import main
from rewardlab.commands import PAGES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "for"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md"))
SCREEN = 60  # lines
WORDS_OF_A_CONFIG = ("--rounds.", "--model.", "--trainer.", "--experiment.", "--data.")
STEPS = "--rounds.init_args.post_train.trainer.init_args.max_steps"
FEWER = {  # steps and rows than the page's command takes, which changes nothing of what it does
    "configs/adv_rm/own.yaml": [f"{STEPS}=50"],  # five readings, of which `advise` needs four
    "configs/gan_rm/own.yaml": [
        f"{STEPS}=2",
        "--rounds.init_args.post_train.groups=8",
        "--rounds.init_args.evaluation.samples=16",
    ],
}


def read(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def commands(name):
    """Return the words of every command of a page's bash blocks, in their order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", read(name), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def every_command():
    rows = []
    for name in NAMES:
        for number, words in enumerate(commands(name)):
            rows.append(pytest.param(words, id=f"{name}-{number}-{words[1]}"))
    return rows


def fewer(words):
    """Return the flags that shorten a command."""
    flags = []
    for file, shorter in FEWER.items():
        if file in words:
            flags += shorter
    return flags


def test_there_is_a_page_for_each_audience():
    assert NAMES == ["hacked", "pictures", "preferences", "researchers"]
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"(for/{name}.md)" in index
        assert f"(docs/for/{name}.md)" in readme
        assert navigation.index(f"for/{name}.md") < navigation.index("tutorials/gan_rm.md")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_short_and_answers_the_same_questions(name):
    page = read(name)
    assert page.count("\n") <= 1.5 * SCREEN
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    wanted = ["The shortest path", "What to look at", "When to stop", "What it costs", "Next"]
    assert [heading for heading in headings if heading in wanted] == wanted
    assert len(commands(name)) >= 4


@pytest.mark.parametrize("words", every_command())
def test_a_command_and_its_flags_are_on_its_help_page(words):
    program, command, *flags = words
    assert program == "rewardlab"
    text = PAGES[command]
    for flag in flags:
        if flag.startswith("--") and not flag.startswith(WORDS_OF_A_CONFIG):
            assert flag in text, f"{command} {flag}"
        if flag.startswith("configs/"):
            assert (ROOT / flag).is_file()


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_run_in_the_order_of_the_page(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    page = FOLDER / f"{name}.md"
    failed, _ = doctest.testfile(
        str(page), module_relative=False, globs={}, optionflags=doctest.ELLIPSIS, encoding="utf-8"
    )
    assert failed == 0
    for _, *words in commands(name):
        assert main([*words, *fewer(words)]) == 0, words
        places = [Path(words[spot + 1]) for spot, word in enumerate(words) if word == "--out"]
        assert all(place.exists() for place in places) or "--dry-run" in words
    missing = [path for path in written(name) if not Path(path).is_file()]
    assert not missing


def written(name):
    """Return the files that a page says one looks at."""
    return re.findall(r"`((?:runs|rm-hf)/[\w/.-]+\.\w+|\w+\.html)`", read(name))
