"""The audit that attacks a reward."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.attackers import BestOfN
from rewardlab.attackers.base import Perturbs, TrainedAttacker
from rewardlab.audits.exploits import find_exploits
from rewardlab.audits.inputs import distinct_prompts, names_of
from rewardlab.audits.left_out import only_scored
from rewardlab.audits.outliers import check_outliers, outlier_figures
from rewardlab.audits.scores import AttackScores, ScoredSamples
from rewardlab.audits.verdict import attack_figures
from rewardlab.conversations import Prompt, to_json
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Generator
from rewardlab.provenance import described
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.relative import Relative, places_of
from rewardlab.rewards.scoring import judged_by
from rewardlab.runs import layout
from rewardlab.runs.folder import RunFolder
from rewardlab.seeds import derive
from rewardlab.storage.atomic import write_atomically
from rewardlab.storage.samples import load_samples, save_samples
from rewardlab.types import Samples

INPUTS = ("policy", "reward", "witness", "judge")
PROVENANCE = (*INPUTS, "attacker", "seed")
FRESH = "fresh"  # the stage of fresh samples
STARTS = "starts"  # the stage of what an attack's outputs were before it changed them


@dataclass(frozen=True)
class AttackResult:
    """What an attack on a reward found.

    Attributes:
        figures: plain data, as results.json holds it. `figures["verdict"]` has a "word" ("broken",
            "parted", "held" or "undecided") and a "sentence".
        exploits: the rows of exploits.jsonl, the worst first.
        samples: the outputs of the "attack", the "references" that scores are relative to, and the
            "fresh" samples that are its floor. Of an attacker that changes what the policy drew
            (PGD) also the "starts", a row for each of the attack's.
        made_by: what the attack was made by: policy, reward, witness, judge, attacker and seed.
    """

    figures: dict[str, Any]
    exploits: list[dict[str, Any]]
    samples: dict[str, Samples]
    made_by: dict[str, Any]


class AttackAudit:
    """Search for outputs that a reward overrates, and say whether it was broken.

    The attacker maximizes Adv-RM's attack reward (`rewardlab.rewards.attack.Attack`): outputs that
    the reward likes and the witness doubts. Its success is measured beside fresh samples and beside
    the best of n of them, which need no attack.

    Args:
        policy: writes the references and the fresh samples; the attack starts from it. Any
            `Generator` will do, unless the attacker asks for more.
        reward: the reward under attack.
        witness: the reward that should object, such as one of another seed. For the mean of several
            give an `Ensemble`.
        prompts: a file of prompts, or the prompts. Equal ones count once.
        judge: decides who is right, and is read only after the attack. Without one the verdict says
            only that reward and witness part.
        attacker: searches for the outputs (`rewardlab.attackers`, or `make_attacker`); the best of
            `n` samples of a prompt by default.
        references: responses to each prompt that everything is measured against, at least 2.
        n: fresh samples of each prompt, the floor of an attacker that chooses from as many.
        weight: λ, how much the witness's objection counts.
        seed: seed of everything that is drawn.
        identity: plain data that names arguments in the stages' keys and in the provenance, such as
            the fingerprint of the folder that a reward was loaded from; further names only add to
            the keys. An argument without an entry is named by its weights and its settings.
        outliers: a reward with frozen features, by which outputs are counted that lie outside of
            what the policy writes (MOP, `rewards.Outliers`). By default none are.

    Raises:
        InputError: if a number is out of range, there are no prompts, or reward and witness are one
            object.

    Example:
        >>> from rewardlab.embedded.tiny_worlds import text_policy
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> policy = text_policy(train_steps=1)
        >>> audit = AttackAudit(policy, Length(), Repetition(1), ["one", "two"], references=4, n=4)
        >>> audit.attacker
        BestOfN(n=4, keep=1)
    """

    def __init__(
        self,
        policy: Generator,
        reward: Reward,
        witness: Reward,
        prompts: str | Path | list[Prompt],
        judge: Reward | None = None,
        attacker: Callable[..., Samples] | None = None,
        references: int = 8,
        n: int = 16,
        weight: float = 1.0,
        seed: int = 0,
        identity: Mapping[str, Any] | None = None,
        outliers: Reward | None = None,
    ) -> None:
        if references < 2 or n < 1:
            raise InputError(
                "AttackAudit needs at least 2 references and 1 fresh sample of each prompt; got "
                f"references={references} and n={n}."
            )
        if reward is witness:
            raise InputError(
                "reward and witness are one object, so they never disagree. As witness give a "
                "reward that was trained with another seed or on other data."
            )
        self.outliers = outliers
        self.policy = policy
        self.reward = reward
        self.witness = witness
        self.judge = judge
        self.prompts = distinct_prompts(prompts)
        check_outliers(outliers, references * len(self.prompts))
        self.attacker = BestOfN(n=n) if attacker is None else attacker
        self.references = references
        self.n = n
        self.weight = weight
        self.seed = seed
        self.identity = dict(identity or {})

    def run(self, folder: RunFolder) -> AttackResult:
        """Attack, measure, and write results.json and exploits.jsonl.

        References, fresh samples, the attack's outputs and the scores are stages: those that stand
        in the folder are loaded.
        """
        key = self._key()
        folder.record({"inputs": {name: key[name] for name in INPUTS}})
        self.policy.eval()
        references = self._draw(folder, key, layout.REFERENCES, self.references)
        fresh = self._draw(folder, key, FRESH, self.n)
        attack_folder = self._attack(folder, key, references)
        attack = load_samples(attack_folder)
        samples = {"references": references, "fresh": fresh, "attack": attack}
        scores = self._scores(folder, key, samples)
        if isinstance(self.attacker, Perturbs):
            samples |= self._starts(folder, key, attack, self.attacker)
        whole = only_scored(scores)
        figures = attack_figures(whole.scores, self.weight, _trains(self.attacker))
        if whole.unscored:
            figures["unscored"] = whole.unscored
        if self.outliers is not None:
            figures["outliers"] = self._outliers(folder, key, samples, self.outliers)
        made_by = {name: key[name] for name in PROVENANCE}
        exploits = find_exploits(whole.scores, self.prompts, made_by)
        for row in exploits.rows:
            row["row"] = whole.rows[row["row"]]
        figures["taxonomy"] = exploits.kinds()
        _name_image_files(exploits.rows, attack_folder, folder.path)
        write_atomically(folder.path / layout.EXPLOITS_FILE, _json_lines(exploits.rows))
        folder.results(figures)
        return AttackResult(figures, exploits.rows, samples, made_by)

    def _key(self) -> dict[str, Any]:
        """Return what every stage depends on."""
        parts = {name: getattr(self, name) for name in INPUTS}
        return {
            **names_of(parts, self.identity),
            "attacker": described(self.attacker),
            "prompts": self.prompts,
            "references": self.references,
            "n": self.n,
            "weight": self.weight,
            "seed": self.seed,
            **self.identity,
        }

    def _draw(self, folder: RunFolder, key: Mapping[str, Any], name: str, count: int) -> Samples:
        """Return `count` samples of each prompt, which the stage of this name keeps."""

        def draw(stage: Path) -> None:
            seed = derive(self.seed, name)
            samples = candidates(self.policy, self.prompts, count, seed)
            save_samples(stage / layout.SAMPLES_FOLDER, samples)

        return load_samples(folder.stage(name, key, draw) / layout.SAMPLES_FOLDER)

    def _attack(self, folder: RunFolder, key: Mapping[str, Any], references: Samples) -> Path:
        """Return the folder of what the attacker found, a stage."""

        def attack(stage: Path) -> None:
            target = Relative(self.reward, references)
            witness = Relative(self.witness, references)
            attack_reward = Attack(target, witness, weight=self.weight)
            attacker: Any = self.attacker
            if _trains(attacker):  # it goes on from its checkpoints
                attacker = replace(attacker, folder=folder.scratch(layout.ATTACK, key))
            seed = derive(self.seed, "attack")
            outputs = attacker(self.policy, attack_reward, self.prompts, seed)
            save_samples(stage / layout.SAMPLES_FOLDER, outputs)

        return folder.stage(layout.ATTACK, key, attack) / layout.SAMPLES_FOLDER

    def _starts(
        self, folder: RunFolder, key: Mapping[str, Any], attack: Samples, attacker: Perturbs
    ) -> dict[str, Samples]:
        """Return what the attack's outputs were before it changed them, kept as a stage."""

        def draw(stage: Path) -> None:
            starts = attacker.starts(self.policy, attack)
            if starts is not None:
                save_samples(stage / layout.SAMPLES_FOLDER, starts)

        kept = folder.stage(STARTS, key, draw) / layout.SAMPLES_FOLDER
        return {STARTS: load_samples(kept)} if kept.exists() else {}

    def _scores(
        self, folder: RunFolder, key: Mapping[str, Any], samples: Mapping[str, Samples]
    ) -> AttackScores:
        """Return all samples with the scores of all rewards, which a stage keeps."""

        def write(stage: Path) -> None:
            scores = self._score(samples)
            (stage / layout.SCORES_TABLE).write_text(json.dumps(scores), encoding="utf-8")

        stage = folder.stage(layout.SCORES, key, write)
        scores = json.loads((stage / layout.SCORES_TABLE).read_text(encoding="utf-8"))
        scored = {}
        for side, columns in scores.items():
            scored[side] = ScoredSamples.of(samples[side], **columns)
        return AttackScores(**scored)

    def _outliers(
        self,
        folder: RunFolder,
        key: Mapping[str, Any],
        samples: Mapping[str, Samples],
        features: Reward,
    ) -> dict[str, Any]:
        """Return the share of outliers among the attack's outputs and fresh ones, a stage."""
        sides = {side: samples[side] for side in ("attack", FRESH)}

        def write(stage: Path) -> None:
            figures = outlier_figures(features, samples["references"], sides, self.seed)
            (stage / layout.SCORES_TABLE).write_text(json.dumps(figures), encoding="utf-8")

        names = names_of({"outliers": features}, self.identity)
        stage = folder.stage("outliers", {**key, **names}, write)
        figures: dict[str, Any] = json.loads((stage / layout.SCORES_TABLE).read_text("utf-8"))
        return figures

    def _score(self, samples: Mapping[str, Samples]) -> dict[str, Any]:
        """Return the scores of all samples by all rewards, raw and relative to the references."""
        rewards = {"reward": self.reward, "witness": self.witness}
        if self.judge is not None:
            rewards["judge"] = self.judge
        scores: dict[str, Any] = {side: {"raw": {}, "relative": {}} for side in samples}
        for name, reward in rewards.items():
            relative = Relative(reward, samples["references"])
            for side, outputs in samples.items():
                members = judged_by(relative, relative.members, outputs).scores
                raw = _raw_scores(relative, outputs, members)
                scores[side]["relative"][name] = members.mean(1).tolist()
                scores[side]["raw"][name] = raw.tolist()
        return scores


