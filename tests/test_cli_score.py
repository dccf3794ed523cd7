"""`rewardlab score` and `rewardlab generate`: tables and folders of samples."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from PIL import Image

from rewardlab import LanguageReward, VisionReward, as_samples, cli, load_policy, load_reward
from rewardlab.conversations import Conversation, Message
from rewardlab.mining import candidates
from rewardlab.storage import load_samples
from rewardlab.storage.exchange_rows import read_good_exchanges
from rewardlab.testing import tiny_diffusion, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A reward of pictures, one of texts, a pipeline and a language model."""
    root = tmp_path_factory.mktemp("models")
    VisionReward(tiny_tower(), heads=2, width=8).save_pretrained(root / "eye")
    LanguageReward(tiny_causal_lm(), tiny_tokenizer()).save_pretrained(root / "rm")
    tiny_causal_lm().save_pretrained(root / "lm")
    tiny_tokenizer().save_pretrained(root / "lm")
    tiny_diffusion(classes=0, channels=3).save_pretrained(root / "pipeline")
    return root


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("eye", "rm", "lm", "pipeline"):
        (tmp_path / name).symlink_to(models / name)
    rows = [{"prompt": "2+2?", "response": word} for word in ("four", "five, or\nsix", "4")]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "outputs.txt").write_text("four\n4\n")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    (tmp_path / "pictures").mkdir()
    for number, value in enumerate((10, 200, 90, 30, 250)):
        Image.new("RGB", (32, 32), (value, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def rows_of(file):
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("tokens", ["1", "30"])
def test_a_budget_of_tokens_scores_the_same_rows_in_the_same_order(place, tokens):
    for out, flags in (("plain.csv", []), ("budget.csv", ["--tokens-per-batch", tokens])):
        assert cli.main(["score", "rm", "all.jsonl", "--out", out, *flags]) == 0
    plain, budgeted = rows_of("plain.csv"), rows_of("budget.csv")
    for one, other in zip(plain, budgeted, strict=True):
        assert one["response"] == other["response"]
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=1e-6)
    flags = ["--tokens-per-batch", tokens, "--n", "2"]
    assert cli.main(["select", "rm", "all.jsonl", "--out", "best.csv", *flags]) == 0


@pytest.mark.parametrize("chat", ["true", "false", None])
def test_chat_says_whether_a_template_formats(place, chat):
    """Against the scores of token rows that are written down here."""
    LanguageReward(tiny_causal_lm(), tiny_tokenizer(chat=True)).save_pretrained("talker")
    flags = [] if chat is None else ["--chat", chat]
    assert cli.main(["score", "talker", "all.jsonl", "--out", "scores.csv", *flags]) == 0
    reward = LanguageReward.from_pretrained("talker")
    texts = []
    for word in ("four", "five, or\nsix", "4"):
        plain = f"2+2?{word}"
        texts.append(plain if chat == "false" else f"user: 2+2?\nassistant: {word}\n")
    end = reward.tokenizer.eos_token_id
    wanted = []
    for text in texts:
        ids = [*reward.tokenizer(text, add_special_tokens=False).input_ids, end]
        states = reward.backbone(input_ids=torch.tensor([ids])).last_hidden_state
        wanted.append(reward.score_features(states[:, -1]).item())
    scores = [float(row["score"]) for row in rows_of("scores.csv")]
    assert scores == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["eye", "pictures", "--chat", "false"], "uses none. Leave it out"),
        (["rm", "all.jsonl", "--chat", "true"], "has no chat template"),
        (["rm", "all.jsonl", "--chat", "no"], "it is true or false; got no"),
    ],
)
def test_chat_where_there_is_nothing_to_format_is_refused(place, capsys, flags, sentence):
    assert cli.main(["score", *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_generate_draws_without_the_template(place):
    tiny_causal_lm().save_pretrained("chat")
    tiny_tokenizer(chat=True).save_pretrained("chat")
    words = ["generate", "chat", "prompts.txt", "--max-length", "8", "--out"]
    assert cli.main([*words, "plain", "--chat", "false"]) == 0
    assert cli.main(["generate", "lm", *words[2:], "wanted"]) == 0
    assert load_samples("plain").outputs == load_samples("wanted").outputs
    assert cli.main([*words, "formatted"]) == 0
    assert load_samples("formatted").outputs != load_samples("wanted").outputs


def test_a_folder_of_pictures_is_scored_in_order_or_sorted(place, capsys):
    wanted = load_reward("eye").eval()(as_samples("", "pictures")).tolist()
    words = ["score", "eye", "pictures", "--batch-size", "2"]
    assert cli.main([*words, "--out", "scores.csv"]) == 0
    assert "5 scores" in capsys.readouterr().out
    rows = rows_of("scores.csv")
    assert [row["file"] for row in rows] == [f"{number}.png" for number in range(5)]
    assert [float(row["score"]) for row in rows] == pytest.approx(wanted, abs=1e-5)
    assert cli.main([*words, "--sort", "best", "--out", "sorted.csv"]) == 0
    ranked = [int(row["row"]) for row in rows_of("sorted.csv")]
    assert ranked == sorted(range(5), key=lambda number: -wanted[number])


def test_texts_are_scored_from_json_lines_and_from_two_files(place, capsys):
    reward = load_reward("rm").eval()
    wanted = reward(as_samples("2+2?", ["four", "five, or\nsix", "4"])).tolist()
    assert cli.main(["score", "rm", "all.jsonl", "--out", "scores.jsonl"]) == 0
    lines = (place / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["score"] for row in rows] == pytest.approx(wanted, abs=1e-5)
    assert rows[1]["response"] == "five, or\nsix"  # the samples' own column
    capsys.readouterr()
    assert cli.main(["score", "rm", "outputs.txt", "--prompts", "prompts.txt"]) == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(printed.out.splitlines()))
    wanted = reward(as_samples(["a cat", "a dog"], ["four", "4"])).tolist()
    assert [row["prompt"] for row in rows] == ["a cat", "a dog"]
    assert [float(row["score"]) for row in rows] == pytest.approx(wanted, abs=1e-5)
    assert "scoring" not in printed.err  # no bar where stderr is no terminal


ASK = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))


