"""The pages of attacks and curves: a figure, names, and nothing of the users' unescaped."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.audits import AttackAudit
from rewardlab.embedded.tiny_worlds import text_policy, text_reward
from rewardlab.report.attack_page import attack_page, grid_parts
from rewardlab.report.figures import sig
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.read import Run
from rewardlab.types import Samples

FOLDERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("run_folders.py"))))
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """An attack with a judge, on prompts of which one is markup."""
    policy = text_policy(train_steps=1)
    rewards = [text_reward(seed=seed) for seed in range(3)]
    audit = AttackAudit(policy, *rewards[:2], ["one", "two"], judge=rewards[2], references=4, n=4)
    return audit.run(RunFolder.open(tmp_path_factory.mktemp("attack") / "run", {"seed": 0}))


def test_a_video_is_shown_as_a_strip(result):
    """Of 16 frames six are shown, in the attack's and in the references' picture."""
    videos = torch.linspace(0, 1, 16).view(1, 16, 1, 1, 1).expand(2, 16, 3, 8, 8)
    samples = Samples(["one", "two"], videos)
    exploit = {
        "prompt": "one",
        "row": 1,
        "reference_row": 0,
        "scores": {"reward": 4.66},
        "reference_scores": {"reward": 3.0},
        "disagreement": 2.0,
        "labels": [],
    }
    drawn = {"attack": samples, "references": samples, "starts": samples}
    html = attack_page(result.figures, [exploit], {"attacker": "pgd", "reward": "2778"}, drawn)
    page = FOLDERS.Page(html)
    assert "Each strip is a few frames of one video, from its first to its last." in page.text
    for shown in grid_parts([exploit], drawn):
        assert shown.frames == 6
        assert shown.outputs[0].shape == (3, 8, 48)
    assert grid_parts([exploit], drawn)[0].outputs[0][0, 0, ::8].tolist() == [
        round(255 * frame / 15) for frame in (0, 3, 6, 9, 12, 15)
    ]


def page_of(result, exploits, run=None):
    drawn = result.samples
    html = attack_page(
        result.figures, exploits, {"attacker": EVIL, "reward": "277884dd"}, drawn, run
    )
    return FOLDERS.Page(html)


def test_the_page_has_a_figure_of_what_needs_no_attack(result):
    page = page_of(result, [])
    share = result.figures["measures"]["standard"]["best_of_n"]["value"]
    assert f"best of n {sig(100 * share)}" in page.alts[0]
    assert "mean scores: the attack: reward" in page.alts[0]
    assert "None: no output that the reward likes is doubted." in page.text


def test_names_stand_where_hashes_stood(result):
    flags = {"reward": f"/models/{EVIL}", "prompts": "/data/prompts.txt", "n": 16, "out": "run"}
    facts = {"command": ["rewardlab", "attack", EVIL], "start": "2026-11-29T10:17:04+00:00"}
    run = Run(Path("run"), "run", {}, facts, {}, {"attack": flags})
    page = page_of(result, [], run)
    assert "Made by rewardlab attack <script>" in page.text
    assert "begun 2026-11-29 10:17 UTC" in page.text
    assert "prompts /data/prompts.txt n 16" in page.text
    assert page.text.index("/data/prompts.txt") < page.text.index("277884dd")
    assert "script" not in page.counts


def test_exploits_are_escaped_and_named_so_only_where_the_reward_broke(result):
    exploit = {
        "prompt": EVIL,
        "output": f"{EVIL}\x08",
        "reference": EVIL,
        "scores": {"reward": 4.66},
        "reference_scores": {"reward": 3.0},
        "disagreement": 2.0,
        "labels": [EVIL],
    }
    page = page_of(result, [exploit])
    assert page.text.count(EVIL) >= 4
    assert "script" not in page.counts
    word = result.figures["verdict"]["word"]
    assert ("exploits" in page.text) == (word == "broken")
