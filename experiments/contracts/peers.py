"""Our function files in the hands of OpenRLHF and verl: do they get the scores that we give?

    pip install --no-deps --target peers openrlhf==0.11.2 verl==0.9.1 ray tensordict pylatexenc ...
    python experiments/contracts/peers.py peers [--out table.md]

docs/guide/exchange.md names all of the packages. The trainers' own code loads the files, decodes
tokens, calls the functions and reads their answers. Only vLLM, which would draw the tokens, has a
stand-in: the tokens are of fixed texts. Nothing is downloaded, no GPU is used.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab import LanguageReward, Samples, load_reward
from rewardlab.exchange import openrlhf, verl
from rewardlab.rewards import scores_of
from rewardlab.storage.atomic import write_atomically
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

TURNS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SAMPLES = Samples(
    ["Say hi.", "2+2?", "Name a color.", "Bye"],
    ["Hello there", "4", "héllo 世界", "See y"],
    {"finished": torch.tensor([True, True, True, False])},
)


class Row(NamedTuple):
    """A line of the table."""

    peer: str
    ran: str
    outcome: str


def reward_folder(folder: Path) -> Path:
    """Write a small reward with two heads and a chat template, and return its folder."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TURNS
    reward = LanguageReward(tiny_causal_lm(context=128), tokenizer, heads=2)
    reward.save_pretrained(folder)
    return folder


def difference(theirs: Sequence[float], ours: Tensor) -> str:
    """Return the largest difference of scores, beside how far ours are apart."""
    gap = (torch.tensor(theirs) - ours).abs().max().item()
    spread = (ours.max() - ours.min()).item()
    return f"{len(theirs)} scores, largest difference {gap:.1e} (range {spread:.2f})"


class Engine:
    """Gives the tokens of a fixed response for each prompt, as vLLM's answers hold them."""

    def __init__(self, tokenizer: Any, responses: dict[str, tuple[str, bool]]) -> None:
        self.tokenizer = tokenizer
        self.responses = responses

    async def generate(self, prompt_ids: list[int], params: Any, multi_modal_data: Any) -> Any:
        text, finished = self.responses[self.tokenizer.decode(prompt_ids)]
        tokens = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        if finished:
            tokens.append(self.tokenizer.eos_token_id)
        reason = "stop" if finished else "length"
        output = SimpleNamespace(token_ids=tokens, finish_reason=reason, logprobs=None)
        return SimpleNamespace(outputs=[output])


def openrlhf_rows(folder: Path, work: Path) -> list[Row]:
    """Let OpenRLHF's executor load the file and score finished rollouts."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    reward = load_reward(folder)
    tokenizer = reward.tokenizer
    prompts = [reward.texts.row_text(prompt) for prompt in SAMPLES.prompts]
    finished = SAMPLES.facts["finished"].tolist()
    responses = dict(zip(prompts, zip(SAMPLES.outputs, finished, strict=True), strict=True))
    engine = Engine(tokenizer, responses)
    params = SimpleNamespace(max_tokens=32, logprobs=None)

    def rolled_out(file: Path) -> list[dict[str, Any]]:
        executor = SingleTurnAgentExecutor(str(file))

        async def together() -> list[dict[str, Any]]:
            calls = []
            for prompt in prompts:
                calls.append(executor.execute(prompt, "", params, 128, tokenizer, engine))
            return await asyncio.gather(*calls)

        return asyncio.run(together())

    outputs = rolled_out(openrlhf.write_function(folder, work / "openrlhf_reward.py"))
    theirs = [float(output["reward"]) for output in outputs]
    rows = [Row(peer("openrlhf"), "SingleTurnAgentExecutor.execute", "")]
    rows[0] = rows[0]._replace(outcome=difference(theirs, scores_of(reward, SAMPLES)))
    logged = [float(output["extra_logs"]["disagreement"]) for output in outputs]
    doubts = reward.members(SAMPLES).std(1).detach()
    rows.append(Row(peer("openrlhf"), "extra_logs: disagreement", difference(logged, doubts)))
    (work / "broken.py").write_text(
        "def reward_func(queries, prompts, labels):\n    raise ValueError\n"
    )
    rows.append(Row(peer("openrlhf"), "64 responses at once", joined(folder, work)))
    failed = {str(output["reward"]) for output in rolled_out(work / "broken.py")}
    rows.append(Row(peer("openrlhf"), "a function that raises", f"reward {', '.join(failed)}"))
    return rows


def joined(folder: Path, work: Path) -> str:
    """Return in how many batches OpenRLHF's executor gets 64 scores, and what that saves."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    file = openrlhf.write_function(folder, work / "joined_reward.py")
    executor = SingleTurnAgentExecutor(str(file))
    function: Any = executor.reward_func
    reward = function.__globals__["folder"].reward()
    members = reward.members
    sizes: list[int] = []

    def counted(samples: Samples) -> Tensor:
        sizes.append(len(samples))
        return members(samples)

    reward.members = counted
    prompt = reward.texts.row_text("Count.")
    queries = [prompt + f"{number} " + "and on" * (number % 8) for number in range(64)]

    async def together() -> None:
        calls = []
        for query in queries:
            calls.append(asyncio.to_thread(function, [query], [prompt], [""]))
        await asyncio.gather(*calls)

    function(queries[:1], [prompt], [""])
    start = time.process_time()
    for query in queries:
        function([query], [prompt], [""])
    alone = time.process_time() - start
    sizes.clear()
    start = time.process_time()
    asyncio.run(together())
    seconds = time.process_time() - start
    return f"{len(sizes)} batches, in 1/{alone / seconds:.1f} of the CPU seconds of one by one"


