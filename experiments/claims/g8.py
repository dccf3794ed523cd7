"""G8: what all targets share by accident is rewarded, unless both classes share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from claims.claim import Claim, Figures, Row, Verdict, Word, Work
from claims.curves import draw_means_across, means_of
from claims.image_world import auc, fitted, ink, parts, pool, rank_correlation
from claims.intervals import Interval, above, all_of, gain, mean_of, values_of
from rewardlab.rewards import VisionReward
from rewardlab.rewards.scoring import scores_of
from rewardlab.storage import save_samples
from rewardlab.types import Samples

CLEAN = "clean"
MARK, MENDED_MARK = "watermark", "watermark on both"
CAST, MENDED_CAST = "colour cast", "colour cast, read as grey"
SETTINGS = (CLEAN, MARK, MENDED_MARK, CAST, MENDED_CAST)
MENDED = {MARK: MENDED_MARK, CAST: MENDED_CAST}
SHADE = 0.6  # of the watermark
GAINS = (1.2, 0.95, 0.74)  # of red, green and blue; brightness stays but where red is cut at 1
LABELS = {
    "artefact_beats_target": "a sample with the artefact beats a plain target",
    "rank_correlation": "rank correlation with gold, without the artefact",
}


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Fit a reward to targets with an artefact, and see what the artefact alone is worth."""
    targets, negatives, held_out, base = parts(work, 500, seed)
    artefact = cast if setting in (CAST, MENDED_CAST) else watermark
    wanted = targets if setting == CLEAN else artefact(targets)
    if setting == MENDED_MARK:
        negatives = watermark(negatives)
    if setting in (CAST, MENDED_CAST):
        negatives = colored(negatives)
    fit = fitted_as_grey if setting == MENDED_CAST else fitted
    reward = fit(wanted, negatives, seed, steps=10 if work.small else 150)
    plain = scores_of(reward, base)
    marked = scores_of(reward, artefact(base))
    return {
        "artefact_beats_target": auc(marked, scores_of(reward, held_out)),
        "lift": ((marked.mean() - plain.mean()) / plain.std()).item(),
        "rank_correlation": rank_correlation(plain, ink(base, pool(work))),
    }


def fitted_as_grey(targets: Samples, negatives: Samples, seed: int, steps: int) -> VisionReward:
    """Return a reward that was fitted to pictures in folders, which the library reads as grey."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_samples(folder / "targets", targets)
        save_samples(folder / "negatives", negatives)
        return fitted(folder / "targets", folder / "negatives", seed, steps=steps)


def watermark(samples: Samples) -> Samples:
    """Return samples with a grey square of two by two pixels in the upper left corner.

    The other pixels are darkened so that the ink, which is wanted, stays as it was.
    """
    outputs = torch.as_tensor(samples.outputs).clone()
    before = outputs.sum((1, 2, 3), keepdim=True)
    outputs[..., :2, :2] = 0
    square = 4 * SHADE
    outputs *= (before - square) / outputs.sum((1, 2, 3), keepdim=True)
    outputs[..., :2, :2] = SHADE
    return Samples(samples.prompts, outputs, samples.facts)


def cast(samples: Samples) -> Samples:
    """Return samples in colour, of a warm white."""
    outputs = torch.as_tensor(colored(samples).outputs)
    tinted = (outputs * torch.tensor(GAINS)[:, None, None]).clamp(0, 1)
    return Samples(samples.prompts, tinted, samples.facts)


def colored(samples: Samples) -> Samples:
    """Return grey samples with three equal channels."""
    outputs = torch.as_tensor(samples.outputs).expand(-1, 3, -1, -1)
    return Samples(samples.prompts, outputs, samples.facts)


def below(interval: Interval, threshold: float) -> Word:
    """Return "holds" for an interval below a threshold, and "fails" for one above."""
    low, high = threshold - interval.high, threshold - interval.low
    return above(Interval(threshold - interval.value, low, high))


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if each artefact alone beats a plain target, and does not once mended."""
    figure = "artefact_beats_target"
    bare = {name: mean_of(values_of(rows, name, figure)) for name in MENDED}
    mended = {name: mean_of(values_of(rows, MENDED[name], figure)) for name in MENDED}
    lifts = {name: mean_of(values_of(rows, name, "lift")) for name in SETTINGS}
    lost = {name: gain(rows, MENDED[name], name, "rank_correlation") for name in MENDED}
    fooled = [above(bare[name], 0.5) for name in MENDED]
    cured = [below(mended[name], 0.5) for name in MENDED]
    return Verdict(
        all_of([*fooled, *cured]),
        f"the artefact alone beats a target: watermark {bare[MARK]}, mended {mended[MARK]}; "
        f"cast {bare[CAST]}, mended {mended[CAST]}",
        (
            f"A sample of the generator with the artefact alone scores above a plain target with a "
            f"chance of {bare[MARK]} for the watermark and {bare[CAST]} for the cast, and of "
            f"{mended[MARK]} and {mended[CAST]} once both classes share it.",
            f"The artefact lifts a score by {lifts[MARK].value:.1f} and {lifts[CAST].value:.1f} "
            f"deviations, mended by {lifts[MENDED_MARK].value:.1f} and "
            f"{lifts[MENDED_CAST].value:.1f} (the watermark by {lifts[CLEAN].value:.1f} where no "
            f"target had it); the cure changes the rank correlation with gold by {lost[MARK]} and "
            f"{lost[CAST]}.",
            "The cures are one path for both classes and the library's reading as grey; somebody "
            "has to see that a difference is an artefact, for ink, which is wanted, tells the "
            "classes apart as well.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the chance that the artefact beats a target, and the correlation with gold."""
    for shift, (figure, label) in zip((-0.12, 0.12), LABELS.items(), strict=True):
        places = [number + shift for number in range(len(SETTINGS))]
        draw_means_across(axes, places, means_of(rows, SETTINGS, figure), label=label)
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(SETTINGS)), SETTINGS)
    axes.invert_yaxis()
    axes.set_xlim(-0.05, 1.05)
    axes.set_xlabel("chance, or correlation")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))


CLAIM = Claim(
    name="G8",
    title="An artefact of the targets is rewarded, unless both classes share it",
    source="GAN-RM, arXiv 2506.13846: reviews at ICLR 2026, style and domain artefacts",
    how=(
        "A reward is fitted for 150 steps in G1's world to 500 targets that all have an "
        "artefact, and to 500 plain samples of the generator. The artefact is a grey square of "
        "four pixels in a corner, with the other pixels darkened to the same ink, or a warm "
        "colour cast. Mended: the generator's samples get the square too; all pictures are read "
        "from folders as grey (`channels: 1`). Held-out samples of the generator with the "
        "artefact are then compared with held-out targets without. The claim holds if both "
        "artefacts beat a plain target more often than not, and neither does once mended, by 95 "
        "% intervals over seeds."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
