"""Best of n among the answers of SmolLM2 itself, to questions that the reward was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from real.hunger import BASE, COLUMN_TITLES, N, figures_of
from real.numbers import number_format
from real.remedies import PLAIN
from real.sentences import smollm2
from real.tables import markdown
from rewardlab.conversations import Prompt
from rewardlab.mining import candidates
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import PreferencePairs, distinct

QUESTIONS = 12
TOKENS = 96  # most of an answer
COLUMNS = ("words", "unended", "reward", "variety")
Figures = dict[str, Any]


def run_answers(rewards: Mapping[str, Reward], held_out: PreferencePairs, seed: int) -> Figures:
    """Draw N answers to each question, and return the figures of all and of each reward's best.

    Args:
        rewards: the rewards that choose, by their remedy; "plain" is among them.
        held_out: pairs whose first prompts are the questions.
        seed: seed of the answers.
    """
    questions: Sequence[Prompt] = distinct(held_out.chosen.prompts).values[:QUESTIONS]
    policy = smollm2(max_new_tokens=TOKENS, dtype=number_format())
    with torch.no_grad():
        drawn = candidates(policy, questions, N, seed)
    plain = rewards[PLAIN]
    figures = {f"SmolLM2, {BASE}": figures_of(drawn, plain, None)}
    for remedy, reward in rewards.items():
        best = scores_of(reward, drawn).view(-1, N).argmax(1)
        rows = torch.arange(len(questions)) * N + best
        figures[f"SmolLM2, best of {N}, {remedy}"] = figures_of(drawn[rows], plain, None)
    return figures


def table(figures: Figures) -> str:
    """Return a Markdown table: a row a way of choosing."""
    return markdown(figures, {name: COLUMN_TITLES[name] for name in COLUMNS})
