"""The whole program on a CPU: each job of ours beside another way to do it, as ratios from one run.

    python experiments/benchmarks/end_to_end.py --out runs/end_to_end

Every measurement is a process of its own with one thread; ours and the other take turns. Time is
the median over steps, then over rounds; memory is the highest resident size above what stood before
the job. Writes figures.csv, table.md and growth.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROWS = 16
PROMPT = 32
RESPONSE = 32
WORDS = 8192
WIDTH = 128
LAYERS = 4
SAMPLES = 4  # of a prompt, in RLOO
Made = dict[str, float]


# --- measuring
# ---------------------------------------------------------------------------------------------------------------


def reset() -> float:
    """Forget the highest resident size so far and return the present one, in MiB; what torch
    imports late comes before.
    """
    import torch._dynamo  # noqa: F401  (the first optimiser step imports it, 150 MiB)

    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    """VmRSS or VmHWM of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def measured(job: Callable[[], object], repeats: int = 7) -> Made:
    """Peak memory of the job's first run above what stood before it, and the median seconds of the
    ones after.
    """
    before = reset()
    job()
    peak = resident("VmHWM") - before
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        taken.append(time.perf_counter() - start)
    return {"seconds": statistics.median(taken), "mib": peak}


class Steps:
    """Seconds between the ends of optimiser steps, the first few left out, and peak memory of the
    training.
    """

    def __init__(self, warmup: int = 3) -> None:
        self.times: list[float] = []
        self.warmup = warmup
        self.before = reset()

    def tick(self) -> None:
        self.times.append(time.perf_counter())

    def made(self) -> Made:
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)][
            self.warmup :
        ]
        return {"seconds": statistics.median(gaps), "mib": resident("VmHWM") - self.before}


# --- the same model, data and batch for TRL's trainers and ours
# --------------------------------------------------------------


