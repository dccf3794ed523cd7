"""The report: from run folders alone, self-contained, right in what it states, and calm about what
is absent.
"""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rewardlab.data import save_pairs, save_samples
from rewardlab.errors import InputError
from rewardlab.evaluation.evaluation import separation_figures
from rewardlab.report import write_report
from rewardlab.report.statements import (
    Verdict,
    overall,
    run_course,
    step_course,
    step_verdict,
    verdict,
)
from rewardlab.runs.read import read_runs
from rewardlab.types import PreferencePairs, Samples

PROMPTS = ["zero", "one", "two", "three"]
BASE = {"accuracy": 0.93, "ink": 0.301, "distance": 0.05}
TARGETS = {"accuracy": 0.967, "ink": 0.335}
CLEAN = {"accuracy": 0.95, "ink": 0.333, "distance": 0.01, "reward": 1.5}
SPOILT = {"accuracy": 0.62, "ink": 0.37, "distance": 0.31, "reward": 4.0}
NOTHING = {**BASE, "reward": 0.02}


def figure(value, half=0.012):
    return {"mean": value, "low": value - half, "high": value + half}


def judged(figures):
    judges = {name: figure(figures[name]) for name in ("accuracy", "ink")}
    return judges | {
        "distance": figure(figures["distance"]),
        "real_distance": {"mean": 0.002},
        "diversity": {"mean": 9.1},
    }


def pictures(count, level, seed):
    """Strokes of a brightness, so that one can see which grid is which."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 1, 8, 8)
    for row in range(count):
        images[row, 0, 1:7, 1 + row % len(PROMPTS)] = 1
        images[row, 0, 2 + row % 4, 2:6] = 1
    return (images * level + 0.05 * torch.rand(count, 1, 8, 8, generator=generator)).clamp(0, 1)


def samples(count, level=0.7, seed=0, outputs=None):
    outputs = pictures(count, level, seed) if outputs is None else outputs
    return Samples(
        [PROMPTS[i % len(PROMPTS)] for i in range(count)], outputs, {"seed": torch.arange(count)}
    )


def scores(reward):
    generator = torch.Generator().manual_seed(1)
    means = {"targets": 1.6, "before": 0.0, "after": reward}
    return {side: mean + torch.randn(60, 4, generator=generator) for side, mean in means.items()}


def guard_csv(end):
    rows = [
        f"{step},,{end['reward'] * step / 200},{0.05 + (end['distance'] - 0.05) * step / 200}"
        for step in range(0, 201, 50)
    ]
    return "\n".join(["step,loss,guard/score,guard/distance", "9,0.69,,", *rows]) + "\n"


def round_figures(end):
    fitted = {
        "val/auc": 0.93,
        "val/calibration_error": 0.08,
        "val/ranking": 0.6,
        "val/disagreement": 0.4,
    }
    fitted |= {"meaning": "log density ratio", "epochs": 12}
    separation = separation_figures(
        {side: values.mean(1) for side, values in scores(end["reward"]).items()}
    )
    return {
        "reward": {"first": fitted},
        "candidates": {"all": figure(0.0), "best": figure(1.2), "worst": figure(-1.3)},
        "post_train": {"loss": 0.4, "steps": 200, "guard_stopped_at": [end.get("stopped")]},
        "judged": judged(end),
        "separation": separation,
    }


def make_run(path, *ends, loop="SFT", beta=None, outputs=None):
    """Write a run folder as `rewardlab rounds` does, with one round for each of `ends`."""
    stages = path / "stages"

    def draw(level, seed):
        return samples(12, level, seed, outputs)

    save_samples(stages / "0-targets-00000000" / "samples", draw(1.0, 5))
    save_samples(stages / "0-samples-00000000" / "samples", draw(0.5, 6))
    for number, end in enumerate(ends, 1):
        save_samples(stages / f"{number}-samples-00000000" / "samples", draw(0.9, 7))
        save_pairs(
            stages / f"{number}-pairs-00000000" / "pairs",
            PreferencePairs(draw(0.9, 8), draw(0.3, 9)),
        )
        (stages / f"{number}-scores-00000000").mkdir()
        save_file(
            scores(end["reward"]), stages / f"{number}-scores-00000000" / "scores.safetensors"
        )
        (stages / f"{number}-post-train-00000000").mkdir()
        (stages / f"{number}-post-train-00000000" / "metrics.csv").write_text(guard_csv(end))
    rounds = {"0": {"judged": judged(BASE)}} | {
        str(number): round_figures(end) for number, end in enumerate(ends, 1)
    }
    targets = {name: figure(value) for name, value in TARGETS.items()} | {
        "real_distance": {"mean": 0.002}
    }
    write(path / "results.json", {"targets": targets, "rounds": rounds})
    write(
        path / "timing.json",
        {folder.name: {"seconds": 2.5, "peak_memory_mib": 812.0} for folder in stages.iterdir()},
    )
    write(
        path / "run.json",
        {"versions": {"torch": "2.15"}, "seeds": {"seed": 0}, "fingerprints": {"policy": "a1b2"}},
    )
    class_path = {
        "class_path": f"rewardlab.training.{loop}",
        "init_args": {} if beta is None else {"beta": beta},
    }
    config = {"rounds": {"init_args": {"post_train": {"loop": class_path, "candidates": 8}}}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def write(path, content):
    path.write_text(json.dumps(content))


class Page(HTMLParser):
    """What a reader of the page gets: text, and every address that it would load."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.said, self.addresses, self.alts, self.counts = [], [], [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "srcset", "data")
        ]
        self.alts += [dict(attrs).get("alt") for _ in range(tag == "img")]
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += [data] if "style" not in self.open else []

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


