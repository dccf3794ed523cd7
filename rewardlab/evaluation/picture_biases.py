"""The audit of named biases on pictures: what an edit of a stated size does to their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.benchmark_scores import Part, made_now, plain_scores, scores_from
from rewardlab.evaluation.named_biases import FEWEST, measured, not_measured
from rewardlab.evaluation.picture_edits import PICTURE_EDITS, PictureEdit
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import BATCH, judged
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.images import pil_image, read_pil, to_uint8
from rewardlab.types import Samples


class Pictures(NamedTuple):
    """N pictures.

    Attributes:
        prompts: N prompts.
        pixels: N times uint8 [C, H, W].
    """

    prompts: list[Prompt]
    pixels: list[Tensor]


def picture_audit(
    reward: Reward,
    rows: Dataset[Samples],
    *,
    count: int = 200,
    seed: int = 0,
    batch_size: int = BATCH,
    edits: Sequence[PictureEdit] = PICTURE_EDITS,
    part: Part = made_now,
) -> dict[str, Any]:
    """Edit pictures in ways that have a name, and return what each does to their scores.

    An effect is the mean of (score of the edited picture - score of the picture) in reference
    deviations: the deviation of the pictures' scores, within prompts where every prompt has
    several pictures, else over all of them. So an effect of 1 is what usually parts two pictures.
    The interval is a bootstrap over pictures, with the deviation held.

    Args:
        reward: the reward, of pictures.
        rows: one-row Samples, as `open_samples` gives them.
        count: at most so many are used, drawn by `seed`.
        seed: names the draws.
        batch_size: pictures scored at once.
        edits: the edits.
        part: as of `bias_audit`, also for the scores of the pictures as they are.

    Returns:
        As `bias_audit` does, with "pictures" for "prompts", and "size" of each edit.

    Raises:
        InputError: if there are fewer than two pictures that are scored, or the samples are none.

    Example:
        >>> from rewardlab.data.samples import open_samples
        >>> from rewardlab.rewards import Brightness
        >>> levels = torch.linspace(0.2, 0.6, 5).reshape(5, 1, 1, 1).expand(5, 3, 64, 64)
        >>> audit = picture_audit(Brightness(), open_samples(Samples([""] * 5, levels)))
        >>> audit["edits"]["brighten"]["verdict"], audit["edits"]["saturate"]["unchanged"]
        ('rewarded', 5)
    """
    pictures = _drawn(rows, count, seed)
    scores = scores_from(
        part("scores of pictures", lambda: plain_scores(_scores(reward, pictures, batch_size)))
    )
    there = scores.isfinite()
    if there.sum() < FEWEST:
        raise InputError(
            f"An audit of pictures needs at least {FEWEST} that the reward scores, for an "
            f"interval; {int(there.sum())} of {len(scores)} are scored. Give a larger folder."
        )
    deviation = picture_deviation(scores, pictures.prompts)
    figures = {}
    for edit in edits:
        effect = partial(_effect, reward, pictures, scores, edit, deviation, seed, batch_size)
        figures[edit.name] = part(f"edit: {edit.name}", effect)
    return {"deviation": deviation, "pictures": len(scores), "edits": figures}


def _drawn(rows: Dataset[Samples], count: int, seed: int) -> Pictures:
    """Return up to `count` pictures, which `seed` draws."""
    total = len(rows)  # type: ignore[arg-type]
    order = row_seeds(derive(seed, "pictures"), total).argsort()[:count]
    prompts = []
    pixels = []
    for number in sorted(order.tolist()):
        row = rows[number]
        outputs = row.outputs
        if not isinstance(outputs, Tensor) or outputs.dim() != 4:
            raise InputError(
                "The audit of pictures edits pictures, and the samples are texts or videos. Give "
                "a folder of pictures; texts are audited with a FILE of preferences."
            )
        prompts.append(row.prompts[0])
        pixels.append(to_uint8(outputs[0]))
    return Pictures(prompts, pixels)


def _scores(reward: Reward, pictures: Pictures, batch_size: int) -> Tensor:
    """Return the scores of pictures, float64 [N]; NaN where one is not scored.

    Neighbours of one size are scored together.
    """
    parts = []
    start = 0
    while start < len(pictures.pixels):
        end = start + 1
        shape = pictures.pixels[start].shape
        while end - start < batch_size and end < len(pictures.pixels):
            if pictures.pixels[end].shape != shape:
                break
            end += 1
        outputs = torch.stack(pictures.pixels[start:end]).float() / 255
        samples = Samples(pictures.prompts[start:end], outputs)
        parts.append(judged(reward, samples, batch_size).scores.double())
        start = end
    return torch.cat(parts)


def picture_deviation(scores: Tensor, prompts: Sequence[Prompt]) -> float:
    """Return the deviation of scores, within prompts where every prompt has several.

    Args:
        scores: [N], NaN where a picture is not scored.
        prompts: N.

    Example:
        >>> scores = torch.tensor([1.0, 3.0, 11.0, 13.0])
        >>> round(picture_deviation(scores, ["a", "a", "b", "b"]), 4)
        1.4142
        >>> round(picture_deviation(scores, ["a", "b", "c", "d"]), 4)
        5.8878
    """
    groups: dict[Prompt, list[float]] = {}
    for prompt, score in zip(prompts, scores.tolist(), strict=True):
        if not math.isnan(score):
            groups.setdefault(prompt, []).append(score)
    columns = [torch.tensor(group, dtype=torch.float64) for group in groups.values()]
    if any(len(column) < FEWEST for column in columns):
        columns = [torch.cat(columns)]
    squares = sum((column - column.mean()).square().sum().item() for column in columns)
    freedom = sum(len(column) - 1 for column in columns)
    return float((squares / freedom) ** 0.5)


def _effect(
    reward: Reward,
    pictures: Pictures,
    scores: Tensor,
    edit: PictureEdit,
    deviation: float,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Return the effect of one edit."""
    rows = []
    edited = []
    for row, pixels in enumerate(pictures.pixels):
        channels: Literal[1, 3] = 1 if len(pixels) == 1 else 3
        result = read_pil(edit.edit(pil_image(pixels)), channels=channels)
        if not torch.equal(result, pixels):
            rows.append(row)
            edited.append(result)
    figures = not_measured(edit.wanted, unchanged=len(scores) - len(rows)) | {"size": edit.size}
    if len(rows) < FEWEST:
        return figures
    prompts = [pictures.prompts[row] for row in rows]
    after = _scores(reward, Pictures(prompts, edited), batch_size)
    changes = after - scores[rows]
    changes = changes[changes.isfinite()]
    figures["count"] = len(changes)
    figures["unscored"] = len(rows) - len(changes)
    if len(changes) < FEWEST:
        return {**figures, "verdict": "not scored"}
    return figures | measured(changes, deviation, edit.name, edit.wanted, seed)