def tokenizer() -> Any:
    """A word a token, so that lengths are what they are said to be."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, WORDS)}
    inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")


def network(kind: str = "LlamaForCausalLM", **options: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        max_position_embeddings=256, eos_token_id=0, pad_token_id=1, bos_token_id=None, **options,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def texts(count: int, length: int, seed: int) -> list[str]:
    import random

    generator = random.Random(seed)
    return [
        " ".join(f"w{generator.randrange(2, WORDS)}" for _ in range(length)) for _ in range(count)
    ]


def pairs(count: int) -> Any:
    from rewardlab import PreferencePairs, Samples

    prompts = texts(count, PROMPT, 0)
    return PreferencePairs(*(Samples(prompts, texts(count, RESPONSE, seed)) for seed in (1, 2)))


def trl_options(folder: str, steps: int, **options: Any) -> dict[str, Any]:
    return {
        "output_dir": folder, "max_steps": steps, "per_device_train_batch_size": ROWS, "learning_rate": 1e-4, "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0.0,
        "gradient_checkpointing": False, "bf16": False, "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
        **options,
    }  # fmt: skip


def trl_run(trainer: Any) -> Made:
    from transformers import TrainerCallback

    steps = Steps()

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.tick()

    trainer.add_callback(Tick())
    trainer.train()
    return steps.made()


def our_run(module: Any, data: Any, count: int) -> Made:
    import pytorch_lightning as pl

    steps = Steps()

    class Tick(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            steps.tick()

    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    trainer = pl.Trainer(
        max_steps=count,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[Tick()],
        limit_val_batches=0,
        **quiet,
    )
    trainer.fit(module, data)
    return steps.made()


def adamw() -> Any:
    import torch

    return partial(torch.optim.AdamW, lr=1e-4)


def dataset(**columns: Sequence[str]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({name: list(column) for name, column in columns.items()})


def reward_trl(steps: int = 20) -> Made:
    from trl import RewardConfig, RewardTrainer

    both = pairs(ROWS * steps)
    rows = dataset(
        prompt=[f"{p} " for p in both.chosen.prompts],
        chosen=both.chosen.outputs,
        rejected=both.rejected.outputs,
    )
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(**trl_options(folder, steps), max_length=256)
        model = network("LlamaForSequenceClassification", num_labels=1)
        return trl_run(RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer()))


def reward_ours(steps: int = 20) -> Made:
    from rewardlab.data.preferences import Preferences
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.training import AdvRM

    module = AdvRM(LanguageReward(network(), tokenizer()), bootstrap=False, optimizer=adamw())
    return our_run(module, Preferences(pairs(ROWS * steps), held_out=0, batch_size=ROWS), steps)


def dpo_trl(steps: int = 20) -> Made:
    from trl import DPOConfig, DPOTrainer

    both = pairs(ROWS * steps)
    rows = dataset(
        prompt=[f"{p} " for p in both.chosen.prompts],
        chosen=both.chosen.outputs,
        rejected=both.rejected.outputs,
    )
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(**trl_options(folder, steps), max_length=256, beta=0.1)
        return trl_run(
            DPOTrainer(network(), network(), args, train_dataset=rows, processing_class=tokenizer())
        )


def dpo_ours(steps: int = 20) -> Made:
    from rewardlab import CausalLMPolicy
    from rewardlab.data import PairsData
    from rewardlab.training import DPO

    module = DPO(CausalLMPolicy(network(), tokenizer()), beta=0.1, optimizer=adamw())
    return our_run(module, PairsData(pairs(ROWS * steps), batch_size=ROWS), steps)


def even(texts: Sequence[str]) -> list[float]:
    """A reward that costs nothing: the share of words with an even number."""
    return [
        sum(int(word[1:]) % 2 == 0 for word in text.split()) / max(len(text.split()), 1)
        for text in texts
    ]


def rloo_trl(steps: int = 10) -> Made:
    from trl import RLOOConfig, RLOOTrainer

    rows = dataset(prompt=texts(ROWS * steps, PROMPT, 0))
    with tempfile.TemporaryDirectory() as folder:
        options = trl_options(folder, steps) | {"per_device_train_batch_size": ROWS * SAMPLES}
        args = RLOOConfig(
            **options,
            num_generations=SAMPLES,
            max_completion_length=RESPONSE,
            beta=0.05,
            temperature=1.0,
        )
        reward = lambda completions, **_: even(completions)  # noqa: E731
        network().save_pretrained(
            f"{folder}/start"
        )  # its reference is loaded anew, by the model's name
        model = type(network()).from_pretrained(f"{folder}/start")
        return trl_run(
            RLOOTrainer(
                model,
                reward_funcs=[reward],
                args=args,
                train_dataset=rows,
                processing_class=tokenizer(),
            )
        )


def rloo_ours(steps: int = 10) -> Made:
    import torch

    from rewardlab import CausalLMPolicy
    from rewardlab.data import Prompts
    from rewardlab.rewards import Function
    from rewardlab.training import PPO

    policy = CausalLMPolicy(network(), tokenizer(), max_new_tokens=RESPONSE)
    reward = Function(lambda samples: torch.tensor(even(samples.outputs)))
    module = PPO(
        policy,
        reward,
        samples_per_prompt=SAMPLES,
        kl_weight=0.05,
        gradient_clip=None,
        optimizer=adamw(),
    )
    return our_run(module, Prompts(texts(ROWS * steps, PROMPT, 0), ROWS), steps)


# --- the head
# ----------------------------------------------------------------------------------------------------------------


def head(
    rows: int = 1024, width: int = 512, words: int = 32768, kind: str = "float32"
) -> tuple[Any, Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(words, width, generator=generator) / width**0.5
    targets = torch.randint(words, (rows,), generator=generator)
    number = getattr(torch, kind)
    return hidden.to(number).requires_grad_(), (3 * weight).to(number).requires_grad_(), targets


def forward_ours(kind: str = "float32") -> Made:
    import torch

    from rewardlab.kernels import linear_log_prob

    operands = head(kind=kind)
    with torch.no_grad():
        return measured(lambda: linear_log_prob(*operands, budget=8 * 2**20))


def forward_naive(kind: str = "float32") -> Made:
    import torch

    hidden, weight, targets = head(kind=kind)
    with torch.no_grad():
        return measured(
            lambda: (hidden @ weight.T).float().log_softmax(1).gather(1, targets[:, None])
        )


def policy_loss(ours: bool, live: float) -> Made:
    """PPO's clipped loss with k3 and an entropy bonus, forward and backward."""
    import torch

    from rewardlab.kernels import linear_loss

    hidden, weight, targets = head()
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(len(targets), generator=generator) < live
    with torch.no_grad():
        old = (hidden @ weight.T).log_softmax(1).gather(1, targets[:, None])[:, 0]
    old, gain = (
        old + 0.1 * torch.randn(len(old), generator=generator),
        torch.randn(len(old), generator=generator),
    )

    def lost(log_prob: Any, entropy: Any, rows: Any) -> Any:
        ratio = (log_prob - old[rows]).exp()
        gains = gain[rows]
        x = old[rows] - log_prob
        step = (
            -torch.minimum(ratio * gains, ratio.clamp(0.8, 1.2) * gains)
            + 0.04 * (x.exp() - 1 - x)
            - 0.01 * entropy
        )
        return step.sum() / mask.sum()

    def job() -> None:
        hidden.grad = weight.grad = None
        if ours:
            linear_loss(hidden, weight, targets, lost, mask=mask, entropy=True)[0].backward()
            return
        log_prob = (hidden @ weight.T).log_softmax(1)
        entropy = -(log_prob.exp() * log_prob).sum(1)
        lost(
            log_prob.gather(1, targets[:, None])[:, 0][mask], entropy[mask], mask.nonzero()[:, 0]
        ).backward()

    return measured(job, 5)


