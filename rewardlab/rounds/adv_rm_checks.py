"""What Adv-RM's rounds refuse before anything is made."""

from __future__ import annotations

from typing import Any

from rewardlab.errors import InputError
from rewardlab.rounds.reweighting import check_reweighting
from rewardlab.rounds.state import check_rounds


def check_adv_rm(rounds: Any) -> None:
    """Refuse what cannot work.

    Raises:
        InputError: naming what does not fit.
    """
    check_rounds("AdvRMRounds", rounds.prompts, rounds.rounds, least=0)
    least = 2 if rounds.rounds else 1  # the target alone
    if len(rounds.members) < least:
        raise InputError(
            f"AdvRMRounds needs a target and a witness to attack: at least {least} members with "
            f"rounds={rounds.rounds}; got {len(rounds.members)}."
        )
    if rounds.rounds and rounds.fit.loop is None:
        raise InputError(
            f"AdvRMRounds refits its members after each attack, and fit.loop is none with "
            f"rounds={rounds.rounds}. Give fit a loop, or set rounds to 0: then finished members "
            "are used as they are."
        )
    check_reweighting(rounds)
    judge = rounds.attack.judge
    judges = rounds.evaluation.judges
    if judge is not None and judge not in judges:
        raise InputError(
            f"The attack's judge {judge!r} is none of the evaluation's judges, {sorted(judges)}."
        )
    shared = set(rounds.prompts) & set(rounds.held_out_prompts)
    leaked = [prompt for prompt in rounds.prompts if prompt in shared]
    if leaked:
        raise InputError(
            f"{len(leaked)} of the held-out prompts are attacked and trained on too (first: "
            f"{str(leaked[0])!r}); the yield measured on them would flatter. Take other prompts."
        )
