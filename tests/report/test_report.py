"""The report: from run folders alone, self-contained, and calm about what is absent."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.report import write_report

FOLDERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("run_folders.py"))))
make_run = FOLDERS.make_run
page_of = FOLDERS.page_of
read_page = FOLDERS.read_page
write = FOLDERS.write


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A run with its report."""
    run = make_run(tmp_path_factory.mktemp("runs") / "sft", FOLDERS.CLEAN)
    assert write_report([run]) == run / "report.html"
    return run


def test_one_run_gives_one_self_contained_page(clean):
    text = (clean / "report.html").read_text(encoding="utf-8")
    page = FOLDERS.Page(text)
    assert page.addresses
    embedded = re.compile("data:image/(png|webp);base64,")
    assert all(embedded.match(address) for address in page.addresses)
    assert "http" not in text.lower()
    assert "url(" not in text
    assert page.counts.get("script") is page.counts.get("link") is None
    assert all(page.alts)
    assert "What is missing" not in page.text


def test_one_run_gives_the_pictures_of_its_page(clean):
    files = {file.stem for file in (clean / "figures").iterdir()}
    assert files == {
        "samples-targets-real",
        "samples-base",
        "samples-round-1",
        "pairs-round-1-best-candidates",
        "pairs-round-1-worst-candidates",
        "overview",
        "scores-round-1",
        "judge-accuracy",
        "judge-ink",
        "judge-distance",
        "plane-accuracy",
        "plane-ink",
        "plane-distance",
        "guard",
    }
    page = read_page(clean / "report.html")
    assert page.counts["figcaption"] == page.counts["figure"]
    assert page.counts["figure"] == len(files) - 1  # the overview is for a README


