"""Everything in rewardlab that reads files or answers, each with a sound example to damage."""

from __future__ import annotations

import io
import json
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from rewardlab.types import PreferencePairs, Samples

ROOT = Path(__file__).parents[2]
TEXTS = Samples(["hi", "hi", "bye"], ["hello", "go", "see you"])
LONGER = Samples(["hi", "hi", "bye"], ["hello you", "going", "see"])
PIXELS = torch.linspace(0, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8)


class Reader(NamedTuple):
    """Something that reads a folder.

    Attributes:
        name: names it in counts.
        write: writes a sound example into an empty folder.
        read: reads the folder and returns plain data that says what was read.
        weight: share of the cases; slow readers have less.
        files: pattern of the files that are damaged.
        writes: whether it may change the folder, as what goes on in a run does.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    weight: float = 1.0
    files: str = "*"
    writes: bool = False


def plain(noun: Any) -> Any:
    """Return samples or pairs as plain data, after checking that they are what they should be."""
    if isinstance(noun, PreferencePairs):
        return [plain(noun.chosen), plain(noun.rejected)]
    assert len(noun.prompts) > 0
    outputs = noun.outputs
    if isinstance(outputs, torch.Tensor):
        assert outputs.dtype == torch.float32
        assert outputs.isfinite().all()
        assert outputs.min() >= 0
        assert outputs.max() <= 1
        outputs = outputs.tolist()
    else:
        assert all(isinstance(output, str) for output in outputs)
    facts = {name: column.tolist() for name, column in noun.facts.items()}
    assert all(len(column) == len(noun.prompts) for column in facts.values())
    return [[str(prompt) for prompt in noun.prompts], outputs, facts]


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_images(folder: Path) -> None:
    """Write four pictures of several kinds and sizes, and what is said of them."""
    for number, suffix in enumerate(["png", "jpg", "webp", "gif"]):
        mode = "P" if suffix == "gif" else "RGB"
        Image.new(mode, (9 + number, 8), number * 40).save(folder / f"{number}.{suffix}")
    rows = []
    for number, suffix in enumerate(["png", "jpg", "webp", "gif"]):
        row = {"file_name": f"{number}.{suffix}", "prompt": f"a {number}", "seed": number}
        rows.append({**row, "score": number / 2, "ends": [number, 1]})
    write_lines(folder / "metadata.jsonl", rows)


def read_images(folder: Path) -> Any:
    from rewardlab.storage import ImageFolder
    from rewardlab.types import concatenate

    images = ImageFolder(folder, size=8)
    return plain(concatenate([images[number] for number in range(len(images))]))


def write_videos(folder: Path) -> None:
    """Write one video in each form that can be written, of pictures that move."""
    from rewardlab.storage import write_video

    video = torch.rand(6, 3, 1, 1).repeat(1, 1, 16, 16) * torch.linspace(0.2, 1, 16)
    for suffix in (".mp4", ".webm", ".mkv", ".gif", ""):
        write_video(folder / f"clip{suffix}", video)


def read_videos(folder: Path) -> Any:
    """Read them; none may be cut short. One frame lost inside looks like a pause (docs/limits.md)."""
    from rewardlab.storage import read_video

    forms = []
    for path in sorted(folder.iterdir()):
        video = read_video(path, size=8)
        assert len(video) >= 5
        forms.append(video.tolist())
    return forms


def write_preferences(folder: Path) -> None:
    question = [{"role": "user", "content": "name?"}]
    answer = [{"role": "assistant", "content": "Ada"}]
    other = [{"role": "assistant", "content": "none of yours"}]
    rows: list[Any] = [
        {"prompt": "hi", "chosen": "hello", "rejected": "go away", "margin": 0.5, "label": 1},
        {"prompt": question, "chosen": answer, "rejected": other},
        {"chosen": question + answer, "rejected": question + other},
        {"prompt": "2+2?", "chosen": "4", "rejected": ""},
    ]
    write_lines(folder / "pairs.jsonl", rows)


def read_preferences(folder: Path) -> Any:
    from rewardlab.storage import read_preferences as read

    return plain(read(folder / "pairs.jsonl"))


def write_prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a cat\na dog\nein Käse\n")


def write_prompt_objects(folder: Path) -> None:
    write_lines(folder / "prompts.jsonl", [{"prompt": "a cat"}, {"prompt": "two\nlines"}])


def read_prompts(folder: Path) -> Any:
    from rewardlab.storage import read_prompts as read

    file = next(folder.glob("prompts.*"), folder / "prompts.txt")
    prompts = [str(prompt) for prompt in read(file)]
    assert prompts
    return prompts


def write_samples(folder: Path) -> None:
    from rewardlab.storage import save_samples

    facts = {"seed": torch.arange(3), "score": torch.rand(3), "finished": torch.ones(3).bool()}
    save_samples(folder / "texts", TEXTS.with_facts(**facts))
    save_samples(folder / "images", Samples(TEXTS.prompts, PIXELS, facts))
    videos = PIXELS[:, None].repeat(1, 2, 1, 1, 1)
    save_samples(folder / "videos", Samples(TEXTS.prompts, videos))


def read_samples(folder: Path) -> Any:
    from rewardlab.storage import load_samples

    return [plain(load_samples(folder / name)) for name in ("texts", "images", "videos")]


def write_pairs(folder: Path) -> None:
    from rewardlab.storage import save_pairs

    chosen = TEXTS.with_facts(margin=torch.rand(3))
    save_pairs(folder / "pairs", PreferencePairs(chosen, LONGER))


def read_pairs(folder: Path) -> Any:
    from rewardlab.storage import load_pairs

    return plain(load_pairs(folder / "pairs"))


def write_exchanges(folder: Path) -> None:
    rows = [{"prompt": "2+2?", "response": "4"}, {"prompt": "", "output": "x"}, {"completion": "y"}]
    write_lines(folder / "exchanges.jsonl", rows)


def read_exchanges(folder: Path) -> Any:
    from rewardlab.storage.exchange_rows import read_good_exchanges as read

    return plain(read(folder / "exchanges.jsonl"))


def write_shard(folder: Path) -> None:
    members = [("1.txt", b"hello"), ("2.json", b'{"prompt": "2+2?", "response": "4"}')]
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read_shard(folder: Path) -> Any:
    return read_in_bulk(folder / "a.tar")


def read_stream(folder: Path) -> Any:
    return read_in_bulk(folder / "exchanges.jsonl")


def read_in_bulk(path: Path) -> Any:
    from rewardlab.bulk import open_source

    entries = list(open_source(path))
    return [[entry.prompt, entry.output, dict(entry.columns)] for entry in entries]


def write_answers(folder: Path) -> None:
    """Write the key of an A/B page and the answers that a judge saved."""
    from rewardlab.evaluation.human import write_page

    page = folder / "page.html"
    write_page(page, folder / "key.json", PreferencePairs(TEXTS, LONGER), seed=0)
    page.unlink()
    digest = json.loads((folder / "key.json").read_text())["page"]
    answers = {"page": digest, "answers": {"0": "left", "1": "tie", "2": "right"}}
    (folder / "answers.json").write_text(json.dumps(answers))


def read_answers(folder: Path) -> Any:
    from rewardlab.evaluation.human import read_answers as read

    figures = read(folder / "key.json", folder / "answers.json")
    assert 0 <= figures["low"] <= figures["win_rate"] <= figures["high"] <= 1
    return [figures["win_rate"], figures["wins"], figures["losses"], figures["ties"]]


def write_benchmark(folder: Path) -> None:
    texts = {"prompt": "hi", "chosen": "hello you", "rejected": "go"}
    rows = [{**texts, "subset": "math-prm", "id": 7}, {**texts, "subset": "hep-go", "id": 8}]
    write_lines(folder / "bench.jsonl", rows)


def read_benchmark(folder: Path) -> Any:
    from rewardlab.evaluation.rewardbench import evaluate
    from rewardlab.rewards import Length

    figures = evaluate(Length(), folder / "bench.jsonl")
    assert 0 <= figures["accuracy"] <= 1
    return [figures["accuracy"], figures["score"], figures["subsets"]]


def scores_of(reward: Any, samples: Samples) -> Any:
    """Return a reward's scores of samples; a sound folder may well hold weights of NaN."""
    from rewardlab.rewards import scores_of as score

    scores = score(reward, samples)
    assert scores.shape == (len(samples),)
    assert scores.dtype == torch.float32
    return [repr(value) for value in scores.tolist()]


