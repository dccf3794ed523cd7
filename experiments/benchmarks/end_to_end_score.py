"""Scoring texts of many lengths: `rewardlab score` beside transformers' text-classification pipeline.

    python experiments/benchmarks/end_to_end.py score --out experiments/benchmarks/data/score.csv

One model, a random Llama for sequence classification; the same texts, batch size and one thread. Ours is
`bulk.score_files`, from a file to a file; the pipeline gets the texts as a list. Both take turns in one
process, and each repeat gives one ratio of their samples a second. The scores are compared, too.
Lengths are log-normal, in words that are a token each; --pairs FILE takes the texts of preference pairs
instead, under a tokenizer of bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version as _version
from pathlib import Path
from typing import Any, NamedTuple

from end_to_end_cases import history
from end_to_end_cases.material import VOCABULARY, tokenizer

LONGEST = 2048
END = "<end>"


class Lengths(NamedTuple):
    """How long texts are, in tokens."""

    median: float
    sigma: float


class Seconds(NamedTuple):
    """How long a turn took: by the clock, and of the processor."""

    clock: float
    processor: float


class Repeat(NamedTuple):
    """Seconds of one turn of each, and the largest difference of their scores."""

    ours: Seconds
    pipeline: Seconds
    difference: float


def main(argv: Sequence[str]) -> None:
    options = _options(argv)
    import torch

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for lengths in options.lengths:
            rows.append(history.stamp() | _measured(Path(folder), options, lengths))
            print(_line(rows[-1]), flush=True)
            history.write(rows, options.out)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="end_to_end.py score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/end_to_end/score.csv"))
    add("--texts", type=int, default=320)
    add("--repeats", type=int, default=3)
    add("--batch-size", type=int, default=32)
    add("--width", type=int, default=128)
    add("--layers", type=int, default=4)
    add("--lengths", type=_lengths, nargs="+", default=[Lengths(60, 1.0), Lengths(60, 0.7)])
    add("--pairs", type=Path, help="file of preference pairs, whose texts are scored instead")
    options = parser.parse_args(argv)
    if options.pairs is not None:
        options.lengths = [None]
    return options


def _lengths(word: str) -> Lengths:
    """Return MEDIAN,SIGMA of a log-normal."""
    median, sigma = word.split(",")
    return Lengths(float(median), float(sigma))


def _measured(folder: Path, options: argparse.Namespace, lengths: Lengths | None) -> dict[str, Any]:
    """Return what was measured on texts of these lengths."""
    words = tokenizer()
    if lengths is None:
        texts = _texts_of_pairs(options.pairs, options.texts)
        words = _byte_tokenizer()
    else:
        texts = _texts(options.texts, lengths)
    counts = [min(len(row), LONGEST) for row in words(texts).input_ids]
    model = folder / f"model-{len(list(folder.iterdir()))}"
    _save_model(model, words, options)
    repeats = _repeats(model, texts, options)
    tokens = sorted(counts)
    row: dict[str, Any] = {"transformers": _version("transformers")}
    row["parameters"] = _parameters(model)
    row["texts"] = len(texts)
    row["batch_size"] = options.batch_size
    row["lengths"] = (
        "pairs" if lengths is None else f"log-normal {lengths.median:g}, {lengths.sigma:g}"
    )
    row["mean_tokens"] = round(statistics.mean(tokens), 1)
    row["median_tokens"] = statistics.median(tokens)
    row["longest"] = tokens[-1]
    row["padded_share_in_order"] = round(_padding(counts, options.batch_size), 3)
    row["padded_share_ours"] = round(_padding_of_ours(texts, counts, options.batch_size), 3)
    row.update(_ratios(repeats))
    return row


def _parameters(model: Path) -> int:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _ratios(repeats: Sequence[Repeat]) -> dict[str, Any]:
    ratios = [repeat.pipeline.clock / repeat.ours.clock for repeat in repeats]
    by_processor = [repeat.pipeline.processor / repeat.ours.processor for repeat in repeats]
    return {
        "repeats": len(repeats),
        "ratio_lowest": round(min(ratios), 2),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_highest": round(max(ratios), 2),
        "ratio_of_processor_seconds": round(statistics.median(by_processor), 2),
        "largest_difference": max(repeat.difference for repeat in repeats),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['lengths']}: {row['ratio_median']:.2f} times the pipeline's samples a second "
        f"({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f} of {row['repeats']}); scores "
        f"differ by {row['largest_difference']:.1e} at most"
    )


def _texts(count: int, lengths: Lengths) -> list[str]:
    """Return texts of random words, of log-normal lengths."""
    generator = random.Random(0)
    texts = []
    for _ in range(count):
        drawn = generator.lognormvariate(math.log(lengths.median), lengths.sigma)
        length = min(LONGEST - 1, max(1, round(drawn)))
        texts.append(" ".join(f"w{generator.randrange(2, VOCABULARY)}" for _ in range(length)))
    return texts


def _texts_of_pairs(path: Path, count: int) -> list[str]:
    """Return prompts with their responses, of both halves of pairs, as many as fit the context."""
    from rewardlab.storage import read_preferences

    pairs = read_preferences(path)
    texts = []
    for half in (pairs.chosen, pairs.rejected):
        for prompt, output in zip(half.prompts, half.outputs, strict=True):
            text = f"{prompt}{output}"
            if len(text.encode()) < LONGEST:
                texts.append(text)
    random.Random(0).shuffle(texts)
    return texts[:count]


def _byte_tokenizer() -> Any:
    from rewardlab.testing.tiny_text import tiny_tokenizer

    return tiny_tokenizer()


def _padding(counts: Sequence[int], batch_size: int) -> float:
    """Return which share of the tokens that are run pads, where batches are taken in order."""
    run = 0
    for start in range(0, len(counts), batch_size):
        batch = counts[start : start + batch_size]
        run += len(batch) * max(batch)
    return 1 - sum(counts) / run


def _padding_of_ours(texts: Sequence[str], counts: Sequence[int], batch_size: int) -> float:
    """Return the same where batches are those of `rewardlab.bulk`."""
    from rewardlab.bulk.entries import Entry, Numbered
    from rewardlab.bulk.judging import batches

    chunk = [Numbered(row, Entry("", output=text)) for row, text in enumerate(texts)]
    run = 0
    for batch in batches(chunk, batch_size):
        run += len(batch) * max(counts[row] for row, _ in batch)
    return 1 - sum(counts) / run


def _save_model(folder: Path, words: Any, options: argparse.Namespace) -> None:
    """Save a random classifier with one label, as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.width,
        intermediate_size=4 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        num_labels=1,
    )
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)


