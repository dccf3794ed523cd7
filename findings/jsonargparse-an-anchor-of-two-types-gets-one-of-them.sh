#!/usr/bin/env bash
# Finding: two parameters that name the same YAML anchor are not read apart: the type of one changes
# the value of the other.
#
# Versions: jsonargparse 4.53.0, PyYAML 6.0.3, Python 3.11; seen 2026-11-29.
#
# Expected: `{a: &s {k: "4"}, b: *s}` means what `{a: {k: "4"}, b: {k: "4"}}` means, which is how
# YAML defines an anchor. Each parameter gets the value that its own type makes of it.
#
# Seen: both get one dict, and the values are converted inside it. For `bare: dict`, which keeps
# what the file says, beside another parameter:
#
#   the other's type   written twice          by an anchor
#   dict[str, Any]     {'k': '4'}, {'k': 4}   {'k': 4}, {'k': 4}
#   dict[str, float]   {'k': 4}, {'k': 4.0}   {'k': 4.0}, {'k': 4.0}   (k: 4 in the file)
#
# The order of the parameters does not matter. So a block of settings that is named once for two
# places arrives changed in the first for the sake of the second, without a message.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jsonargparse==4.53.0 PyYAML==6.0.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from typing import Any

from jsonargparse import ArgumentParser


def bare_first(bare: dict, of_any: dict[str, Any]) -> None:
    pass


def bare_last(of_any: dict[str, Any], bare: dict) -> None:
    pass


def of_numbers(bare: dict, of_floats: dict[str, float]) -> None:
    pass


def read(function, config):
    """Return the `repr` of the two values that a function would get from a config."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function, "call")
    values = vars(parser.parse_string(config).call)
    pair = [repr(values[name]) for name in sorted(values)]
    print(function.__name__, config.strip(), "->", pair)
    return pair


same_as_seen = True
for function in (bare_first, bare_last):
    twice = read(function, 'call: {bare: {k: "4"}, of_any: {k: "4"}}')
    anchor = read(function, 'call: {bare: &s {k: "4"}, of_any: *s}')
    same_as_seen &= twice == ["{'k': '4'}", "{'k': 4}"] and anchor == ["{'k': 4}"] * 2
twice = read(of_numbers, "call: {bare: {k: 4}, of_floats: {k: 4}}")
anchor = read(of_numbers, "call: {bare: &s {k: 4}, of_floats: *s}")
same_as_seen &= twice == ["{'k': 4}", "{'k': 4.0}"] and anchor == ["{'k': 4.0}"] * 2
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
