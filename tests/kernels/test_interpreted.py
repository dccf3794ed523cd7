"""Every Triton kernel, interpreted: in a process of its own, since the interpreter has to be on
before the first is made.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_kernels_interpreted():
    files = sorted(str(file) for file in Path(__file__).parent.glob("interpreted/interpreted_*.py"))
    assert files
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    old = [
        "-W",
        "ignore:Conversion of an array:DeprecationWarning:triton.runtime.interpreter",
    ]  # Triton 3.6 on NumPy 2.3
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--durations=5",
        *old,
        *files,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (
        done.stdout[:4000] + "\n...\n" + done.stdout[-4000:] + done.stderr[-2000:]
    )
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