def write_rule_rewards(folder: Path) -> None:
    from rewardlab.rewards import Ensemble, Length, Relative, Repetition, Standardized, Weighted

    parts = [Length(), Repetition()]
    Weighted(parts, [1.0, -0.5]).save_pretrained(folder / "weighted")
    Ensemble(parts).save_pretrained(folder / "ensemble")
    Standardized(Length(), 1.0, 2.0).save_pretrained(folder / "standardized")
    references = Samples(["hi", "hi", "bye", "bye"], ["hey", "hello", "see", "so long"])
    Relative(Length(), references).save_pretrained(folder / "relative")


def read_rewards(folder: Path) -> Any:
    from rewardlab.rewards import load_reward

    scores = []
    for part in sorted(folder.iterdir()):
        scores.append(scores_of(load_reward(part), TEXTS))
    return scores


def write_language_reward(folder: Path) -> None:
    from rewardlab.rewards import LanguageReward
    from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

    network = tiny_causal_lm(width=8, layers=1)
    reward = LanguageReward(network, tokenizer=tiny_tokenizer(chat=True), seed=0)
    reward.save_pretrained(folder / "reward")


def write_vision_reward(folder: Path) -> None:
    from rewardlab.rewards import VisionReward
    from rewardlab.testing import tiny_tower

    VisionReward(tiny_tower(), seed=0).save_pretrained(folder / "reward")


