"""The jobs, each by several providers, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from end_to_end_cases.adapters import lora_dpo_ours, lora_dpo_trl
from end_to_end_cases.drawing import drawing_ours, drawing_transformers
from end_to_end_cases.head import (
    forward_naive,
    forward_ours,
    policy_loss_naive,
    policy_loss_ours,
)
from end_to_end_cases.loops import (
    dpo_ours,
    dpo_trl,
    reward_ours,
    reward_trl,
    rloo_ours,
    rloo_trl,
)
from end_to_end_cases.measuring import Figures
from end_to_end_cases.parts import (
    command,
    gae_loop,
    gae_ours,
    gan_rm_epoch,
    heads,
    imported,
    sharing,
)
from end_to_end_cases.pictures import best_of_pictures, diffusion_epoch


class Aim(NamedTuple):
    """What the other's figures over ours should be at least; None if nothing is aimed at."""

    seconds: float | None = None
    mib: float | None = None


# ours, the one that it is compared with first, then others
CASES: dict[str, dict[str, Callable[[], Figures]]] = {
    "reward-model step": {"ours": reward_ours, "TRL": reward_trl},
    "DPO step": {"ours": dpo_ours, "TRL": dpo_trl},
    "reward-model step, long-tailed": {
        "ours": partial(reward_ours, is_tailed=True),
        "TRL": partial(reward_trl, is_tailed=True),
    },
    "DPO step, long-tailed": {
        "ours": partial(dpo_ours, is_tailed=True),
        "TRL": partial(dpo_trl, is_tailed=True),
    },
    "RLOO step": {"ours": rloo_ours, "TRL": rloo_trl},
    "drawing, long-tailed": {"ours": drawing_ours, "transformers": drawing_transformers},
    "DPO step, LoRA, 135M": {
        "ours": lora_dpo_ours,
        "TRL": lora_dpo_trl,
        "ours, checkpointed": partial(lora_dpo_ours, checkpointed=True),
        "TRL, checkpointed": partial(lora_dpo_trl, checkpointed=True),
    },
    "policy loss, 40 % live": {
        "ours": partial(policy_loss_ours, 0.4),
        "naive": partial(policy_loss_naive, 0.4),
    },
    "policy loss, all live": {
        "ours": partial(policy_loss_ours, 1.0),
        "naive": partial(policy_loss_naive, 1.0),
    },
    "log-prob forward": {
        "ours": forward_ours,
        "naive float32": forward_naive,
        "naive bfloat16": partial(forward_naive, "bfloat16"),
        "ours, bfloat16 operands": partial(forward_ours, "bfloat16"),
    },
    "GAE, 64 x 1024": {"ours": gae_ours, "Python loop": gae_loop},
    "reward with 16 heads": {"ours": partial(heads, 16), "1 head": partial(heads, 1)},
    "GAN-RM epoch": {
        "ours": partial(gan_rm_epoch, True),
        "re-encoding": partial(gan_rm_epoch, False),
    },
    "8 samples a prompt": {"ours": partial(sharing, True), "unshared": partial(sharing, False)},
    "SFT epoch, small SD": {
        "ours": partial(diffusion_epoch, "SFT", "all"),
        "nothing kept": partial(diffusion_epoch, "SFT", "none"),
        "prompts kept": partial(diffusion_epoch, "SFT", "prompts"),
    },
    "DPO epoch, small SD": {
        "ours": partial(diffusion_epoch, "DPO", "all"),
        "nothing kept": partial(diffusion_epoch, "DPO", "none"),
        "prompts kept": partial(diffusion_epoch, "DPO", "prompts"),
    },
    "best of 8 pictures": {
        "ours": partial(best_of_pictures, True),
        "all in memory": partial(best_of_pictures, False),
    },
    "import": {"ours": partial(imported, "rewardlab"), "torch alone": partial(imported, "torch")},
    "rewardlab --help": {
        "ours": partial(command, "rewardlab", "--help"),
        "torch alone": partial(imported, "torch"),
    },
}
AIMS = {
    "reward-model step": Aim(1.3, 1 / 0.6),
    "DPO step": Aim(4.5, 1 / 0.7),
    "reward-model step, long-tailed": Aim(2.0, 1 / 0.6),
    "DPO step, long-tailed": Aim(4.5, 1 / 0.7),
    "RLOO step": Aim(4.0, 1 / 0.7),
    "8 samples a prompt": Aim(3.0),
    "SFT epoch, small SD": Aim(1.5),
    "DPO epoch, small SD": Aim(1.5),
    "policy loss, 40 % live": Aim(2.0, 4.0),
    "log-prob forward": Aim(1.0, 5.0),
    "GAE, 64 x 1024": Aim(10.0),
    "reward with 16 heads": Aim(1 / 1.1),
    "GAN-RM epoch": Aim(20.0),
}
# what `make bench` measures
QUICK = (
    "reward-model step",
    "reward-model step, long-tailed",
    "DPO step",
    "RLOO step",
    "policy loss, 40 % live",
    "8 samples a prompt",
    "GAN-RM epoch",
    "rewardlab --help",
)
MOST_ROUNDS = {"DPO step, LoRA, 135M": 1}  # minutes each, and their memory hardly varies
# By default glibc keeps what is freed in pieces below 32 MiB, and the resident size is twice that
# of the tensors and more. Where memory is the question, pieces of 1 MiB are given back at once.
ENVIRONMENTS = {"DPO step, LoRA, 135M": {"MALLOC_MMAP_THRESHOLD_": "1048576"}}
# the providers that an aim is about
AIMED_AT = {"TRL"} | {list(providers)[1] for providers in CASES.values()}
