"""Python in a process that refuses to import rewardlab."""

import os
import subprocess
import sys

REFUSAL = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rewardlab":
            raise ImportError("rewardlab is not to be imported here")

sys.meta_path.insert(0, Refusal())
"""


def run_alone(code, folder, cache):
    """Run code in a folder, without rewardlab and without a network, and return what it prints."""
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, "-I", "-c", REFUSAL + code]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def card_code(folder):
    """Return the Python block of a folder's card."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    return card.split("```python\n")[1].split("```")[0]
