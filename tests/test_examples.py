"""Every script in examples/ runs as it stands, and what it prints is right."""

import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

from rewardlab import Samples, load_policy
from rewardlab.testing import RewardConformance

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NUMBER = r"(-?\d+\.\d+)"


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """Return a function that runs a script in an empty folder, and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["script"])

    def run(name):
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def numbers(text):
    return [float(number) for number in re.findall(NUMBER, text)]


def test_score_texts_puts_english_first_and_sees_what_repeats(printed):
    header, *lines = printed("score_texts.py").splitlines()
    assert header.split("\t") == ["english", "repetition", "text"]
    rows = [line.split("\t") for line in lines]
    english = [float(row[0]) for row in rows]
    assert english == sorted(english, reverse=True)
    assert rows[0][2] == " is executed, the expression is evaluated"
    repetition = {row[2]: float(row[1]) for row in rows}
    assert repetition[" is executed executed executed executed"] == -0.5
    assert repetition[" is executed, the expression is evaluated"] == 0


def test_write_a_reward_raises_the_share_of_vowels(printed):
    plain, best = printed("write_a_reward.py").splitlines()
    assert plain.startswith("as written:")
    assert numbers(best)[0] > numbers(plain)[0] + 0.15


class TestVowels(RewardConformance):
    """The reward of write_a_reward.py holds to what every reward must do."""

    def make(self):
        return runpy.run_path(str(EXAMPLES / "write_a_reward.py"))["Vowels"]()

    def samples(self):
        return Samples(["a", "b", "c"], ["aeiou", "rhythm", ""])

    def test_it_counts_vowels(self):
        assert self.make()(self.samples()).tolist() == [1, 0, 0]


def test_dpo_on_your_pairs_prefers_vowels_and_writes_the_policy(printed, tmp_path):
    accuracy, vowels = printed("dpo_on_your_pairs.py").splitlines()
    assert numbers(accuracy)[0] > 0.8
    before, after = numbers(vowels)
    assert after > before + 1
    assert load_policy(tmp_path / "dpo_policy").max_new_tokens == 9


def test_attack_a_reward_raises_the_target_and_not_the_judge(printed):
    target, judge, worst = printed("attack_a_reward.py").splitlines()
    on_references, on_attack = numbers(target)
    assert on_attack > on_references + 1
    on_references, on_attack = numbers(judge)
    assert on_attack < on_references - 5
    assert worst.startswith("worst: '")


def test_judge_two_policies_tells_them_apart(printed):
    first, second, verdict = printed("judge_two_policies.py").splitlines()
    for line in (first, second):
        mean, low, high = numbers(line)
        assert low < mean < high
    assert numbers(second)[0] > numbers(first)[0] + 0.05
    assert verdict == "the intervals are apart"


def test_read_a_run_prints_its_round_and_writes_a_report(printed, tmp_path):
    run, figures, samples, page = printed("read_a_run.py").splitlines()
    assert run.startswith("example: 1 round")
    auc, before, after = numbers(figures)
    assert 0.6 < auc <= 1
    assert after > before
    assert len(samples.removeprefix("its samples: ").split(" ")) == 4
    assert page == "the page: report.html"
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_script_is_in_the_table_and_has_a_test():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    for name in SCRIPTS:
        assert f"[{name}]({name})" in table
        assert f'printed("{name}")' in tests


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_prints_and_which_lines_are_yours(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    assert re.search(r"\b[Pp]rints\b", docstring)
    assert re.search(r"# [Yy]ours: |runs/mine", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_public_names_of_packages_only(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    for package, names in re.findall(r"^from (rewardlab\S*) import (.*)$", text, re.MULTILINE):
        imported = {part.partition(" as ")[0] for part in names.split(", ")}
        assert package.count(".") < 2 or package.startswith("rewardlab.embedded.")
        assert imported <= set(getattr(import_module(package), "__all__", imported))
