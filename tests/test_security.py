"""What docs/security.md claims: nothing of a file is run, nothing secret is written, pages are text.

All that is put in is a harmless marker that can be found again.
"""

import ast
import json
import logging
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewardlab.endpoints.client import post_json
from rewardlab.errors import InputError
from rewardlab.evaluation.human import write_page
from rewardlab.policies import load_policy
from rewardlab.rewards import RemoteReward, load_reward
from rewardlab.runs.folder import RunFolder
from rewardlab.storage import load_samples, save_samples
from rewardlab.types import PreferencePairs, Samples

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "rewardlab").rglob("*.py"))
MARKER = "marker-7b1f"
# Calls that run what a file or a text holds; each is written with the names that precede it.
RUNNING = {
    "eval",
    "exec",
    "compile",
    "pickle.load",
    "pickle.loads",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "torch.jit.load",
    "numpy.load",
    "np.load",
    "joblib.load",
}


def calls(tree):
    """The calls of a module by their dotted names, with the names of their keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            yield name, {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_nothing_runs_what_a_file_holds():
    assert len(FILES) > 200
    for file in FILES:
        for name, words in calls(ast.parse(file.read_text(encoding="utf-8"))):
            assert name not in RUNNING, f"{file}: {name}"
            if name == "torch.load":
                assert words.get("weights_only") == "True", f"{file}: {words}"
            assert words.get("trust_remote_code") in (None, "False"), f"{file}: {name}"
            assert words.get("shell") in (None, "False"), f"{file}: {name}"


def test_each_claim_of_the_page_names_a_test_that_there_is():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 12
    for file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"def {test}\(", text), f"{file}::{test}"


OUTSIDE = """
from pathlib import Path
Path({target!r}).write_text("imported")
"""


@pytest.mark.parametrize(
    ("load", "file"), [(load_policy, "policy.json"), (load_reward, "config.json")]
)
def test_a_folder_that_names_a_class_from_elsewhere_imports_nothing(
    tmp_path, monkeypatch, load, file
):
    target = tmp_path / "written"
    (tmp_path / "elsewhere_7b1f.py").write_text(OUTSIDE.format(target=str(target)))
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / file).write_text(json.dumps({"class_path": "elsewhere_7b1f.Mine"}))
    with pytest.raises(InputError, match="not part of rewardlab"):
        load(folder)
    assert not target.exists()


def test_a_token_is_in_no_file_and_no_log(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("A_TEST_KEY", MARKER)
    monkeypatch.setattr(logging.getLogger("rewardlab"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    reward = RemoteReward("http://127.0.0.1:9/rm", key_variable="A_TEST_KEY", retries=0)
    reward.save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError) as refused:
        reward(Samples(["hi"], ["hello"]))
    run = RunFolder.open(tmp_path / "run", {"reward": "rewardlab.rewards.RemoteReward"})
    words = ["rewardlab", "attack", "--reward", f"http://{MARKER}@127.0.0.1:9/rm"]
    with run.attempt(words):
        run.results({"auc": 0.5})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert MARKER.encode() not in path.read_bytes(), path
    printed = capsys.readouterr()
    assert MARKER not in str(refused.value) + caplog.text + printed.out + printed.err
    assert "A_TEST_KEY" in (tmp_path / "reward" / "config.json").read_text()


def test_a_folder_that_names_a_server_needs_trust(tmp_path):
    RemoteReward("http://127.0.0.1:9/rm").save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match="scoring would send it texts"):
        load_reward(tmp_path / "reward")
    assert load_reward(tmp_path / "reward", trust=True).url == "http://127.0.0.1:9/rm"


@pytest.mark.parametrize(
    "url", [f"http://{MARKER}@localhost/rm", f"http://localhost/rm?k={MARKER}"]
)
def test_a_url_that_may_hold_a_token_is_not_saved(tmp_path, url):
    with pytest.raises(InputError, match="may be secret") as refused:
        RemoteReward(url).save_pretrained(tmp_path / "reward")
    assert MARKER not in str(refused.value)
    assert not (tmp_path / "reward").exists()


def test_a_redirect_is_not_followed(monkeypatch):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.server_port}/rm"
        with pytest.raises(InputError, match="refused the request with 307"):
            post_json(url, {"query": []}, {"Authorization": f"Bearer {MARKER}"}, retries=2)
        listening.shutdown()
        thread.join()
    assert asked == ["/rm"]


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "sub/../../outside.png"])
def test_samples_name_no_file_outside_of_their_folder(tmp_path, name):
    save_samples(tmp_path / "samples", Samples(["hi"], torch.rand(1, 3, 4, 4)))
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "samples" / "metadata.jsonl").write_text(json.dumps({"file_name": name}) + "\n")
    with pytest.raises(InputError, match="which is not in that folder"):
        load_samples(tmp_path / "samples")


def test_a_judges_page_shows_texts_and_runs_nothing_of_them(tmp_path):
    texts = [f"<i title='{MARKER}'>{MARKER}</i>"]
    prompts = [f"</script><i>{MARKER}</i>"]
    pairs = PreferencePairs(Samples(prompts, texts), Samples(prompts, ["plain"]))
    write_page(tmp_path / "page.html", tmp_path / "key.json", pairs, seed=0)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert MARKER in page
    assert "<i>" not in page
    assert "<i " not in page
    assert page.count("</script>") == page.count("<script")
