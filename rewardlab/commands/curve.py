"""`rewardlab curve`: how a judge fares while best-of-n climbs a reward."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewardlab.commands.sources import (
    check_numbers,
    config_of,
    distinct_prompts,
    make_parser,
    open_policy,
    open_reward,
    probe,
    source,
    tell,
)
from rewardlab.data import load_samples, save_samples
from rewardlab.errors import InputError
from rewardlab.evaluation.overoptimization import Fit, best_of_n_curve, fit_overoptimization
from rewardlab.metrics import best_of_n_expected, best_of_n_kl
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.provenance import fingerprint
from rewardlab.report.curve_page import curve_page, curve_picture
from rewardlab.rewards import Reward
from rewardlab.rewards.relative import places_of, spread_within
from rewardlab.rewards.scoring import scores_of
from rewardlab.runs.folder import RunFolder
from rewardlab.seeds import derive
from rewardlab.storage.atomic import write_atomically

NAMES = ("proxy", "gold")


def run(command: str, words: Sequence[str]) -> int:
    """Load everything, draw and score once, and write the curve."""
    given = parse(words)
    prompts = distinct_prompts(given.prompts)
    config = {"curve": config_of(given) | {"prompts_fingerprint": fingerprint(prompts)}}
    sources = {name: source(getattr(given, name)) for name in ("policy", *NAMES)}
    RunFolder.check(given.out, config, given.resume)
    policy = open_policy(given)
    rewards = {name: open_reward(getattr(given, name), given) for name in NAMES}
    probe(policy, rewards, prompts, given.prompts)
    tell()
    folder = RunFolder.open(given.out, config, given.resume)
    folder.record({"inputs": sources})
    scores, scales = relative(prompts, *drawn(folder, given, policy, rewards, prompts, sources))
    rows, fit = curve(scores, given.n_max, given.seed)
    results = {
        "prompts": len(prompts),
        "samples": given.samples,
        "scales": scales,
        "curve": rows,
        "fit": fit.as_dict(),
    }
    results["verdict"] = verdict(rows, fit, len(prompts))
    finish(folder, folder.results(results), fit, sources)
    print(f"{results['verdict']['sentence']}\n{given.out}/curve.html")
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = make_parser("curve")
    add = parser.add_argument
    add("--proxy", required=True, help="the reward that is climbed: a folder or an http(s):// URL")
    add("--gold", required=True, help="the reward that judges: the same")
    add("--n-max", type=int, default=64, help="the largest n")
    add("--samples", type=int, help="outputs drawn of each prompt; twice --n-max by default")
    given = parser.parse_args(words)
    given.samples = 2 * given.n_max if given.samples is None else given.samples
    check_numbers(given, n_max=4, samples=given.n_max)
    return given


def drawn(
    folder: RunFolder,
    given: argparse.Namespace,
    policy: Policy,
    rewards: dict[str, Reward],
    prompts: Sequence[str],
    sources: dict[str, str],
) -> tuple[Tensor, Tensor]:
    """Return proxy and gold scores [P, N] of N outputs of each prompt, kept with the outputs as a
    stage.
    """

    def draw() -> Any:
        samples = candidates(policy, prompts, given.samples, derive(given.seed, "curve"))
        return samples.with_facts(
            **{name: scores_of(reward, samples) for name, reward in rewards.items()}
        )

    key = {
        **sources,
        "prompts": prompts,
        "samples": given.samples,
        "seed": given.seed,
        "max_length": given.max_length,
    }
    stage = folder.stage("samples", key, lambda place: save_samples(place / "samples", draw()))
    facts = load_samples(stage / "samples").facts
    proxy, gold = (facts[name].view(len(prompts), given.samples) for name in NAMES)
    return proxy, gold


def relative(
    prompts: Sequence[str], *scores: Tensor
) -> tuple[list[Tensor], dict[str, dict[str, float]]]:
    """Return scores [P, N] less each prompt's mean, in standard deviations within prompts; and
    those means and deviations.

    Raises:
        InputError: if a reward gives all outputs of each prompt the same score.
    """
    found = []
    scales = {}
    for name, values in zip(NAMES, scores, strict=True):
        repeated = [prompt for prompt in prompts for _ in range(values.shape[1])]
        try:
            names, means, deviations = spread_within(repeated, values.reshape(-1, 1))
        except InputError as error:
            raise InputError(f"--{name}: {error}") from error
        place = places_of(prompts, {prompt: i for i, prompt in enumerate(names)}, "curve")
        found.append((values.double() - means[place]) / deviations)
        scales[name] = {"mean": means.mean().item(), "deviation": deviations.item()}
    return found, scales


def curve(scores: Sequence[Tensor], n_max: int, seed: int) -> tuple[list[dict[str, Any]], Fit]:
    """Return the curve's rows for powers of two and `n_max`, and Gao's fit of gold with intervals
    over prompts.
    """
    proxy, gold = scores
    ns = sorted({2**power for power in range(n_max.bit_length()) if 2**power <= n_max} | {n_max})
    rows = best_of_n_curve(proxy, gold, ns, seed=seed)
    columns = torch.tensor(
        [[best_of_n_expected(*pair, n) for pair in zip(proxy, gold, strict=True)] for n in ns]
    )
    distance = torch.tensor([row["distance"] for row in rows])
    return rows, fit_overoptimization(distance, columns - columns[:1], "best_of_n", seed=seed)


def verdict(rows: Sequence[dict[str, Any]], fit: Fit, prompts: int) -> dict[str, str]:
    """Say whether gold peaks inside the range: "peaks", "rises", "falls" or "unclear"."""
    low, high = fit.intervals["peak"]
    last = rows[-1]
    top = max(rows, key=lambda row: float(row["gold"]))
    end = f"at n = {last['n']} gold is {_figure(last, 'gold')} and the proxy {_figure(last, 'proxy')}, in standard deviations"
    reached = f"√KL = {fit.reached:.2f}"
    if fit.alpha <= 0 and last.get("gold_high", last["gold"]) < 0:
        word = "falls"
        said = "Gold has no peak inside the range: it falls from the start"
    elif low > 0 and high < fit.reached:
        place = f"√KL = {fit.peak:.2f} [{low:.2f}, {high:.2f}] (about n = {_nearest(fit.peak)})"
        word = "peaks"
        said = f"Gold peaks inside the range, at {place}, {fit.peak_gold:+.2f} above its start by the fit"
    elif low > fit.reached:
        word = "rises"
        said = f"Gold does not peak inside the range, which ends at {reached}"
    else:
        word = "unclear"
        said = f"Whether gold peaks inside the range, which ends at {reached}, is unclear"
        said += f": the fit puts the peak at {fit.peak:.2f} [{low:.2f}, {high:.2f}]"
        said += f"; the highest point measured is n = {top['n']}"
    note = (
        " One prompt only: intervals come from the fit's residuals and are too narrow."
        if prompts == 1
        else ""
    )
    return {"word": word, "sentence": f"{said}; {end}.{note}"}


def _figure(row: dict[str, Any], name: str) -> str:
    ends = (
        f" [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]" if f"{name}_low" in row else ""
    )
    return f"{row[name]:+.2f}{ends}"


def _nearest(distance: float) -> int:
    """Return the n whose √KL is nearest.

    Example:
        >>> _nearest(best_of_n_kl(12) ** 0.5)
        12
    """
    n = 1
    while best_of_n_kl(n + 1) ** 0.5 <= distance:
        n += 1
    return n if distance - best_of_n_kl(n) ** 0.5 < best_of_n_kl(n + 1) ** 0.5 - distance else n + 1


def finish(folder: RunFolder, results: dict[str, Any], fit: Fit, sources: dict[str, str]) -> None:
    """Write curve.csv, curve.png and curve.html."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(results["curve"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(results["curve"])
    write_atomically(folder.path / "curve.csv", text.getvalue())
    distances = torch.linspace(0, fit.reached, 100)
    picture = curve_picture(
        results, list(zip(distances.tolist(), fit(distances).tolist(), strict=True))
    )
    write_atomically(folder.path / "curve.png", picture.png)
    write_atomically(folder.path / "curve.html", curve_page(results, picture, sources))
