"""A table of what a policy sampled during training, kept beside the logger's files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.storage.atomic import write_atomically
from rewardlab.storage.samples import save_samples
from rewardlab.types import Samples

TABLE = "samples.jsonl"
TABLE_IMAGES = 16


class SampleTable:
    """Prompts, outputs and scores at some steps, in a folder, to be judged afterwards.

    Texts are lines {"step", "prompt", "output", "score"} of `samples.jsonl`; the score is null
    where there is none. Of images the first 16
    become the folder `samples/<step>`, which `load_samples` reads.

    Args:
        folder: the folder that the logger writes into.
        step: the step where this run begins. Lines of earlier runs from that step on are dropped.
        every: batches between two that are due.
    """

    def __init__(self, folder: str | Path, step: int, every: int = 1) -> None:
        self.every = every
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / TABLE
        if path.exists():
            _drop_lines_from(path, step)

    def is_due(self, batch: int) -> bool:
        """Tell whether the samples of a batch, by its number, are to be written."""
        return batch % self.every == 0

    def write(self, step: int, samples: Samples, scores: Sequence[float]) -> None:
        """Add the samples and scores of one step."""
        if isinstance(samples.outputs, Tensor):
            self._write_images(step, samples, scores)
        else:
            self._write_texts(step, samples, scores)

    def _write_images(self, step: int, samples: Samples, scores: Sequence[float]) -> None:
        first_scores = torch.tensor(scores[:TABLE_IMAGES])
        images = samples[:TABLE_IMAGES].to("cpu").with_facts(score=first_scores)
        folder = self.folder / "samples" / f"{step:06}"
        shutil.rmtree(folder, ignore_errors=True)
        save_samples(folder, images)

    def _write_texts(self, step: int, samples: Samples, scores: Sequence[float]) -> None:
        path = self.folder / TABLE
        with path.open("a", encoding="ascii", newline="\n") as file:  # escapes keep strings exact
            for prompt, output, score in zip(samples.prompts, samples.outputs, scores, strict=True):
                value = None if math.isnan(score) else score  # not scored
                line = {"step": step, "prompt": prompt, "output": output, "score": value}
                file.write(json.dumps(line) + "\n")


def _drop_lines_from(path: Path, step: int) -> None:
    """Keep the lines of earlier steps, and drop a half line that a killed run may have left."""
    earlier_lines = []
    for line in path.read_text(encoding="ascii").splitlines(keepends=True):
        is_whole = line.endswith("\n")
        if is_whole and json.loads(line)["step"] < step:
            earlier_lines.append(line)
    write_atomically(path, "".join(earlier_lines))