def page_of(*runs, out=None):
    path = write_report(list(runs), out)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A run with its report."""
    run = make_run(tmp_path_factory.mktemp("runs") / "sft", CLEAN)
    assert write_report([run]) == run / "report.html"
    return run


def test_one_run_gives_one_self_contained_page_and_its_pictures(clean):
    text = (clean / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "http" not in text.lower()
    assert "url(" not in text
    assert page.counts.get("script") is page.counts.get("link") is None
    assert all(page.alts)
    files = {file.stem for file in (clean / "figures").iterdir()}
    assert files == {
        *(
            "samples-targets-real",
            "samples-base",
            "samples-round-1",
            "pairs-round-1-best-candidates",
            "overview",
        ),
        *(
            "pairs-round-1-worst-candidates",
            "scores-round-1",
            "judge-accuracy",
            "judge-ink",
            "judge-distance",
        ),
        *("plane-accuracy", "plane-ink", "plane-distance", "guard"),
    }
    assert (
        page.counts["figure"] == page.counts["figcaption"] == len(files) - 1
    )  # the overview is for a README
    assert "What is missing" not in page.text


def test_a_clean_run_is_said_to_be_one(clean):
    text = Page((clean / "report.html").read_text(encoding="utf-8")).text
    assert "1 finished round: better by the judges, none got worse." in text
    assert (
        "The reward rose. Ink and distance moved toward the targets. No difference beyond the intervals in accuracy."
        in text
    )
    assert (
        "Base → sft: accuracy 0.930 → 0.950 (targets 0.967); ink 0.301 → 0.333 (targets 0.335); distance 0.0500 → "
        in text
    )
    assert "Over-optimised" not in text
    assert "log density ratio" in text


def test_several_runs_share_a_page_with_targets_and_base_once(tmp_path):
    low = make_run(tmp_path / "low", {**SPOILT, "stopped": 150}, loop="DPO", beta=20.0)
    same = make_run(tmp_path / "same", NOTHING, loop="DPO", beta=2000.0)
    path = write_report([low, same])
    assert path == tmp_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert (
        "Over-optimised, the reward rose while a judge got worse: low. No difference beyond the intervals: same."
        in page.text
    )
    assert (
        "low (DPO, β 20). Over-optimised: the reward rose while accuracy and distance got worse."
        in page.text
    )
    assert (
        "The reward now scores the outputs above the real targets. The guard stopped training at step 150"
        in page.text
    )
    assert "same (DPO, β 2000). No difference beyond the intervals. Base" in page.text
    assert "post_train.loop.init_args.beta 20.0 2000.0" in page.text
    assert len(re.findall(r"base −?0\.\d+ \[", page.text)) == 1
    named = [file.name for file in (tmp_path / "figures").iterdir()]
    assert {
        "scores-low.png",
        "scores-same.png",
        "samples-low.png",
        "samples-same.png",
        "judge-accuracy.png",
    } <= set(named)
    assert page.counts["figure"] == len(named) - 1


def test_rounds_are_judged_one_by_one_and_as_a_whole(tmp_path):
    (run,) = read_runs([make_run(tmp_path / "two", CLEAN, SPOILT)])
    assert [step_verdict(step).outcome for step in run.steps] == ["better", "over-optimised"]
    assert overall(run).sentence.startswith("Over-optimised in round 2. From base to end:")
    assert "reward score" not in run_course(run)  # each round has a reward of its own
    assert "reward score" in step_course(run.steps[0])


@pytest.mark.parametrize(
    ("after", "reward", "outcome"),
    [
        ({"accuracy": 0.62}, 0.0, "worse"),
        ({"accuracy": 0.62}, 3.0, "over-optimised"),
        ({"accuracy": 0.935}, 3.0, "reward only"),
        ({"accuracy": 0.935}, 0.0, "unchanged"),
        ({"accuracy": 0.96}, 0.0, "better"),
        ({"accuracy": 0.985}, 0.0, "better"),  # past the targets' value, but within its interval
        ({"accuracy": 0.96, "ink": 0.2}, 0.0, "mixed"),
        ({"accuracy": 0.96, "ink": 0.2}, 3.0, "over-optimised"),
        ({"ink": 0.37}, 3.0, "mixed"),  # the other side of the targets, no farther than before
        ({"ink": 0.45}, 3.0, "over-optimised"),
        ({"distance": 0.3}, 3.0, "over-optimised"),
        ({"distance": 0.0}, -3.0, "better"),
        ({}, 3.0, "unknown"),
    ],
)
def test_statements_follow_from_the_intervals(after, reward, outcome):
    after = {name: figure(value) for name, value in after.items()}
    before = {name: figure(BASE[name]) for name in after}
    targets = {name: figure(value) for name, value in TARGETS.items()}
    said = verdict(
        before, after, targets, {"score_before": figure(0.0), "score_after": figure(reward)}
    )
    assert said.outcome == outcome
    assert ("Over-optimised: the reward rose while" in said.sentence) == (
        outcome == "over-optimised"
    )


def test_figures_without_intervals_or_finite_values_make_no_statement():
    after = {"ink": figure(float("nan")), "accuracy": {"mean": 0.5}, "other": figure(1.0)}
    said = verdict({"ink": figure(0.3), "accuracy": figure(0.93)}, after, {}, {})
    assert said == Verdict("unknown", "No intervals to compare in accuracy, ink and other.")
    unknown = verdict({"ink": figure(0.3)}, {"ink": figure(0.4)}, {}, {})
    assert unknown == Verdict("mixed", "Ink changed; the targets' own value is not known.")


def test_a_move_within_the_targets_own_interval_is_neither_better_nor_worse():
    sides = ((0.988, 0.008), (1.0, 0.0), (0.98, 0.03))
    before, after, targets = ({"accuracy": figure(value, half)} for value, half in sides)
    said = verdict(
        before, after, targets, {"score_before": figure(0.0), "score_after": figure(2.0)}
    )
    assert said == Verdict(
        "reward only", "The reward rose. Accuracy moved within the targets' own interval."
    )


def test_text_is_shown_as_a_table_and_everything_is_escaped(tmp_path):
    outputs = ["<script>alert('x')</script> & $a_b$ 猫"] * 12
    run = make_run(tmp_path / "text $x$ <b>", CLEAN, outputs=outputs)
    results = json.loads((run / "results.json").read_text())
    for side in (results["targets"], *(each["judged"] for each in results["rounds"].values())):
        side["<i>$judge$ 猫"] = figure(0.5)
    write(run / "results.json", results)
    page = page_of(run)
    assert {"script", "b", "i"} & page.counts.keys() == set()
    assert outputs[0] in page.text
    assert "One output of each prompt." in page.text
    assert not list((run / "figures").glob("samples-*"))


def make_hardened(path, policy="c3d4"):
    """A run as Adv-RM's rounds leave it: the first attacks the reward, the second trains, with
    readings.
    """
    outputs = ["a fair answer"] * 12
    run = make_run(path, CLEAN, CLEAN, loop="PPO", outputs=outputs)
    stages = run / "stages"
    for stage in ("1-samples", "1-pairs", "1-scores", "1-post-train"):
        shutil.rmtree(stages / f"{stage}-00000000")
    pairs = PreferencePairs(
        samples(4, outputs=["better"] * 4), samples(4, outputs=["\n".join(["of"] * 5)] * 4)
    )
    save_pairs(stages / "1-adversarial-00000000" / "pairs", pairs)
    readings = [
        "step,loss,reading/gold,reading/reward,reading/kl",
        "0,,-3.0,0.5,0.0",
        "9,0.1,,,",
        "50,,-2.5,1.5,4.0",
        "100,,-4.0,3.0,9.0",
    ]
    (stages / "2-post-train-00000000" / "metrics.csv").write_text("\n".join(readings) + "\n")
    results = json.loads((run / "results.json").read_text())
    counts = {
        "generated": 50,
        "unique": 49,
        "gated": 20,
        "disagreeing": 10,
        "per_prompt": 8,
        "kept": 4,
    }
    members = {"0": {"val/accuracy": 0.61}, "1": {"val/accuracy": 0.63}}
    funnel = {"counts": counts, "precision": {"kept": 0.75}}
    results["rounds"]["1"] = {"members": members, "attack": {"funnel": funnel, "yield": 0.2}}
    held = {
        "step": 90.0,
        "censored": False,
        "start": -3.0,
        "peak_gold": -2.5,
        "peak_step": 50.0,
        "window": 2,
    }
    results["rounds"]["2"]["post_train"]["stability"] = {
        "gold": held | {"gold_at_kl": {"5": -2.75, "10": None}}
    }
    write(run / "results.json", results)
    costs = {
        name: {"all": 30.0, "plain": 20.0, "ratio": 1.5} for name in ("seconds", "generations")
    }
    timing = {
        folder.name: {"seconds": 2.5, "peak_memory_mib": 812.0} for folder in stages.iterdir()
    }
    write(run / "timing.json", timing | {"cost": {"steps": 100, **costs}})
    write(
        run / "run.json",
        {"versions": {"torch": "2.15"}, "seeds": {"seed": 0}, "fingerprints": {"policy": policy}},
    )
    return run


def test_a_hardened_run_shows_its_curve_its_exploits_and_its_cost(tmp_path):
    run = make_hardened(tmp_path / "hardened")
    page = page_of(run)
    assert (
        "Round 1: attacked: of 50 outputs 10 passed gate and disagreement, 4 became pairs, 0.750 of them right"
        in page.text
    )
    assert "of ↵ of ↵ of ↵ of ↵ of" in page.text
    assert "gold 90.0 0.500 at step 50.0 0.250 –" in page.text
    assert (
        "1.50 times the seconds, and 1.50 times the generations, of one fit and the same 100 steps"
        in page.text
    )
    assert (run / "figures" / "readings.png").stat().st_size > 5000
    assert "round 2: gold −3.00 to −4.00, highest −2.50" in " ".join(page.alts)


def test_runs_of_different_policies_get_a_part_each(tmp_path, clean):
    page = page_of(clean, make_hardened(tmp_path / "hardened"), out=tmp_path / "both.html")
    assert page.counts["h1"] == 2
    assert page.text.count("What is missing") <= 2
    assert page_of(clean, clean, out=tmp_path / "one.html").counts["h1"] == 1


def test_videos_show_their_middle_frame(tmp_path):
    frames = torch.zeros(12, 3, 1, 8, 8)
    frames[:, 1] = 1
    run = make_run(tmp_path / "film", outputs=frames)
    write_report([run])
    assert (run / "figures" / "samples-base.png").is_file()


@pytest.mark.parametrize(
    "absent",
    [
        ("stages",),
        ("results.json",),
        (
            *(
                "timing.json",
                "config.yaml",
                "run.json",
                "stages/1-post-train-00000000",
                "stages/0-targets-00000000",
            ),
            *("stages/1-samples-00000000", "stages/1-pairs-00000000/pairs/chosen/000000.png"),
        ),
    ],
    ids=["stages", "figures", "some of each"],
)
def test_what_is_absent_is_named_and_the_rest_is_shown(tmp_path, clean, absent):
    run = shutil.copytree(
        clean, tmp_path / "run", ignore=shutil.ignore_patterns("report.html", "figures")
    )
    for name in absent:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    page = page_of(run)
    assert "What is missing" in page.text
    assert ("0.333" in page.text) == ("results.json" not in absent)


def test_a_run_that_stopped_early_has_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    write(
        tmp_path / "run" / "results.json",
        {"targets": {"ink": figure(0.335)}, "rounds": {"0": {"judged": judged(BASE)}}},
    )
    text = page_of(tmp_path / "run").text
    assert "No finished rounds" in text
    assert "No round has finished." in text


def make_single(path, kind):
    path.mkdir()
    (path / "config.yaml").write_text(
        yaml.safe_dump({kind: {"class_path": "some.Loop", "init_args": {"lr": len(path.name)}}})
    )
    return path


def test_fits_show_the_curves_that_they_logged(tmp_path):
    runs = [make_single(tmp_path / name, "model") for name in ("one", "other")]
    for run, rows in zip(
        runs, (["0,0.9,,0", "1,nan,,0", "2,0.25,0.5,0"], ["0,0.8,,0", "1,0.4,0.75,0"]), strict=True
    ):
        (run / "metrics.csv").write_text("\n".join(["step,loss,val/auc,epoch", *rows]) + "\n")
    (runs[0] / "reward").mkdir()
    page = page_of(*runs, out=tmp_path / "page.html")
    assert "one is a run of `rewardlab fit`: some.Loop. What it trained is in reward/." in page.text
    assert page.alts == [
        "loss over training steps: one 0.900 to 0.250; other 0.800 to 0.400.",
        "val/auc over training steps: one 0.500 to 0.500; other 0.750 to 0.750.",
    ]
    assert "No round" not in page.text
    assert "What is missing" not in page.text
    assert "init_args.lr" in page.text, "what they differ in"


def test_a_fit_that_logged_nothing_says_so(tmp_path):
    assert "no metrics.csv" in page_of(make_single(tmp_path / "run", "model")).text


def test_an_attack_is_pointed_to_its_own_page(tmp_path, clean):
    run = make_single(tmp_path / "an attack", "attack")
    assert "has not finished" in page_of(run).text
    write(run / "results.json", {"verdict": {"sentence": "Held: no more than its floor."}})
    (run / "attack.html").touch()
    page = page_of(run, clean, out=tmp_path / "page.html")
    assert "an attack is a run of `rewardlab attack`. Held: no more than its floor." in page.text
    assert "an%20attack/attack.html" in page.addresses
    assert page.counts["h1"] == 2, "rounds have a part of their own"


def test_stages_in_a_shared_store_give_the_same_pictures_byte_for_byte(tmp_path, clean):
    run = shutil.copytree(
        clean, tmp_path / "runs" / "sft", ignore=shutil.ignore_patterns("figures", "results.json")
    )
    (run / "stages").rename(tmp_path / "store")
    write(run / "run.json", {"stages": "../../store"})
    assert write_report([run, run], tmp_path / "page.html") == tmp_path / "page.html"
    for name in ("samples-targets-real.png", "samples-base.png"):
        assert (tmp_path / "figures" / name).read_bytes() == (clean / "figures" / name).read_bytes()


def test_what_cannot_be_reported_is_refused_with_a_sentence(tmp_path, clean):
    with pytest.raises(InputError, match="no run folder"):
        write_report([tmp_path])
    with pytest.raises(InputError, match="at least one"):
        write_report([])
    with pytest.raises(InputError, match="is a folder"):
        write_report([clean], tmp_path)
    (tmp_path / "results.json").write_text('{"targets": ')
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "results.json"))):
        write_report([tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"]
