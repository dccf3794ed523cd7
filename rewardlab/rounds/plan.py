"""Names of the stages that rounds are going to make, before they are made."""

from __future__ import annotations

from functools import partial
from typing import Any

from rewardlab.rounds.stages import PostTrain
from rewardlab.runs.layout import (
    ADVERSARIAL,
    ANCHOR_SCORES,
    ANCHORS,
    ATTACK,
    BOOTSTRAPPED_REWARD,
    CANDIDATES,
    MEMBER,
    NEGATIVES,
    PAIR_WEIGHTS,
    PAIRS,
    POOL,
    POOL_SCORES,
    POST_TRAIN,
    REFERENCES,
    REWARD,
    SAMPLES,
    SCORES,
    TARGETS,
    stage_name,
)
from rewardlab.training.base import Trained

FIRST = [stage_name(0, TARGETS), stage_name(0, SAMPLES)]


def of_gan_rm(rounds: Any) -> list[str]:
    """Return the names of the stages of GAN-RM's rounds, in order."""
    fits = [REWARD]
    if rounds.bootstrap is not None:
        fits += [POOL, POOL_SCORES, BOOTSTRAPPED_REWARD]
    names = list(FIRST)
    for number in range(1, rounds.rounds + 1):
        draws = [NEGATIVES] if number == 1 or rounds.refresh_negatives else []
        stages = [*draws, *fits, *_of_post_training(rounds.post_train), SAMPLES, SCORES]
        names += [stage_name(number, stage) for stage in stages]
    return names


def of_adv_rm(rounds: Any) -> list[str]:
    """Return the names of the stages of Adv-RM's rounds, in order; they may end earlier."""
    names = list(FIRST)
    if rounds.draws_references:
        names.append(stage_name(0, REFERENCES))
    for number in range(1, rounds.rounds + 1):
        names += _of_attacks(rounds, number)
    last = rounds.rounds + 1
    used = 1 if rounds.use == "target" else len(rounds.members)
    training = _of_post_training(rounds.post_train)
    if rounds.fit.loop is not None:
        names += _member_fits(last, used)
    if rounds.online is not None:
        # a reward that reads the references is one, whatever it is made of
        names += _of_anchors(last, 1 if rounds.reads_references else used)
    names += [stage_name(last, stage) for stage in training]
    repeats = 0 if rounds.reweight is None else rounds.reweight.repeats
    for _ in range(repeats):
        last += 1
        names.append(stage_name(last, PAIR_WEIGHTS))
        names += _member_fits(last, used)
        names += [stage_name(last, stage) for stage in training]
    return [*names, stage_name(last, SAMPLES), stage_name(last, SCORES)]


def _of_attacks(rounds: Any, number: int) -> list[str]:
    """Return the names of a round that fits all members and attacks one, or each of them."""
    count = len(rounds.members)
    attacks = [ATTACK]
    if rounds.attack.members == "each":
        attacks += [f"{ATTACK}-{target}" for target in range(1, count)]
    names = _member_fits(number, count)
    names += [stage_name(number, attack) for attack in attacks]
    names.append(stage_name(number, ADVERSARIAL))
    return names


def _member_fits(number: int, count: int) -> list[str]:
    """Return the names of a round's fits of the first `count` members."""
    return [stage_name(number, MEMBER, member) for member in range(count)]


def _of_anchors(number: int, rewards: int) -> list[str]:
    """Return the names of a round's anchors, and of their scores by each reward."""
    scores = [f"{ANCHOR_SCORES}-{reward}" for reward in range(rewards)]
    return [stage_name(number, stage) for stage in (ANCHORS, *scores)]


def _of_post_training(post_train: PostTrain) -> list[str]:
    if post_train.loop is None:
        return []
    draws = [] if _learns_from(post_train.loop) == "prompts" else [CANDIDATES, PAIRS]
    return [*draws, POST_TRAIN]


def _learns_from(factory: Any) -> str | None:
    """Return what a loop learns from, if its factory is a class or names one."""
    parts = [factory.func, *factory.args] if isinstance(factory, partial) else [factory]
    for part in parts:
        if isinstance(part, type) and issubclass(part, Trained):
            return part.learns_from
    return None
