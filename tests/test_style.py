"""Lines that can be read: the ceilings of CONTRIBUTING's style, which may only shrink."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).parent / "line_density.py"
DENSITY = 4.3  # expression nodes a code line, of the package
FILE_DENSITY = 5.5  # of any file of 40 code lines or more
PER_1000 = {"comprehensions": 30, "tuple_assignments": 15, "conditionals": 20}
FILE_LINES = 400
FUNCTION_LINES = 40
ARGUMENTS = 12
# Constructors with more arguments, which YAML names. The list shrinks.
# DiffusionPolicy: `resources` holds six that lower its memory, beside 12 that were there.
# CausalLMPolicy: 12 were there, and `chat` and `max_length` are what every language model is asked.
# VisionReward: 12 were there, and `gradient_checkpointing` is what every trained network is asked.
# TargetSamples: 12 were there, and `tokens_per_batch` is what every data module of texts has.
MANY_ARGUMENTS = {
    "PPO": 24,
    "AdvRMRounds": 15,
    "CausalLMPolicy": 14,
    "DiffusionPolicy": 13,
    "TargetSamples": 13,
    "VisionReward": 13,
}


@pytest.fixture(scope="module")
def line_density():
    spec = importlib.util.spec_from_file_location("line_density", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["line_density"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(line_density):
    return line_density.measure_folder(ROOT / "rewardlab")


def test_a_line_holds_one_step(files):
    lines = sum(file.code_lines for file in files)
    assert sum(file.nodes for file in files) / lines <= DENSITY
    for name, most in PER_1000.items():
        assert 1000 * sum(getattr(file, name) for file in files) / lines <= most, name


def test_no_file_is_dense(files):
    dense = {
        file.path: round(file.density, 2)
        for file in files
        if file.code_lines >= 40 and file.density > FILE_DENSITY
    }
    assert not dense


def test_no_line_is_over_100_columns(files):
    assert not {file.path: file.wide_lines for file in files if file.wide_lines}


def test_no_file_is_long(files):
    assert not {file.path: file.all_lines for file in files if file.all_lines > FILE_LINES}


def test_no_function_is_long(files):
    functions = [function for file in files for function in file.functions]
    triton = [function for function in functions if "triton" in function.place]
    assert triton, "Triton's kernels, which may be longer, are elsewhere now"
    long = {
        function.place: function.lines
        for function in functions
        if function.lines > FUNCTION_LINES and function not in triton
    }
    assert not long


def test_no_comprehension_is_crowded_and_no_generator_is_unpacked(files):
    assert not [place for file in files for place in file.crowded]


def test_constructors_take_few_arguments_but_for_those_that_are_named(files):
    functions = [function for file in files for function in file.functions]
    long = {}
    for function in functions:
        if function.name == "__init__" and function.arguments > ARGUMENTS:
            long[_class_of(function)] = function.arguments
    assert long == MANY_ARGUMENTS, "name a new exception only with a reason, and drop old ones"


def _class_of(function):
    """Return the name of the class that a constructor belongs to."""
    path, _, line = function.place.rpartition(":")
    before = Path(path).read_text(encoding="utf-8").split("\n")[: int(line)]
    heads = [text for text in before if text.startswith("class ")]
    return heads[-1].removeprefix("class ").partition("(")[0].rstrip(":")


def test_the_measure_counts_what_it_says(line_density, tmp_path):
    file = tmp_path / "dense.py"
    file.write_text(
        '"""A docstring."""\n\n\ndef f(self, a, b=1):\n    """Another."""\n'
        "    x, y = (g(z) for z in a)  # a comment\n    return x if y else [i for i in b if i]\n"
    )
    measured = line_density.measure(file)
    assert (measured.code_lines, measured.all_lines) == (3, 7)
    assert (measured.comprehensions, measured.tuple_assignments, measured.conditionals) == (2, 1, 1)
    assert [place.partition(": ")[2] for place in measured.crowded] == ["an unpacked generator"]
    function = measured.functions[0]
    assert (function.name, function.lines, function.arguments) == ("f", 2, 2)
    assert measured.nodes == 18


def test_at_most_15_files_are_not_strictly_typed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"]
    assert settings["files"] == ["rewardlab"]
    excused = [
        name
        for override in settings["overrides"]
        if override.get("ignore_errors")
        for name in override["module"]
    ]
    assert len(excused) == 13, "the list only shrinks"
