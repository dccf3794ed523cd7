"""Kill a run by SIGKILL at random moments, resume it, and compare it with one that nothing stopped.

    python tests/reliability/kills.py --kills 40 --seed 0
    python tests/reliability/kills.py all --kills 20 --seed 1

Each process is a fork of this one, so that the libraries are loaded once; none waits for the disk,
since a kill, unlike a power cut, loses nothing that was written. The first moment is drawn evenly
from the time that the uninterrupted run took, each further one from what is left of it. A trial is
two or three kills, one after the other, and a resume to the end. Its weights, results.json and rows
of metrics.csv have to be equal to the last bit, and nothing half written may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from rewardlab import (
    DiffusionPolicy,
    LanguageReward,
    PreferencePairs,
    Sampler,
    TargetSamples,
    VisionReward,
    cli,
)
from rewardlab.attackers import RLAttacker
from rewardlab.data import Preferences, save_pairs, save_samples
from rewardlab.evaluation import Evaluation, Guard
from rewardlab.mining import RankBootstrap
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.rewards import Brightness, Length
from rewardlab.rounds import (
    AdvRMRounds,
    AttackAndMine,
    FitReward,
    GANRMRounds,
    Mining,
    PostTrain,
    RunFolder,
)
from rewardlab.storage import atomic
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.training import EMA, GANRM, PPO, SFT, AdvRM
from rewardlab.types import Samples

ADAM = partial(torch.optim.Adam, lr=0.003)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
CONFIG = """
model:
  class_path: rewardlab.training.GANRM
  init_args:
    reward: {class_path: rewardlab.rewards.load_reward, init_args: {path: reward}}
data:
  class_path: rewardlab.data.TargetSamples
  init_args: {targets: targets, negatives: others, held_out: 4, channels: 1, batch_size: 4}
trainer:
  max_epochs: 6
  log_every_n_steps: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
