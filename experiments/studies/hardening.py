"""Does hardening a reward postpone the collapse of the policy that is trained on it? Measured on
Python's help topics.

Each arm and seed: draw clean pairs, fit members, attack, mine and refit (or not), then RLOO on the
first member, or on what the arm makes of it, with gold read on fixed held-out prompts. Gold only
measures: nothing is trained or chosen by it. Everything that a seed changes: the pairs, members,
attacks and RLOO; the base policy is one. Writes `runs.csv` (a row a run), `rounds.csv` (a row an
attack), `curves.jsonl`, `table.md` and `curves.png`.

    python experiments/studies/hardening.py --seeds 5 --out runs/hardening

Fits, attacks and curves that stand in $REWARDLAB_CACHE are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from pytorch_lightning import Callback, Trainer

from rewardlab.attackers.rl import RLAttacker
from rewardlab.data.prompt_data import Prompts
from rewardlab.embedded import topics
from rewardlab.embedded.cache import cached
from rewardlab.evaluation.stability import Stability, stability, stability_ratio
from rewardlab.mining.adversarial import adversarial_pairs
from rewardlab.mining.candidates import candidates
from rewardlab.policies import Policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.combine import Standardized, Weighted
from rewardlab.rewards.novelty import Novelty
from rewardlab.rewards.relative import Relative
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.samples import load_samples, save_samples
from rewardlab.training.ppo import PPO
from rewardlab.types import PreferencePairs, Samples, concatenate, take

PACKAGES = ("torch", "transformers", "pytorch-lightning", "rewardlab")
SILENT = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "max_epochs": -1,
}
EVERY = 10
WINDOW = 2
AT_KL = (5.0, 10.0)
ATTACKED = 1024
AT_END = ("kl", "familiar", "variety")


@dataclass(frozen=True)
class Recipe:
    """How a reward is hardened, before RLOO (rounds of attack and refit) and in RLOO (what is added
    to the member's score).

    Attributes:
        rounds: of attack and refit; 0 for none.
        sides: 1 attacks the first member only, 2 each member in turn.
        attack_steps: RLOO steps of each adversary.
        attack_rate: their learning rate.
        kind: of disagreement.
        late: share of the attack's steps before which nothing is mined.
        cap: pairs an attack.
        spread: take them at random among those that pass, instead of those with the largest
            disagreement.
        familiarity: weight of `Novelty` in RLOO: minus the distance from what the base policy says,
            in deviations.
        member: weight of the member's score in RLOO, in deviations; 0 leaves it out, which shows
            what the distance does alone.
        kl: RLOO's KL weight, for comparison; 0 in all arms that are compared with each other.
    """

    rounds: int = 0
    sides: int = 2
    attack_steps: int = 100
    attack_rate: float = 5e-4
    kind: str = "signed"
    late: float = 0.5
    cap: int = 50
    spread: bool = True
    familiarity: float = 0.0
    member: float = 1.0
    kl: float = 0.0


ARMS = {
    "none": Recipe(),
    "paper": Recipe(rounds=2, sides=1, kind="absolute", late=0.0, cap=1000, spread=False),
    "pairs": Recipe(rounds=2),
    "familiar": Recipe(familiarity=1.0),
    "both": Recipe(rounds=2, familiarity=1.0),
    "distance": Recipe(familiarity=1.0, member=0.0),
    "kl": Recipe(kl=0.25),
}
FIT = {"epochs": 2, "learning_rate": 1e-3}


class Readings(Callback):
    """Gold, proxy and KL on fixed prompts and noise, every few steps; stops a run whose gold is far
    below its start.
    """

    def __init__(self, proxy: Reward, prompts: Sequence[str]) -> None:
        self.gold = topics.Gold()
        self.proxy = proxy
        self.prompts = prompts
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, module: PPO) -> None:
        self.read(module)

    def on_train_batch_end(self, trainer: Trainer, module: PPO, *args: Any) -> None:
        if module.global_step % EVERY == 0:
            self.read(module)
            trainer.should_stop = all(
                row["gold"] < self.rows[0]["gold"] - 0.7 for row in self.rows[-3:]
            )

    @torch.no_grad()
    def read(self, module: PPO) -> None:
        """Add a row."""
        trajectory = module.policy.sample(
            self.prompts, seeds=row_seeds(derive(0, "readings"), len(self.prompts))
        )
        samples = module.policy.decode(trajectory)
        ratio = module.policy.log_prob(trajectory) - module.reference.log_prob(trajectory)
        figures = {
            "gold": self.gold(samples),
            "proxy": self.proxy(samples),
            "kl": ratio.sum(1),
            "familiar": novelty()(samples),
        }
        row = {name: column.mean().item() for name, column in figures.items()} | {
            "variety": variety(samples.outputs)
        }
        self.rows.append({"step": module.global_step, **row, "outputs": list(samples.outputs[:4])})


def variety(texts: Sequence[str]) -> float:
    """The share of different pairs of neighbouring words among all such pairs in all responses:
    gold sees each one alone.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / max(len(pairs), 1)


def loop(policy: Policy, reward: Reward, rate: float, kl: float = 0.0, seed: int = 0) -> PPO:
    """RLOO: one step a rollout, four samples a prompt."""
    return PPO(
        policy, reward, kl_weight=kl, optimizer=partial(torch.optim.AdamW, lr=rate), seed=seed
    )


def curve(
    member: Reward, recipe: Recipe, steps: int, rate: float, seed: int
) -> list[dict[str, Any]]:
    """Train the base policy on what a recipe makes of a member and return its readings."""
    reward = optimised(member, recipe)

    def make(folder: Path) -> None:
        readings = Readings(reward, topics.prompts("held_out", 128))
        trainer = Trainer(
            max_steps=steps,
            callbacks=[readings],
            logger=False,
            enable_checkpointing=False,
            **SILENT,
        )
        trainer.fit(
            loop(topics.base_policy(), reward, rate, recipe.kl, seed),
            datamodule=Prompts(topics.prompts("train"), 16, seed),
        )
        (folder / "rows.json").write_text(json.dumps(readings.rows))

    settings = {
        "reward": fingerprint(reward),
        "steps": steps,
        "rate": rate,
        "seed": seed,
        "every": EVERY,
    }
    settings |= {
        "kl": recipe.kl,
        "weights": [recipe.member, recipe.familiarity],
    }  # a fingerprint knows tensors only
    return json.loads(
        (cached("hardening-curve", settings, PACKAGES, make) / "rows.json").read_text()
    )


@cache
def references() -> Samples:
    """Two responses of the base policy to each prompt that is attacked."""
    return candidates(topics.base_policy(), topics.prompts("train", ATTACKED), 2, seed=1)


@cache
def novelty() -> Reward:
    """Minus the distance from the base policy's responses, in the features of its own backbone."""
    return Novelty(topics.member(frozen=True).eval(), references()).eval()


def optimised(member: Reward, recipe: Recipe) -> Reward:
    """Return what RLOO maximises: the member's score and the familiarity, each in its own
    deviations, times their weights.

    The deviations are the members' over training responses, and the distance's over held-out
    references.
    """
    if not recipe.familiarity:
        return member
    return Weighted([Standardized(member), novelty()], [recipe.member, recipe.familiarity]).eval()


def attack(target: Reward, witness: Reward, recipe: Recipe, seed: int) -> Samples:
    """Return all that a fresh adversary said on its way."""

    def make(folder: Path) -> None:
        trainer = partial(
            Trainer,
            max_steps=recipe.attack_steps,
            **{k: SILENT[k] for k in SILENT if "summary" not in k},
        )
        attacker = RLAttacker(partial(loop, rate=recipe.attack_rate), trainer)
        save_samples(
            folder / "said", attacker(topics.base_policy(), Attack(target, witness), prompts, seed)
        )

    prompts = topics.prompts("train", ATTACKED)
    settings = {"target": fingerprint(target), "witness": fingerprint(witness), "seed": seed}
    settings |= {"steps": recipe.attack_steps, "rate": recipe.attack_rate, "prompts": prompts}
    return load_samples(cached("hardening-attack", settings, PACKAGES, make) / "said")


def mine(
    said: Samples, target: Reward, witness: Reward, recipe: Recipe, seed: int
) -> tuple[PreferencePairs, dict[str, Any]]:
    """Return adversarial pairs, and the yield with the share of them that gold agrees with."""
    said = said[said.facts["step"] >= recipe.late * recipe.attack_steps]
    gold = topics.Gold()
    known = references()
    scores = [scores_of(reward, known) for reward in (target, witness)]
    cap = len(said) if recipe.spread else recipe.cap
    found = said.facts["target"], said.facts["witness"]
    pairs, funnel = adversarial_pairs(said, *found, known, *scores, kind=recipe.kind, cap=cap)
    if len(pairs) > recipe.cap:
        pairs = pairs[
            row_seeds(derive(seed, "spread"), len(pairs)).argsort()[: recipe.cap].sort().values
        ]
    right = (
        (gold(pairs.chosen) > gold(pairs.rejected)).float().mean().item()
        if len(pairs)
        else float("nan")
    )
    halves = [Samples(half.prompts, half.outputs) for half in (pairs.chosen, pairs.rejected)]
    passed = {f"passed_{step}": count for step, count in funnel.counts.items()}
    return PreferencePairs(*halves), passed | {
        "pairs": len(pairs),
        "right": right,
        "example": take(halves[1].outputs, [0]),
    }


def accuracy(reward: Reward) -> float:
    """The share of 1,000 pairs that no reward here was trained on that are ordered as gold orders
    them.
    """
    pairs = topics.preferences(1000, seed=999_983)
    return (
        (member_scores(reward, pairs.chosen) > member_scores(reward, pairs.rejected))
        .float()
        .mean()
        .item()
    )


def harden(recipe: Recipe, clean: int, seed: int) -> tuple[Reward, list[dict[str, Any]]]:
    """Return the first member after all rounds, and a row of figures for each attack."""
    pairs = topics.preferences(clean, seed)
    extra = []
    rows = []
    for number in range(recipe.rounds + 1):
        start = time.monotonic()
        joined = concatenate(extra) if extra else None
        fit = partial(topics.member_reward, pairs=pairs, extra=joined, **FIT)
        members = [fit(derive(seed, "member", i)) for i in range(2)]
        fitted = {
            "round": number,
            "accuracy": accuracy(members[0]),
            "fit_seconds": time.monotonic() - start,
        }
        if number == recipe.rounds:
            return members[0], [*rows, fitted]
        relative = [Relative(each, references()).eval() for each in members]
        for side in range(recipe.sides):
            start = time.monotonic()
            two = (relative[side], relative[1 - side])
            said = attack(*two, recipe, derive(seed, "attack", number, side))
            mined, figures = mine(said, *two, recipe, seed)
            rows.append(
                {**fitted, "side": side, "attack_seconds": time.monotonic() - start, **figures}
            )
            extra += [mined] if len(mined) else []
    raise AssertionError


def run(
    arm: str, recipe: Recipe, clean: int, steps: int, rate: float, seed: int, sigma: float
) -> dict[str, Any]:
    """One arm and seed: figures for the tables, with gold in the base policy's standard deviations
    above its start.
    """
    start = time.monotonic()
    member, rounds = harden(recipe, clean, seed)
    hardened = time.monotonic()
    rows = curve(member, recipe, steps, rate, seed)
    gold = torch.tensor([row["gold"] - rows[0]["gold"] for row in rows]) / sigma
    kl = torch.tensor([row["kl"] for row in rows])
    found = stability(
        [row["step"] for row in rows], gold, kl, at_kl=AT_KL, start=0.0, window=WINDOW
    )
    seconds = {"harden_seconds": hardened - start, "rloo_seconds": time.monotonic() - hardened}
    right = accuracy(optimised(member, recipe))
    row = {
        "arm": arm,
        "seed": seed,
        "accuracy": right,
        **asdict(found),
        "last_step": rows[-1]["step"],
    }
    row |= (
        {"end_gold": gold[-WINDOW:].mean().item()}
        | {f"end_{name}": rows[-1][name] for name in AT_END}
        | seconds
    )
    return {
        "row": row,
        "stability": found,
        "rounds": rounds,
        "readings": rows,
        "gold": gold.tolist(),
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Each arm's mean ± standard deviation over seeds, as Markdown."""
    names = ("accuracy", "peak_gold", "peak_step", "step", "end_gold", "end_kl", "end_variety")
    heads = [
        "arm",
        "seeds",
        "accuracy",
        "peak of gold, σ",
        "step of peak",
        "step of fall",
        "gold at the end, σ",
        "KL there",
    ]
    heads += ["variety there", "still up", "ratio to none"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    arms = {
        arm: [each for each in runs if each["row"]["arm"] == arm]
        for arm in dict.fromkeys(e["row"]["arm"] for e in runs)
    }
    for arm, own in arms.items():
        cells = [_spread([each["row"][name] for each in own]) for name in names]
        censored = sum(each["row"]["censored"] for each in own)
        ratio = _ratio(
            [each["stability"] for each in own],
            [each["stability"] for each in arms.get("none", [])],
        )
        lines.append(f"| {arm} | {len(own)} | " + " | ".join(cells) + f" | {censored} | {ratio} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 0 if max(map(abs, values)) > 10 else 2
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def _ratio(own: Sequence[Stability], none: Sequence[Stability]) -> str:
    if min(len(own), len(none)) < 2:
        return ""
    found = stability_ratio(own, none)
    return f"{found.bound if found.bound != 'exact' else ''} {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]".strip()


def picture(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Gold, in σ above its start, and the proxy over steps: a panel an arm, a line a seed."""
    arms = list(dict.fromkeys(each["row"]["arm"] for each in runs))
    figure, axes = plt.subplots(
        2, len(arms), figsize=(4 * len(arms), 6), sharex=True, sharey="row", squeeze=False
    )
    for column, arm in enumerate(arms):
        for each in (each for each in runs if each["row"]["arm"] == arm):
            steps = [row["step"] for row in each["readings"]]
            axes[0, column].plot(steps, each["gold"], label=f"seed {each['row']['seed']}")
            axes[1, column].plot(
                steps, [row["proxy"] - each["readings"][0]["proxy"] for row in each["readings"]]
            )
        axes[0, column].axhline(0, color="grey", linewidth=0.8)
        axes[0, column].set_title(arm)
        axes[1, column].set_xlabel("RLOO steps")
    axes[0, 0].set_ylabel("gold above its start, σ")
    axes[0, 0].set_ylim(-3, 4)
    axes[1, 0].set_ylabel("proxy above its start")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def write(out: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write everything that was measured so far."""
    out.mkdir(parents=True, exist_ok=True)
    names = {"arm", "seed"}
    rounds = [
        {**{name: each["row"][name] for name in names}, **row}
        for each in runs
        for row in each["rounds"]
    ]
    for file, rows in (("runs.csv", [each["row"] for each in runs]), ("rounds.csv", rounds)):
        with (out / file).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(
                stream, list(dict.fromkeys(name for row in rows for name in row))
            )
            writer.writeheader()
            writer.writerows(rows)
    lines = [
        json.dumps(
            {"arm": each["row"]["arm"], "seed": each["row"]["seed"], "rows": each["readings"]}
        )
        for each in runs
    ]
    (out / "curves.jsonl").write_text("\n".join(lines) + "\n", encoding="ascii")
    (out / "table.md").write_text(table(runs), encoding="utf-8")
    picture(runs, out / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=["none", "paper", "pairs", "familiar", "both", "distance"],
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--clean", type=int, default=1000, help="clean pairs")
    parser.add_argument(
        "--steps",
        type=int,
        default=520,
        help="RLOO steps at most; a run that has collapsed stops earlier",
    )
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of RLOO")
    parser.add_argument(
        "--kl", type=float, default=0.0, help="RLOO's KL weight in all arms, if not each arm's own"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/hardening"))
    options = parser.parse_args()
    sigma = topics.Gold()(references()).std().item()
    runs = []
    for seed in range(options.seeds):
        for arm in options.arms:
            recipe = replace(ARMS[arm], kl=options.kl) if options.kl else ARMS[arm]
            runs.append(run(arm, recipe, options.clean, options.steps, options.rate, seed, sigma))
            print(
                {
                    name: runs[-1]["row"][name]
                    for name in (
                        "arm",
                        "seed",
                        "accuracy",
                        "peak_gold",
                        "step",
                        "censored",
                        "end_gold",
                    )
                },
                flush=True,
            )
            write(options.out, runs)
    print(f"σ = {sigma:.3f}\n{table(runs)}")


if __name__ == "__main__":
    main()
