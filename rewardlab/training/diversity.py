"""Diversity: good samples that lie apart from their group's others count more."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rewardlab.advantages import diversified
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.training.ppo import PPO
from rewardlab.training.weighing import WeighsRollouts
from rewardlab.types import Samples

DIVIDED = ("group_normalized", "decoupled")  # advantages


class Diversity(Callback, WeighsRollouts):
    """Multiply positive advantages by how far a sample lies from its prompt's nearest other.

    GARDO, arXiv 2512.24138. What is good and found once is raised more than what is good and found
    again and again, so the policy keeps several ways to score high. Bad samples count as before.
    See `rewardlab.advantages.diversified`. Logged: `neighbor_distance`, the mean cosine distance to
    the nearest neighbor of a prompt's samples.

    Args:
        features: a reward with frozen features, in which distances are measured: of images a frozen
            tower (DINO's or CLIP's), of texts a frozen language model. It does not score.

    Raises:
        InputError: if the reward has no frozen features, or (at the start) the loop is no PPO, or
            its advantages are divided by the group's deviation, as "group_normalized" and
            "decoupled" ones are: then the weights would count most where scores are alike.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab.data import Prompts
        >>> from rewardlab.policies import CausalLMPolicy
        >>> from rewardlab.rewards import LanguageReward, Length
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> from rewardlab.training.trainers import SILENT
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3)
        >>> features = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True)
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[Diversity(features)], **SILENT)
        >>> trainer.fit(PPO(policy, Length()), Prompts(["a", "b"], batch_size=2))
        >>> 0 < trainer.callback_metrics["neighbor_distance"].item() < 2
        True
    """

    def __init__(self, features: Reward) -> None:
        if frozen_features(features) is None:
            raise InputError(
                f"Diversity measures distances in frozen features, and {type(features).__name__} "
                "has none. Give a reward with a frozen backbone, such as "
                "LanguageReward(frozen=True) or a VisionReward."
            )
        self.features = features

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse a loop whose advantages cannot be weighed; bring the features to its device."""
        if not isinstance(module, PPO) or module.advantage in DIVIDED:
            raise InputError(
                "Diversity weighs PPO's advantages, which must not be divided by the group's "
                f"deviation; got a {type(module).__name__} with the advantage "
                f"{getattr(module, 'advantage', None)!r}. Take leave_one_out."
            )
        self.features.to(module.device).eval()

    def weighed(self, loop: PPO, samples: Samples, advantages: Tensor) -> Tensor:
        """Return the advantages, the positive ones multiplied."""
        measured = frozen_features(self.features)
        assert measured is not None
        with torch.autocast(loop.device.type, enabled=False):
            features = measured.features(samples.to(loop.device)).flatten(1)
        groups = features.view(-1, loop.samples_per_prompt, features.shape[1])
        result = diversified(advantages.view(*groups.shape[:2], -1), groups)
        distance = result.distances.mean()
        loop.log("neighbor_distance", distance, batch_size=len(samples), sync_dist=True)
        return result.advantages.view_as(advantages)
