"""`rewardlab evaluate`: the printed table, the folder that it writes, and what it refuses."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from rewardlab import LanguageReward, VisionReward, cli
from rewardlab.commands import evaluate
from rewardlab.evaluation import benchmark_scores, named_biases, picture_biases
from rewardlab.rewards import remote
from rewardlab.rewards.rules import Length
from rewardlab.storage import save_samples
from rewardlab.testing import tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

ANSWER = "It is so. It is cold and deep there."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    LanguageReward(tiny_causal_lm(context=512), tiny_tokenizer()).save_pretrained(root / "rm")
    LanguageReward(tiny_causal_lm(), tiny_tokenizer()).save_pretrained(root / "short")
    VisionReward(tiny_tower(), heads=2, width=8).save_pretrained(root / "eye")
    Length().save_pretrained(root / "length")
    return root


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """A working directory with rewards, and a small file of each form."""
    monkeypatch.chdir(tmp_path)
    for name in ("rm", "short", "eye", "length"):
        (tmp_path / name).symlink_to(models / name)
    rows = [{"prompt": f"q{n}", "chosen": ANSWER, "rejected": "no " * n} for n in range(1, 13)]
    write("pairs.jsonl", rows)
    styles = {"chosen": ["a", "a b", "a b c"], "rejected": ["d", "d e", "d e f"], "domain": "chat"}
    write("styles.jsonl", [{"prompt": f"q{n}", "id": f"chat/{n}", **styles} for n in range(4)])
    return tmp_path


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_a_reward_is_evaluated_as_a_command(place):
    """Of Length: the answer of 9 words beats up to 8 words, is level with 9, and loses to 10."""
    words = ["evaluate", "length", "pairs.jsonl", "styles.jsonl", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "rewardlab", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("preference pairs (pairs.jsonl): accuracy 0.708 [")
    assert "RM-Bench (styles.jsonl): average of hard, normal and easy 0.333" in done.stdout
    assert lines[-1] == "out/evaluate.html"
    assert {path.name for path in (place / "out").iterdir()} == {
        "evaluate.html",
        "results.json",
        "rows.jsonl",
        "run.json",
    }
    pairs, styles = results(place / "out")["files"]
    assert pairs["accuracy"]["mean"] == pytest.approx(8.5 / 12)
    assert pairs["equal"] == 1
    assert [styles["styles"][level]["mean"] for level in ("hard", "normal", "easy")] == [0, 0, 1]
    lines = (place / "out" / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[2]["scores"] == [9, 3]
    assert len(rows) == 16
    page = (place / "out" / "evaluate.html").read_text(encoding="utf-8")
    assert "Named biases" in page
    assert 'src="http' not in page
    assert page.count("<img") == 2 * 2 + 1


def test_a_network_is_evaluated_twice_with_the_same_figures(place, capsys):
    for out in ("one", "two"):
        assert cli.main(["evaluate", "rm", "pairs.jsonl", "--out", out, "--batch-size", "5"]) == 0
    one = (place / "one" / "results.json").read_bytes()
    assert one == (place / "two" / "results.json").read_bytes()
    edits = results(place / "one")["biases"]["edits"]
    assert len(edits) == 7
    assert all(row["count"] == 12 for row in edits.values())
    capsys.readouterr()
    assert cli.main(["evaluate", "rm", "pairs.jsonl", "--audit", "0"]) == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert len(list(place.iterdir())) == 8


def test_rows_that_do_not_fit_are_named_and_left_out(place, capsys):
    """The model sees 64 tokens, one a letter."""
    rows = [{"prompt": "q", "chosen": "a" * n, "rejected": "b"} for n in (2, 80, 3)]
    write("long.jsonl", rows)
    assert cli.main(["evaluate", "short", "long.jsonl", "--out", "out"]) == 0
    assert "rows not scored: 1" in capsys.readouterr().out
    [file] = results(place / "out")["files"]
    assert (file["rows"], file["unscored"]) == (2, [1])
    padding = results(place / "out")["biases"]["edits"]["length padding"]
    assert padding["verdict"] == "too few", "one prompt"
    assert json.loads((place / "out" / "rows.jsonl").read_text().splitlines()[-1])["scores"] is None
    fits = [{"prompt": f"q{n}", "chosen": "a" * n, "rejected": "b"} for n in (2, 3)]
    write("fits.jsonl", fits)
    assert cli.main(["evaluate", "short", "fits.jsonl", "--out", "two"]) == 0
    padding = results(place / "two")["biases"]["edits"]["length padding"]
    assert (padding["verdict"], padding["unscored"], padding["mean"]) == ("not scored", 2, None)
    write("long.jsonl", rows[1:2])
    assert cli.main(["evaluate", "short", "long.jsonl"]) == 2
    assert "No row of long.jsonl could be scored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["eye", "pairs.jsonl"], "asks a reward of texts, and the one in eye does not"),
        (["length", "other.jsonl"], "other.jsonl is of no form that `evaluate` knows"),
        (["length", "empty.jsonl"], "empty.jsonl holds no rows"),
        (["length", "none.jsonl"], "none.jsonl does not exist"),
        (["nowhere", "pairs.jsonl"], "nowhere"),
        (["length", "half.jsonl"], 'half.jsonl, line 1 has no "label"'),
        (["length", "pairs.jsonl", "pairs.jsonl"], "given twice"),
        (["length", "pairs.jsonl", "./pairs.jsonl"], "given twice"),
        (["length", "pairs.jsonl", "--audit", "1"], "--audit is 0 or at least 2"),
        (["length", "pairs.jsonl", "--audits", "3"], "--audit"),
        (["length"], "FILE"),
        (["eye", "pairs.jsonl", "--samples", "pictures"], "one of the two"),
        (["length", "pairs.jsonl", "--size", "8"], "--size is of pictures"),
        (["eye", "--samples", "pictures", "--audit", "0"], "leaves nothing to do"),
        (["eye", "--samples", "nowhere"], "nowhere"),
        (["length", "--samples", "pictures"], "Length"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, capsys, words, sentence):
    write("other.jsonl", [{"text": "a"}])
    save_samples(place / "pictures", Samples([""] * 4, torch.rand(4, 3, 8, 8)))
    write("empty.jsonl", [])
    write("half.jsonl", [{"question": "q", "response_A": "a", "response_B": "b"}])
    before = sorted(place.iterdir())
    assert cli.main(["evaluate", *words, "--out", "out"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert sentence in said[-1]
    assert said[-1].startswith("rewardlab: ")
    assert sorted(place.iterdir()) == before


def test_a_reward_of_pictures_is_audited(place, capsys):
    torch.manual_seed(1)
    save_samples(place / "pictures", Samples([""] * 9, torch.rand(9, 3, 80, 64)))
    words = ["evaluate", "eye", "--samples", "pictures", "--size", "64", "--audit", "6"]
    assert cli.main([*words, "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "Named biases, in reference deviations, over 6 pictures" in said
    assert "text overlay  “masterpiece, best quality”, 1/12 of the height" in said
    found = results(place / "out")
    assert (found["files"], found["biases"]["pictures"]) == ([], 6)
    assert len(found["biases"]["edits"]) == 7
    assert all(row["count"] == 6 for row in found["biases"]["edits"].values())
    assert list(found["fingerprints"]) == ["pictures"]
    page = (place / "out" / "evaluate.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1
    assert "quality 50" in page
    assert "a blur should lower the score" in page


def test_a_folder_that_stands_is_not_overwritten(place, capsys):
    (place / "out").mkdir()
    assert cli.main(["evaluate", "length", "pairs.jsonl", "--out", "out"]) == 2
    assert "out exists and is never overwritten" in capsys.readouterr().err
    assert list((place / "out").iterdir()) == []


class KilledError(Exception):
    """Stands for a kill, which is no mistake of input."""


@pytest.fixture
def scored(monkeypatch):
    """What is scored, by name; the run ends before the name that is put into `until`."""
    monkeypatch.setattr(evaluate, "evaluate_page", lambda *_: "page")  # it takes a second
    log = SimpleNamespace(names=[], until=None)
    real = benchmark_scores.fitting_scores

    def counted(reward, samples, batch_size, what, **options):
        if what == log.until:
            raise KilledError
        log.names.append(what)
        return real(reward, samples, batch_size, what, **options)

    monkeypatch.setattr(benchmark_scores, "fitting_scores", counted)
    monkeypatch.setattr(named_biases, "fitting_scores", counted)
    return log


def test_an_evaluation_that_was_killed_makes_no_scores_again(place, scored, capsys):
    words = ["evaluate", "length", "pairs.jsonl", "styles.jsonl", "--seed", "3"]
    assert cli.main([*words, "--out", "whole"]) == 0
    whole = scored.names.copy()
    assert whole[:3] == [
        "answers in pairs.jsonl",
        "answers in styles.jsonl",
        "answers with doubled spaces",
    ]
    scored.names.clear()
    for until in (whole[1], whole[4]):
        scored.until = until
        assert cli.main([*words, "--out", "out", "--resume"]) == 1
        assert not (place / "out").exists()
    with open("out.part", "ab") as file:
        file.write(b'{"part": "edit: hed')  # a line that a kill cut off
    assert cli.main([*words, "--out", "out"]) == 2
    assert "out.part stands from a run that did not end" in capsys.readouterr().err
    assert cli.main([*words[:-1], "4", "--out", "out", "--resume"]) == 2
    assert "out.part belongs to another run: audit differ" in capsys.readouterr().err
    scored.until = None
    assert cli.main([*words, "--out", "out", "--resume"]) == 0
    assert scored.names == whole, "each once over all three runs"
    assert not (place / "out.part").exists()
    for name in ("results.json", "rows.jsonl"):
        assert (place / "out" / name).read_bytes() == (place / "whole" / name).read_bytes()
    table = capsys.readouterr().out
    assert cli.main([*words, "--out", "out", "--resume"]) == 0
    assert capsys.readouterr().out == table, "what stands is shown"
    write("pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert cli.main([*words, "--out", "out", "--resume"]) == 2
    assert "belongs to another run: inputs differ" in capsys.readouterr().err
    assert len(scored.names) == len(whole)


def test_an_audit_of_pictures_goes_on_too(place, scored, monkeypatch):
    save_samples(place / "pictures", Samples([""] * 4, torch.rand(4, 3, 32, 32)))
    words = ["evaluate", "eye", "--samples", "pictures", "--resume", "--out"]
    assert cli.main([*words, "whole"]) == 0
    real = picture_biases._scores
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KilledError
        return real(*arguments)

    monkeypatch.setattr(picture_biases, "_scores", counted)
    assert cli.main([*words, "out"]) == 1
    assert cli.main([*words, "out"]) == 0
    assert len(calls) == 1 + 1 + 7 - 1, "pictures, seven edits of which one has nothing to change"
    whole = (place / "whole" / "results.json").read_bytes()
    assert (place / "out" / "results.json").read_bytes() == whole


def test_what_a_server_refuses_is_left_out_if_a_share_may_be(place, capsys, monkeypatch):
    def answer(url, body, headers, **patience):
        scores = [None if "no no no" in text else float(len(text)) for text in body["query"]]
        return {"rewards": scores, "reasons": ["too long" if s is None else "" for s in scores]}

    monkeypatch.setattr(remote, "post_json", answer)
    words = ["evaluate", "http://127.0.0.1:9", "pairs.jsonl", "--audit", "0"]
    assert cli.main(words) == 2
    assert "--most-unscored of `rewardlab score`" in capsys.readouterr().err
    assert cli.main([*words, "--most-unscored", "0.5", "--out", "out"]) == 0
    assert "over 2 rows" in capsys.readouterr().out
    assert len(results(place / "out")["files"][0]["unscored"]) == 10
