"""The menu's worlds and arms: config files and flags, and no algorithm.

A study on another world is another `World` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from hardening import INIT, KL

CONFIGS = Path(__file__).parents[2] / "configs"
REAL_CONFIGS = Path(__file__).parents[1] / "real" / "configs"
PLAIN = "none"
LOOP = f"{INIT}post_train.loop.init_args"
STEPS = f"{INIT}post_train.trainer.init_args.max_steps"
PAIRS = f"{INIT}preferences.init_args.n"


class Arm(NamedTuple):
    """What an arm lays over its world.

    Attributes:
        files: config files.
        flags: after them.
        beside: the arm that its times and costs are compared with.
        takes: "reward" or "policy", what it takes of another arm's run of the same seed, which has
            to be made before it; None if it takes nothing.
        of: that arm.
    """

    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    beside: str = PLAIN
    takes: Literal["reward", "policy"] | None = None
    of: str = ""


class World(NamedTuple):
    """What is the same in a world's arms.

    Attributes:
        arms: by name.
        main: names of those that are run by default.
        gold: the judge whose readings are the gold.
        horizon: steps of a run.
        margin: below the start that counts as a fall, in gold's unit.
        unit: what gold is measured in: "σ", deviations of the first policy's, or the judge's own.
        columns: of the table; see `menu_table.COLUMNS`.
        files: config files before an arm's.
        last: config files after an arm's.
        flags: of every arm.
        judged: figures of the judges after training, by their names in a row.
        timed: beginning of the names of stages whose seconds count; without it, the rounds' cost.
        weights: names of the pretrained files that it needs; see `real.files.FILES`.
    """

    arms: Mapping[str, Arm]
    main: tuple[str, ...]
    gold: str
    horizon: int
    margin: float
    unit: str
    columns: tuple[str, ...]
    files: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    judged: Mapping[str, str] = {}
    timed: str = ""
    weights: tuple[str, ...] = ()


NO_ROUNDS = (f"{INIT}rounds=0",)
MEMBERS = ("menu/members.yaml",)
FROZEN = (
    f"{INIT}online.online.init_args.optimizer.class_path=torch.optim.SGD",
    f"{INIT}online.online.init_args.optimizer.init_args.lr=0",
)
MANY = f"{PAIRS}=10000"
ANCHOR = "anchor"  # makes a policy to be held to; it is no RLHF, so nothing is compared
ITEMS = (
    "par",
    "soft_minimum",
    "mean_minus_std",
    "worst_case",
    "length_calibration",
    "gradient_regularization",
    "reference_reset",
    "gated_kl",
    "diversity",
    "grm",
    "batch_sum",
    "bottleneck",
    "independent_members",
)
ROUNDS_OF_ATTACK = ("independent_witness", "quantile", "off_policy")
TOPIC_ARMS = {
    PLAIN: Arm(MEMBERS, NO_ROUNDS),
    "single": Arm((), NO_ROUNDS),
    "kl0.1": Arm(MEMBERS, (*NO_ROUNDS, f"{KL}=0.1")),
    "kl0.25": Arm(MEMBERS, (*NO_ROUNDS, f"{KL}=0.25")),
    "kl0.5": Arm(MEMBERS, (*NO_ROUNDS, f"{KL}=0.5")),
    "paper": Arm(("adv_rm/study_paper.yaml",)),
    "ibl": Arm(("adv_rm/topics_novelty.yaml",)),
    "online": Arm(("menu/online.yaml",)),
    "online-frozen": Arm(("menu/online.yaml",), FROZEN),
    "restart": Arm(("adv_rm/restart.yaml",), takes="reward", of="online"),
    ANCHOR: Arm(("adv_rm/anchor.yaml",)),
    "kl-online": Arm(("menu/online.yaml",), (*FROZEN, f"{KL}=2")),
    "kl-anchor": Arm(
        ("menu/online.yaml", "adv_rm/anchored.yaml"), FROZEN, takes="policy", of=ANCHOR
    ),
    **{item: Arm((*MEMBERS, f"menu/{item}.yaml"), NO_ROUNDS) for item in ITEMS},
    **{item: Arm((f"menu/{item}.yaml",)) for item in ROUNDS_OF_ATTACK},
    "online-independent": Arm(
        ("menu/online.yaml", "menu/independent_members.yaml"), beside="independent_members"
    ),
    "none-10k": Arm(MEMBERS, (*NO_ROUNDS, MANY)),
    "kl0.25-10k": Arm(MEMBERS, (*NO_ROUNDS, MANY, f"{KL}=0.25"), beside="none-10k"),
    "online-10k": Arm(("menu/online.yaml",), (MANY,), beside="none-10k"),
}
TOPICS = World(
    arms=TOPIC_ARMS,
    main=(PLAIN, "kl0.25", "paper", "ibl", "online", "online-frozen", "restart"),
    gold="gold",
    horizon=520,
    margin=0.1,
    unit="σ",
    columns=(
        "falls",
        "mean",
        "ratio",
        "peak",
        "at_5",
        "at_10",
        "below",
        "end",
        "end_kl",
        "variety",
        "generations",
        "seconds",
    ),
    files=("adv_rm/topics.yaml", "adv_rm/study.yaml"),
)
LONG = TOPICS._replace(
    main=(PLAIN, "kl0.25", "online"),
    horizon=1560,  # three times as long, since an arm that never fell in 520 steps is censored there
    flags=(f"{STEPS}=1560",),
)

REFL = ("gan_rm/digits.yaml", "gan_rm/digits_refl.yaml")
FINISHED = ("gan_rm/digits_finished.yaml", "gan_rm/digits_refl.yaml")
DPO = ("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml")
PPO = ("gan_rm/digits.yaml", "matrix/image_ppo.yaml")
SHORT = f"{STEPS}=60"
FAST = (f"{LOOP}.optimizer.init_args.lr=0.00005", SHORT)  # over-optimizes
FAST_PPO = (f"{LOOP}.optimizer.init_args.lr=0.0003", SHORT)
WEAK = f"{LOOP}.beta=100"
GUARD_STOP = "menu/guard_stop.yaml"
DIGIT_ARMS = {
    PLAIN: Arm(REFL, FAST),
    "stop": Arm((*REFL, GUARD_STOP), FAST),
    "online": Arm(("gan_rm/digits.yaml", "menu/discriminator.yaml")),
    "restart": Arm(FINISHED, FAST, takes="reward", of="online"),
    "again": Arm(FINISHED, FAST, takes="reward", of=PLAIN),
    **{
        item: Arm((*FINISHED, f"menu/{item}.yaml"), FAST, takes="reward", of=PLAIN)
        for item in ("soft_minimum", "mean_minus_std", "worst_case")
    },
    "dpo": Arm(DPO, (WEAK, SHORT), beside="dpo"),
    "dpo-kl": Arm(DPO, (SHORT,), beside="dpo"),  # β = 5000
    "dpo-hinge": Arm(DPO, (WEAK, SHORT, f"{LOOP}.norm_guard=10"), beside="dpo"),
    "ppo": Arm(PPO, FAST_PPO, beside="ppo"),
    "ppo-gradient": Arm((*PPO, "menu/gradient_regularization.yaml"), FAST_PPO, beside="ppo"),
    "ppo-par": Arm((*PPO, "menu/par.yaml"), FAST_PPO, beside="ppo"),
}
DIGITS = World(
    arms=DIGIT_ARMS,
    main=(PLAIN, "stop", "online", "restart", "soft_minimum", "worst_case"),
    gold="accuracy",
    horizon=60,
    margin=0.03,  # as in the guard's study
    unit="share of digits",
    columns=("falls", "mean", "ratio", "accuracy", "distance", "ink", "variety", "seconds"),
    last=("gan_rm/digits_menu.yaml",),
    flags=("--report=false",),
    judged={
        "accuracy": "accuracy",
        "distance": "distance",
        "ink": "ink",
        "variety": "diversity",
    },
    timed="post-train",
)

HELD = f"{KL}=0.25"
STORY_ARMS = {
    PLAIN: Arm(),
    "kl0.25": Arm((), (HELD,)),
    "online": Arm((str(REAL_CONFIGS / "stories_online.yaml"),)),
    "online-frozen": Arm((str(REAL_CONFIGS / "stories_online.yaml"),), FROZEN),
    "par": Arm(("menu/par.yaml",)),
    "length_calibration": Arm(("menu/length_calibration.yaml",)),
}
STORIES = World(
    arms=STORY_ARMS,
    main=tuple(STORY_ARMS),
    gold="likelihood",
    horizon=100,
    margin=0.1,
    unit="nats a token",
    columns=(
        "falls",
        "mean",
        "ratio",
        "peak",
        "below",
        "end",
        "end_kl",
        "words",
        "repetition",
        "variety",
        "generations",
        "seconds",
    ),
    files=(str(REAL_CONFIGS / "stories.yaml"),),
    flags=("--report=false",),
    judged={"words": "words", "repetition": "repetition"},
    weights=("smollm2",),
)


def face_files(*names: str) -> tuple[str, ...]:
    """Return config files of the pretrained faces."""
    return tuple(str(REAL_CONFIGS / f"{name}.yaml") for name in names)


FACE_ARMS = {
    PLAIN: Arm(face_files("way_refl")),
    "stop": Arm((*face_files("way_refl"), GUARD_STOP)),
    "online": Arm(face_files("way_refl", "faces_online")),
    "ppo": Arm(face_files("way_ppo"), beside="ppo"),
    "ppo-stop": Arm((*face_files("way_ppo"), GUARD_STOP), beside="ppo"),
    "ppo-kl": Arm(face_files("way_ppo"), (f"{KL}=0.1",), beside="ppo"),
}
FACES = World(
    arms=FACE_ARMS,
    main=tuple(FACE_ARMS),
    gold="happy",
    horizon=40,
    margin=0.03,
    unit="probability",
    columns=(
        "falls",
        "mean",
        "peak",
        "below",
        "happy",
        "witness",
        "face",
        "distance",
        "variety",
        "seconds",
    ),
    files=face_files("smiles"),
    last=face_files("faces_menu"),
    flags=("--report=false", f"{STEPS}=40"),
    judged={
        "happy": "happy",
        "witness": "witness",
        "face": "face",
        "distance": "distance",
        "variety": "diversity",
    },
    timed="post-train",
    weights=("faces", "expression", "efficientnet", "mobilenet", "detector"),
)
WORLDS = {"topics": TOPICS, "long": LONG, "digits": DIGITS, "stories": STORIES, "faces": FACES}
