"""A sweep's file becomes points, or one sentence that says what is wrong with it."""

import re
import shlex

import pytest

from rewardlab.errors import InputError
from rewardlab.sweeps import Point, read_sweep
from rewardlab.sweeps.points import command_of, name_of
from rewardlab.sweeps.random_draws import drawn

HEAD = "config: run.yaml\nfigure: rounds.last.judged.gold\n"


def read(folder, text):
    file = folder / "sweep.yaml"
    file.write_text(HEAD + text, encoding="utf-8")
    return read_sweep(file)


def test_listed_points_grid_draws_and_seeds_multiply(tmp_path):
    sweep = read(
        tmp_path,
        """
points: [{a.x: 1}, {a.x: 2, a.y: no more}]
grid: {b.init_args.z: [1, 1.96], b.on: [true, null]}
random: {count: 3, seed: 5, of: {c.lr: {low: 1e-4, high: 1e-2, scale: log}}}
seeds: [3, 4]
""",
    )
    assert len(sweep.points) == 2 * 2 * 2 * 3 * 2
    assert len({point.run for point in sweep.points}) == len(sweep.points)
    first, last = sweep.points[0], sweep.points[-1]
    assert (first.seed, last.seed) == (3, 4)
    assert list(last.settings.values())[:4] == ["2", "no more", "1.96", "null"]
    rates = {float(point.settings["c.lr"]) for point in sweep.points}
    assert len(rates) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_a_point_is_a_command_line_that_can_be_typed(tmp_path):
    sweep = read(
        tmp_path, "set: {a.rounds: 0}\ngrid: {a.words: [[1, 2]], config: [more.yaml, null]}"
    )
    with_overlay, without = (sweep.words(point) for point in sweep.points)
    assert with_overlay == [
        "rounds",
        "--config=run.yaml",
        "--config=more.yaml",
        "--a.rounds=0",
        "--a.words=[1, 2]",
        "--experiment.seed=0",
    ]
    assert without == [with_overlay[0], with_overlay[1], *with_overlay[3:]]
    assert shlex.split(command_of(with_overlay)) == with_overlay


def test_a_point_is_known_by_its_settings_alone_however_they_are_typed():
    typed = [{"a.init_args.lr": "1e-3", "b.z": "1"}, {"b.z": "1.0", "a.lr": "0.001"}]
    digests = {name_of(settings).rpartition("-")[2] for settings in typed}
    assert len(digests) == 1
    assert name_of({"a.lr": "0.01"}) != name_of({"a.lr": "0.001"})
    assert Point({"a/b": "../c d"}, 0).name.startswith("a-b-..-c-d-")
    assert "/" not in Point({"a/b": "../c d"}, 0).name


def test_more_draws_keep_those_that_were_there():
    of = {"a.n": {"low": 1, "high": 6, "integer": True}, "a.kind": ["x", "y"]}
    few = drawn(of, 4, seed=0)
    assert drawn(of, 12, seed=0)[:4] == few
    assert drawn(of, 4, seed=1) != few
    every = drawn(of, 12, seed=0)
    assert {settings["a.n"] for settings in every} == set("123456")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grdi: {a.x: [1]}", "has no key 'grdi'; did you mean 'grid'"),
        ("grid: {a.x: [1, 2, 1.0]}", "has the point x=1.0 twice, also as x=1"),
        ("grid: {a.lr: [1e-3, 0.001]}", "twice"),
        ("points: [{a.x: 1, a.y: 2}, {a.y: 2, a.x: 1}]", "twice"),
        ("grid: {a.x: [1], a.x: [2]}", "has 'a.x' twice in the mapping at line 3"),
        ("grid: {a.x: [1]}\nset: {a.x: 2}", "sets a.x and after it a.x, the same key"),
        ("grid: {a.init_args.x: [1], a.x: [2]}", "the same key"),
        ("grid: {a.init_args.x: [1], a: [b.C]}", "what it is part of"),
        ("grid: {experiment.seed: [1, 2]}", "which seeds: gives"),
        ("grid: {experiment.out: [here]}", "which the sweep gives each run itself"),
        ("grid: {--a.x: [1]}", "without dashes"),
        ("grid: {a.x: 1}", "a.x takes a list of values"),
        ("grid: {a.x: []}", "a.x takes a list of values"),
        ("grid: {a.x: [2020-01-01]}", "has the value 2020-01-01, which is a date to YAML"),
        ("seeds: [1, 2, 1]", "has 1 twice"),
        ("seeds: 3", "a list of whole numbers"),
        ("better: more", "takes higher or lower"),
        ("command: score", "takes rounds or fit"),
        ("random: {count: 5, of: {a.x: [1, 2]}}", "only 2 different ones"),
        ("random: {count: 5, of: {a.x: {low: 1, high: 0}}}", "Are they exchanged?"),
        ("random: {count: 5, of: {a.x: {low: 0, high: 1, scale: log}}}", "above 0"),
        ("random: {count: 5, of: {a.x: {low: 0, hihg: 1}}}", "a range such as"),
        ("random: {count: 0, of: {a.x: [1, 2]}}", "from 1 to"),
        ("grid: {a.x: [1, 2", "is not YAML"),
        (f"grid: {{a.x: {list(range(200))}, a.y: {list(range(200))}}}", "40,000 runs"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_config_or_a_figure_is_refused(tmp_path):
    file = tmp_path / "sweep.yaml"
    for text, key in (("figure: a", "config:"), ("config: a.yaml", "figure:"), ("[]", "no keys")):
        file.write_text(text)
        with pytest.raises(InputError, match=key):
            read_sweep(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_sweep(tmp_path / "none.yaml")
