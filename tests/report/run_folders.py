"""Write run folders as the commands do, and read pages as a reader does, for the report's tests."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import torch
import yaml
from safetensors.torch import save_file

from rewardlab.data import save_pairs, save_samples
from rewardlab.evaluation.evaluation import separation_figures
from rewardlab.report import write_report
from rewardlab.types import PreferencePairs, Samples

PROMPTS = ["zero", "one", "two", "three"]
BASE = {"accuracy": 0.93, "ink": 0.301, "distance": 0.05}
TARGETS = {"accuracy": 0.967, "ink": 0.335}
CLEAN = {"accuracy": 0.95, "ink": 0.333, "distance": 0.01, "reward": 1.5}
SPOILT = {"accuracy": 0.62, "ink": 0.37, "distance": 0.31, "reward": 4.0}
NOTHING = {**BASE, "reward": 0.02}
RUN_FACTS = {"versions": {"torch": "2.15"}, "seeds": {"seed": 0}}
STAGE_TIME = {"seconds": 2.5, "peak_memory_mib": 812.0}


def write(path, content):
    path.write_text(json.dumps(content))


def figure(value, half=0.012):
    return {"mean": value, "low": value - half, "high": value + half}


def figures(values):
    return {name: figure(value) for name, value in values.items()}


def judged(end):
    return {
        "accuracy": figure(end["accuracy"]),
        "ink": figure(end["ink"]),
        "distance": figure(end["distance"]),
        "real_distance": {"mean": 0.002},
        "diversity": {"mean": 9.1},
    }


def pictures(count, level, seed):
    """Return strokes of a brightness, so that one can see which grid is which."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 1, 8, 8)
    for row in range(count):
        column = 1 + row % len(PROMPTS)
        images[row, 0, 1:7, column] = 1
        line = 2 + row % 4
        images[row, 0, line, 2:6] = 1
    noise = torch.rand(count, 1, 8, 8, generator=generator)
    return (images * level + 0.05 * noise).clamp(0, 1)


def samples(count, level=0.7, seed=0, outputs=None):
    if outputs is None:
        outputs = pictures(count, level, seed)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    return Samples(prompts, outputs, {"seed": torch.arange(count)})


def scores(reward):
    generator = torch.Generator().manual_seed(1)
    means = {"targets": 1.6, "before": 0.0, "after": reward}
    sides = {}
    for side, mean in means.items():
        sides[side] = mean + torch.randn(60, 4, generator=generator)
    return sides


def guard_csv(end):
    """Return metrics.csv of a training whose reward and distance went straight to `end`."""
    lines = ["step,loss,guard/score,guard/distance", "9,0.69,,"]
    for step in range(0, 201, 50):
        score = end["reward"] * step / 200
        distance = 0.05 + (end["distance"] - 0.05) * step / 200
        lines.append(f"{step},,{score},{distance}")
    return "\n".join(lines) + "\n"


def round_figures(end):
    fitted = {
        "val/auc": 0.93,
        "val/calibration_error": 0.08,
        "val/ranking": 0.6,
        "val/disagreement": 0.4,
        "meaning": "log density ratio",
        "epochs": 12,
    }
    mean_scores = {side: values.mean(1) for side, values in scores(end["reward"]).items()}
    post_train = {
        "loss": 0.4,
        "steps": 200,
        "guard_stopped_at": [end.get("stopped")],
    }
    return {
        "reward": {"first": fitted},
        "candidates": figures({"all": 0.0, "best": 1.2, "worst": -1.3}),
        "post_train": post_train,
        "judged": judged(end),
        "separation": separation_figures(mean_scores),
    }


def write_stages(stages, ends, outputs):
    """Write the stages of a run with one round for each of `ends`."""

    def draw(level, seed):
        return samples(12, level, seed, outputs)

    def stage(name):
        folder = stages / f"{name}-00000000"
        folder.mkdir(parents=True)
        return folder

    save_samples(stage("0-targets") / "samples", draw(1.0, 5))
    save_samples(stage("0-samples") / "samples", draw(0.5, 6))
    for number, end in enumerate(ends, 1):
        save_samples(stage(f"{number}-samples") / "samples", draw(0.9, 7))
        pairs = PreferencePairs(draw(0.9, 8), draw(0.3, 9))
        save_pairs(stage(f"{number}-pairs") / "pairs", pairs)
        score_file = stage(f"{number}-scores") / "scores.safetensors"
        save_file(scores(end["reward"]), score_file)
        metrics = stage(f"{number}-post-train") / "metrics.csv"
        metrics.write_text(guard_csv(end))


