"""DrawBy: a callback that lets something else draw the policy's responses while it is trained."""

from __future__ import annotations

from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer

from rewardlab.errors import InputError
from rewardlab.policies.abilities import DrawsElsewhere, TextGenerator


class DrawBy(Callback):
    """Let a `TextGenerator`, such as a `VLLMSampler`, draw what a policy is trained on.

    Any loop takes it, since only the policy knows who draws. Log-probabilities stay the policy's
    own. Where several processes train, each has its own generator.

    Args:
        generator: what draws, from the start of the training to its end.

    Raises:
        InputError: if (on use) the loop's policy can be drawn from by nothing else.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab.data import Prompts
        >>> from rewardlab.policies import CausalLMPolicy
        >>> from rewardlab.rewards import Length
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> from rewardlab.training import PPO
        >>> from rewardlab.training.trainers import SILENT
        >>> class Constant(TextGenerator):
        ...     def draw(self, policy, prompts, seeds, limits, terms):
        ...         return [[5, 6]] * len(prompts)
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=2)
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[DrawBy(Constant())], **SILENT)
        >>> trainer.fit(PPO(policy, Length()), Prompts(["a"], batch_size=1))
        >>> trainer.callback_metrics["score_std"].item()
        0.0
    """

    def __init__(self, generator: TextGenerator) -> None:
        self.generator = generator

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Hand the drawing over, before anything is trained."""
        policy = cast(Any, module).policy
        if not isinstance(policy, DrawsElsewhere):
            raise InputError(
                f"DrawBy lets {type(self.generator).__name__} draw tokens for a language model's "
                f"policy, such as a CausalLMPolicy; got a {type(policy).__name__}. Leave it out."
            )
        policy.draw_by(self.generator)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Let the policy draw by itself again."""
        cast(Any, module).policy.draw_by(None)
