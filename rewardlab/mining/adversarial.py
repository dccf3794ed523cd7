"""Adversarial pairs: references against attacks, filtered until the reference is likely better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.mining.funnel import Funnel
from rewardlab.provenance import fingerprint
from rewardlab.rewards.relative import places_of, spread_within
from rewardlab.types import PreferencePairs, Samples, distinct


class _Side(NamedTuple):
    """Attacks or references, with what is measured of them.

    Attributes:
        samples: B samples.
        scores: float64 [B, 2], by the target and by the witness.
        places: int64 [B], the position of each prompt among the references' distinct prompts.
    """

    samples: Samples
    scores: Tensor
    places: Tensor


class _Disagreement(NamedTuple):
    """How much target and witness disagree about each attack [B], and what it has to exceed.

    Both are in standard deviations of the references' disagreement.
    """

    values: Tensor
    limit: float


def adversarial_pairs(
    attacks: Samples,
    target_scores: Tensor,
    witness_scores: Tensor,
    references: Samples,
    reference_target: Tensor,
    reference_witness: Tensor,
    *,
    kind: Literal["signed", "absolute"] = "signed",
    z: float = 1.96,
    quantile: float | None = None,
    chosen: Literal["first", "best"] = "first",
    per_prompt: int = 1,
    cap: int = 1000,
    relative: bool = True,
    judge_scores: tuple[Tensor, Tensor] | None = None,
) -> tuple[PreferencePairs, Funnel]:
    """Pair references, as chosen, with attacks that the target overrates and the witness doubts.

    The method is Adv-RM's, section 3. An attack stays if the target scores it above the mean of its
    prompt's references, and the disagreement of target and witness is larger than z standard
    deviations of the references' disagreement. Of a prompt's attacks, and beyond the cap, the ones
    with the largest disagreement stay, of equals the earlier.

    Args:
        attacks: B samples of adversaries. Where a score is NaN, since target or witness does not
            score it, an attack is left out and counted; so is a reference.
        target_scores: [B], of the reward that is to be hardened.
        witness_scores: [B].
        references: N samples of the first policy, two or more a prompt of the attacks.
        reference_target: [N], of the target.
        reference_witness: [N], of the witness.
        kind: disagreement is target - witness ("signed"), or its absolute value (the paper's).
        z: how large it has to be, above the references' mean in their standard deviations.
        quantile: replaces z: above this quantile of the references' own disagreement.
        chosen: the prompt's "first" reference, or the "best" of them by the target.
        per_prompt: q, most pairs of one prompt.
        cap: most pairs.
        relative: bring scores to each prompt's references first, as `Relative` does, so that an
            offset f(prompt) or a scale of a score changes no pair. Scores that come from `Relative`
            stay as they are. False takes scores as given: the paper's, and the ablation.
        judge_scores: of attacks [B] and of references [N], by a gold reward. They are read for the
            funnel's precision only.

    Returns:
        The pairs, in the attacks' order, with the facts "target" and "witness" on both halves and
        "disagreement" (in standard deviations) on the rejected one; and the funnel.

    Raises:
        InputError: if columns do not fit, a prompt has no references, or the references'
            disagreement does not vary.

    Example:
        >>> references = Samples(["hi"] * 4, ["hello", "good day", "hey", "welcome"])
        >>> known = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
        >>> attacks = Samples(["hi"] * 3, ["of of of", "goodbye", "hello there"])
        >>> scores = torch.tensor([6.0, -5.0, 1.0]), torch.tensor([-4.0, -9.0, 1.0])
        >>> pairs, funnel = adversarial_pairs(attacks, *scores, references, *known)
        >>> pairs.chosen.outputs, pairs.rejected.outputs, list(funnel.counts.values())
        (['hello'], ['of of of'], [3, 3, 2, 1, 1, 1])
    """
    present = ~(reference_target.isnan() | reference_witness.isnan()).cpu()
    if not present.all():
        references = references[present]
        reference_target = reference_target[present]
        reference_witness = reference_witness[present]
        judge_scores = judge_scores and (judge_scores[0], judge_scores[1][present])
    prompts = distinct(references.prompts).values
    names = "target_scores and witness_scores"
    attack = _side(attacks, prompts, names, target_scores, witness_scores)
    names = "reference_target and reference_witness"
    reference = _side(references, prompts, names, reference_target, reference_witness)
    unscored = int(attack.scores.isnan().any(1).sum())
    disagreement = _disagreement(attack, reference, kind, z, quantile, relative)
    steps = _filter(attack, reference, disagreement, per_prompt, cap)
    counts = {step: len(rows) for step, rows in steps.items()}
    partners = _partners(reference, chosen)[attack.places]
    precision = None
    if judge_scores is not None:
        precision = _precision(steps, partners, attacks, references, judge_scores)
    rows = torch.tensor(steps["kept"], dtype=torch.long)
    rejected = attacks[rows].with_facts(
        disagreement=disagreement.values[rows].float(), **_score_facts(attack.scores[rows])
    )
    partners = partners[rows]
    preferred = references[partners].with_facts(**_score_facts(reference.scores[partners]))
    return PreferencePairs(preferred, rejected), Funnel(counts, precision, unscored)


def _side(samples: Samples, prompts: Sequence[Prompt], names: str, *scores: Tensor) -> _Side:
    """Return samples with their checked scores, which errors call `names`.

    The places are positions in `prompts`.
    """
    columns = _columns(samples, names, *scores)
    places = {prompt: place for place, prompt in enumerate(prompts)}
    return _Side(samples, columns, places_of(samples.prompts, places, "adversarial_pairs"))


def _columns(samples: Samples, names: str, *scores: Tensor) -> Tensor:
    """Return scores as float64 columns [B, M]; NaN, what is not scored, stays."""
    columns = []
    for column in scores:
        if column.shape != (len(samples),) or column.isinf().any():
            shapes = [list(column.shape) for column in scores]
            raise InputError(
                f"{names} need one finite score, or NaN for none, for each of {len(samples)} "
                f"samples; got {shapes}."
            )
        columns.append(column.detach().double().cpu())
    return torch.stack(columns, 1)


def _disagreement(
    attack: _Side,
    reference: _Side,
    kind: str,
    z: float,
    quantile: float | None,
    relative: bool,
) -> _Disagreement:
    """Return the attacks' disagreement, in the references' standard deviations, and its limit."""
    scores = attack.scores
    reference_scores = reference.scores
    if relative:
        scores, reference_scores = _relative_scores(attack, reference)
    gaps = _gaps(scores, kind)
    reference_gaps = _gaps(reference_scores, kind)
    deviation, mean = torch.std_mean(reference_gaps)
    scale = reference_scores.abs().mean() + reference_gaps.abs().mean()
    if not deviation > 1e-6 * scale:
        raise InputError(
            f"Target and witness disagree equally on all {len(reference_gaps)} references, "
            "so their disagreement has no scale. "
            "Are they one reward, or is there one reference only?"
        )
    limit = z
    if quantile is not None:
        highest = reference_gaps.quantile(quantile)
        limit = ((highest - mean) / deviation).item()
    return _Disagreement((gaps - mean) / deviation, limit)


def _gaps(scores: Tensor, kind: str) -> Tensor:
    """Return target minus witness of each row, or its absolute value."""
    gaps = scores[:, 0] - scores[:, 1]
    return gaps.abs() if kind == "absolute" else gaps


def _relative_scores(attack: _Side, reference: _Side) -> tuple[Tensor, Tensor]:
    """Return both sides' scores in deviations from the mean of each prompt's references.

    References are measured against a mean that they are part of, so each of K differs from it by
    less than an attack, which is not: by √((K - 1)/K) against √((K + 1)/K) deviations. The
    references' residuals are widened by the ratio, or z = 1.96 would let through 13 % of fresh
    samples instead of 2.5 % at K = 2. Prompts with one reference have no residual and are left out.
    """
    _, means, deviations = spread_within(reference.samples.prompts, reference.scores)
    scores = (attack.scores - means[attack.places]) / deviations
    residuals = (reference.scores - means[reference.places]) / deviations
    counts = torch.bincount(reference.places)[reference.places].double()
    several = counts > 1
    widening = ((counts + 1) / (counts - 1)).sqrt()
    widened = residuals[several] * widening[several, None]
    return scores, widened


def _filter(
    attack: _Side, reference: _Side, disagreement: _Disagreement, per_prompt: int, cap: int
) -> dict[str, list[int]]:
    """Return the attacks' rows that are left after each step of the filter."""
    target = attack.scores[:, 0]
    reference_means = _means(reference.scores[:, 0], reference.places)
    lead = target - reference_means[attack.places]
    values = disagreement.values
    unique = _unique(attack.samples, reference.samples)
    gated = [row for row in unique if lead[row] > 0]
    disagreeing = [row for row in gated if values[row] > disagreement.limit]
    ranked = sorted(disagreeing, key=lambda row: (-values[row].item(), row))
    of_prompts = _at_most(per_prompt, ranked, attack.samples.prompts)
    return {
        "generated": list(range(len(attack.samples))),
        "unique": unique,
        "gated": gated,
        "disagreeing": disagreeing,
        "per_prompt": of_prompts,
        "kept": sorted(of_prompts[:cap]),
    }


def _means(values: Tensor, places: Tensor) -> Tensor:
    """Return the mean [P] of values [N] over each place."""
    counts = torch.bincount(places)
    sums = torch.zeros(len(counts), dtype=values.dtype)
    sums.index_add_(0, places, values)
    return sums / counts


def _unique(attacks: Samples, references: Samples) -> list[int]:
    """Return the rows whose output is neither a reference of its prompt nor an earlier attack's.

    Outputs are compared as text, or as pixels.
    """
    seen = set(_keys(references))
    rows = []
    for row, key in enumerate(_keys(attacks)):
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def _keys(samples: Samples) -> list[tuple[Prompt, str]]:
    """Return what tells each sample from others: its prompt, and its text or its pixels' digits."""
    outputs = samples.outputs
    if isinstance(outputs, Tensor):
        outputs = [fingerprint(output) for output in outputs]
    return list(zip(samples.prompts, outputs, strict=True))


def _at_most(limit: int, rows: Sequence[int], prompts: Sequence[Prompt]) -> list[int]:
    """Return the first `limit` rows of each prompt."""
    counts: dict[Prompt, int] = {}
    first_rows = []
    for row in rows:
        prompt = prompts[row]
        counts[prompt] = counts.get(prompt, 0) + 1
        if counts[prompt] <= limit:
            first_rows.append(row)
    return first_rows


def _partners(reference: _Side, chosen: str) -> Tensor:
    """Return the row [P] of each prompt's first reference, or of its best by the target."""
    rows: dict[int, int] = {}
    target = reference.scores[:, 0].tolist()
    for row, place in enumerate(reference.places.tolist()):
        earlier = rows.setdefault(place, row)
        if chosen == "best" and target[row] > target[earlier]:
            rows[place] = row
    return torch.tensor([rows[place] for place in range(len(rows))], dtype=torch.long)


def _precision(
    steps: dict[str, list[int]],
    partners: Tensor,
    attacks: Samples,
    references: Samples,
    judge_scores: tuple[Tensor, Tensor],
) -> dict[str, float | None]:
    """Return the share of each step's rows whose partner the judge prefers."""
    of_attacks, of_references = judge_scores
    attack_columns = _columns(attacks, "judge_scores of the attacks", of_attacks)
    reference_columns = _columns(references, "judge_scores of the references", of_references)
    lead = reference_columns[partners] - attack_columns
    preferred = (1 + lead[:, 0].sign()) / 2
    preferred[lead[:, 0].isnan()] = torch.nan  # the sign of NaN is 0
    precision = {}
    for step, rows in steps.items():
        judged = preferred[rows]
        judged = judged[~judged.isnan()]
        precision[step] = judged.mean().item() if len(judged) else None
    return precision


def _score_facts(scores: Tensor) -> dict[str, Tensor]:
    target, witness = scores.float().unbind(1)
    return {"target": target, "witness": witness}
