"""`rewardlab data check`: the printed screen, the figures, and what it refuses."""

import json
import subprocess
import sys
import tarfile

import pytest
import torch
from PIL import Image

from rewardlab import CausalLMPolicy, LanguageReward, cli
from rewardlab.commands import data as command
from rewardlab.data.long_rows import fitting
from rewardlab.errors import InputError
from rewardlab.storage import read_preferences, save_pairs
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import PreferencePairs, Samples

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q1"}]
ROWS = [
    *[{"prompt": f"q{n}", "chosen": "longer answer", "rejected": "no"} for n in range(8)],
    {"prompt": "q1", "chosen": "longer answer", "rejected": "no"},  # the second one again
    {"prompt": "Q1 ", "chosen": "No", "rejected": "longer  answer"},  # the other way round
    {"prompt": "q8", "chosen": "Yes.", "rejected": "yes."},
    {"prompt": "q9", "chosen": "", "rejected": "<|im_end|>"},
    {"prompt": "q10", "chosen": "a", "rejected": "bb", "label": 0.5},
    {"prompt": SYSTEM, "chosen": "abc", "rejected": "abcd"},
    {"prompt": "q11", "chosen": "same", "rejected": "same"},
    {"prompt": "x" * 40, "chosen": "y" * 40, "rejected": "z"},
    {"prompt": "x" * 70, "chosen": "y", "rejected": "z"},
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with pairs, and a tokenizer of bytes whose context is 64."""
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", ROWS)
    tiny_tokenizer(chat=True).save_pretrained("tok")
    (tmp_path / "tok/config.json").write_text('{"max_position_embeddings": 64}')
    return tmp_path


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def check(*words):
    """Run the command in this process, and return its figures."""
    assert command.run("data", ["check", *words, "--out", "figures.json"]) == 0
    with open("figures.json", encoding="utf-8") as file:
        return json.load(file)


def test_a_file_is_checked_as_a_command(place):
    write("other.jsonl", [{"question": "q3 ", "output_1": "a", "output_2": "b"}])
    write("bench.jsonl", [{"input": " q3 ", "output_1": "a", "output_2": "no", "label": 1}])
    words = ["pairs.jsonl", "--tokenizer", "tok", "--against", "bench.jsonl", "--out", "out.json"]
    done = subprocess.run(
        [sys.executable, "-m", "rewardlab", "data", "check", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "pairs.jsonl: 16 preference pairs of texts in 17 rows"
    assert "with identical chosen and rejected (the first: line 15)" in done.stdout
    assert "bench.jsonl: 1 pairs share a prompt with it (1 prompts), 11 a response" in done.stdout
    assert "context 64: 2 pairs do not fit" in done.stdout
    assert lines[-1].endswith("out.json")
    assert len(lines) < 40
    assert max(map(len, lines)) <= 140


def test_the_counts_are_those_of_the_rows(place):
    figures = check("pairs.jsonl")
    counts = {
        "rows": 17,
        "pairs": 16,
        "prompts": 14,
        "several": 1,
        "most": 3,
        "conversations": 1,
        "with_system": 1,
        "empty_prompt": 0,
        "empty_chosen": 1,
        "empty_rejected": 0,
        "nearly_identical": 1,
        "duplicated": 1,
        "contradicting": 3,
        "tied": 1,
        "turned": 0,
        "unit": "characters",
    }
    assert {name: figures[name] for name in counts} == counts
    assert figures["layouts"]["texts"]["rows"] == 17
    assert figures["marks"]["responses"] == {"texts": 1, "marks": {"<|im_end|>": 1}}
    assert figures["marks"]["prompts"]["texts"] == 0
    assert figures["lengths"]["chosen"]["most"] == 40
    assert figures["lengths"]["row"]["most"] == 80


def test_the_longer_answer_is_counted_as_the_labels_say(place):
    """Of 15 decided pairs 10 choose the longer one, 3 the shorter and 2 are equally long."""
    longer = check("pairs.jsonl")["longer"]
    assert (longer["count"], longer["equal"]) == (13, 2)
    assert longer["mean"] == pytest.approx(10 / 13)
    assert longer["accuracy"] == pytest.approx(11 / 15)
    turned = [{**row, "label": 0.1} for row in ROWS]
    write("turned.jsonl", turned)
    (place / "figures.json").unlink()
    assert check("turned.jsonl")["longer"]["mean"] == pytest.approx(4 / 14)
    (place / "figures.json").unlink()
    write("level.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    assert check("level.jsonl")["longer"] is None


@pytest.mark.parametrize("model", ["reward", "policy"])
def test_a_fit_would_refuse_and_cut_as_many_as_it_says(place, model):
    write("long.jsonl", [*ROWS, {"prompt": "x", "chosen": "y" * 90, "rejected": "z"}])
    pairs = read_preferences("long.jsonl")
    context = check("long.jsonl", "--tokenizer", "tok")["context"]
    assert (context["context"], context["long"]) == (64, 3)
    network = tiny_causal_lm(context=64)
    if model == "reward":
        models = [LanguageReward(network, tiny_tokenizer(chat=True))]
        assert (context["reward_cuts"], context["reward_refuses"]) == (2, 1)
        refused = context["reward_refuses"]
        left_out = 0
    else:
        models = [CausalLMPolicy(network, tiny_tokenizer(chat=True))]
        assert (context["policy_cuts"], context["policy_drops"]) == (2, 1)
        refused = context["long"]
        left_out = context["policy_drops"]
    assert len(fitting(pairs, models, "drop", "pairs")) == len(pairs) - refused
    assert len(fitting(pairs, models, "truncate", "pairs")) == len(pairs) - left_out


def test_a_conversation_without_a_template_is_counted(place):
    figures = check("pairs.jsonl", "--tokenizer", "tok", "--chat", "false", "--context", "9999")
    assert figures["unreadable"]["pairs"] == 1
    assert "needs a chat template" in figures["unreadable"]["first"]
    assert figures["context"]["long"] == 0


def test_prompts_on_both_sides_of_the_split_are_counted(place, caplog):
    rows = []
    for prompt in range(30):
        for answer in range(6):
            rows.append({"prompt": f"q{prompt}", "chosen": f"{prompt} {answer}", "rejected": "no"})
    write("many.jsonl", rows)
    split = check("many.jsonl")["split"]
    assert (split["held_out"], split["pairs"], split["responses"]) == (18, 18, 18)
    assert "18 single pairs are held out, since 30 prompts are too few" in caplog.text
    (place / "figures.json").unlink()
    split = check("many.jsonl", "--held-out-by", "prompts")["split"]
    assert (split["held_out"], split["pairs"], split["responses"]) == (18, 0, 18)


def test_a_split_that_leaves_none_to_train_on_is_said(place, capsys):
    write("few.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    assert check("few.jsonl", "--held-out", "5")["split"] is None
    assert "held out       as many as there are: a fit refuses" in capsys.readouterr().out


def test_responses_and_prompts_alone_are_looked_at_too(place):
    write("sft.jsonl", [{"prompt": "a", "response": "b"}] * 2 + [{"prompt": "b", "response": ""}])
    figures = check("sft.jsonl", "--tokenizer", "tok")
    assert figures["kind"] == "prompts with one response each"
    assert (figures["duplicated"], figures["empty_response"], figures["prompts"]) == (1, 1, 2)
    (place / "figures.json").unlink()
    (place / "prompts.txt").write_text("a cat\nA  cat\na dog\n")
    figures = check("prompts.txt")
    assert (figures["kind"], figures["rows"], figures["prompts"]) == ("prompts", 3, 2)
    assert list(figures["lengths"]) == ["prompt"]


def test_folders_of_pictures_are_looked_at(place, capsys):
    for folder, shade in {"targets": 200, "generated": 90}.items():
        (place / folder).mkdir()
        for number in range(30):
            picture = Image.new("L", (12, 8), shade + number)
            picture.save(place / folder / f"{number}.png")
    Image.new("L", (20, 30)).save(place / "targets/large.png")
    Image.new("L", (20, 30)).save(place / "targets/again.png")
    (place / "targets/broken.png").write_bytes(b"\x89PNG\r\n")
    figures = check("targets", "--against", "generated")
    assert (figures["kind"], figures["files"], figures["unusable"]) == ("images", 32, 1)
    assert figures["sizes"] == {"12×8": 30, "20×30": 2}
    assert (figures["smallest"], figures["duplicated"]) == (8, 1)
    assert list(figures["reasons"]) == ["broken.png"]
    assert figures["against"]["auc"]["brightness"] > 0.9
    assert "brightness" in capsys.readouterr().out


def test_pairs_of_pictures_are_looked_at(place):
    pixels = torch.zeros(4, 3, 8, 8)
    pixels[1:] = 1
    prompts = ["a", "b", "b", "c"]
    pairs = PreferencePairs(Samples(prompts, pixels), Samples(prompts, 0 * pixels))
    save_pairs(place / "pairs", pairs)
    figures = check("pairs", "--held-out", "1")
    assert figures["pairs"] == 4
    assert (figures["prompts"], figures["duplicated"], figures["identical"]) == (3, 1, 1)
    assert figures["split"] == {"train": 2, "held_out": 2}  # both pairs of one prompt
    (place / "figures.json").unlink()
    assert check("pairs", "--held-out", "9")["split"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "takes the verb check"),
        (["clean", "pairs.jsonl"], "takes the verb check; got 'clean'"),
        (["check", "absent.jsonl"], "does not exist"),
        (["check", "tok/config.json"], "holds no preference pairs"),
        (["check", "pairs.jsonl", "--context", "9"], "give --tokenizer FOLDER too"),
        (["check", "pairs.jsonl", "--tokenizer", "gpt2"], "is no folder. Nothing is downloaded"),
        (["check", "pairs.jsonl", "--out", "pairs.jsonl"], "never overwritten"),
        (["check", "pairs.jsonl", "--against", "tok/config.json"], "config.json"),
        (["check", "pairs.jsonl", "--tokenzier", "tok"], "--tokenizer"),
    ],
)
def test_mistakes_are_one_sentence(place, capsys, words, message):
    assert cli.main(["data", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not (place / "figures.json").exists()


def test_a_file_of_good_and_bad_answers_says_that_it_is_no_pairs(place):
    write("kto.jsonl", [{"prompt": "a", "completion": "b", "label": False}])
    with pytest.raises(InputError, match="as for KTO"):
        command.run("data", ["check", "kto.jsonl"])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "q1", "response": "fine"}, "prompts with one response each"),
        ({"prompt": "Q1"}, "prompts"),
    ],
)
def test_rows_that_are_no_pairs_are_compared_with_another_file_too(place, capsys, row, kind):
    write("rows.jsonl", [row, {**row, next(iter(row)): "q1000"}])
    figures = check("rows.jsonl", "--against", "pairs.jsonl")
    assert figures["kind"] == kind
    assert figures["against"]["pairs"] == 1
    assert "pairs.jsonl: 1 rows share a prompt with it (1 prompts)" in capsys.readouterr().out


def test_a_tar_archive_is_called_so(place):
    with tarfile.open("shard.tar", "w") as tar:
        tar.add("pairs.jsonl")
    with pytest.raises(InputError, match=r"shard\.tar is a tar archive"):
        check("shard.tar")