@pytest.fixture
def chat(models, tmp_path, monkeypatch):
    """A reward and a language model with a chat template."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer(chat=True)
    LanguageReward(tiny_causal_lm(context=128), tokenizer).save_pretrained(tmp_path / "rm")
    tiny_causal_lm(context=128).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, ASK], "response": "4"},
        {"prompt": [SYSTEM, ASK], "completion": [{"role": "assistant", "content": "4"}]},
        {"messages": [SYSTEM, ASK, {"role": "assistant", "content": "4"}]},
    ],
)
def test_conversations_are_scored_and_written_as_messages(chat, capsys, row):
    (chat / "all.jsonl").write_text(json.dumps(row))
    samples = read_good_exchanges(chat / "all.jsonl")
    assert (samples.prompts, samples.outputs) == ([TALK], ["4"])
    words = ["score", "rm", "all.jsonl", "--keep", "scored", "--out"]
    assert cli.main([*words, "scores.jsonl"]) == 0
    line = json.loads((chat / "scores.jsonl").read_text())
    assert line["prompt"] == [SYSTEM, ASK]
    wanted = load_reward("rm").eval()(as_samples([SYSTEM, ASK], ["4"])).item()
    assert line["score"] == pytest.approx(wanted, abs=1e-5)
    assert cli.main([*words, "scores.csv"]) == 0
    assert json.loads(rows_of("scores.csv")[0]["prompt"]) == [SYSTEM, ASK]
    again = read_good_exchanges(chat / "scores.csv")  # which has the column "output"
    assert (again.prompts, again.outputs) == ([TALK], ["4"])


def test_conversations_are_drawn_from(chat, capsys):
    (chat / "prompts.jsonl").write_text(
        json.dumps({"prompt": [SYSTEM, ASK]}) + '\n{"prompt": "hi"}'
    )
    words = ["generate", "lm", "prompts.jsonl", "--max-length", "4", "--out", "drawn"]
    assert cli.main(words) == 0
    assert load_samples("drawn").prompts == [TALK, "hi"]
    assert cli.main(["score", "rm", "drawn", "--out", "scores.csv"]) == 0
    long = [SYSTEM, {"role": "user", "content": "long " * 99}]
    with (chat / "prompts.jsonl").open("a") as file:
        file.write("\n\n" + json.dumps({"prompt": long}))
    capsys.readouterr()
    assert cli.main([*words[:-1], "other"]) == 2
    assert "prompts.jsonl, line 4: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "pictures"], "nowhere is not a folder"),
        (["eye", "nowhere"], "nowhere does not exist"),
        (["eye", "pictures", "--out", "all.jsonl"], "all.jsonl exists"),
        (["rm", "outputs.txt", "--prompts", "all.jsonl"], "3 prompts and outputs.txt 2 samples"),
        (["eye", "all.jsonl"], "got a list of 3 strings"),
        (["eye", "pictures", "--sorted", "best"], "There is no flag --sorted"),
        (["eye", "pictures", "--tokens-per-batch", "99"], "these samples are pictures"),
        (["rm", "all.jsonl", "--tokens-per-batch", "0"], "--tokens-per-batch is at least 1"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(place, capsys, words, sentence):
    before = sorted(path.name for path in place.iterdir())
    assert cli.main(["score", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.parametrize("batch_size", ["64", "3"])
def test_a_policy_is_drawn_from_whatever_the_batch(place, capsys, batch_size):
    words = ["generate", "lm", "prompts.txt", "--n", "2", "--seed", "5", "--max-length", "4"]
    assert cli.main([*words, "--batch-size", batch_size, "--out", "drawn"]) == 0
    drawn = load_samples("drawn")
    policy = load_policy("lm").eval()
    policy.max_new_tokens = 4
    wanted = candidates(policy, ["a cat", "a dog"], 2, 5)
    assert drawn.outputs == wanted.outputs
    assert drawn.prompts == ["a cat", "a cat", "a dog", "a dog"]
    assert drawn.facts["group"].tolist() == [0, 0, 1, 1]
    assert torch.equal(drawn.facts["seed"], wanted.facts["seed"])
    assert cli.main([*words, "--out", "drawn"]) == 2
    assert "drawn exists" in capsys.readouterr().err


def test_what_was_drawn_can_be_scored(place, capsys):
    assert cli.main(["generate", "pipeline", "--n", "3", "--out", "drawn"]) == 0
    assert cli.main(["score", "eye", "drawn", "--size", "32", "--out", "scores.csv"]) == 0
    assert len(rows_of("scores.csv")) == 3