def _raw_scores(relative: Relative, samples: Samples, members: Tensor) -> Tensor:
    """Return the reward's own scores [B] from the relative scores of its members [B, M]."""
    place_of_prompt = {prompt: place for place, prompt in enumerate(relative.prompts)}
    places = places_of(samples.prompts, place_of_prompt, "AttackAudit")
    means = torch.as_tensor(relative.means).cpu()
    deviations = torch.as_tensor(relative.deviations).cpu()
    return (members * deviations + means[places]).mean(1)


def _trains(attacker: Any) -> bool:
    """Tell whether an attacker trains an adversary, with checkpoints in a folder of its own."""
    return isinstance(attacker, TrainedAttacker)


def _name_image_files(rows: list[dict[str, Any]], images: Path, root: Path) -> None:
    """Put the path of its file, relative to `root`, in place of an output that is an image."""
    for row in rows:
        if row["output"] is None:
            row["output"] = os.path.relpath(images / f"{row['row']:06d}.png", root)


def _json_lines(rows: list[dict[str, Any]]) -> str:
    """Return exploits as lines of JSON; a conversation is its list of messages."""
    lines = ""
    for row in rows:
        content = {**row, "prompt": to_json(row["prompt"])}
        lines += json.dumps(content, ensure_ascii=False) + "\n"
    return lines
