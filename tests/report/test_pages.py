"""What pages say at the top, how they show samples, and how large they may be."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
import yaml

from rewardlab.conversations import Conversation, Message, to_json
from rewardlab.errors import InputError
from rewardlab.report import write_report
from rewardlab.report.held_out import held_out_sentence
from rewardlab.report.pooled import over_seeds
from rewardlab.report.trends import noise_of
from rewardlab.runs.read import read_runs
from rewardlab.types import Samples

FOLDERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("run_folders.py"))))
make_run = FOLDERS.make_run
make_single = FOLDERS.make_single
page_of = FOLDERS.page_of
write = FOLDERS.write
EVIL = "<script>alert('x')</script>"


def test_warnings_of_the_terminal_are_on_the_page(tmp_path):
    run = make_single(tmp_path / "run", "model")
    entries = [
        {"stage": "fit", "level": "info", "sentence": "All is well.", "figures": {}},
        {
            "stage": "fit",
            "level": "warning",
            "sentence": f"These tell targets:\n  size 1.00: resize {EVIL}\nIt is learned first.",
            "figures": {"size": 1.0},
        },
        {"stage": "", "level": "warning", "sentence": "", "figures": {}},
    ]
    write(run / "diagnostics.json", entries)
    page = page_of(run)
    assert "Warning. fit: These tell targets: size 1.00: resize <script>" in page.text
    assert page.text.index("These tell targets") < page.text.index("All is well.")
    assert "script" not in page.counts
    assert "<li>size 1.00" in (run / "report.html").read_text()
    assert "<p>It is learned first.</p>" in (run / "report.html").read_text()
    write(run / "diagnostics.json", {"stage": "fit"})
    with pytest.raises(InputError, match=r"diagnostics.json should hold a list"):
        write_report([run])


def test_a_warning_that_several_runs_share_is_one_box(tmp_path):
    entries = [{"stage": "", "level": "warning", "sentence": "Nobody judges.", "figures": {}}]
    runs = [make_single(tmp_path / name, "model") for name in ("plain", "guarded")]
    for run in runs:
        write(run / "diagnostics.json", entries)
    write_report(runs, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("Nobody judges.") == 1
    assert "What plain, guarded said while it ran" in text
    entries[0]["level"] = "info"
    for run in runs:
        write(run / "diagnostics.json", entries)
    write_report(runs, tmp_path / "report.html")
    folded = "<details><summary>What plain, guarded said while it ran</summary>"
    assert folded in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("running", "still runs, or was killed"),
        ("interrupted", "was interrupted on 2026-11-29 10:17 UTC"),
        ("failed", "failed on 2026-11-29 10:17 UTC"),
        ("finished", ""),
    ],
)
def test_a_run_that_has_not_finished_says_so_first(tmp_path, status, said):
    run = make_run(tmp_path / "run", FOLDERS.CLEAN)
    end = None if status == "running" else "2026-11-29T10:17:04+00:00"
    facts = json.loads((run / "run.json").read_text())
    write(run / "run.json", facts | {"status": status, "end": end})
    text = page_of(run).text
    assert ("has not" in text or "not all of it" in text) == bool(said)
    if said:
        assert said in text
        assert text.index(said) < text.index("1 finished round")
        assert "Its finished stages: 0-samples, 0-targets, 1-pairs" in text


def test_nobody_misses_a_judge_that_nobody_asked_for(tmp_path):
    run = make_run(tmp_path / "run", FOLDERS.CLEAN)
    results = json.loads((run / "results.json").read_text())
    results["targets"] = {}
    for figures in results["rounds"].values():
        figures["judged"] = {}
    write(run / "results.json", results)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rounds"]["init_args"]["evaluation"] = {"judges": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = page_of(run).text
    assert "No judge was asked, so nothing says whether the outputs got better or worse." in text
    assert "The reward rose." in text
    assert "missing" not in text
    assert "reward score AUC against targets" in text, "scores are shown without judges too"


def test_conversations_and_long_prompts_are_readable(tmp_path):
    turns = (Message("system", "Be <b>brief</b>."), Message("user", "Why `so`?\nTell me."))
    prompts = [Conversation(turns), "word " * 400, EVIL, ""]
    outputs = ["fine"] * 3 + [""]
    run = make_run(tmp_path / "run", FOLDERS.CLEAN, outputs=["x"] * 12)
    for stage in ("0-samples", "1-samples"):
        rows = []
        for prompt, output in zip(prompts, outputs, strict=True):
            rows.append({"output": output, "prompt": to_json(prompt)})
        path = run / "stages" / f"{stage}-00000000" / "samples" / "metadata.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = write_report([run]).read_text(encoding="utf-8")
    turn = '<div class="turn"><b>system</b>Be &lt;b&gt;brief&lt;/b&gt;.</div>'
    assert turn + '<div class="turn"><b>user</b>Why `so`?\nTell me.</div>' in html
    assert "(and 1,400 more characters)" in html
    assert "(empty)" in html
    assert "<script" not in html
    assert "white-space: nowrap" not in html.partition("tbody th {")[2].partition("}")[0]


def test_pictures_cost_a_page_little_and_have_their_scores(tmp_path):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(12, 3, 64, 64, generator=generator)  # what compresses worst
    run = make_run(tmp_path / "run", FOLDERS.CLEAN, outputs=noise)
    page = write_report([run])
    assert page.stat().st_size < 1_000_000  # five grids: 60 pictures
    assert "data:image/webp;base64," in page.read_text()
    assert (run / "figures" / "samples-base.png").is_file()


def test_a_page_that_would_be_too_large_links_to_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardlab.report.page.PICTURE_BYTES", 60_000)
    run = make_run(tmp_path / "run", FOLDERS.CLEAN)
    page = page_of(run)
    links = [address for address in page.addresses if address.startswith("figures/")]
    assert links
    assert all((run / link).is_file() for link in links)
    assert (run / "report.html").stat().st_size < 60_000 * 4 / 3 + 40_000


def test_seeds_are_pooled_and_figures_stand_against_the_setting_that_differs(tmp_path):
    runs = []
    ends = {(0.1, 0): 0.7, (0.1, 1): 0.8, (10.0, 0): 0.5, (10.0, 1): 0.6}
    for (rate, seed), accuracy in ends.items():
        run = make_single(tmp_path / f"r{rate}-{seed}", "model")
        config = {"model": {"class_path": "some.Loop", "init_args": {"lr": rate, "seed": seed}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        rows = f"step,val/accuracy,epoch\n0,0.5,0\n1,{accuracy},0\n"
        (run / "metrics.csv").write_text(rows)
        write(run / "run.json", {"fingerprints": {"policy": str(seed)}})
        runs.append(run)
    page = page_of(*runs, out=tmp_path / "page.html")
    low, high = scipy.stats.t.interval(0.95, 1, 0.75, scipy.stats.sem([0.7, 0.8]))
    assert f"model lr 0.1 2 0.750 [{low:.3f}, {high:.2f}]".replace("-", "−") in page.text
    assert page.alts[0].startswith("Figures against model lr. model lr 0.1: val/accuracy 0.750")
    assert page.text.index("What the runs differ in") < page.text.index("is a run of")


@pytest.mark.parametrize("count", [2, 3, 7, 13])
def test_intervals_over_seeds_are_student_s(count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).tolist()
    pooled = over_seeds(values)
    mean = sum(values) / count
    low, high = scipy.stats.t.interval(0.95, count - 1, mean, scipy.stats.sem(values))
    assert pooled["low"] == pytest.approx(low, abs=2e-3)
    assert pooled["high"] == pytest.approx(high, abs=2e-3)


def test_noise_is_no_trend():
    generator = torch.Generator().manual_seed(0)
    flat = 0
    rising = 0
    for _ in range(200):
        noise = torch.randn(20, generator=generator)
        flat += noise_of(noise.tolist()).is_flat
        rising += not noise_of((noise * 0.3 + torch.arange(20.0) / 5).tolist()).is_flat
    assert flat > 170, "noise alone is seldom taken for a trend"
    assert rising > 190, "a trend seldom for noise"
    assert noise_of([1.0, 2.0, 3.0]) is None


def test_few_held_out_samples_are_said_to_be_few(tmp_path):
    run = make_single(tmp_path / "run", "model")
    said = {}
    for count in (1, 10, 200, 0.1):
        config = {"model": {}, "data": {"init_args": {"held_out": count}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        said[count] = held_out_sentence(read_runs([run])[0])
    assert "too few to tell a good reward from chance" in said[1]
    bound = 0.5 + 1.96 * math.sqrt(21 / 1200)
    assert f"an AUC reaches {bound:.2f}" in said[10]
    assert said[200] == "200 targets are held out."
    assert "0.1 of the data" in said[0.1]


def test_samples_of_each_prompt_stay_together_in_grids(tmp_path):
    """Prompts that are too long for a heading are numbered, and the caption says which is which."""
    long = ["a photo of a cat on a mat", "a photo of a dog"]
    from rewardlab.report.grids import grids
    from rewardlab.report.samples import Shown

    images = [torch.zeros(1, 8, 8, dtype=torch.uint8)] * 4
    part = Shown("base", "#000000", [*long, *long], images, scores=[1.0, 2.0, 3.0, 4.0])
    picture = grids([part], "x", 1, "")
    assert "1: a photo of a cat on a mat; 2: a photo of a dog." in picture.caption
    assert "its score by the reward" in picture.caption
    assert len(Samples(long, ["x", "y"])) == 2
