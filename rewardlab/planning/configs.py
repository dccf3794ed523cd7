"""Plans of configs of `rewardlab fit` and `rewardlab rounds`: what each stage trains, and how."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.planning.memory_plan import MemoryPlan, Part
from rewardlab.planning.parts import part_of
from rewardlab.planning.work import Work

Tree = Mapping[str, Any]
TOKENS = 1024  # of a row, where nothing says how long rows are
BATCH = 16  # where a config names none: the default of most data, and of post-training
BATCHES = {"Preferences": 32}  # of other data, by its class
VISION = ("VisionReward", "Framewise")  # rewards whose towers can be planned
SAMPLES = 4  # that PPO draws of a prompt, where a config does not say
LOOPS = ("SFT", "DPO", "PPO", "ReFL", "AdvRM", "GANRM")
PAIRWISE = ("DPO", "AdvRM")  # loops whose examples are two rows each


class Batch(NamedTuple):
    """How many examples a step takes: a number, or as many as a budget of tokens holds."""

    examples: int
    tokens_per_batch: int | None = None

    def of_length(self, tokens: int) -> int:
        """Return the number of examples of so many tokens each."""
        if self.tokens_per_batch is None:
            return self.examples
        return max(1, self.tokens_per_batch // tokens)


def plans_of(tree: Tree, tokens: int | None = None) -> list[MemoryPlan]:
    """Return the plan of each loop that a config trains.

    Args:
        tree: the config as plain data, its references resolved.
        tokens: of a prompt with its response, for language models.

    Raises:
        InputError: if the config trains nothing that can be planned.
    """
    if "rounds" in tree:
        return _of_rounds(_arguments(tree["rounds"]), tokens)
    if "model" not in tree:
        raise InputError(
            "The plan takes configs of `rewardlab fit` (model:) and of `rewardlab rounds` "
            f"(rounds:); this one has {', '.join(tree) or 'no keys'}."
        )
    arguments = _arguments(tree["model"])
    data = tree.get("data") or {}
    batch = _batch(_arguments(data), BATCHES.get(_class_name(data), BATCH))
    return [_of_loop(tree["model"], arguments, batch, tokens)]


def _of_rounds(rounds: Tree, tokens: int | None) -> list[MemoryPlan]:
    """Return the plans of fitting a language model as the reward, and of post-training."""
    plans = []
    policy = rounds.get("policy") or {}
    members = rounds.get("members") or []
    fit = rounds.get("fit") or {}
    data = _arguments(rounds.get("preferences") or {})
    if members and fit.get("loop"):
        parts = {"reward": members[0], **_arguments(fit["loop"])}
        batch = _batch(data, BATCHES["Preferences"])
        plans.append(_of_loop(fit["loop"], parts, batch, tokens))
    post_train = rounds.get("post_train") or {}
    if post_train.get("loop"):
        reward = members[0] if members else rounds.get("reward")
        parts = {"policy": policy, "reward": reward, **_arguments(post_train["loop"])}
        batch = _batch(post_train, BATCH)
        plans.append(_of_loop(post_train["loop"], parts, batch, tokens))
    if not plans:
        raise InputError("These rounds train nothing that can be planned: they have no loop.")
    return plans


def _batch(settings: Tree, default: int) -> Batch:
    """Return how many examples a step takes by the settings of the data or of post-training."""
    return Batch(settings.get("batch_size") or default, settings.get("tokens_per_batch"))


def _of_loop(loop: Tree, arguments: Tree, batch: Batch, tokens: int | None) -> MemoryPlan:
    """Return the plan of one loop."""
    name = _class_name(loop)
    if name not in LOOPS:
        raise InputError(
            f"The plan knows the loops {', '.join(LOOPS)}; got {name}, of which nothing is written "
            "down yet. Plan one of these with the same networks and batch, and add what differs."
        )
    if name == "AdvRM":
        settings = _of_language(arguments["reward"], "LanguageReward")
        length = tokens or settings.get("max_length") or TOKENS
        work = _work(name, arguments, batch, length, {})
        plan: MemoryPlan = _leaf("language").reward_plan(settings, work)
        return plan
    if name == "GANRM":
        settings = _of_vision(arguments["reward"])
        plan = _leaf("vision").gan_rm_plan(settings, _work(name, arguments, batch, TOKENS, {}))
        return plan
    policy = arguments["policy"]
    settings = _arguments(policy)
    length = tokens or settings.get("max_length") or TOKENS
    work = _work(name, arguments, batch, length, settings)
    kind = _class_name(policy)
    if kind == "DiffusionPolicy":
        plan = _leaf("diffusion").diffusion_plan(settings, work, _scorer(name, arguments))
    elif name == "ReFL":
        raise InputError(f"ReFL trains a DiffusionPolicy; got {kind}, which has no such gradient.")
    else:
        others = _rewards(arguments) if name == "PPO" else []
        plan = _leaf("language").policy_plan(_of_language(policy, "CausalLMPolicy"), work, others)
    return plan


def _work(name: str, arguments: Tree, size: Batch, tokens: int, policy: Tree) -> Work:
    """Return what a loop does with a batch of rows of so many tokens."""
    optimizer = arguments.get("optimizer") or {}
    options = {} if isinstance(optimizer, str) else _arguments(optimizer)
    halves = 2 if name in PAIRWISE else 1
    batch = size.of_length(halves * tokens)
    rows = halves * batch
    encoded = rows if name in ("SFT", "DPO") else 0
    drawn = 0
    if name == "ReFL":
        drawn = min(policy.get("micro_batch") or batch, batch)
    if name == "PPO":
        rollout = batch * (arguments.get("samples_per_prompt") or SAMPLES)
        drawn = min(policy.get("micro_batch") or rollout, rollout)
        rows = min(arguments.get("minibatch") or rollout, rollout)
        rows = min(arguments.get("micro_batch") or rows, rows)
    return Work(
        loop=name,
        rows=rows,
        encoded=encoded,
        drawn=drawn,
        has_reference=name in ("DPO", "PPO") or bool(arguments.get("norm_guard")),
        optimizer=_class_name(optimizer) if optimizer else "AdamW",
        options=options,
        tokens=tokens,
    )


def _rewards(arguments: Tree) -> list[Part]:
    """Return the reward that PPO asks, if it is a language model."""
    reward = arguments.get("reward")
    if not reward or _class_name(reward) != "LanguageReward":
        return []
    return [part_of("reward", _leaf("language").reward_network(_arguments(reward)))]


def _scorer(name: str, arguments: Tree) -> Any | None:
    """Return the reward that PPO or ReFL asks, without numbers, if it is one of pictures."""
    reward = arguments.get("reward")
    if name not in ("PPO", "ReFL") or not reward:
        return None
    if name == "PPO" and _class_name(reward) not in VISION:
        return None
    return _leaf("vision").vision_shell(_of_vision(reward))


def _of_vision(part: Tree) -> Tree:
    """Return the arguments of a reward of pictures, or of the one that scores a video's frames."""
    if _class_name(part) not in VISION:
        raise InputError(
            f"The plan knows the rewards of pictures {' and '.join(VISION)} here; got "
            f"{_class_name(part)}."
        )
    settings: Tree = _leaf("vision").framed(_arguments(part))
    return settings


def _of_language(part: Tree, kind: str) -> Tree:
    """Return the arguments of a part that has to be of a class."""
    if _class_name(part) != kind:
        raise InputError(f"The plan knows {kind} here; got {_class_name(part)}.")
    return _arguments(part)


def _leaf(modality: str) -> Any:
    """Return the module that plans a kind of models; only it knows their library."""
    return import_module(f"rewardlab.planning.{modality}")


def _arguments(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return {}
    return dict(part.get("init_args", part) or {})


def _class_name(part: Any) -> str:
    path = part if isinstance(part, str) else part.get("class_path", "")
    return str(path).rpartition(".")[2]
