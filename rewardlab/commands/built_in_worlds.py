"""Rewards of a built-in world under a policy of the user's own, refused before anything is built.

Fragments of the menu name models of the world that their comments lay them over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rewardlab.errors import InputError
from rewardlab.runs.read import at

WORLDS = "rewardlab.embedded."
OWN = ("rewardlab.policies.", "rewardlab.load_policy")
CHOSEN = ("judges", "preferences", "targets")  # no fragment brings these


def check_worlds(tree: Mapping[str, Any]) -> None:
    """Refuse rewards of a built-in world where the policy is one of the user's folders.

    Args:
        tree: the resolved config.

    Raises:
        InputError: naming the key.
    """
    policy = at(tree, "rounds", "init_args", "policy", "class_path")
    if not isinstance(policy, str) or not policy.startswith(OWN):
        return
    for path, class_path in _classes(tree.get("rounds"), "rounds"):
        if class_path.startswith(WORLDS):
            raise InputError(
                f"{path} is {class_path}, a model of a built-in world, and the policy is your own "
                f"{policy.rpartition('.')[2]}. Was a fragment laid over that names this world's "
                "models? Copy it, and name a reward of yours there: for texts "
                'class_path: rewardlab.rewards.LanguageReward, init_args: {model: "MODEL"}, for '
                "pictures rewardlab.rewards.VisionReward."
            )


def _classes(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the classes that a config names, each with its path."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get("class_path"), str):
        yield path, node["class_path"]
    for key, value in node.items():
        if key not in CHOSEN:
            yield from _classes(value, path if key == "init_args" else f"{path}.{key}")
