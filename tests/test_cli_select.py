"""`rewardlab score` and `rewardlab select` on files as a user runs them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from rewardlab import LanguageReward, VisionReward, as_samples, cli, load_reward
from rewardlab.storage import read_preferences
from rewardlab.testing import tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

ROOT = Path(__file__).parents[1]
WORDS = ["four", "it is 4", "", "five", "I do not know"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    network = tiny_causal_lm(context=32)
    LanguageReward(network, tiny_tokenizer(), heads=2).save_pretrained(root / "rm")
    VisionReward(tiny_tower(), heads=2, width=8).save_pretrained(root / "eye")
    return root


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rm", "eye"):
        (tmp_path / name).symlink_to(models / name)
    rows = []
    for prompt in ("2+2?", "hi"):
        rows += [{"prompt": prompt, "response": words, "id": words[:1]} for words in WORDS]
    (tmp_path / "drawn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def lines_of(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "rewardlab", *words], capture_output=True, text=True, check=False
    )


def test_scored_and_selected_as_a_user_does(place):
    scored = run("score", "rm", "drawn.jsonl", "--out", "scores.csv", "--members")
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.startswith("scores.csv: 10 scores, mean ")
    selected = run("select", "rm", "drawn.jsonl", "--out", "best.jsonl", "--pairs", "pairs.jsonl")
    assert selected.returncode == 0, selected.stderr
    reward = load_reward("rm").eval()
    for prompt, row in zip(("2+2?", "hi"), lines_of("best.jsonl"), strict=True):
        scores = reward(as_samples(prompt, WORDS))
        assert row["response"] == WORDS[scores.argmax()]
        assert row["score"] == pytest.approx(scores.max().item(), abs=1e-5)
    assert len(read_preferences("pairs.jsonl", strict=True)) == 2
    record = json.loads((place / "best.jsonl.json").read_text())
    assert record["job"]["reward"]["reward"] == "rm"
    assert len(record["job"]["reward"]["fingerprint"]) == 16


def test_a_text_that_is_too_long_ends_the_run_or_goes_unscored(place, capsys):
    with (place / "drawn.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "hi", "response": "long " * 20}))
    words = ["score", "rm", "drawn.jsonl", "--out", "scores.jsonl"]
    assert cli.main(words) == 2
    assert "sees 32" in capsys.readouterr().err
    assert not list(place.glob("scores.*"))
    assert cli.main([*words, "--most-unscored", "0.5"]) == 0
    assert "11 rows, 10 scores" in capsys.readouterr().out
    rows = lines_of("scores.jsonl")
    assert rows[10]["score"] is None
    assert "sees 32" in rows[10]["reason"]


def test_pictures_in_shards_are_scored(place, capsys):
    wanted = []
    for shard in range(2):
        with tarfile.open(f"s-{shard:02}.tar", "w") as tar:
            for row in range(3):
                picture = Image.new("RGB", (32, 32), (shard * 100, row * 50, 9))
                wanted.append(picture)
                file = io.BytesIO()
                picture.save(file, "PNG")
                info = tarfile.TarInfo(f"{shard}{row}.png")
                info.size = len(file.getvalue())
                tar.addfile(info, io.BytesIO(file.getvalue()))
    words = ["score", "eye", "s-{00..01}.tar", "--batch-size", "4", "--out", "scores.jsonl"]
    assert cli.main(words) == 0
    rows = lines_of("scores.jsonl")
    assert [row["key"] for row in rows] == ["00", "01", "02", "10", "11", "12"]
    scores = load_reward("eye").eval()(as_samples("", wanted)).tolist()
    assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["score", "rm", "drawn.jsonl", "--resume"], "so it needs --out"),
        (["score", "rm", "drawn.jsonl", "--output-column", "text"], "no column 'text'; it has"),
        (["score", "rm", "s-{0..1}.tar"], "s-0.tar does not exist"),
        (["score", "rm", "drawn.jsonl", "--keep", "some"], "invalid choice: 'some'"),
        (["select", "rm", "drawn.jsonl", "--out", "a.csv", "--n", "0"], "all, or auto; got '0'"),
        (["select", "rm", "drawn.jsonl", "--out", "a.csv", "--best", "0"], "--best is at least 1"),
        (["select", "rm", "drawn.jsonl"], "arguments are required: --out"),
        (["select", "rm", "drawn.jsonl", "--out", "drawn.jsonl"], "drawn.jsonl exists"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(place, capsys, words, sentence):
    before = sorted(path.name for path in place.iterdir())
    assert cli.main(words) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == before


def test_the_benchmark_of_scoring_compares_equal_scores(tmp_path, monkeypatch):
    """On few short texts: that it runs and the scores agree, not how fast either is."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "benchmarks"))
    import end_to_end_score

    words = [
        "--texts",
        "8",
        "--batch-size",
        "3",
        "--repeats",
        "1",
        "--width",
        "16",
        "--layers",
        "1",
    ]
    end_to_end_score.main([*words, "--lengths", "5,0.5", "--out", str(tmp_path / "score.csv")])
    names, values = (tmp_path / "score.csv").read_text().splitlines()
    assert float(values.rpartition(",")[2]) < 1e-5
    assert names.endswith("largest_difference")
