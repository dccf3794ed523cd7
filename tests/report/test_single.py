"""What the report says of fits, attacks and curves, which have no rounds."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

FOLDERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("run_folders.py"))))
make_single = FOLDERS.make_single
page_of = FOLDERS.page_of


def make_fit(path, rows):
    """Write the folder of a fit that logged `rows`."""
    run = make_single(path, "model")
    lines = ["step,loss,val/auc,epoch", *rows]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run


def test_fits_show_the_curves_that_they_logged(tmp_path):
    one = make_fit(tmp_path / "one", ["0,0.9,,0", "1,nan,,0", "2,0.25,0.5,0"])
    other = make_fit(tmp_path / "other", ["0,0.8,,0", "1,0.4,0.75,0"])
    (one / "reward").mkdir()
    page = page_of(one, other, out=tmp_path / "page.html")
    assert "one is a run of rewardlab fit : it trained by Loop ." in page.text
    assert "At its end: val/auc 0.500. What it trained is in reward/ ." in page.text
    assert page.alts == [
        "Figures against model lr. model lr 3: val/auc 0.500; model lr 5: val/auc 0.750.",
        "loss over training steps: one 0.900 to 0.250; other 0.800 to 0.400.",
    ]
    assert "Logged once, so there is no curve: val/auc." in page.text
    assert "No round" not in page.text
    assert "What is missing" not in page.text
    assert "init_args.lr" in page.text, "what they differ in"


def test_a_fit_that_logged_nothing_says_so(tmp_path):
    assert "no metrics.csv" in page_of(make_single(tmp_path / "run", "model")).text


def test_an_attack_is_pointed_to_its_own_page(tmp_path):
    run = make_single(tmp_path / "an attack", "attack")
    assert "has not finished" in page_of(run).text
    FOLDERS.write(run / "results.json", {"verdict": {"sentence": "Held: no more than its floor."}})
    (run / "attack.html").touch()
    rounds = FOLDERS.make_run(tmp_path / "runs" / "sft", FOLDERS.CLEAN)
    page = page_of(run, rounds, out=tmp_path / "page.html")
    assert "an attack is a run of rewardlab attack . Held: no more than its floor." in page.text
    assert "an%20attack/attack.html" in page.addresses
    assert page.counts["h1"] == 2, "rounds have a part of their own"
