#!/usr/bin/env bash
# Finding: `ray.init` replaces the program's handler of SIGTERM, and `ray.shutdown` leaves none in
# its place.
#
# Versions: ray 2.60.0, Python 3.11, Linux; seen 2026-11-29.
#
# Expected: a library that is started inside a program leaves a handler that the program has set, or
# calls it too. After `ray.shutdown()` all is as before.
#
# Seen:
#
#                                          signal.getsignal     caught by the process
#   before ray.init                        the program's        yes
#   after ray.init                         one of Ray's         yes
#   after ray.shutdown, too                one of Ray's         no: the default, which ends it
#
#   after ray.init, set once more          the program's        yes
#   after ray.shutdown, too                the program's        no
#
# Ray's handler is `sys.exit(15)`. SIGINT's is left alone. So a training that writes a checkpoint on
# SIGTERM, as queues send it before a time limit, ends without one from the moment that something in
# its process has started Ray; after a shutdown not even `finally` blocks run. No message says so.
# Setting the handler again after `ray.init`, and after `ray.shutdown`, mends it.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - <<'PYTHON'
import signal
import sys
from pathlib import Path

import ray


def end(number, frame):
    sys.exit(7)


def state(name):
    """Return whose handler Python names, and whether the process catches SIGTERM at all."""
    handler = signal.getsignal(signal.SIGTERM)
    owner = "ours" if handler is end else handler.__module__
    lines = Path("/proc/self/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    is_caught = bool(caught >> (signal.SIGTERM - 1) & 1)
    print(name, "handler:", owner, "caught:", is_caught)
    return owner, is_caught


signal.signal(signal.SIGTERM, end)
of_sigint = signal.getsignal(signal.SIGINT)
before = state("before")
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
started = state("after init")
signal.signal(signal.SIGTERM, end)
again = state("set again")
ray.shutdown()
stopped_again = state("set again, after shutdown")
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
ray.shutdown()
stopped = state("after init and shutdown")
same_as_seen = (
    before == again == ("ours", True)
    and started == ("ray._private.worker", True)
    and stopped == ("ray._private.worker", False)
    and stopped_again == ("ours", False)
    and signal.getsignal(signal.SIGINT) is of_sigint
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
