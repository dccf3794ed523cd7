#!/usr/bin/env bash
# Finding: OpenRLHF makes an error in the user's reward function a line of its log, at the level of
# information, and the reward None.
#
# Versions: openrlhf 0.11.2, aiohttp 3.14.5, Python 3.11, no torch; seen 2026-11-29.
#
# Expected: a `reward_func` that raises ends the rollout with that error, or is logged as an error
# with its traceback.
#
# Seen: SingleTurnAgentExecutor.execute returns a complete response with `"reward": None` and
# `"scores": None`. The log has one line, INFO, which speaks of a remote RM, though there is none,
# with the message of the error alone. For `labels[0]["answer"]` of a label without that key it ends
# with `'answer'`: neither the kind of error, nor the file, nor the line number.
#
# So a mistake in a reward function looks like a reward that was never computed, and a log that is
# kept from WARNING on holds nothing of it. (What the trainer does with None is not run here.)
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiohttp==3.14.5
"$folder/venv/bin/pip" install --quiet --no-deps openrlhf==0.11.2
cat > "$folder/reward.py" <<'PYTHON'
def reward_func(queries, prompts, labels):
    is_right = labels[0]["answer"] in queries[0]
    return {"rewards": float(is_right), "scores": float(is_right)}
PYTHON
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import array
import asyncio
import importlib
import importlib.metadata
import logging
import sys
import types
from types import SimpleNamespace

# openrlhf.utils imports torch and deepspeed; its module `agent`, which calls the function, does not
package = importlib.metadata.distribution("openrlhf").locate_file("openrlhf")
for name, path in (("openrlhf", package), ("openrlhf.utils", package / "utils")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(path)]
agent = importlib.import_module("openrlhf.utils.agent")

records = []
handler = logging.Handler()
handler.emit = records.append
agent.logger.addHandler(handler)


class Letters:
    """A tokenizer with a token for each letter."""

    def __call__(self, text, **options):
        return {"input_ids": [array.array("l", map(ord, text))]}

    def decode(self, ids, **options):
        return "".join(map(chr, ids))


class Engine:
    """An engine that answers 4."""

    async def generate(self, ids, params, multi_modal_data=None):
        answer = SimpleNamespace(token_ids=[ord("4")], finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[answer])


def respond(label):
    records.clear()
    executor = agent.SingleTurnAgentExecutor(sys.argv[1] + "/reward.py")
    params = SimpleNamespace(max_tokens=8, logprobs=None)
    response = asyncio.run(executor.execute("2+2=", label, params, 64, Letters(), Engine()))
    messages = [(record.levelname, record.getMessage()) for record in records[1:]]
    print(label, "reward", response["reward"], "scores", response["scores"], messages)
    return response, messages


right, right_messages = respond({"answer": "4"})
failed, failed_messages = respond({"solution": "4"})
same_as_seen = (
    (right["reward"], right["scores"], right_messages) == (1.0, 1.0, [])
    and failed["reward"] is None
    and failed["scores"] is None
    and failed["observation_tokens"] == right["observation_tokens"]
    and [level for level, _ in failed_messages] == ["INFO"]
    and failed_messages[0][1].endswith("remote RM: 'answer'")
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
