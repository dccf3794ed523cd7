"""NormReading: a callback that reads how long a denoiser's velocities grow, in any loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.monitors import (
    TrainedLoop,
    in_eval_mode,
    log_figures,
    reference_for_norms,
)
from rewardlab.evaluation.prompts import in_turn
from rewardlab.policies import Policy
from rewardlab.policies.norm_ratios import norm_ratios_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import PreferencePairs, Samples


class NormReading(Callback):
    """Read the mean of ‖v‖/‖v_ref‖ on the step's rows every few steps, as `reading/norm_ratio`.

    NormGuard, arXiv 2606.27771. Nothing acts on it; `Guard` may. DPO, PPO and VelocityMatching log
    `norm_ratio` themselves, at no price. This callback is for loops without a reference, such as
    SFT and ReFL: it keeps the policy as it was, which is a copy of its network unless an adapter is
    trained. A reading costs one pass of each network, without gradient, over at most `rows` rows;
    a batch of prompts alone is drawn from first.

    Args:
        every_n_steps: optimizer steps between readings; one is taken after the first.
        rows: the largest number of rows that are read.
        seed: seed of the noise, the same at every reading.

    Raises:
        InputError: if a number is below 1, or (on use) the policy does not denoise.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.data import SamplesData
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.training import SFT
        >>> from rewardlab.training.trainers import SILENT
        >>> data = SamplesData(Samples([""] * 4, torch.rand(4, 1, 8, 8)), batch_size=2)
        >>> reading = NormReading(every_n_steps=1)
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[reading], **SILENT)
        >>> trainer.fit(SFT(DiffusionPolicy(tiny_diffusion(classes=0))), data)
        >>> [row["step"] for row in reading.rows_read]
        [1.0, 2.0]
    """

    def __init__(self, every_n_steps: int = 10, rows: int = 32, seed: int = 0) -> None:
        if every_n_steps < 1 or rows < 1:
            raise InputError(
                f"NormReading needs every_n_steps >= 1 and rows >= 1; got {every_n_steps} and "
                f"{rows}."
            )
        self.every_n_steps = every_n_steps
        self.rows = rows
        self.seed = seed
        self.rows_read: list[dict[str, float]] = []
        self._reference: Policy | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Keep the policy as it is, before a checkpoint changes it."""
        loop = cast(TrainedLoop, module)
        self._reference = reference_for_norms(loop)
        if self._reference is None:
            raise InputError(
                "NormReading reads velocities of a policy that denoises and defines "
                "`recorded_norms`, such as a DiffusionPolicy; a "
                f"{type(loop.policy).__name__} does not. Leave it out."
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a reading if the last is `every_n_steps` ago."""
        last = self.rows_read[-1]["step"] if self.rows_read else -self.every_n_steps
        if trainer.global_step - last < self.every_n_steps:
            return
        policy = cast(TrainedLoop, module).policy
        samples = self._rows_of(policy, batch)
        assert self._reference is not None
        seeds = row_seeds(derive(self.seed, "norm ratio"), len(samples))
        with in_eval_mode(policy):
            ratio = norm_ratios_of(policy, self._reference, samples, seeds).mean().item()
        self.rows_read.append({"step": float(trainer.global_step), "norm_ratio": ratio})
        log_figures(trainer, "reading", {"norm_ratio": ratio})

    def _rows_of(self, policy: Policy, batch: Any) -> Samples:
        """Return at most `rows` samples of a batch, of pairs the chosen ones."""
        if isinstance(batch, PreferencePairs):
            batch = batch.chosen
        if isinstance(batch, Samples):
            return batch[: self.rows]
        return self._drawn(policy, batch.prompts)

    @torch.no_grad()
    def _drawn(self, policy: Policy, prompts: Sequence[Prompt]) -> Samples:
        """Return at most `rows` outputs of prompts."""
        count = min(self.rows, len(prompts))
        seeds = row_seeds(derive(self.seed, "norm reading"), count)
        with in_eval_mode(policy):
            return policy.generate(in_turn(prompts, count), seeds=seeds)

    def state_dict(self) -> dict[str, Any]:
        """Return the readings so far, for the checkpoint."""
        return {"rows_read": self.rows_read}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.rows_read = state_dict["rows_read"]
