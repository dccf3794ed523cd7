#!/usr/bin/env bash
# Finding: math-verify takes the two ends of an open interval for the interval, so that the
# solutions of an equation are right where those of an inequality were asked for.
#
# Versions: math-verify 0.9.0, latex2sympy2-extended 1.11.0, sympy 1.14.0, Python 3.11; seen
# 2026-11-30.
#
# Expected: 1 < x < 2 is not solved by "1 and 2": neither number is a solution. verify's docstring
# says of strict=True, the default, that "sets are not comparable with tuples", and an interval is
# neither.
#
# Seen: (1, 2) may be a point or an interval, and is read as an open interval if its numbers rise.
# For the sake of points it is then compared with sets of two numbers by its ends alone:
#
#   gold         answer                       verify
#   (1, 2)       \{1, 2\}                     True
#   (1, 2)       x=1 or x=2                   True
#   (1, 2)       \boxed{1} and \boxed{2}      True
#   1 < x < 2    \{1, 2\}                     True, and an inequality is no point
#   x \in (1, 2) \{1, 2\}                     True
#   (1, 2)       \{2, 1\}                     False, so the order of the same set counts
#   [1, 2]       \{1, 2\}                     False
#   (1, 2)       [1, 2]                       False
#
# So a reward by verify pays the roots of x^2 - 3x + 2 = 0 for x^2 - 3x + 2 < 0, which is the usual
# slip, and pays a closed interval nothing. No argument of verify turns it off, no message is given.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet math-verify==0.9.0 \
  latex2sympy2-extended==1.11.0 sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

from math_verify import parse, verify

warnings.simplefilter("error")
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger().addHandler(handler)
TAKEN = [
    ("$(1, 2)$", r"$\{1, 2\}$"),
    ("$(1, 2)$", "$x=1$ or $x=2$"),
    ("$(1, 2)$", r"$\boxed{1}$ and $\boxed{2}$"),
    ("$1 < x < 2$", r"$\{1, 2\}$"),
    (r"$x \in (1, 2)$", r"$\{1, 2\}$"),
]
REFUSED = [
    ("$(1, 2)$", r"$\{2, 1\}$"),
    ("$[1, 2]$", r"$\{1, 2\}$"),
    ("$(1, 2)$", "$[1, 2]$"),
]


def verified(gold, answer):
    """Return whether the answer is taken for the gold one, whatever the options say."""
    parsed = parse(gold), parse(answer)
    results = {verify(*parsed), verify(*parsed, allow_set_relation_comp=False, strict=True)}
    print(gold, answer, results, parsed)
    return results


same_as_seen = (
    all(verified(gold, answer) == {True} for gold, answer in TAKEN)
    and all(verified(gold, answer) == {False} for gold, answer in REFUSED)
    and not messages
)
print("messages", messages, "as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
