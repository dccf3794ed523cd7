#!/usr/bin/env bash
# Finding: a quoted "4" of a config stays text in a parameter typed `dict` and becomes the number 4
# in one typed `dict[str, Any]`.
#
# Versions: jsonargparse 4.53.0, PyYAML 6.0.3, Python 3.11; seen 2026-11-29.
#
# Expected: `dict` and `dict[str, Any]` mean the same. YAML's quotes say that a value is text, and
# `Any` takes text, so both get what the file says.
#
# Seen: each value under `Any` is read as YAML once more, after the quotes are gone. So are the
# values of `Sequence[Mapping[str, Any]]`, of `list[Any]` and of plain `Any`, without a message.
#
#   in the file   dict    dict[str, Any]   dict[str, str]
#   "4"           '4'     4                '4'
#   "007"         '007'   7                '007'
#   "1e3"         '1e3'   1000.0           '1e3'
#   "null"        'null'  None             'null'
#   "no"          'no'    False            'no'
#   "[1]"         '[1]'   [1]              '[1]'
#
# So answers, labels and names that a config lists as text arrive as numbers and as nothing: a
# comparison with a model's "4" fails, and an identifier "007" has lost its zeros. Changing an
# annotation from `dict` to the stricter `dict[str, Any]` changes what a config means.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jsonargparse==4.53.0 PyYAML==6.0.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

TEXTS = ["4", "007", "1e3", "null", "no", "[1]"]


class Judge:
    """A class with one parameter of each type."""

    def __init__(
        self,
        bare: dict,
        of_any: dict[str, Any],
        of_text: dict[str, str],
        rows: Sequence[Mapping[str, Any]],
        listed: list[Any],
        value: Any,
    ) -> None:
        pass


answers = {f"key{number}": text for number, text in enumerate(TEXTS)}
settings = {
    "bare": dict(answers),
    "of_any": dict(answers),
    "of_text": dict(answers),
    "rows": [dict(answers)],
    "listed": TEXTS,
    "value": "4",
}
config = yaml.safe_dump({"judge": settings}, default_style='"')
assert yaml.safe_load(config) == {"judge": settings}
parser = ArgumentParser(exit_on_error=False)
parser.add_class_arguments(Judge, "judge")
judge = parser.parse_string(config).judge
bare = list(judge.bare.values())
of_any = list(judge.of_any.values())
of_text = list(judge.of_text.values())
rows = list(judge.rows[0].values())
print("dict                     ", bare)
print("dict[str, Any]           ", of_any)
print("dict[str, str]           ", of_text)
print("Sequence[Mapping[str, Any]]", rows)
print("list[Any]                ", judge.listed)
print("Any                      ", repr(judge.value))
as_yaml = [4, 7, 1000.0, None, False, [1]]
same_as_seen = (
    bare == of_text == TEXTS and of_any == rows == judge.listed == as_yaml and judge.value == 4
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