def make_run(path, *ends, loop="SFT", beta=None, outputs=None):
    """Write a run folder as `rewardlab rounds` does, with one round for each of `ends`."""
    stages = path / "stages"
    write_stages(stages, ends, outputs)
    rounds = {"0": {"judged": judged(BASE)}}
    for number, end in enumerate(ends, 1):
        rounds[str(number)] = round_figures(end)
    targets = figures(TARGETS) | {"real_distance": {"mean": 0.002}}
    write(path / "results.json", {"targets": targets, "rounds": rounds})
    write(path / "timing.json", {folder.name: STAGE_TIME for folder in stages.iterdir()})
    write(path / "run.json", RUN_FACTS | {"fingerprints": {"policy": "a1b2"}})
    init_args = {} if beta is None else {"beta": beta}
    loop = {"class_path": f"rewardlab.training.{loop}", "init_args": init_args}
    config = {"rounds": {"init_args": {"post_train": {"loop": loop, "candidates": 8}}}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def make_hardened(path, policy="c3d4"):
    """Write a run as Adv-RM's rounds leave it.

    The first round attacks the reward, the second trains, with readings.
    """
    run = make_run(path, CLEAN, CLEAN, loop="PPO", outputs=["a fair answer"] * 12)
    stages = run / "stages"
    for stage in ("1-samples", "1-pairs", "1-scores", "1-post-train"):
        shutil.rmtree(stages / f"{stage}-00000000")
    better = samples(4, outputs=["better"] * 4)
    exploits = samples(4, outputs=["\n".join(["of"] * 5)] * 4)
    pairs = PreferencePairs(better, exploits)
    save_pairs(stages / "1-adversarial-00000000" / "pairs", pairs)
    readings = [
        "step,loss,reading/gold,reading/reward,reading/kl",
        "0,,-3.0,0.5,0.0",
        "9,0.1,,,",
        "50,,-2.5,1.5,4.0",
        "100,,-4.0,3.0,9.0",
    ]
    (stages / "2-post-train-00000000" / "metrics.csv").write_text("\n".join(readings) + "\n")
    write_hardened_results(run)
    write_hardened_timing(run)
    write(run / "run.json", RUN_FACTS | {"fingerprints": {"policy": policy}})
    return run


def write_hardened_results(run):
    """Put the figures of an attack and of stability into results.json."""
    counts = {
        "generated": 50,
        "unique": 49,
        "gated": 20,
        "disagreeing": 10,
        "per_prompt": 8,
        "kept": 4,
    }
    stability = {
        "step": 90.0,
        "censored": False,
        "start": -3.0,
        "peak_gold": -2.5,
        "peak_step": 50.0,
        "window": 2,
        "gold_at_kl": {"5": -2.75, "10": None},
    }
    funnel = {"counts": counts, "precision": {"kept": 0.75}}
    members = {"0": {"val/accuracy": 0.61}, "1": {"val/accuracy": 0.63}}
    results = json.loads((run / "results.json").read_text())
    results["rounds"]["1"] = {"members": members, "attack": {"funnel": funnel, "yield": 0.2}}
    results["rounds"]["2"]["post_train"]["stability"] = {"gold": stability}
    write(run / "results.json", results)


def write_hardened_timing(run):
    """Put the stages' times and what the hardening cost into timing.json."""
    cost = {"all": 30.0, "plain": 20.0, "ratio": 1.5}
    timing = {folder.name: STAGE_TIME for folder in (run / "stages").iterdir()}
    timing["cost"] = {"steps": 100, "seconds": cost, "generations": cost}
    write(run / "timing.json", timing)


def make_single(path, kind):
    """Write the config of a fit ("model"), an attack or a curve."""
    path.mkdir()
    component = {"class_path": "some.Loop", "init_args": {"lr": len(path.name)}}
    (path / "config.yaml").write_text(yaml.safe_dump({kind: component}))
    return path


class Page(HTMLParser):
    """What a reader of the page gets: text, and every address that it would load."""

    VOID = ("meta", "img", "br", "link")
    SOURCES = ("src", "href", "srcset", "data")

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.said = []
        self.addresses = []
        self.alts = []
        self.counts = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            if name in self.SOURCES:
                self.addresses.append(value)
        if tag == "img":
            self.alts.append(dict(attrs).get("alt"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def page_of(*runs, out=None):
    """Write the report of runs and read it."""
    return read_page(write_report(list(runs), out))