def test_a_clean_run_is_said_to_be_one(clean):
    text = read_page(clean / "report.html").text
    assert "1 finished round: better by the judges, none got worse." in text
    assert (
        "The reward rose. Ink and distance moved toward the targets. "
        "No difference beyond the intervals in accuracy."
    ) in text
    assert (
        "Base → sft: accuracy 0.930 → 0.950 (targets 0.967); ink 0.301 → 0.333 (targets 0.335); "
        "distance 0.0500 → "
    ) in text
    assert "Over-optimised" not in text
    assert "log density ratio" in text


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The folder of a spoilt and a good run, with a report on both."""
    folder = tmp_path_factory.mktemp("runs")
    spoilt = {**FOLDERS.SPOILT, "stopped": 150}
    low = make_run(folder / "low", spoilt, loop="DPO", beta=20.0)
    same = make_run(folder / "same", FOLDERS.NOTHING, loop="DPO", beta=2000.0)
    assert write_report([low, same]) == folder / "report.html"
    return folder


def test_each_of_several_runs_has_its_verdict(two_runs):
    text = read_page(two_runs / "report.html").text
    assert (
        "Over-optimised, the reward rose while a judge got worse: low. "
        "No difference beyond the intervals: same."
    ) in text
    assert (
        "low (DPO, β 20). Over-optimised: the reward rose while accuracy and distance got worse."
    ) in text
    assert (
        "The reward now scores the outputs above the real targets. "
        "The guard stopped training at step 150"
    ) in text
    assert "same (DPO, β 2000). No difference beyond the intervals. Base" in text
    assert "post_train.loop.init_args.beta 20.0 2000.0" in text


def test_several_runs_share_a_page_with_targets_and_base_once(two_runs):
    page = read_page(two_runs / "report.html")
    assert len(re.findall(r"base −?0\.\d+ \[", page.text)) == 1
    names = [file.name for file in (two_runs / "figures").iterdir()]
    assert {
        "scores-low.png",
        "scores-same.png",
        "samples-low.png",
        "samples-same.png",
        "judge-accuracy.png",
    } <= set(names)
    assert page.counts["figure"] == len(names) - 1


def test_text_is_shown_as_a_table_and_everything_is_escaped(tmp_path):
    outputs = ["<script>alert('x')</script> & $a_b$ 猫"] * 12
    run = make_run(tmp_path / "text $x$ <b>", FOLDERS.CLEAN, outputs=outputs)
    results = json.loads((run / "results.json").read_text())
    results["targets"]["<i>$judge$ 猫"] = FOLDERS.figure(0.5)
    for round_figures in results["rounds"].values():
        round_figures["judged"]["<i>$judge$ 猫"] = FOLDERS.figure(0.5)
    write(run / "results.json", results)
    page = page_of(run)
    assert {"script", "b", "i"} & page.counts.keys() == set()
    assert outputs[0] in page.text
    assert "One output of each prompt." in page.text
    assert not list((run / "figures").glob("samples-*"))


def test_a_hardened_run_shows_its_curve_its_exploits_and_its_cost(tmp_path):
    run = FOLDERS.make_hardened(tmp_path / "hardened")
    page = page_of(run)
    assert (
        "Round 1: attacked: of 50 outputs the reward likes and the witness doubts 10, "
        "4 became pairs, 0.750 of them right"
    ) in page.text
    assert "of ↵ of ↵ of ↵ of ↵ of" in page.text
    assert "gold 90.0 0.500 at step 50.0 0.250 –" in page.text
    assert (
        "1.50 times the seconds, and 1.50 times the generations, of one fit and the same 100 steps"
    ) in page.text
    assert (run / "figures" / "readings.png").stat().st_size > 5000
    assert "round 2: gold −3.00 to −4.00, highest −2.50" in " ".join(page.alts)


def test_runs_of_different_policies_get_a_part_each(tmp_path, clean):
    hardened = FOLDERS.make_hardened(tmp_path / "hardened")
    page = page_of(clean, hardened, out=tmp_path / "both.html")
    assert page.counts["h1"] == 2
    assert page.text.count("What is missing") <= 2
    assert page_of(clean, clean, out=tmp_path / "one.html").counts["h1"] == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_videos_are_strips_of_frames_bounded_in_size(tmp_path, channels):
    """Sixteen frames become six, of which each is as bright as its place in the video."""
    from rewardlab.report.grids import _board
    from rewardlab.report.samples import FRAMES, OF_BASE, STRIPS, _load

    levels = torch.linspace(0, 1, 16).view(1, 16, 1, 1, 1)
    frames = levels.expand(12, 16, channels, 8, 12)
    run = make_run(tmp_path / "film", outputs=frames)
    page = page_of(run)
    folder = next((run / "stages").glob("0-samples-*")) / "samples"
    part = _load(folder, OF_BASE, [])
    assert (len(part.outputs), part.frames) == (STRIPS, FRAMES)
    assert part.outputs[0].shape == (channels, 8, FRAMES * 12)
    shown = part.outputs[0].float().mean((0, 1)).view(FRAMES, 12).mean(1) / 255
    assert_close(shown, levels.flatten()[[0, 3, 6, 9, 12, 15]], atol=0.01, rtol=0)
    height, width, _ = _board(part).pixels.shape
    assert width <= FRAMES * 80 + 5
    assert height < 12 * 90
    assert "Each strip is a few frames of one video" in page.text
    assert (run / "figures" / "samples-base.png").stat().st_size < 100_000
    assert (run / "report.html").stat().st_size < 1_000_000


SOME_OF_EACH = (
    "timing.json",
    "config.yaml",
    "run.json",
    "stages/1-post-train-00000000",
    "stages/0-targets-00000000",
    "stages/1-samples-00000000",
    "stages/1-pairs-00000000/pairs/chosen/000000.png",
)


@pytest.mark.parametrize(
    "absent",
    [("stages",), ("results.json",), SOME_OF_EACH],
    ids=["stages", "figures", "some of each"],
)
def test_what_is_absent_is_named_and_the_rest_is_shown(tmp_path, clean, absent):
    without_report = shutil.ignore_patterns("report.html", "figures")
    run = shutil.copytree(clean, tmp_path / "run", ignore=without_report)
    for name in absent:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        else:
            (run / name).unlink()
    page = page_of(run)
    assert "What is missing" in page.text
    assert ("0.333" in page.text) == ("results.json" not in absent)


def test_a_run_that_stopped_early_has_a_page(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    results = {
        "targets": {"ink": FOLDERS.figure(0.335)},
        "rounds": {"0": {"judged": FOLDERS.judged(FOLDERS.BASE)}},
    }
    write(run / "results.json", results)
    text = page_of(run).text
    assert "No finished rounds" in text
    assert "No round has finished." in text


def test_stages_in_a_shared_store_give_the_same_pictures_byte_for_byte(tmp_path, clean):
    without_results = shutil.ignore_patterns("figures", "results.json")
    run = shutil.copytree(clean, tmp_path / "runs" / "sft", ignore=without_results)
    (run / "stages").rename(tmp_path / "store")
    write(run / "run.json", {"stages": "../../store"})
    assert write_report([run, run], tmp_path / "page.html") == tmp_path / "page.html"
    for name in ("samples-targets-real.png", "samples-base.png"):
        picture = (tmp_path / "figures" / name).read_bytes()
        assert picture == (clean / "figures" / name).read_bytes()


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
