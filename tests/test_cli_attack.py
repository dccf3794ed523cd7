"""`rewardlab attack` and `rewardlab curve` as a user runs them, on tiny models saved to folders."""

from __future__ import annotations

import csv
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from rewardlab import DiffusionPolicy, Sampler, VisionReward, cli
from rewardlab.data import load_samples
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.folders import load_policy
from rewardlab.rewards.language import LanguageReward
from rewardlab.seeds import derive, row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower

TOYS = """
import json
from pathlib import Path
import torch
from rewardlab.rewards import Reward

class Distinct(Reward):
    '''How many different letters a text has, up to `top`; beyond it they count the other way.'''
    def __init__(self, sign=1.0, top=99):
        super().__init__()
        self.sign, self.top = sign, top

    def forward(self, samples):
        counts = torch.tensor([float(len(set(text))) for text in samples.outputs])
        return self.sign * (counts - 3 * (counts - self.top).clamp_min(0))

    @classmethod
    def from_pretrained(cls, folder):
        config = json.loads((Path(folder) / "config.json").read_text())
        return cls(config["sign"], config["top"])
"""
PROMPTS = [f"prompt {number}" for number in range(20)]
TEXT = ["--policy", "policy", "--prompts", "prompts.txt"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of policies and rewards, as users have them."""
    place = tmp_path_factory.mktemp("models")
    tokenizer, options = tiny_tokenizer(), {"max_new_tokens": 8, "temperature": 0.3}
    CausalLMPolicy(tiny_causal_lm(scale=0.5), tokenizer, **options).save_pretrained(
        place / "policy"
    )
    tiny_causal_lm().save_pretrained(place / "plain")
    tokenizer.save_pretrained(place / "plain")
    for seed in range(2):
        LanguageReward(tiny_causal_lm(seed), tokenizer, seed=seed).save_pretrained(
            place / f"reward-{seed}"
        )
        VisionReward(tiny_tower(), width=8, seed=seed).save_pretrained(place / f"vision-{seed}")
    frozen = LanguageReward(tiny_causal_lm(2), tokenizer, frozen=True)
    frozen.save_pretrained(place / "frozen")
    policy = DiffusionPolicy(
        tiny_diffusion(classes=3), labels=["zero", "one", "two"], sampler=Sampler(steps=2)
    )
    policy.save_pretrained(place / "images")
    for name, sign, top in (("distinct", 1.0, 99), ("gold", 1.0, 5), ("against", -1.0, 99)):
        (place / name).mkdir()
        (place / name / "config.json").write_text(
            json.dumps({"class_path": "attack_toys.Distinct", "sign": sign, "top": top})
        )
    return place


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    for folder in models.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "attack_toys.py").write_text(TOYS)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("attack_toys", None)
    return tmp_path


def results(run):
    return json.loads((run / "results.json").read_text())


def exploits(run):
    return [json.loads(line) for line in (run / "exploits.jsonl").read_text().splitlines()]


def test_an_attack_that_leaves_what_the_reward_was_right_about_breaks_it(place, capsys):
    """The reward counts letters; gold does too, but turns where the policy seldom goes and a hot
    sampler always.
    """
    words = [
        "attack",
        "--reward",
        "distinct",
        "--witness",
        "against",
        "--judge",
        "gold",
        *TEXT,
        "--trust",
        "--out",
        "run",
    ]
    assert cli.main([*words, "--attacker", "high_temperature"]) == 0
    said = capsys.readouterr().out
    found = results(place / "run")
    assert said.startswith("Broken. For ")
    assert found["verdict"]["word"] == "broken"
    assert found["verdict"]["sentence"] in said
    assert any(
        found["measures"][name]["over_best_of_n"]["low"] > 0 for name in ("standard", "strict")
    )
    assert found["funnel"]["counts"]["generated"] == len(PROMPTS)
    rows = exploits(place / "run")
    assert sum(found["taxonomy"]["counts"].values()) >= len(rows) > 0
    assert [row["relative"]["judge"] for row in rows] == sorted(
        row["relative"]["judge"] for row in rows
    )
    assert rows[0]["scores"]["reward"] == pytest.approx(len(set(rows[0]["output"])), abs=1e-4)
    assert all(PROMPTS[row["prompt_id"]] == row["prompt"] for row in rows)
    assert all(row["relative"]["reward"] > 0 for row in rows)
    inputs = json.loads((place / "run" / "run.json").read_text())["inputs"]
    assert rows[0]["provenance"] | inputs == rows[0]["provenance"]
    page = (place / "run" / "attack.html").read_text()
    assert ">Broken.<" in page
    assert "made by" in page.lower()
    assert "high_temperature" in page
    assert "repetition" in page
    assert "http" not in page


def test_a_run_is_never_overwritten_and_resumes_to_the_same_bytes(place, capsys):
    words = [
        "attack",
        "--reward",
        "reward-0",
        "--witness",
        "reward-1",
        *TEXT,
        "--n",
        "8",
        "--out",
        "run",
    ]
    assert cli.main(words) == 0
    assert "Without a judge" in capsys.readouterr().out
    before = {
        name: (place / "run" / name).read_bytes()
        for name in ("results.json", "exploits.jsonl", "attack.html")
    }
    assert cli.main(words) == 2
    assert cli.main([*words, "--seed", "1", "--resume"]) == 2
    assert "attack.seed is 0 there and 1 here" in capsys.readouterr().err
    assert cli.main([*words, "--resume"]) == 0
    assert before == {name: (place / "run" / name).read_bytes() for name in before}


def test_choosing_among_fresh_samples_is_no_attack(place, capsys):
    """Best of n against itself: the floor is drawn as the attack is, so nothing is broken however
    often members part.
    """
    words = ["attack", "--reward", "reward-0", "--witness", "reward-1", *TEXT, "--out", "run"]
    assert cli.main([*words, "--outliers", "frozen"]) == 0
    figures = results(place / "run")["measures"]["disagreeing"]
    assert figures["attack"]["value"] > figures["fresh"]["value"]
    assert figures["over_best_of_n"]["low"] < 0 < figures["over_best_of_n"]["high"]
    verdict, outliers, _ = capsys.readouterr().out.splitlines()
    assert verdict.startswith("Undecided: too few prompts to tell")
    assert outliers.startswith("MOP: ")
    assert outliers.endswith("at level 0.012 by 160 references.")
    assert outliers in (place / "run" / "attack.html").read_text().replace("&#x27;", "'")


def test_a_trained_adversary_and_several_witnesses(place):
    words = [
        "attack",
        "--reward",
        "distinct",
        "--witness",
        "reward-0",
        "--witness",
        "against",
        *TEXT,
        "--trust",
        "--out",
        "run",
    ]
    assert (
        cli.main(
            [
                *words,
                "--attacker",
                "rl",
                "--steps",
                "2",
                "--n",
                "2",
                "--references",
                "2",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert results(place / "run")["outputs"] == 2 * len(PROMPTS)


def test_pixels_are_climbed_by_gradient(place):
    """Within 8/255 of what the policy draws the reward finds more than the best of as many draws."""
    words = [
        "attack",
        "--reward",
        "vision-0",
        "--witness",
        "vision-1",
        "--policy",
        "images",
        "--prompts",
        "classes.txt",
    ]
    found = {}
    for attacker in ("best_of_n", "pgd"):
        assert (
            cli.main(
                [*words, "--n", "4", "--references", "3", "--attacker", attacker, "--out", attacker]
            )
            == 0
        )
        samples = load_samples(next((place / attacker / "stages").glob("attack-*")) / "samples")
        found[attacker] = samples.facts["attack"].mean().item()
    assert found["pgd"] > found["best_of_n"]
    (moved,) = (place / "pgd" / "stages").glob("attack-*")
    (starts,) = (place / "pgd" / "stages").glob("starts-*")
    moved, starts = load_samples(moved / "samples"), load_samples(starts / "samples")
    policy = load_policy("images").eval()
    drawn = candidates(policy, list(dict.fromkeys(moved.prompts)), 4, derive(0, "attack")).outputs
    drawn = (drawn * 255).round()
    for image, other in zip(starts.outputs, moved.outputs, strict=True):
        assert min((drawn - image * 255).abs().amax((1, 2, 3))) == 0, "what the policy drew"
        assert 0 < (other - image).abs().max() <= 8.5 / 255
    page = (place / "pgd" / "attack.html").read_text()
    assert "the same before the attack" in page
    assert "the same before the attack" not in (place / "best_of_n" / "attack.html").read_text()


def test_tokens_are_swapped_by_gradient(place, capsys):
    """The reward finds more in swaps of one draw than in the best of four; pictures are refused."""
    (place / "few.txt").write_text("prompt 0\nprompt 1\nprompt 2\n")
    words = ["attack", "--policy", "policy", "--prompts", "few.txt", "--references", "4"]
    words += ["--reward", "reward-0", "--witness", "reward-1", "--device", "cpu"]
    found = {}
    for attacker, n in (("best_of_n", "4"), ("token_gradient", "1")):
        flags = ["--n", n, "--attacker", attacker, "--out", attacker]
        assert cli.main([*words, *flags]) == 0
        samples = load_samples(next((place / attacker / "stages").glob("attack-*")) / "samples")
        found[attacker] = samples.facts["attack"].mean().item()
    assert found["token_gradient"] > found["best_of_n"]
    pictures = ["attack", "--policy", "images", "--prompts", "classes.txt"]
    pictures += ["--reward", "vision-0", "--witness", "vision-1", "--out", "pictures"]
    assert cli.main([*pictures, "--attacker", "token_gradient"]) == 2
    assert "swaps tokens of texts" in capsys.readouterr().err


def test_images_are_shown_as_grids(place):
    words = [
        "attack",
        "--reward",
        "vision-0",
        "--witness",
        "vision-1",
        "--judge",
        "vision-1",
        "--policy",
        "images",
    ]
    assert (
        cli.main(
            [*words, "--prompts", "classes.txt", "--n", "4", "--references", "3", "--out", "run"]
        )
        == 0
    )
    rows = exploits(place / "run")
    assert all((place / "run" / row["output"]).is_file() and row["labels"] == [] for row in rows)
    assert not rows or "data:image/png" in (place / "run" / "attack.html").read_text()


def test_conversations_are_attacked_and_shown_as_turns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer(chat=True)
    for seed in range(2):
        reward = LanguageReward(tiny_causal_lm(seed, context=128), tokenizer, seed=seed)
        reward.save_pretrained(f"reward-{seed}")
    tiny_causal_lm(context=128).save_pretrained("policy")
    tokenizer.save_pretrained("policy")
    talks = []
    for number in range(4):
        system = {"role": "system", "content": "Be <i>brief</i>."}
        talks.append([system, {"role": "user", "content": f"hi {number}"}])
    lines = [json.dumps({"prompt": talk}) + "\n" for talk in talks]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    words = ["--policy", "policy", "--prompts", "prompts.jsonl", "--max-length", "4"]
    words += ["--references", "3", "--n", "4"]
    words += ["--reward", "reward-0", "--witness", "reward-1", "--judge", "reward-1"]
    for attacker in ("best_of_n", "rl"):
        run = tmp_path / attacker
        search = ["--attacker", attacker, "--steps", "2", "--out", str(run)]
        assert cli.main(["attack", *words, *search]) == 0
        rows = exploits(run)
        assert rows
        assert all(row["prompt"] == talks[row["prompt_id"]] for row in rows)
        page = (run / "attack.html").read_text(encoding="utf-8")
        assert "Be &lt;i&gt;brief&lt;/i&gt;." in page
        assert "<i>brief" not in page
        assert "Message(" not in page


def test_an_attack_and_a_curve_take_models_without_their_template(tmp_path, monkeypatch, capsys):
    """Without the template figures equal those of the same models beside a plain tokenizer."""
    monkeypatch.chdir(tmp_path)
    for kind, chat in (("plain", False), ("talker", True)):
        tokenizer = tiny_tokenizer(chat=chat)
        for seed in range(2):
            reward = LanguageReward(tiny_causal_lm(seed, context=128), tokenizer, seed=seed)
            reward.save_pretrained(f"{kind}-{seed}")
        tiny_causal_lm(context=128).save_pretrained(kind)
        tokenizer.save_pretrained(kind)
    (tmp_path / "prompts.txt").write_text("hi\nho\n")
    words = ["--prompts", "prompts.txt", "--max-length", "4"]
    for command in ("attack", "curve"):
        made = {}
        for kind in ("plain", "talker"):
            names = ["--reward", "--witness"] if command == "attack" else ["--proxy", "--gold"]
            parts = ["--policy", kind, names[0], f"{kind}-0", names[1], f"{kind}-1"]
            n = ["--n", "4"] if command == "attack" else ["--n-max", "4"]
            flags = ["--chat", "false", "--policy-chat", "false"] if kind == "talker" else []
            out = f"{command}-{kind}"
            assert cli.main([command, *parts, *words, *n, *flags, "--out", out]) == 0
            made[kind] = (tmp_path / out / "results.json").read_text()
        assert made["plain"] == made["talker"]
    again = [command, *parts, *words, *n, "--out", out, "--resume"]
    assert cli.main(again) == 2
    assert "belongs to another config" in capsys.readouterr().err


def test_a_reward_behind_a_url(place):
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
            body = json.dumps(
                {"rewards": [len(text) + 0.1 * text.count("e") for text in query]}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    words = [
        "attack",
        "--reward",
        url,
        "--witness",
        "reward-0",
        *TEXT,
        "--n",
        "2",
        "--references",
        "4",
        "--out",
        "run",
    ]
    try:
        assert cli.main(words) == 0
    finally:
        server.shutdown()
        server.server_close()
    assert results(place / "run")["prompts"] == len(PROMPTS)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--reward", "absent"], "absent is not a folder"),
        (["--reward", "reward-1"], "are the same reward"),
        (["--policy", "reward-0"], "which writes no text"),
        (["--prompts", "absent.txt"], "absent.txt cannot be read"),
        (["--held-out", "prompts.txt"], "20 of 20 prompts in prompts.txt are also in prompts.txt"),
        (["--references", "1"], "--references is at least 2; got 1"),
        (["--n", "0"], "--n is at least 1; got 0"),
        (["--n", "many"], "Argument --n: invalid int value"),
        (["--attacker", "luck"], "invalid choice: 'luck'"),
        (["--wieght", "2"], "There is no flag --wieght; did you mean '--weight'?"),
        (["--judge", "gold"], "which is not part of rewardlab"),
        (["--reward", "vision-0"], "VisionReward scores images"),
        (["--policy", "images", "--max-length", "4"], "--max-length limits the tokens"),
        (["--policy", "images", "--attacker", "high_temperature"], "lacks. Take best_of_n"),
        (["--outliers", "reward-0"], "--outliers tells outliers by frozen features, and a Lang"),
        (["--outliers", "frozen", "--references", "2", "--prompts", "classes.txt"], "got 6"),
        (["--attacker", "pgd"], "climbs the reward's gradient to pixels"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(place, capsys, flags, sentence):
    words = [
        "attack",
        "--reward",
        "reward-0",
        "--witness",
        "reward-1",
        *TEXT,
        "--out",
        "run",
        *flags,
    ]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.rstrip().splitlines()[-1].startswith("rewardlab: ")
    assert not (place / "run").exists()


@pytest.mark.parametrize("command", ["attack", "curve"])
def test_every_prompt_is_read_before_anything_is_written(place, capsys, command):
    (place / "prompts.txt").write_text("short\n\nshort\n" + "long " * 500 + "\n")
    pair = ("--reward", "--witness") if command == "attack" else ("--proxy", "--gold")
    assert cli.main([command, pair[0], "reward-0", pair[1], "reward-1", *TEXT, "--out", "run"]) == 2
    error = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert error.startswith("rewardlab: prompts.txt, line 4: ")
    assert "context" in error
    assert not (place / "run").exists()


def test_what_is_warned_of_before_the_folder_is_open_is_on_the_page(place):
    Path("gaps.txt").write_text("one\n\ntwo\n")
    words = ["--reward", "reward-0", "--witness", "reward-1", "--policy", "policy"]
    assert cli.main(["attack", *words, "--prompts", "gaps.txt", "--n", "4", "--out", "run"]) == 0
    said = json.loads(Path("run/diagnostics.json").read_text())
    assert any("gaps.txt" in entry["sentence"] for entry in said)


def test_leaked_prompts_may_be_allowed(place):
    (place / "held_out.txt").write_text(PROMPTS[0] + "\n")
    words = [
        "attack",
        "--reward",
        "reward-0",
        "--witness",
        "reward-1",
        *TEXT,
        "--n",
        "2",
        "--references",
        "2",
        "--out",
        "run",
    ]
    assert cli.main([*words, "--held-out", "held_out.txt"]) == 2
    assert cli.main([*words, "--held-out", "held_out.txt", "--allow-leak"]) == 0


def test_a_curve_of_a_reward_against_itself_is_refused(place, capsys):
    words = ["curve", "--proxy", "reward-0", "--gold", "reward-0", *TEXT, "--out", "run"]
    assert cli.main(words) == 2
    assert "--proxy and --gold are the same reward (reward-0)" in capsys.readouterr().err
    assert not (place / "run").exists()


def test_the_curve_finds_a_peak_inside_the_range(place, capsys):
    words = [
        "curve",
        "--proxy",
        "distinct",
        "--gold",
        "gold",
        *TEXT,
        "--trust",
        "--n-max",
        "32",
        "--out",
        "run",
    ]
    assert cli.main(words) == 0
    found = results(place / "run")
    with (place / "run" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["n"]) for row in rows] == [1, 2, 4, 8, 16, 32]
    assert found["samples"] == 64
    assert float(rows[0]["proxy"]) == pytest.approx(0, abs=1e-6)
    assert float(rows[-1]["proxy"]) > 1
    assert found["verdict"]["sentence"] in capsys.readouterr().out
    assert (place / "run" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "data:image/png" in (place / "run" / "curve.html").read_text()
    assert cli.main(words) == 2
    assert cli.main([*words, "--resume"]) == 0
    assert results(place / "run") == found


def test_policies_load_from_what_transformers_and_diffusers_save(models, tmp_path):
    plain = load_policy(models / "plain")
    assert isinstance(plain, CausalLMPolicy)
    assert len(plain.generate(["hi"], seeds=row_seeds(0, 1))) == 1
    tiny_diffusion(classes=0).save_pretrained(tmp_path / "pipeline")
    assert isinstance(load_policy(tmp_path / "pipeline"), DiffusionPolicy)
    assert load_policy(models / "policy").temperature == 0.3
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "policy.json").write_text('{"class_path": "os.path.join"}')
    for folder, sentence in (("empty", "it is no policy"), ("foreign", "not part of rewardlab")):
        with pytest.raises(InputError, match=sentence):
            load_policy(tmp_path / folder)
    with pytest.raises(InputError, match="not a Generator"):
        load_policy(tmp_path / "foreign", trust=True)