def verl_rows(folder: Path, work: Path) -> list[Row]:
    """Let verl's loader and its naive reward manager load the file and score responses."""
    file = verl.write_function(folder, work / "verl_reward.py")
    reward = load_reward(folder)
    ours = scores_of(reward, Samples(SAMPLES.prompts, SAMPLES.outputs))  # verl drops end tokens
    items = [verl_item(reward.tokenizer, row) for row in range(len(SAMPLES))]
    results = asyncio.run(managed(file, reward.tokenizer, items))
    theirs = [result["reward_score"] for result in results]
    manager = "load_reward_manager, NaiveRewardManager.run_single"
    rows = [Row(peer("verl"), manager, difference(theirs, ours))]
    logged = [result["reward_extra_info"]["disagreement"] for result in results]
    doubts = reward.members(Samples(SAMPLES.prompts, SAMPLES.outputs)).std(1).detach()
    rows.append(Row(peer("verl"), "reward_extra_info: disagreement", difference(logged, doubts)))
    bare = verl_item(reward.tokenizer, 0)
    bare.non_tensor_batch["extra_info"][0].pop("prompt")
    outcome = failure_of(lambda: asyncio.run(managed(file, reward.tokenizer, [bare])))
    rows.append(Row(peer("verl"), "data without the prompt", outcome))
    return rows


async def managed(file: Path, tokenizer: Any, items: list[Any]) -> list[dict[str, Any]]:
    """Return what verl's manager says of items, each asked for at once."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import load_reward_manager

    function = {"path": str(file), "name": "compute_score", "reward_kwargs": {}}
    manager = {"source": "register", "name": "naive"}
    config = OmegaConf.create(
        {"reward": {"custom_reward_function": function, "reward_manager": manager}}
    )
    loaded = load_reward_manager(config, tokenizer)
    return list(await asyncio.gather(*[loaded.run_single(item) for item in items]))


def verl_item(tokenizer: Any, row: int) -> Any:
    """Return a finished rollout as verl's workers hold it, of one row."""
    import numpy as np
    from verl import DataProto

    prompt = SAMPLES.prompts[row]
    ids = [*tokenizer(SAMPLES.outputs[row], add_special_tokens=False).input_ids]
    ids.append(tokenizer.eos_token_id)
    padded = ids + [tokenizer.pad_token_id] * (40 - len(ids))
    mask = [1] * len(ids) + [0] * (40 - len(ids))
    columns = {
        "data_source": "contract",
        "reward_model": {"ground_truth": ""},
        "extra_info": {"prompt": [{"role": "user", "content": prompt}]},
    }
    objects = {}
    for name, value in columns.items():
        column = np.empty(1, dtype=object)
        column[0] = value
        objects[name] = column
    tensors = {"responses": torch.tensor([padded]), "attention_mask": torch.tensor([mask])}
    return DataProto.from_dict(tensors=tensors, non_tensors=objects)


def failure_of(call: Callable[[], Any]) -> str:
    """Return the kind of error that a call raises, with its first words."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}…"
    return "no error"


def peer(package: str) -> str:
    """Return a package's name with its version."""
    return f"{package} {importlib.metadata.version(package)}"


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, help="folder that the packages were installed into")
    parser.add_argument("--out", type=Path, help="file for the table, in Markdown")
    arguments = parser.parse_args()
    sys.path.append(str(arguments.packages.resolve()))
    lines = ["| trainer | what ran | outcome |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as work:
        folder = reward_folder(Path(work) / "reward")
        for rows in (openrlhf_rows, verl_rows):
            for row in rows(folder, Path(work)):
                lines.append(f"| {row.peer} | {row.ran} | {row.outcome} |")
    print("\n".join(lines))
    if arguments.out is not None:
        write_atomically(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
