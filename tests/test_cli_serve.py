"""`rewardlab serve` as a process, and its flags."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab import LanguageReward, VisionReward, cli, load_reward
from rewardlab.commands import serve
from rewardlab.endpoints.wire import PNG, picture_uri
from rewardlab.errors import InputError
from rewardlab.rewards import scores_of
from rewardlab.serving.server import bound_socket
from rewardlab.testing import tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

HELPERS = Path(__file__).parent / "serving" / "served.py"
SERVED = SimpleNamespace(**runpy.run_path(str(HELPERS)))
ask, verify_body = SERVED.ask, SERVED.verify_body


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    LanguageReward(tiny_causal_lm(), tiny_tokenizer()).save_pretrained(root / "rm")
    VisionReward(tiny_tower(), heads=2, width=8).save_pretrained(root / "eye")
    return root


def test_the_process_answers_in_each_dialect_and_ends_at_sigterm(models, tmp_path):
    ready = tmp_path / "url"
    words = [sys.executable, "-m", "rewardlab", "serve", str(models / "rm")]
    words += [f"picture={models / 'eye'}", "--port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(ready, process)
        server = SimpleNamespace(url=ready.read_text().strip())
        check_dialects(server, models)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == f"rewardlab serve: {server.url} answers for rm, picture\n"
    assert "Traceback" not in err
    assert not ready.exists()


def wait_for(ready, process):
    deadline = time.monotonic() + 120
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_dialects(server, models):
    """Ask once in each dialect; all scores are those in process."""
    score = scores_of(load_reward(models / "rm"), Samples(["hi"], ["hello"])).item()
    glued = {"input": "hihello", "model": str(models / "rm")}
    assert ask(server, "/health", None, {}, "GET")[:2] == (200, {"status": "ok"})
    body = {"query": ["hihello"], "prompts": ["hi"], "labels": [""]}
    assert ask(server, "/get_reward", body)[1]["rewards"] == [score]
    answer = ask(server, "/classify", glued | {"use_activation": False})[1]
    assert answer["data"][-1]["probs"][-1] == score
    answer = ask(server, "/v1/embeddings", glued)[1]
    assert answer["data"][-1]["embedding"][-1] == score
    answer = ask(server, "/predict", {"inputs": ["hi", "hello"], "raw_scores": True})[1]
    assert answer[0]["score"] == score
    assert ask(server, "/verify", verify_body("hi", "hello"))[1]["reward"] == score
    image = torch.full((3, 32, 32), 1.0)
    body = {"prompt": ["a"], "image": [picture_uri(image).removeprefix(PNG)], "model": "picture"}
    seen = scores_of(load_reward(models / "eye"), Samples(["a"], image[None])).item()
    assert ask(server, "/compute", body)[1]["rewards"] == [seen]
    metrics = ask(server, "/metrics", None, {}, "GET")[1]
    assert 'rewardlab_requests_total{dialect="flow-factory",status="200"} 1' in metrics


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a", "b/a"], "Two rewards are called a: a and b/a. Give one another name: NAME=REWARD."),
        (["a", "--host", "0.0.0.0"], "--host 0.0.0.0 is reached by other machines"),
        (["a", "--token-variable", "NO_SUCH_TOKEN"], "NO_SUCH_TOKEN should hold the token"),
        (["a", "--port", "99999"], "A port is a number from 0 to 65535; got 99999."),
        (["a", "--port", "many"], "invalid int value"),
        (["a", "--max-rows", "0"], "--max-rows is at least 1; got 0."),
        (["a", "--prot", "0"], "--port"),
        ([], "REWARD"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert cli.main(["serve", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_a_port_in_use_and_a_folder_that_is_none_are_said_before_anything_is_served(
    tmp_path, capsys
):
    taken = bound_socket("127.0.0.1", 0)
    taken.listen()
    port = str(taken.getsockname()[1])
    assert cli.main(["serve", str(tmp_path), "--port", port]) == 2
    assert f"Port {port} of 127.0.0.1 is in use." in capsys.readouterr().err
    taken.close()
    ready = tmp_path / "url"
    words = ["serve", str(tmp_path / "none"), "--port", "0", "--ready-file", str(ready)]
    assert cli.main(words) == 2
    assert not ready.exists()


def test_a_missing_extra_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert cli.main(["serve", "rm"]) == 2
    assert "needs uvicorn: pip install 'rewardlab[serve]'." in capsys.readouterr().err


def test_names_of_rewards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("a=b")
    places = serve.places_of(["a=b", "x.1=a/b", "http://127.0.0.1:9/far", "runs/rm/", "."])
    assert [place.name for place in places] == ["a=b", "x.1", "far", "rm", tmp_path.name]
    assert [place.location for place in places[:2]] == ["a=b", "a/b"]


def test_a_token_comes_from_its_variable(monkeypatch):
    monkeypatch.setenv("A_TEST_TOKEN", " not-a-secret\n")
    assert serve.token_of("A_TEST_TOKEN", "0.0.0.0", False) == "not-a-secret"
    assert serve.token_of(None, "127.0.0.1", True) is None
    with pytest.raises(InputError, match="reached by other machines"):
        serve.token_of(None, "192.0.2.1", False)
    monkeypatch.setenv("A_TEST_TOKEN", "clé")
    with pytest.raises(InputError, match="a token of ASCII letters"):
        serve.token_of("A_TEST_TOKEN", "0.0.0.0", False)


def test_the_dialect_of_a_url_is_a_flag(tmp_path, capsys):
    from rewardlab.rewards import Length

    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "", "response": "one two"}) + "\n")
    with SERVED.serving(Length()) as server:
        for dialect in ("vllm", "tei"):
            out = tmp_path / f"{dialect}.jsonl"
            words = ["score", server.url, str(file), "--out", str(out), "--dialect", dialect]
            assert cli.main(words) == 0
            assert json.loads(out.read_text().splitlines()[0])["score"] == 2.0
    assert cli.main(["score", server.url, str(file), "--dialect", "grpc"]) == 2
    assert "invalid choice: 'grpc'" in capsys.readouterr().err
