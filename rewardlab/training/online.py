"""Online hardening: a correction of the reward that learns while a policy climbs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer

from rewardlab.conversations import Prompt
from rewardlab.data.features import features_of
from rewardlab.data.loader import Rows
from rewardlab.data.preferences import Preferences
from rewardlab.data.samples import open_samples
from rewardlab.data.targets import gather
from rewardlab.errors import InputError
from rewardlab.losses.importance import ImportanceWeights
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import Calibrated, StartsAtZero, frozen_features
from rewardlab.rewards.corrected import CONSTANTS, Corrected
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import HearsRollouts, Trained, trained_state
from rewardlab.training.joint_scores import joint_scores
from rewardlab.training.modes import evaluating
from rewardlab.training.online_checks import (
    check_clean,
    check_good,
    check_numbers,
    corrected_reward,
)
from rewardlab.training.online_loss import Pairing, lead_of, online_loss
from rewardlab.training.processes import average_gradients, from_all_processes, own_places
from rewardlab.training.replay import Drawn, Inputs, Replay, ReplayBuffer, joined_rows
from rewardlab.training.training_scores import members
from rewardlab.types import PreferencePairs, Samples, concatenate

REFERENCES = 64  # outputs on which the correction's mean is brought back
UNTRAINED = "untrained"
MEANING = "log-odds that an output is a wanted one and not the policy's; its offset is arbitrary"


class Update(NamedTuple):
    """What is logged of an update, and whether it took a step."""

    figures: dict[str, float]
    stepped: bool


class Online(Callback, HearsRollouts):
    """Train the correction of a `Corrected` reward on what the policy draws, step by step.

    Any loop that draws takes it as a callback: PPO, ReFL, VelocityMatching. After every `every`
    rollouts the correction takes `updates` steps, each on `rows` outputs that are wanted against as
    many of the policy's own, of which `replay` says how old they are. An attack before the training
    is used up between two refits; this one is always of the present policy. With wanted outputs of
    each prompt (the best of n of the first policy, say) it adds Adv-RM's rejected samples as they
    arise; with target samples it is GAN-RM's discriminator in the loop (arXiv 2511.20256).

    Logged: `online_loss`, `online_lead` (mean score of the good half less that of the own) and
    `online_rows`, the number of kept outputs.

    Args:
        good: what is wanted: Samples, or a file or folder that `open_samples` reads. Rounds give
            their own.
        clean: clean preference pairs of which each update also counts some.
        pairing: "prompt" compares each own output with a wanted one of its prompt, by Bradley and
            Terry's loss; "any" labels wanted and own outputs 1 and 0 whatever their prompts.
        every: rollouts between two updates.
        updates: steps that the correction takes then.
        rows: own outputs an update.
        clean_rows: clean pairs an update beside them.
        replay: how many earlier outputs are kept and how often they come.
        behind_only: leave an update out while the wanted outputs already score above the policy's
            own on average: the guard of Adv-GRPO.
        references: outputs on which the correction's mean is brought back to 0 after an update, 64
            at most; the wanted ones by default.
        optimizer: makes the correction's optimizer from its trainable parameters.
        seed: names which rows are drawn.

    Raises:
        InputError: if a number is out of range, or (on use) the loop's reward is not `Corrected`,
            nothing of the correction can be trained, the loop draws nothing, or no own output has a
            wanted one of its prompt.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import CausalLMPolicy, PPO
        >>> from rewardlab.data.prompt_data import Prompts
        >>> from rewardlab.rewards import Corrected, LanguageReward, Length
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> from rewardlab.training.trainers import SILENT
        >>> correction = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
        >>> reward = Corrected(Length(), correction, weight=2.0)
        >>> online = Online(Samples(["hi"] * 2, ["hello", "good day"]), rows=8)
        >>> trainer = pl.Trainer(max_epochs=2, callbacks=[online], **SILENT)
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
        >>> trainer.fit(PPO(policy, reward), Prompts(["hi"] * 2, batch_size=2))
        >>> online.buffer.rollouts
        2
    """

    def __init__(
        self,
        good: str | Path | Samples | None = None,
        clean: Preferences | PreferencePairs | None = None,
        pairing: Pairing = "prompt",
        every: int = 1,
        updates: int = 1,
        rows: int = 48,
        clean_rows: int = 0,
        replay: Replay = Replay(),  # noqa: B008  (frozen)
        behind_only: bool = False,
        references: str | Path | Samples | None = None,
        optimizer: OptimizerCallable = AdamW,
        seed: int = 0,
    ) -> None:
        check_numbers(every, updates, rows, clean_rows)
        check_clean(clean, clean_rows, pairing)
        self.good = good
        self.clean = clean
        self.pairing = pairing
        self.every = every
        self.updates = updates
        self.rows = rows
        self.clean_rows = clean_rows
        self.behind_only = behind_only
        self.references = references
        self.make_optimizer = optimizer
        self.seed = seed
        self.buffer = ReplayBuffer(replay, seed)
        self._reward: Corrected | None = None
        self._optimizer: Optimizer | None = None
        self._good: Drawn | None = None
        self._references: Drawn | None = None
        self._state: dict[str, Any] | None = None

    def begin(self, good: Samples, references: Samples) -> None:
        """Set what is wanted and the fixed references, unless they were given."""
        self.good = good if self.good is None else self.good
        self.references = references if self.references is None else self.references

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Look at the loop before anything is trained or loaded."""
        check_good(self.good)
        self._reward = corrected_reward(module)
        importance = self.buffer.replay.importance
        if importance is not None:
            importance.check_policy(module.policy)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Read the wanted outputs, and go on from a checkpoint if there was one."""
        reward = self._corrected().to(module.device)
        good = _opened(self.good)
        references = good if self.references is None else _opened(self.references)
        count = min(REFERENCES, len(references))
        places = torch.linspace(0, len(references) - 1, count).long()
        self._good = self._read(good)
        self._references = self._read(references[places])
        correction = reward.correction
        parameters = [weight for weight in correction.parameters() if weight.requires_grad]
        self._optimizer = self.make_optimizer(parameters)
        if self._state is None:
            self._start(correction)
        else:
            self._restore(self._state)
            self._state = None

    def _start(self, correction: Reward) -> None:
        """Let an untrained correction begin at 0, and fit the scale of its features."""
        assert self._good is not None
        assert self._references is not None
        if isinstance(correction, Calibrated) and correction.meaning == UNTRAINED:
            features = frozen_features(correction)
            if features is not None:
                both = concatenate([self._good.inputs, self._references.inputs])
                features.fit_feature_scale(both.to(next(correction.parameters()).device))
            if isinstance(correction, StartsAtZero) and self._corrected().reward is not None:
                correction.start_at_zero()
            _name_meaning(correction)
        self._settle()

    def on_rollout(self, module: Trained, samples: Samples) -> None:
        """Keep what the policy drew, and update the correction when it is due."""
        with torch.autocast(module.device.type, enabled=False):
            self._remember(module, samples)
            if self.buffer.rollouts % self.every:
                return
            figures = self._take_updates(module)
        for name, value in figures.items():
            module.log(name, value, batch_size=len(samples))
        module.log("online_rows", float(len(self.buffer)), batch_size=len(samples))

    def _remember(self, module: Trained, samples: Samples) -> None:
        """Put a rollout of all processes into the buffer, in the order of one process's rollout."""
        places = own_places(len(samples), getattr(module, "samples_per_prompt", 1))
        own = self._row_records(module, samples, places)
        joined = joined_rows(from_all_processes(own))
        order = torch.cat(from_all_processes(places)).argsort()
        self.buffer.add(joined.rows(order))

    def _take_updates(self, module: Trained) -> dict[str, float]:
        """Take the updates that are due, and return the figures of the last."""
        with torch.enable_grad(), evaluating(self._corrected().correction.modules()):
            updates = [self._update(module, number) for number in range(self.updates)]
            if any(update.stepped for update in updates):
                self._settle()
        return updates[-1].figures

    def _row_records(self, module: Trained, samples: Samples, places: Tensor) -> Drawn:
        """Return what is kept of a rollout, with its log-probabilities where they are asked for.

        `places` [B] says where the samples stand among those of all processes.
        """
        count = sum(from_all_processes(len(samples)))
        keys = self.buffer.next_keys(count)[places]
        own = self._read(samples)._replace(keys=keys)
        importance = self.buffer.replay.importance
        if importance is None:
            return own
        outputs = None if isinstance(own.inputs, Samples) else _at_rest(samples)
        own = own._replace(outputs=outputs)
        return own._replace(log_prob=importance.log_prob(module, own.samples(), keys))

    def _update(self, module: Trained, number: int) -> Update:
        """Take one step of the correction, and return the figures before it."""
        assert self._optimizer is not None
        seed = derive(self.seed, "online", self.buffer.rollouts, number)
        own = self.buffer.draw(self.rows, seed)
        good, own = self._paired(own, derive(seed, "good"))
        weights = self._weights(module, own)
        groups = [good, own, *self._clean_groups(seed)]
        scores = joint_scores(self._corrected().correction, groups, seed)
        counts = None if weights is None else weights.weights
        lead = lead_of(scores, counts)
        loss = online_loss(self.pairing, scores, counts)
        stepped = not (self.behind_only and lead > 0)
        if stepped:
            self._optimizer.zero_grad()
            loss.backward()
            average_gradients(self._corrected().correction.parameters())
            self._optimizer.step()
            self._optimizer.zero_grad()
        figures = {"online_loss": loss.item(), "online_lead": lead}
        if weights is not None:
            figures["online_effective"] = weights.effective_share
        return Update(figures, stepped)

    def _weights(self, module: Trained, own: Drawn) -> ImportanceWeights | None:
        """Return how much the drawn outputs count under the policy as it is; None if all alike."""
        importance = self.buffer.replay.importance
        if importance is None:
            return None
        assert own.log_prob is not None
        now = importance.log_prob(module, own.samples(), own.keys)
        return importance.weights(now - own.log_prob)

    def _clean_groups(self, seed: int) -> list[Drawn]:
        """Return both halves of some clean pairs, the chosen first; nothing where none count."""
        if not self.clean_rows:
            return []
        pairs = self._clean_pairs()
        picks = row_seeds(derive(seed, "clean"), self.clean_rows) % len(pairs)
        groups = []
        for half in (pairs.chosen, pairs.rejected):
            rows = half[picks]
            groups.append(Drawn(list(rows.prompts), rows, picks))
        return groups

    def _paired(self, own: Drawn, seed: int) -> tuple[Drawn, Drawn]:
        """Return wanted outputs beside own ones; by prompt, own ones without any are left out."""
        assert self._good is not None
        numbers = row_seeds(seed, len(own.keys))
        if self.pairing == "any":
            return self._good.rows(numbers % len(self._good.keys)), own
        rows_of_prompt = _places_of(self._good.prompts)
        own_rows = []
        good_rows = []
        for row, prompt in enumerate(own.prompts):
            if prompt in rows_of_prompt:
                wanted = rows_of_prompt[prompt]
                own_rows.append(row)
                good_rows.append(wanted[int(numbers[row]) % len(wanted)])
        if not own_rows:
            raise InputError(
                f"None of the policy's {len(own.keys)} prompts, such as {own.prompts[0]!r}, is "
                f"among those of the wanted outputs, such as {self._good.prompts[0]!r}. Draw "
                'wanted outputs of the prompts that are trained on, or set pairing to "any".'
            )
        return self._good.rows(torch.tensor(good_rows)), own.rows(torch.tensor(own_rows))

    def _read(self, samples: Samples) -> Drawn:
        """Return what the correction reads of samples, on the CPU."""
        prompts = list(samples.prompts)
        correction = self._corrected().correction
        inputs: Inputs = _at_rest(samples)
        if frozen_features(correction) is not None:
            with evaluating(correction.modules()):
                inputs = features_of(correction, Rows(samples))
        return Drawn(prompts, inputs, torch.arange(len(prompts)))

    @torch.no_grad()
    def _settle(self) -> None:
        """Bring the correction's mean on the references back to 0."""
        assert self._references is not None
        reward = self._corrected()
        correction = reward.correction
        inputs = self._references.inputs.to(next(correction.parameters()).device)
        with evaluating(correction.modules()):
            scores = members(correction, inputs)
        reward.settle(scores.mean(1))

    def _clean_pairs(self) -> PreferencePairs:
        if isinstance(self.clean, Preferences):
            return self.clean.split("train")
        assert self.clean is not None
        return self.clean

    def _corrected(self) -> Corrected:
        assert self._reward is not None  # `setup` has set it
        return self._reward

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: correction, optimizer and memory."""
        if self._optimizer is None:
            return {}
        return {
            "correction": correction_state(self._corrected()),
            "optimizer": self._optimizer.state_dict(),
            "buffer": self.buffer.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned; it is used when the training goes on."""
        self._state = state_dict or None

    def _restore(self, state: dict[str, Any]) -> None:
        assert self._optimizer is not None
        load_correction(self._corrected(), state["correction"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.buffer.load(state["buffer"])


def correction_state(reward: Corrected) -> dict[str, Tensor]:
    """Return copies of all that training in the loop changes of a reward, on the CPU."""
    state = {name: getattr(reward, name).detach().cpu().clone() for name in CONSTANTS}
    for name, tensor in trained_state(reward.correction).items():
        state[f"correction.{name}"] = tensor
    return state


def load_correction(reward: Corrected, state: Mapping[str, Tensor]) -> None:
    """Put what `correction_state` returned into a reward."""
    reward.load_state_dict(state, strict=False)
    _name_meaning(reward.correction)


def _name_meaning(correction: Reward) -> None:
    if isinstance(correction, Calibrated):
        correction.meaning = MEANING


def _opened(source: str | Path | Samples | None) -> Samples:
    if isinstance(source, Samples):
        return source
    assert source is not None  # `setup` has refused it
    return gather(open_samples(source))


def _at_rest(samples: Samples) -> Samples:
    """Return samples on the CPU, without gradients."""
    outputs = samples.outputs
    if isinstance(outputs, Tensor):
        outputs = outputs.detach()
    return Samples(samples.prompts, outputs, samples.facts).to("cpu")


def _places_of(prompts: Sequence[Prompt]) -> dict[Prompt, list[int]]:
    """Return the rows of each prompt."""
    places: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(row)
    return places