def _repeats(model: Path, texts: list[str], options: argparse.Namespace) -> list[Repeat]:
    """Measure both in turn, after one small turn each that is not counted."""
    import transformers

    from rewardlab import load_reward

    transformers.logging.set_verbosity_error()
    pipeline = transformers.pipeline("text-classification", model=str(model), device="cpu")
    reward = load_reward(model)
    few = texts[: options.batch_size]
    _ours(reward, few, model, options.batch_size)
    _theirs(pipeline, few, options.batch_size)
    repeats = []
    for _ in range(options.repeats):
        ours, scores = _ours(reward, texts, model, options.batch_size)
        seconds, others = _theirs(pipeline, texts, options.batch_size)
        difference = max(abs(one - other) for one, other in zip(scores, others, strict=True))
        repeats.append(Repeat(ours, seconds, difference))
    return repeats


def _ours(
    reward: Any, texts: list[str], folder: Path, batch_size: int
) -> tuple[Seconds, list[float]]:
    """Return the seconds of scoring a file of texts into a file, and the scores."""
    from rewardlab.bulk import score_files

    file = folder / "texts.jsonl"
    lines = [json.dumps({"response": text}) for text in texts]
    file.write_text("\n".join(lines), encoding="utf-8")
    out = folder / "scores.jsonl"
    start = _now()
    score_files(reward, file, out, batch_size=batch_size, keep="none")
    seconds = _since(start)
    scores = [json.loads(line)["score"] for line in out.read_text(encoding="utf-8").splitlines()]
    out.unlink()
    return seconds, scores


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def _since(start: Seconds) -> Seconds:
    now = _now()
    return Seconds(now.clock - start.clock, now.processor - start.processor)


def _theirs(pipeline: Any, texts: list[str], batch_size: int) -> tuple[Seconds, list[float]]:
    """Return the seconds of the pipeline, and its logits; the end token is part of the text."""
    end = pipeline.tokenizer.eos_token
    ended = [text + end for text in texts]
    start = _now()
    answers = pipeline(ended, batch_size=batch_size, function_to_apply="none", top_k=1)
    seconds = _since(start)
    return seconds, [answer[0]["score"] for answer in answers]