# --- parts of the loops
# ------------------------------------------------------------------------------------------------------


def gae(ours: bool) -> Made:
    import torch

    from rewardlab.advantages import generalized

    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(64, 1024, generator=generator)
    values = torch.randn(64, 1024, generator=generator)
    mask = torch.ones(64, 1024, dtype=torch.bool)

    def loop() -> None:
        advantage = torch.zeros(64)
        columns = []
        for t in reversed(range(1024)):
            following = values[:, t + 1] if t < 1023 else 0.0
            advantage = rewards[:, t] + 0.99 * following - values[:, t] + 0.99 * 0.95 * advantage
            columns.append(advantage)
        torch.stack(columns[::-1], 1)

    return measured(
        partial(generalized, rewards, values, mask, discount=0.99, lam=0.95) if ours else loop, 15
    )


def heads(count: int) -> Made:
    import torch

    from rewardlab.rewards.language import LanguageReward

    reward = LanguageReward(network(), tokenizer(), heads=count).eval()
    samples = pairs(64).chosen
    with torch.no_grad():
        return measured(lambda: reward.members(samples))


def gan_rm_epoch(cached: bool) -> Made:
    """An epoch over 256 images of a projection head, with its features once, or with the tower run
    in every step.
    """
    import torch
    from open_clip.model import CLIP

    from rewardlab import Samples, VisionReward
    from rewardlab.losses.discrimination import discrimination_loss

    torch.manual_seed(0)
    vision = {"image_size": 64, "patch_size": 8, "width": 192, "layers": 6, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    reward = VisionReward(CLIP(64, vision, text).eval(), heads=4)
    images = torch.rand(256, 3, 64, 64)
    labels = torch.arange(256) % 2
    with torch.no_grad():
        known = torch.cat([reward.features(Samples([""] * 64, part)) for part in images.split(64)])
    optimizer = torch.optim.AdamW(
        [weight for weight in reward.parameters() if weight.requires_grad]
    )

    def epoch() -> None:
        for rows in torch.randperm(256).split(64):
            seen = (
                known[rows] if cached else reward.features(Samples([""] * len(rows), images[rows]))
            )
            scores = reward.score_features(seen)
            optimizer.zero_grad()
            discrimination_loss(scores, labels[rows].float()).backward()
            optimizer.step()

    return measured(epoch, 5)


def sharing(shared: bool) -> Made:
    """Log-probabilities and their gradient of 8 responses to each of 4 prompts, prompts run once or
    with every row.
    """
    import torch

    import rewardlab.networks.sharing
    from rewardlab import CausalLMPolicy, Samples

    rewardlab.networks.sharing.WORTH_SHARING = 0.0 if shared else 2.0
    policy = CausalLMPolicy(network(), tokenizer())
    prompts = [prompt for prompt in texts(4, 128, 0) for _ in range(8)]
    trajectory = policy.encode(
        Samples(prompts, texts(32, RESPONSE, 1)), seeds=torch.zeros(32, dtype=torch.long)
    )

    def job() -> None:
        policy.zero_grad()
        policy.log_prob(trajectory).sum().backward()

    return measured(job, 5)


def command(*words: str) -> Made:
    return measured(lambda: subprocess.run(words, check=True, capture_output=True), 5)


def imported(module: str) -> Made:
    return command(sys.executable, "-c", f"import {module}")


CASES: dict[str, dict[str, Callable[[], Made]]] = {
    "reward-model step": {"ours": reward_ours, "TRL": reward_trl},
    "DPO step": {"ours": dpo_ours, "TRL": dpo_trl},
    "RLOO step": {"ours": rloo_ours, "TRL": rloo_trl},
    "policy loss, 40 % live": {
        "ours": partial(policy_loss, True, 0.4),
        "naive": partial(policy_loss, False, 0.4),
    },
    "policy loss, all live": {
        "ours": partial(policy_loss, True, 1.0),
        "naive": partial(policy_loss, False, 1.0),
    },
    "log-prob forward": {
        "ours": forward_ours,
        "naive float32": forward_naive,
        "naive bfloat16": partial(forward_naive, "bfloat16"),
        "ours, bfloat16 operands": partial(forward_ours, "bfloat16"),
    },
    "GAE, 64 x 1024": {"ours": partial(gae, True), "Python loop": partial(gae, False)},
    "reward with 16 heads": {"ours": partial(heads, 16), "1 head": partial(heads, 1)},
    "GAN-RM epoch": {
        "ours": partial(gan_rm_epoch, True),
        "re-encoding": partial(gan_rm_epoch, False),
    },
    "8 samples a prompt": {"ours": partial(sharing, True), "unshared": partial(sharing, False)},
    "import": {"ours": partial(imported, "rewardlab"), "torch alone": partial(imported, "torch")},
    "rewardlab --help": {
        "ours": partial(command, "rewardlab", "--help"),
        "torch alone": partial(imported, "torch"),
    },
}
TARGETS = {  # of the other over ours: (seconds at least, memory at least)
    "reward-model step": (1.0, 1 / 0.7),
    "DPO step": (1.0, 1 / 0.7),
    "RLOO step": (1.0, 1 / 0.7),
    "policy loss, 40 % live": (2.0, 4.0),
    "log-prob forward": (1.0, 5.0),
    "GAE, 64 x 1024": (10.0, None),
    "reward with 16 heads": (1 / 1.1, None),
    "GAN-RM epoch": (20.0, None),
}


# --- how cost grows
# ----------------------------------------------------------------------------------------------------------


def growth() -> dict[str, list[tuple[float, float]]]:
    """Seconds as the work grows: (size, seconds) of each job."""
    import torch

    from rewardlab.kernels import linear_log_prob
    from rewardlab.metrics import auc
    from rewardlab.mining import extremes
    from rewardlab.rewards.projection import RewardProjection
    from rewardlab.types import Samples

    found: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for rows in (256, 512, 1024, 2048):
            job = partial(linear_log_prob, *head(rows, 256, 8192))
            found.setdefault("tokens", []).append((rows, measured(job)["seconds"]))
        for words in (4096, 8192, 16384, 32768):
            job = partial(linear_log_prob, *head(512, 256, words))
            found.setdefault("vocabulary", []).append((words, measured(job)["seconds"]))
        projection = RewardProjection(512, heads=8)
        for count in (1000, 2000, 4000, 8000):
            features = torch.randn(count, 512)
            labels = torch.arange(count) % 2
            job = partial(
                lambda features, labels: auc(projection(features).mean(1), labels), features, labels
            )
            found.setdefault("targets", []).append((count, measured(job)["seconds"]))
        for count in (8192, 16384, 32768, 65536):
            pool = Samples([f"p{i}" for i in range(16) for _ in range(count)], ["x"] * (16 * count))
            job = partial(extremes, pool, torch.randn(16 * count), count)
            found.setdefault("candidates", []).append((count, measured(job)["seconds"]))
    return found


def slopes(found: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """The exponent of each: the slope of log seconds over log size; 1 is linear."""
    import numpy as np

    return {
        name: float(np.polyfit(*np.log(np.array(points)).T, 1)[0]) for name, points in found.items()
    }


def picture(found: dict[str, list[tuple[float, float]]], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3))
    exponents = slopes(found)
    for panel, (name, points) in zip(axes, found.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        panel.loglog(sizes, [each / seconds[0] for each in seconds], marker="o")
        panel.set(title=f"{name}: exponent {exponents[name]:.2f}", xlabel=name)
        panel.minorticks_off()
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        panel.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes[0].set_ylabel("seconds over the first")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


# --- the run
# -----------------------------------------------------------------------------------------------------------------


def one(case: str, provider: str) -> Made:
    """Measure in a fresh process."""
    words = [sys.executable, "-W", "ignore", __file__, "--one", case, provider]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{case}, {provider} failed:\n{done.stderr[-3000:]}")
    made: Made = json.loads(done.stdout.splitlines()[-1])
    return made


def row(case: str, provider: str, made: dict[str, list[Made]]) -> dict[str, Any]:
    """A provider's medians and their ratios to ours, the ratio of each round beside them."""
    ours = made["ours"]
    other = made[provider]
    found: dict[str, Any] = {"case": case, "provider": provider}
    for name in ("seconds", "mib"):
        found[name] = statistics.median(each[name] for each in other)
        ratios = [b[name] / a[name] for a, b in zip(ours, other, strict=True) if a[name] > 0]
        found[f"{name}_ratio"] = statistics.median(ratios) if ratios else float("nan")
        found[f"{name}_lowest"], found[f"{name}_highest"] = (
            (min(ratios), max(ratios)) if ratios else (float("nan"),) * 2
        )
    return found


def line(found: dict[str, Any]) -> str:
    """A row of the table, with what was aimed at."""
    time_aim, memory_aim = TARGETS.get(found["case"], (None, None))
    cells = [found["case"], found["provider"]]
    for name, aim in (("seconds", time_aim), ("mib", memory_aim)):
        ends = f"{found[f'{name}_lowest']:.2f} to {found[f'{name}_highest']:.2f}"
        aimed = (
            "" if aim is None or found["provider"] not in ("TRL", *FIRST) else f", aim {aim:.2g}"
        )
        cells.append(f"{found[f'{name}_ratio']:.2f} ({ends}{aimed})")
    return "| " + " | ".join(cells) + " |"


FIRST = {list(providers)[1] for providers in CASES.values()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/end_to_end"))
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "PROVIDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(CASES[options.one[0]][options.one[1]]()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in options.cases:
        made: dict[str, list[Made]] = {provider: [] for provider in CASES[case]}
        for _ in range(options.rounds):
            for provider, kept in made.items():
                kept.append(one(case, provider))
        rows += [row(case, provider, made) for provider in made]
        for found in rows[-len(made) + 1 :]:
            print(line(found), flush=True)
        write(options.out, rows)
    if not options.no_growth:
        found = growth()
        picture(found, options.out / "growth.png")
        said = ", ".join(f"{name} {exponent:.2f}" for name, exponent in slopes(found).items())
        (options.out / "growth.md").write_text(
            f"Exponent of seconds in the size (1 is linear): {said}.\n", encoding="utf-8"
        )
        print(said)


def write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write what was measured so far."""
    with (out / "figures.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    head_line = (
        "| job | beside | its seconds over ours | its peak memory over ours |\n|---|---|---|---|\n"
    )
    table = (
        head_line + "\n".join(line(found) for found in rows if found["provider"] != "ours") + "\n"
    )
    (out / "table.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