"""


def pixels(count: int, level: float, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples([""] * count, level + 0.3 * torch.rand(count, 1, 8, 8, generator=generator))


def run_rounds(folder: Path) -> None:
    """Run a round of GAN-RM with a bootstrap, a guard and an average of weights."""
    post_train = PostTrain(
        partial(SFT, optimizer=ADAM),
        partial(Trainer, max_steps=6, max_epochs=-1, **QUIET),
        candidates=3,
        groups=6,
        batch_size=2,
        callbacks=[EMA(0.5), Guard(every_n_steps=2, samples=8, stop=False)],
        checkpoint_every=2,
    )
    GANRMRounds(
        policy=DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2)),
        reward=VisionReward(tiny_tower(image_size=8), heads=2, width=8, dropout=0.3),
        targets=TargetSamples(pixels(20, 0.7, 0), held_out=6, channels=1, batch_size=16),
        prompts=[""],
        fit=FitReward(
            partial(GANRM, folds=2, optimizer=ADAM), partial(Trainer, max_epochs=2, **QUIET)
        ),
        post_train=post_train,
        bootstrap=RankBootstrap(pool=10, count=3),
        evaluation=Evaluation(samples=12, judges={"ink": Brightness()}),
    ).run(RunFolder.open(folder, {"game": 1}, resume=True))


def run_adv_rm(folder: Path) -> None:
    """Run a round of Adv-RM with a trained attacker, and post-training by PPO."""
    trainer = partial(Trainer, max_steps=4, max_epochs=-1, **QUIET)
    make_ppo = partial(PPO, optimizer=ADAM, samples_per_prompt=2, kl_weight=0.0)
    attacker = RLAttacker(make_ppo, trainer, batch_size=2, checkpoint_every=1)
    AdvRMRounds(
        policy(),
        [language_reward(1), language_reward(2)],
        Preferences(pairs(), held_out=4, batch_size=8),
        AttackAndMine(attacker, Mining(z=0.2), references=3),
        PostTrain(make_ppo, trainer, batch_size=2, checkpoint_every=1),
        FitReward(partial(AdvRM, optimizer=ADAM), partial(Trainer, max_epochs=2, **QUIET)),
        prompts=PROMPTS,
        rounds=1,
        evaluation=Evaluation(6, {"length": Length()}),
    ).run(RunFolder.open(folder, {"game": 2}, resume=True))


def policy() -> CausalLMPolicy:
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6)


def language_reward(seed: int) -> LanguageReward:
    return LanguageReward(tiny_causal_lm(seed=seed), tiny_tokenizer(), pooling="mean", seed=seed)


def pairs() -> PreferencePairs:
    prompts = [f"say {number}" for number in range(16)]
    chosen = Samples(prompts, [f"yes {number}" for number in range(16)])
    return PreferencePairs(chosen, Samples(prompts, [f"{number} no no" for number in range(16)]))


def run_command(words: list[str], folder: Path) -> None:
    """Run a command of the command line in the folder that holds its inputs."""
    os.chdir(folder.parent)
    if cli.main([*words, "--out", folder.name, "--resume"]) != 0:
        raise SystemExit("the command did not end well")


def run_fit(name: str, folder: Path) -> None:
    """Fit by the config of a name."""
    run_command(["fit", "--config", f"{name}.yaml", "--report=false"], folder)


def prepare(place: Path) -> None:
    """Write what the commands read."""
    VisionReward(tiny_tower(image_size=8), heads=2, width=8, dropout=0.3).save_pretrained(
        place / "reward"
    )
    save_samples(place / "targets", pixels(16, 0.6, 0))
    save_samples(place / "others", pixels(16, 0.2, 1))
    policy().save_pretrained(place / "policy")
    DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2)).save_pretrained(
        place / "images"
    )
    language_reward(1).save_pretrained(place / "rm")
    language_reward(2).save_pretrained(place / "witness")
    save_pairs(place / "pairs", pairs())
    save_samples(place / "texts", pairs().chosen)
    (place / "prompts.txt").write_text("\n".join(PROMPTS))
    (place / "ganrm.yaml").write_text(CONFIG)
    for name, parts in FITS.items():
        (place / f"{name}.yaml").write_text(json.dumps({**parts, "trainer": TRAINER}))


def component(name: str, **options) -> dict[str, object]:
    return {"class_path": f"rewardlab.{name}", "init_args": options}


def loaded(kind: str, path: str) -> dict[str, object]:
    """Return the config of a policy or reward that is loaded from a folder."""
    return component(f"{'policies' if kind == 'policy' else 'rewards'}.load_{kind}", path=path)


TRAINER = {
    "max_epochs": 3,
    "log_every_n_steps": 1,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
PROMPTS = ["say a", "say b", "say c", "say d"]
TEXT_PAIRS = component("data.PairsData", pairs="pairs", batch_size=4)
FITS = {
    "advrm": {
        "model": component("training.AdvRM", reward=loaded("reward", "rm")),
        "data": component("data.Preferences", pairs="pairs", held_out=4, batch_size=4),
    },
    "dpo": {
        "model": component("training.DPO", policy=loaded("policy", "policy")),
        "data": TEXT_PAIRS,
    },
    "sft": {
        "model": component("training.SFT", policy=loaded("policy", "policy")),
        "data": component("data.SamplesData", samples="texts", batch_size=4),
    },
    "ppo": {
        "model": component(
            "training.PPO",
            policy=loaded("policy", "policy"),
            reward=loaded("reward", "rm"),
            samples_per_prompt=2,
        ),
        "data": component("data.Prompts", prompts="prompts.txt", batch_size=2),
    },
    "refl": {
        "model": component(
            "training.ReFL",
            policy=loaded("policy", "images"),
            reward=loaded("reward", "reward"),
        ),
        "data": component("data.Prompts", prompts=["", "", "", ""], batch_size=2),
    },
}
AUDIT = ["--policy", "policy", "--prompts", "prompts.txt", "--max-length", "6", "--device", "cpu"]
ATTACK = [
    "attack",
    *AUDIT,
    *["--reward", "rm", "--witness", "witness", "--attacker", "rl", "--steps", "6"],
    *["--references", "3", "--n", "4"],
]
CURVE = ["curve", *AUDIT, "--proxy", "rm", "--gold", "witness", "--n-max", "4", "--samples", "8"]
KINDS = {
    "rounds": run_rounds,
    "fit": partial(run_fit, "ganrm"),
    **{name: partial(run_fit, name) for name in FITS},
    "adv_rm": run_adv_rm,
    "attack": partial(run_command, ATTACK),
    "curve": partial(run_command, CURVE),
}


def start(run, folder: Path) -> int:
    """Fork a process that runs in `folder`, and return its id."""
    child = os.fork()
    if child:
        return child
    log = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.manual_seed(os.getpid())  # the global random state must not matter
    code = 1
    try:
        run(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(run, folder: Path) -> float:
    """Run to the end, and return the seconds it took."""
    begin = time.perf_counter()
    _, status = os.waitpid(start(run, folder), 0)
    if status:
        log = (folder.parent / f"{folder.name}.log").read_text()
        raise SystemExit(f"{folder} ended with {status}:\n{log[-4000:]}")
    return time.perf_counter() - begin


def kill_at(run, folder: Path, seconds: float) -> bool:
    """Kill a run after some seconds; tell whether it was still running."""
    child = start(run, folder)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


COMPARED = ("metrics.csv", "results.json", "exploits.jsonl", "curve.csv")


def contents(folder: Path) -> dict[str, object]:
    """Return what must be equal: weights, results and rows, by file."""
    found: dict[str, object] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        is_half = ".partial" in name or name.endswith(".damaged")
        if is_half or file.name in COMPARED or file.suffix == ".safetensors":
            found[name] = file.read_bytes() if file.is_file() else "folder"
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        state = torch.load(last, weights_only=True)["state_dict"]
        found["last.ckpt"] = {key: value.tolist() for key, value in state.items()}
    return found


def differences(straight: dict[str, object], resumed: dict[str, object]) -> list[str]:
    names = sorted(straight.keys() | resumed.keys())
    return [name for name in names if straight.get(name) != resumed.get(name)]


def trial(kind: str, kills: int, seed: int, place: Path) -> dict[str, object]:
    """Kill until there were `kills`, and return how many trials there were and what differed."""
    run = KINDS[kind]
    prepare(place)
    with contextlib.redirect_stdout(sys.stderr):
        run(place / "straight")  # here, so that the forks need not load what is loaded when used
    seconds = finish(run, place / "again")
    expected = contents(place / "straight")
    assert not differences(expected, contents(place / "again"))
    draw = random.Random(seed)
    killed = 0
    trials = 0
    different: dict[str, list[str]] = {}
    while killed < kills:
        folder = place / f"trial-{trials}"
        left = seconds
        for _ in range(min(draw.choice([2, 3]), kills - killed)):
            moment = draw.uniform(0, left)
            if not kill_at(run, folder, moment):
                break
            killed += 1
            left -= moment
        finish(run, folder)
        names = differences(expected, contents(folder))
        if names:
            different[folder.name] = names
        else:
            shutil.rmtree(folder)
        trials += 1
    return {
        "kind": kind,
        "seconds": round(seconds, 2),
        "kills": killed,
        "trials": trials,
        "compared": len(expected),
        "different": different,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs, resume them, compare them.")
    parser.add_argument("kinds", nargs="*", default=["rounds", "fit"], help=", ".join(KINDS))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", help="an empty folder that is kept; a temporary one by default")
    flags = parser.parse_args()
    place = Path(flags.place or tempfile.mkdtemp()).absolute()
    place.mkdir(parents=True, exist_ok=True)
    atomic._flush = lambda path: None
    for kind in KINDS if flags.kinds == ["all"] else flags.kinds:
        (place / kind).mkdir()
        print(json.dumps(trial(kind, flags.kills, flags.seed, place / kind)), flush=True)
    if not flags.place:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