def read_vision_reward(folder: Path) -> Any:
    from rewardlab.rewards import load_reward

    return scores_of(load_reward(folder / "reward"), Samples(TEXTS.prompts, PIXELS))


def write_text_policy(folder: Path) -> None:
    from rewardlab.policies import CausalLMPolicy
    from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

    network = tiny_causal_lm(width=8, layers=1)
    policy = CausalLMPolicy(network, tokenizer=tiny_tokenizer(chat=True), max_new_tokens=8)
    policy.save_pretrained(folder / "policy")


def read_policy(folder: Path) -> Any:
    from rewardlab.policies import load_policy

    policy = load_policy(folder / "policy")
    policy.check_prompts(["one"])
    return plain(policy.generate(["one"], seeds=torch.tensor([3])))


def read_image_policy(folder: Path) -> Any:
    from rewardlab.policies import load_policy

    policy = load_policy(folder / "policy")
    policy.check_prompts(["one"])
    return len(list(policy.parameters()))


def write_image_policy(folder: Path) -> None:
    from rewardlab.policies import DiffusionPolicy
    from rewardlab.policies.samplers import Sampler
    from rewardlab.testing import tiny_diffusion

    sampler = Sampler(steps=2)
    policy = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"], sampler=sampler)
    policy.save_pretrained(folder / "policy")


def write_best_of(folder: Path) -> None:
    from rewardlab.mining import BestOf
    from rewardlab.policies import load_policy
    from rewardlab.rewards import Length

    write_text_policy(folder)
    policy = load_policy(folder / "policy")
    shutil.rmtree(folder / "policy")
    BestOf(policy, Length(), 2).save_pretrained(folder / "policy")


def write_remote_reward(folder: Path) -> None:
    from rewardlab.rewards import RemoteReward

    RemoteReward("http://127.0.0.1:9/rm", retries=0).save_pretrained(folder / "reward")


def read_remote_reward(folder: Path) -> Any:
    from rewardlab.rewards import load_reward

    reward = load_reward(folder / "reward", trust=True)
    return [reward.url, reward.query, reward.batch_size, reward.retries, reward.timeout]


