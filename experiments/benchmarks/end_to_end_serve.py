"""Many clients of `rewardlab serve` beside scoring the same texts in process.

    python experiments/benchmarks/end_to_end_serve.py --out experiments/benchmarks/data/serve.csv

A random Llama for sequence classification; one thread computes on either side. The server is a process
of its own. 32 client threads send it one text a request each, and the next when the answer is there. In
process `scores_of` gets all texts in batches of as many as there are clients. Both take turns, and each
repeat gives one ratio of their seconds, and one of the server process's and the in-process CPU seconds,
which other jobs on the machine disturb less. The scores are compared, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from end_to_end_cases import history
from end_to_end_cases.material import VOCABULARY, tokenizer

STARTS = 120  # seconds in which a server has to be there
TICKS = os.sysconf("SC_CLK_TCK")


class Turn(NamedTuple):
    """One way's seconds, CPU seconds and scores of all texts."""

    seconds: float
    cpu: float
    scores: list[float]


class Server(NamedTuple):
    """A running server."""

    url: str
    process: int


def main(argv: Sequence[str]) -> None:
    options = _options(argv)
    import torch

    torch.set_num_threads(1)
    rows = []
    for width in options.widths:
        rows.append(history.stamp() | _measured(options, width))
        print(_line(rows[-1]), flush=True)
    history.write(rows, options.out)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="end_to_end.py serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/end_to_end/serve.csv"))
    add("--texts", type=int, default=512)
    add("--clients", type=int, default=32)
    add("--repeats", type=int, default=5)
    add("--tokens", type=int, nargs=2, default=(64, 128), help="shortest and longest text")
    add("--widths", type=int, nargs="+", default=[256, 512])
    add("--layers", type=int, default=4)
    add("--max-wait-ms", type=float, default=5.0)
    add("--batch-size", type=int, default=32, help="the server's largest")
    return parser.parse_args(argv)


def _measured(options: argparse.Namespace, width: int) -> dict[str, Any]:
    """Return what was measured with a model of one width."""
    from rewardlab import load_reward

    texts = _texts(options.texts, *options.tokens)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        _save_model(model, width, options.layers)
        reward = load_reward(model)
        with _server(model, options) as server:
            few = texts[: 2 * options.clients]
            _in_process(reward, few, options.clients)
            _over_http(server, few, options.clients)
            for _ in range(options.repeats):
                inside = _in_process(reward, texts, options.clients)
                pairs.append((inside, _over_http(server, texts, options.clients)))
    return _row(options, width, pairs)


def _row(
    options: argparse.Namespace, width: int, pairs: Sequence[tuple[Turn, Turn]]
) -> dict[str, Any]:
    ratios = [served.seconds / inside.seconds for inside, served in pairs]
    cpu = [served.cpu / inside.cpu for inside, served in pairs]
    differences = []
    for inside, served in pairs:
        for one, other in zip(inside.scores, served.scores, strict=True):
            differences.append(abs(one - other))
    milliseconds = statistics.median(inside.seconds for inside, _ in pairs) / options.texts * 1000
    return {
        "width": width,
        "layers": options.layers,
        "texts": options.texts,
        "tokens": f"{options.tokens[0]} to {options.tokens[1]}",
        "clients": options.clients,
        "max_wait_ms": options.max_wait_ms,
        "repeats": options.repeats,
        "in_process_ms_a_text": round(milliseconds, 2),
        "seconds_ratio_lowest": round(min(ratios), 3),
        "seconds_ratio_median": round(statistics.median(ratios), 3),
        "seconds_ratio_highest": round(max(ratios), 3),
        "cpu_ratio_lowest": round(min(cpu), 3),
        "cpu_ratio_median": round(statistics.median(cpu), 3),
        "cpu_ratio_highest": round(max(cpu), 3),
        "largest_difference": max(differences),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"width {row['width']}, {row['in_process_ms_a_text']} ms a text: {row['clients']} clients "
        f"take {row['seconds_ratio_median']:.2f} times the seconds in process "
        f"({row['seconds_ratio_lowest']:.2f} to {row['seconds_ratio_highest']:.2f} of "
        f"{row['repeats']}), the server {row['cpu_ratio_median']:.2f} times the CPU seconds; scores "
        f"differ by {row['largest_difference']:.1e} at most"
    )


def _texts(count: int, shortest: int, longest: int) -> list[str]:
    """Return texts of random words, of evenly spread lengths."""
    generator = random.Random(0)
    texts = []
    for _ in range(count):
        length = generator.randint(shortest, longest)
        texts.append(" ".join(f"w{generator.randrange(2, VOCABULARY)}" for _ in range(length)))
    return texts


def _save_model(folder: Path, width: int, layers: int) -> None:
    """Save a random classifier with one label, as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(0)
    words = tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        num_labels=1,
    )
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)


@contextmanager
def _server(model: Path, options: argparse.Namespace) -> Iterator[Server]:
    """Run `rewardlab serve` on a free port, and end it as a scheduler would."""
    ready = model.parent / "url"
    words = [sys.executable, "-m", "rewardlab", "serve", str(model), "--port", "0"]
    words += ["--ready-file", str(ready), "--max-wait-ms", str(options.max_wait_ms)]
    words += ["--batch-size", str(options.batch_size), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + STARTS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start")
            time.sleep(0.1)
        yield Server(ready.read_text().strip(), process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _in_process(reward: Any, texts: list[str], batch_size: int) -> Turn:
    from rewardlab.rewards import scores_of
    from rewardlab.types import Samples

    samples = Samples([""] * len(texts), texts)
    cpu = time.process_time()
    start = time.perf_counter()
    scores = scores_of(reward, samples, batch_size).tolist()
    return Turn(time.perf_counter() - start, time.process_time() - cpu, scores)


def _over_http(server: Server, texts: list[str], clients: int) -> Turn:
    address = urlsplit(server.url).netloc
    connections = local()

    def score(text: str) -> float:
        if not hasattr(connections, "own"):
            connections.own = HTTPConnection(address, timeout=600)
        body = json.dumps({"query": [text]})
        connections.own.request("POST", "/get_reward", body, {"Content-Type": "application/json"})
        answer = json.loads(connections.own.getresponse().read())
        value: float = answer["rewards"][0]
        return value

    cpu = _cpu_of(server.process)
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        scores = list(pool.map(score, texts))
    return Turn(time.perf_counter() - start, _cpu_of(server.process) - cpu, scores)


def _cpu_of(process: int) -> float:
    """Return the CPU seconds of a process and its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main(sys.argv[1:])
