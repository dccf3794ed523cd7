"""TRL, by the name that other libraries give such a module: all of `rewardlab.exchange.trl`."""

from rewardlab.exchange.trl import (
    as_reward,
    preference_dataset,
    prompt_dataset,
    read_preferences,
    reward_func,
    write_chat,
)

__all__ = [
    "as_reward",
    "preference_dataset",
    "prompt_dataset",
    "read_preferences",
    "reward_func",
    "write_chat",
]