def write_run(folder: Path) -> None:
    """Write a run of two rounds, in the form of the commands'."""
    import runpy

    made = runpy.run_path(str(ROOT / "tests" / "report" / "run_folders.py"))
    made["make_hardened"](folder / "run")


def read_run(folder: Path) -> Any:
    from rewardlab.runs.differences import differences
    from rewardlab.runs.read import method, read_runs

    (run,) = read_runs([folder / "run"])
    steps = []
    for step in run.steps:
        curves = {name: len(curve) for name, curve in step.curves().items()}
        sides = {side: column.shape for side, column in step.scores().items()}
        steps.append([step.number, curves, str(sides), step.guard_stop, bool(step.before)])
    return [run.kind, method(run), steps, len(run.trained), len(differences([run, run]))]


def read_report(folder: Path) -> Any:
    from rewardlab.report import write_report

    page = write_report([folder / "run"], folder.parent / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") or page.lower().startswith("<!doctype")
    return len(page) > 0


def write_going_run(folder: Path) -> None:
    from rewardlab.runs.folder import RunFolder

    run = RunFolder.open(folder / "run", {"seed": 1})
    run.stage("fit", {"a": 1}, write_figures)
    run.results({"auc": 0.5})
    run.timing()


def write_figures(folder: Path) -> None:
    (folder / "figures.json").write_text('{"auc": 0.5, "meaning": "logit"}')
    save_file({"weight": torch.ones(2, 2)}, folder / "state.safetensors")


def read_going_run(folder: Path) -> Any:
    """Go on in a run, as a command with --resume does; whatever is damaged is made anew."""
    from rewardlab.runs.folder import RunFolder

    run = RunFolder.open(folder / "run", {"seed": 1}, resume=True)
    with run.attempt(["rewardlab", "rounds"]):
        stage = run.stage("fit", {"a": 1}, write_figures)
        run.results({"auc": 0.5})
        run.timing({"cost": 1})
    return (stage / "figures.json").read_text()


def write_stage(folder: Path) -> None:
    write_figures(folder)


def read_stage(folder: Path) -> Any:
    from rewardlab.rounds.stages import load_stage

    network = torch.nn.Linear(2, 2, bias=False)
    figures = load_stage(folder, network)
    assert network.weight.shape == (2, 2)
    return sorted((key, repr(value)) for key, value in figures.items())


def write_configs(folder: Path) -> None:
    """Write configs of rounds and of a fit, without the comments."""
    for name in ("gan_rm/digits", "adv_rm/fit_reward"):
        tree = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
        text = yaml.safe_dump(tree, sort_keys=False)
        (folder / f"{Path(name).name}.yaml").write_text(text)


def read_configs_early(folder: Path) -> Any:
    from rewardlab.commands import early

    early.check("rounds", ["--config", str(folder / "digits.yaml")])
    data = ["--experiment.data_path", str(folder)]
    early.check("fit", ["--config", str(folder / "fit_reward.yaml"), *data])
    return True


def read_config_of_rounds(folder: Path) -> Any:
    from rewardlab.commands.parsing import make_parser, parse, prepare, resolved
    from rewardlab.commands.trainers_of_rounds import check_trainers
    from rewardlab.rounds.base import Rounds

    parser = make_parser()
    prepare(parser)
    parser.add_subclass_arguments(Rounds, "rounds", required=True)
    argv = ["--config", str(folder / "digits.yaml")]
    from rewardlab.commands import early

    early.check("rounds", argv)
    config = parse(parser, argv)
    tree = resolved(parser, config)
    check_trainers(tree)
    return sorted(tree)


class Replies:
    """A server on loopback that answers every request with the same bytes."""

    def __init__(self) -> None:
        self.content = b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/rm"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            with connection:
                try:
                    connection.settimeout(1)
                    request = connection.recv(65536)
                    while b"}" not in request:
                        more = connection.recv(65536)
                        if not more:
                            break
                        request += more
                    connection.sendall(self.content)
                except OSError:
                    continue


REPLIES: list[Replies] = []


def write_reply(folder: Path) -> None:
    body = json.dumps({"rewards": [1.0, -2.5, 3]})
    (folder / "body.json").write_text(body)


def write_raw_reply(folder: Path) -> None:
    body = json.dumps({"rewards": [1.0, -2.5, 3]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    (folder / "reply").write_bytes(head + body)


def read_reply(folder: Path) -> Any:
    from rewardlab.rewards import RemoteReward

    if not REPLIES:
        REPLIES.append(Replies())
    body = folder / "body.json"
    raw = folder / "reply"
    content = raw.read_bytes() if raw.exists() else b""
    if body.exists():
        content = b"HTTP/1.0 200 OK\r\n\r\n" + body.read_bytes()
    REPLIES[0].content = content
    reward = RemoteReward(REPLIES[0].url, retries=0, timeout=2.0)
    return scores_of(reward, TEXTS)


def write_chat_reply(folder: Path) -> None:
    message = {"role": "assistant", "content": "Score: 7"}
    answer = {"choices": [{"index": 0, "message": message}], "usage": {"tokens": 3}}
    (folder / "answer.json").write_text(json.dumps(answer))


def read_chat_reply(folder: Path) -> Any:
    from rewardlab.endpoints.client import _parse_json
    from rewardlab.endpoints.wire import chat_reply

    file = folder / "answer.json"
    content = file.read_bytes() if file.exists() else b""
    text = chat_reply(_parse_json(content, "http://judge"))
    assert isinstance(text, str)
    return text


READERS = [
    Reader("image folder", write_images, read_images),
    Reader("image folder's metadata", write_images, read_images, files="metadata.jsonl"),
    Reader("videos", write_videos, read_videos, 0.3, "clip.[mw]*"),
    Reader("preferences", write_preferences, read_preferences, 3),
    Reader("prompts in lines", write_prompts, read_prompts, 2),
    Reader("prompts in objects", write_prompt_objects, read_prompts, 2),
    Reader("samples", write_samples, read_samples, 1, "*.json*"),
    Reader("samples' pictures", write_samples, read_samples, 0.5, "*.png"),
    Reader("pairs", write_pairs, read_pairs, 2),
    Reader("exchanges to score", write_exchanges, read_exchanges, 2),
    Reader("exchanges in a stream", write_exchanges, read_stream),
    Reader("shards", write_shard, read_shard),
    Reader("judges' answers", write_answers, read_answers, 2),
    Reader("benchmark", write_benchmark, read_benchmark, 2),
    Reader("rule rewards", write_rule_rewards, read_rewards, 2),
    Reader("language reward", write_language_reward, read_rewards, 0.15),
    Reader("vision reward", write_vision_reward, read_vision_reward, 0.15),
    Reader("remote reward's folder", write_remote_reward, read_remote_reward, 1),
    Reader("text policy", write_text_policy, read_policy, 0.15),
    Reader("image policy", write_image_policy, read_image_policy, 0.15),
    Reader("best-of-n policy", write_best_of, read_policy, 0.1),
    Reader("run's figures", write_run, read_run, 1, "*.json"),
    Reader("run's config", write_run, read_run, 0.5, "*.yaml"),
    Reader("run's metrics", write_run, read_run, 0.5, "*.csv"),
    Reader("run's scores", write_run, read_run, 0.5, "scores.safetensors"),
    Reader("report", write_run, read_report, 0.05, "*"),
    Reader("resumed run", write_going_run, read_going_run, 1, writes=True),
    Reader("stage", write_stage, read_stage, 2),
    Reader("configs, early", write_configs, read_configs_early, 0.3),
    Reader("config of rounds", write_configs, read_config_of_rounds, 0.05, "digits.yaml"),
    Reader("remote reward's answer", write_reply, read_reply, 2),
    Reader("remote reward's reply", write_raw_reply, read_reply, 2),
    Reader("judge's answer", write_chat_reply, read_chat_reply, 2),
]
