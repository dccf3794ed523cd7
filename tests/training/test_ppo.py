"""PPO: exact where outputs can be enumerated, the same loop for text and images, and what surrounds
a step.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.functional import one_hot
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LinearLR
from torch.testing import assert_close

from rewardlab.advantages import group_normalized, leave_one_out
from rewardlab.data.prompt_data import Prompts, numbered
from rewardlab.errors import InputError
from rewardlab.policies.abilities import HasCritic, HasEntropy
from rewardlab.policies.base import Policy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards.base import Reward
from rewardlab.rewards.functions import Brightness, Function
from rewardlab.seeds import generators, row_seeds, uniform
from rewardlab.testing.tiny_images import tiny_diffusion
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.ppo import PPO
from rewardlab.training.resumable import Resumable
from rewardlab.training.rollouts import SampleTable
from rewardlab.training.shaping import Shaping
from rewardlab.types import PreferencePairs, Samples, Trajectory


class Letters(Policy, HasEntropy, HasCritic):
    """A bigram model over letters and the end mark ".": all that it can say can be enumerated. It
    takes no prompt.
    """

    def __init__(self, letters="ab", steps=2, seed=0):
        super().__init__()
        self.symbols, self.steps = letters + ".", steps
        count = len(self.symbols)
        self.next, self.critic = nn.Linear(count + 1, count, bias=False), nn.Linear(count + 1, 1)
        generator = torch.Generator().manual_seed(seed)
        self.next.weight.data = torch.randn(count, count + 1, generator=generator)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)

    def sample(self, prompts, *, seeds):
        draws = uniform((self.steps,), generators(seeds))
        tokens = torch.zeros(len(prompts), 0, dtype=torch.long)
        for column in draws.T:
            following = torch.cat([tokens, torch.zeros(len(prompts), 1, dtype=torch.long)], 1)
            below = (column[:, None] > self._logits(following)[:, -1].softmax(1).cumsum(1)).sum(1)
            tokens = torch.cat([tokens, below.clamp_max(len(self.symbols) - 1)[:, None]], 1)
        return self.trajectory(prompts, tokens, seeds)

    def trajectory(self, prompts, tokens, seeds=None):
        ended = (tokens == len(self.symbols) - 1).cumsum(1)
        mask = (
            ended - (tokens == len(self.symbols) - 1).long() == 0
        )  # the end mark is a step itself
        facts = {"length": mask.sum(1)} | ({} if seeds is None else {"seed": seeds})
        return Trajectory(prompts, {"tokens": tokens}, mask, facts)

    def encode(self, samples, *, seeds):
        raise NotImplementedError

    def decode(self, trajectory):
        rows = zip(
            trajectory.tensors["tokens"].tolist(), trajectory.mask.sum(1).tolist(), strict=True
        )
        texts = ["".join(self.symbols[token] for token in row[:length]) for row, length in rows]
        return Samples(trajectory.prompts, texts, trajectory.facts)

    def log_prob(self, trajectory):
        tokens = trajectory.tensors["tokens"]
        log_prob = self._logits(tokens).log_softmax(2).gather(2, tokens[:, :, None])[:, :, 0]
        return log_prob.where(trajectory.mask, float("nan"))  # nobody may look there

    def entropy(self, trajectory):
        log_prob = self._logits(trajectory.tensors["tokens"]).log_softmax(2)
        return -(log_prob.exp() * log_prob).sum(2)

    def value(self, trajectory):
        return self.critic(self._states(trajectory.tensors["tokens"])).float()[:, :, 0]

    def _states(self, tokens):
        """What is before each token, one-hot: the token before it, or the start."""
        start = torch.full_like(tokens[:, :1], len(self.symbols))
        return one_hot(torch.cat([start, tokens[:, :-1]], 1), len(self.symbols) + 1).float()

    def _logits(self, tokens):
        return self.next(self._states(tokens)).float()

    def save_pretrained(self, folder):
        raise NotImplementedError

    def everything(self):
        """A trajectory for each thing it can say."""
        tokens = torch.tensor(list(product(range(len(self.symbols)), repeat=self.steps)))
        last = len(self.symbols) - 1
        for column in range(1, self.steps):
            tokens[:, column] = torch.where(tokens[:, column - 1] == last, last, tokens[:, column])
        tokens = tokens.unique(dim=0)
        return self.trajectory([""] * len(tokens), tokens)

    def chances(self):
        """The log-probability of each thing it can say."""
        trajectory = self.everything()
        return self.log_prob(trajectory).where(trajectory.mask, 0).sum(1)


def worth(samples):
    """A score that is no sum over letters."""
    return torch.tensor(
        [
            2.0 * text.count("a") - text.count("b") ** 2 + 3 * text.startswith("ba")
            for text in samples.outputs
        ]
    )


VALUE = Function(worth)


def fit(module, *, prompts=8, batch_size=8, callbacks=(), ckpt_path=None, logger=False, **limits):
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    data = Prompts([""] * prompts if isinstance(prompts, int) else prompts, batch_size=batch_size)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()])


class TestExactly:
    """One prompt, every output enumerable."""

    beta = 0.3

    def exact(self, policy, reference):
        """The gradient of E[score] - β·KL(π ‖ π_ref), from its definition."""
        log_prob = policy.chances()
        score = worth(policy.decode(policy.everything()))
        objective = (log_prob.exp() * (score - self.beta * (log_prob - reference.chances()))).sum()
        return torch.autograd.grad(objective, policy.next.weight)[0]

    def sampled(self, policy, **settings):
        """Estimates of it [N, ...] from N independent rollouts of 64 prompts."""
        module = PPO(policy, VALUE, kl_weight=self.beta, reference=Letters(seed=5), **settings)
        found = []
        for i in range(40):
            experience = module.collect([""] * 64, torch.arange(64 * i, 64 * (i + 1)))
            mask = experience.rollout.trajectory.mask
            loss, _ = module.loss(experience, mask / len(experience))
            found.append(-torch.autograd.grad(loss, policy.next.weight)[0])
        return torch.stack(found)

    @pytest.mark.parametrize(
        ("settings", "right"),
        [
            ({"advantage": "leave_one_out", "samples_per_prompt": 2}, True),
            (
                {
                    "advantage": "generalized",
                    "samples_per_prompt": 2,
                    "lam": 1.0,
                    "value_weight": 0.0,
                },
                True,
            ),
            (
                {
                    "advantage": lambda scores: scores - scores.mean(1, keepdim=True),
                    "samples_per_prompt": 2,
                },
                False,
            ),  # biased
            ({"advantage": "leave_one_out", "samples_per_prompt": 2, "kl": "absolute"}, False),
        ],
    )
    def test_the_expected_gradient_is_the_exact_one(self, settings, right):
        policy = Letters()
        exact, found = self.exact(policy, Letters(seed=5)), self.sampled(policy, **settings)
        errors = (found.mean(0) - exact) / (found.std(0) / len(found) ** 0.5 + 1e-6)
        assert (errors.abs().max() < 4) == right, f"off by {errors.abs().max():.1f} standard errors"

    @pytest.mark.parametrize("kl", ["reward", "k2"])
    def test_it_ends_at_the_reference_tilted_by_the_reward(self, kl):
        """The largest E[s] - β·KL is at π_ref·exp(s/β)/Z."""
        policy = Letters("abcd", steps=1)
        reference = Letters("abcd", steps=1)
        score = worth(reference.decode(reference.everything())) / 2
        wanted = (reference.chances() + score).softmax(0)
        assert (wanted - reference.chances().exp()).abs().sum() / 2 > 0.15
        optimizer, schedule = (
            partial(Adam, lr=0.1),
            partial(LinearLR, start_factor=1.0, end_factor=0.02, total_iters=60),
        )
        halved = Function(lambda samples: worth(samples) / 2)
        module = PPO(policy, halved, kl=kl, kl_weight=1.0, optimizer=optimizer, schedule=schedule)
        fit(module, prompts=64, batch_size=64, max_epochs=60)
        assert (policy.chances().exp() - wanted).abs().sum() / 2 < 0.03


class Shuffled(Reward):
    """A reward whose scores are dealt out anew among the samples: what is left is the spread of a
    loop that learns nothing.
    """

    def __init__(self, reward, seed):
        super().__init__()
        self.reward, self.generator = reward, torch.Generator().manual_seed(seed)

    def forward(self, samples):
        scores = self.reward(samples)
        return scores[torch.randperm(len(scores), generator=self.generator)]


def letter_share(samples):
    return torch.tensor(
        [
            sum(c.isascii() and c.isalpha() for c in text) / max(len(text), 1)
            for text in samples.outputs
        ]
    )


def text_policy():
    return (
        CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6),
        Function(letter_share),
        "a",
    )


def image_policy():
    return (
        DiffusionPolicy(tiny_diffusion(classes=0, flow=True), sampler=Sampler(steps=3, noise=0.7)),
        Brightness(),
        "",
    )


SIDE_BY_SIDE = [(text_policy, 0.2, 1e-2, 0.046), (image_policy, 1e-4, 3e-3, 0.015)]


def gained(make, clip, rate, shuffled=None):
    """How much the score of 64 fixed draws rises by 8 rollouts of 64 rows, 4 optimiser steps each."""
    policy, reward, prompt = make()

    def score():
        return reward(policy.generate([prompt] * 64, seeds=row_seeds(99, 64))).mean()

    before, trained_on = score(), reward if shuffled is None else Shuffled(reward, shuffled)
    many = {
        "samples_per_prompt": 8,
        "epochs": 2,
        "minibatch": 32,
        "clip": clip,
        "kl_weight": 1e-5,
        "seed": shuffled or 0,
    }
    trainer = fit(
        PPO(policy, trained_on, **many, optimizer=partial(Adam, lr=rate)),
        prompts=[prompt] * 8,
        max_epochs=8,
    )
    return (score() - before).item(), trainer


@pytest.mark.parametrize(("make", "clip", "rate", "spread"), SIDE_BY_SIDE)
def test_one_loop_raises_the_reward_of_text_and_of_images(make, clip, rate, spread):
    """`spread`: the standard deviation of the gain over 5 seeds with the reward shuffled, measured
    once.
    """
    gain, trainer = gained(make, clip, rate)
    assert gain > 3 * spread
    assert trainer.global_step == 32
    assert trainer.callback_metrics["kl"] > 0
    assert trainer.callback_metrics["clip_fraction"] > 0


@pytest.mark.nightly
@pytest.mark.parametrize(("make", "clip", "rate", "spread"), SIDE_BY_SIDE)
def test_a_shuffled_reward_gains_nothing_beyond_that_spread(make, clip, rate, spread):
    gains = torch.tensor([gained(make, clip, rate, shuffled=seed)[0] for seed in range(5)])
    assert gains.mean() < 3 * spread
    assert spread / 2 < gains.std() < 2 * spread


EVERYTHING = {
    "advantage": "generalized",
    "kl": "k2",
    "kl_weight": 0.1,
    "entropy_weight": 0.05,
    "value_clip": 0.3,
    "epochs": 2,
    "minibatch": 12,
    "optimizer": partial(SGD, lr=0.3),
}


@pytest.mark.parametrize("normalisation", ["token", "sequence", "constant"])
def test_accumulating_gradients_is_one_large_batch(normalisation):
    found = []
    for micro_batch in (None, 5, 1):
        module = PPO(
            Letters(steps=4),
            VALUE,
            micro_batch=micro_batch,
            loss_normalisation=normalisation,
            **EVERYTHING,
        )
        trainer = fit(module, max_epochs=2)
        found.append(weights(module))
    assert trainer.global_step == 2 * 2 * 3  # rollouts of 32 rows, passes, minibatches
    for other in found[1:]:
        assert_close(other, found[0], atol=1e-6, rtol=0)


def test_a_minibatch_of_all_rows_is_the_whole_rollout():
    found = []
    for minibatch in (None, 32, 100):
        module = PPO(Letters(steps=4), VALUE, **EVERYTHING | {"minibatch": minibatch})
        fit(module, max_epochs=2)
        found.append(weights(module))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


class Forgetful(Letters):
    """With a dropout, which would give other log-probabilities at every look."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.dropout = nn.Dropout(0.5)

    def _states(self, tokens):
        return self.dropout(super()._states(tokens))


@pytest.mark.parametrize("kind", [Letters, Forgetful])
def test_the_ratio_is_exactly_one_until_the_first_step(kind):
    """With clip 0 every step counts as clipped whose ratio is not 1, to the last bit, on the side
    of its advantage.
    """
    module = PPO(kind(steps=4), VALUE, clip=0.0, kl_weight=0.0)
    assert fit(module, max_epochs=2).callback_metrics["clip_fraction"] == 0
    assert all(part.training for part in module.policy.modules())
    module = PPO(kind(steps=4), VALUE, clip=0.0, kl_weight=0.0, epochs=2)
    assert fit(module, max_epochs=1).callback_metrics["clip_fraction"] > 0.2


def test_a_sample_depends_on_its_row_epoch_and_place_only():
    module = PPO(Letters(steps=4), VALUE)
    whole, part = (
        module.collect([""] * len(rows), torch.tensor(rows)).samples for rows in ([0, 1, 2], [2])
    )
    assert whole.outputs[8:] == part.outputs
    assert len(set(whole.facts["seed"].tolist())) == 12
    assert whole.facts["row"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_gradient_is_clipped_and_the_schedule_steps_with_the_optimizer():
    before = Letters()
    schedule = partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=4)
    module = PPO(
        Letters(),
        VALUE,
        gradient_clip=1e-3,
        optimizer=partial(SGD, lr=1.0),
        schedule=schedule,
        epochs=2,
    )
    trainer = fit(module, max_epochs=1)
    assert_close(trainer.callback_metrics["lr"].item(), 0.5)
    moved = (weights(module) - weights(PPO(before, VALUE))).norm().item()
    assert moved == pytest.approx(1e-3 * (1.0 + 0.75), rel=0.02)


def test_mixed_precision_keeps_scores_and_log_probabilities_in_float32():
    seen = {}

    class Half(Letters):
        def log_prob(self, trajectory):
            seen["network"] = self.next(self._states(trajectory.tensors["tokens"])).dtype
            seen["log_prob"] = super().log_prob(trajectory).dtype
            return super().log_prob(trajectory)

    def judged(samples):
        seen["autocast"] = torch.is_autocast_enabled("cpu")
        return worth(samples)

    def baseline(scores):
        seen["scores"] = scores.dtype
        return leave_one_out(scores)

    module = PPO(
        Half(steps=3), Function(judged), baseline, clip=0.0, optimizer=partial(Adam, lr=0.05)
    )
    before = worth(module.collect([""] * 64, torch.arange(64)).samples).mean()
    trainer = fit(module, max_epochs=20, precision="bf16-mixed")
    assert seen == {
        "network": torch.bfloat16,
        "log_prob": torch.float32,
        "autocast": False,
        "scores": torch.float32,
    }
    assert trainer.callback_metrics["clip_fraction"] == 0  # sampled and scored in one precision
    assert worth(module.collect([""] * 64, torch.arange(64)).samples).mean() > before + 1


def table(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    """Weights, the adaptive KL's weight, the reference's figures, metrics and the table of samples."""

    def run(folder, steps, ckpt_path=None):
        checkpoints = ModelCheckpoint(
            folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1
        )
        settings = {
            "kl_target": 0.5,
            "kl_weight": 0.2,
            "shaping": Shaping(clip=2.0, length_penalty=0.1),
            "table_every": 2,
        }
        module = PPO(
            Letters(steps=3), VALUE, minibatch=8, optimizer=partial(Adam, lr=0.05), **settings
        )
        logger = CSVLogger(folder, name="", version="")
        extra = [checkpoints, Resumable()]
        limits = {"max_steps": steps, "max_epochs": -1}
        fit(
            module,
            prompts=5,
            batch_size=2,
            callbacks=extra,
            logger=logger,
            ckpt_path=ckpt_path,
            **limits,
        )  # epochs of 3
        return module

    straight = run(tmp_path / "a", 12)
    run(tmp_path / "b", 12)
    torch.save(
        torch.load(tmp_path / "b/checkpoints/step=5.ckpt", weights_only=True),
        tmp_path / "five.ckpt",
    )
    with (tmp_path / "b/samples.jsonl").open("a") as file:
        file.write('{"step": 99, "pro')  # a kill in the middle of a line
    resumed = run(tmp_path / "b", 12, tmp_path / "five.ckpt")
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.kl_weight == straight.kl_weight != 0.2
    assert resumed.reference_figures == straight.reference_figures
    assert table(tmp_path / "b") == table(tmp_path / "a")
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    names = torch.load(tmp_path / "five.ckpt", weights_only=True)["state_dict"].keys()
    assert {name.split(".")[0] for name in names} == {"policy"}


@pytest.mark.parametrize(("lam", "clip"), [(0.95, 0.2), (1.0, 1e-4)])
def test_a_critic_learns_what_is_to_be_expected(lam, clip):
    """V(start) comes near E[s], and later values explain some of the score. The ratio's clip is not
    the critic's.
    """
    policy = Letters(steps=3)
    policy.next.requires_grad_(False)
    module = PPO(
        policy,
        VALUE,
        "generalized",
        kl_weight=0.0,
        lam=lam,
        clip=clip,
        gradient_clip=None,
        optimizer=partial(Adam, lr=0.1),
    )
    trainer = fit(module, prompts=64, batch_size=64, max_epochs=60)
    expected = (policy.chances().exp() * worth(policy.decode(policy.everything()))).sum()
    assert policy.value(policy.everything())[0, 0].item() == pytest.approx(expected.item(), abs=0.3)
    assert trainer.callback_metrics["explained_variance"] > 0.1


def test_what_is_logged_and_kept_for_a_judge(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    module = PPO(
        Letters(),
        VALUE,
        "generalized",
        table_every=2,
        kl_target=1.0,
        optimizer=partial(Adam, lr=0.02),
    )
    fit(module, max_epochs=4, logger=logger)
    logged = rows(tmp_path)
    wanted = {
        "score",
        "score_std",
        "kl",
        "kl_k2",
        "clip_fraction",
        "advantage_std",
        "lr",
        "entropy",
        "length",
        "kl_weight",
    }
    assert {"explained_variance", *wanted} <= logged[-1].keys()
    assert float(logged[0]["kl"]) == 0 < float(logged[-1]["kl_k2"])
    assert float(logged[0]["explained_variance"]) == pytest.approx(
        0, abs=0.05
    )  # a critic that says 0
    kept = table(tmp_path)
    assert [row["step"] for row in kept] == [0] * 32 + [2] * 32
    assert sum(row["score"] for row in kept[:32]) / 32 == pytest.approx(
        float(logged[0]["score"]), rel=1e-5
    )
    assert worth(Samples([""] * 64, [row["output"] for row in kept])).tolist() == [
        row["score"] for row in kept
    ]


def test_images_are_kept_as_a_folder(tmp_path):
    from rewardlab.storage.samples import load_samples

    images = Samples(["a"] * 20, torch.rand(20, 1, 4, 4))
    for _ in range(2):  # a resumed run writes it again
        SampleTable(tmp_path, 0).write(7, images, [0.5] * 20)
    kept = load_samples(tmp_path / "samples/000007")
    assert len(kept) == 16
    assert kept.facts["score"].tolist() == [0.5] * 16


class TestShaping:
    """Penalties are multiples of the reference's deviation, whatever scale and offsets a reward
    has.
    """

    @pytest.mark.parametrize(
        "shaping", [Shaping(1.0), Shaping(None, 0.7), Shaping(1.5, 0.5), Shaping(whiten=True)]
    )
    def test_advantages_scale_with_the_reward(self, shaping):
        found = []
        for scale, offset in ((1.0, 0.0), (8.0, 3.0)):
            reward = Function(
                lambda samples, scale=scale, offset=offset: scale * worth(samples) + offset
            )
            module = PPO(Letters(steps=3), reward, shaping=shaping, kl_weight=0.0)
            found.append(
                module.collect([""] * 8, torch.arange(8)).rollout.advantages
                / (1 if shaping.whiten else scale)
            )
        assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
        plain = (
            PPO(Letters(steps=3), VALUE, kl_weight=0.0)
            .collect([""] * 8, torch.arange(8))
            .rollout.advantages
        )
        assert not torch.allclose(found[0], plain, atol=1e-2)

    def test_long_outputs_lose(self):
        module = PPO(Letters(steps=3), VALUE, shaping=Shaping(length_penalty=2.0), kl_weight=0.0)
        experience = module.collect([""] * 8, torch.arange(8))
        figures, lengths = module.reference_figures, experience.samples.facts["length"].float()
        wanted = experience.rollout.scores - 2 * figures.deviation * lengths / figures.length
        assert_close(experience.rollout.advantages, leave_one_out(wanted.view(8, 4)).view(-1, 1))

    def test_a_reward_without_a_deviation_and_outputs_without_a_length_are_refused(self):
        constant = Function(lambda samples: torch.ones(len(samples)))
        module = PPO(Letters(), constant, shaping=Shaping(clip=1.0))
        with pytest.raises(
            InputError, match=r"its 16 samples score alike \(1\) within each prompt"
        ):
            module.collect([""] * 4, torch.arange(4))
        module = PPO(image_policy()[0], Brightness(), shaping=Shaping(length_penalty=1.0))
        with pytest.raises(InputError, match=r'the fact "length" of the samples; they have'):
            module.collect([""] * 2, torch.arange(2))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            lambda s: worth(s).index_fill(0, torch.tensor([6]), float("nan")),
            r"score of nan to sample 6 \(row \d\)",
        ),
        (
            lambda s: worth(s)[:, None],
            r"a tensor \[32\]; got a tensor \[32, 1\]|one score a sample",
        ),
        (lambda s: 0.0, r"got a float"),
    ],
)
def test_a_wrong_score_stops_the_run_and_changes_no_weight(scores, message):
    module = PPO(Letters(), Function(scores))
    before = weights(module)
    with pytest.raises(InputError, match=message):
        fit(module, max_epochs=1)
    assert torch.equal(weights(module), before)


def test_what_cannot_work_is_refused_at_once():
    image = image_policy()[0]
    for settings, message in (
        (
            {"policy": image, "advantage": "generalized"},
            "needs a policy with `value`; DiffusionPolicy has none. Take leave",
        ),
        (
            {"policy": image, "entropy_weight": 0.1},
            "entropy_weight=0.1 needs a policy with `entropy`",
        ),
        ({"policy": image, "kl": "k3"}, 'means over 64 dimensions. Take "reward" or "k2"'),
        (
            {"policy": Letters(), "samples_per_prompt": 1},
            "got samples_per_prompt=1. Take at least 2",
        ),
        (
            {"policy": Letters(), "kl_target": 1.0, "kl_weight": 0.0},
            "both have to be above 0; got 1 and 0",
        ),
    ):
        with pytest.raises(InputError, match=message):
            PPO(reward=Brightness(), **settings)


def test_the_reward_is_neither_trained_nor_changed():
    class Scale(Reward):
        def __init__(self):
            super().__init__()
            self.scale, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.9)

        def forward(self, samples):
            return self.dropout(self.scale * worth(samples))

    reward = Scale()
    module = PPO(Letters(), reward, optimizer=partial(Adam, lr=0.1))
    fit(module, max_epochs=2)
    assert reward.scale == 1
    assert reward.training
    assert reward.dropout.training
    assert len(module.optimizers().param_groups[0]["params"]) == len(
        list(module.policy.parameters())
    )


def test_a_config_can_name_it_all():
    """As rounds have it: a factory of loops from a policy and a reward."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loop", type=Callable[[Policy, Reward], pl.LightningModule])
    adam = {"class_path": "torch.optim.Adam"}
    given = {
        "advantage": "group_normalized",
        "shaping": {"clip": 3.0},
        "optimizer": adam,
        "kl_target": 6.0,
    }
    for settings in (given, {"advantage": "rewardlab.advantages.group_normalized"}):
        loop = {"class_path": "rewardlab.training.ppo.PPO", "init_args": settings}
        make = parser.instantiate(parser.parse_object({"loop": loop})).loop
        module = make(Letters(), VALUE)
        assert module.advantage in ("group_normalized", group_normalized)
        assert module.shaping == (Shaping(clip=3.0) if settings is given else Shaping())


def test_rounds_can_feed_it_with_mined_pairs_and_files_with_prompts(tmp_path):
    pairs = PreferencePairs(Samples(["x", "y"], ["1", "2"]), Samples(["x", "y"], ["3", "4"]))
    assert PPO.examples(pairs).prompts == ["x", "y"]
    assert PPO.examples(pairs).to("meta").rows.tolist() == [0, 1]
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    data = Prompts(tmp_path / "prompts.txt", batch_size=1)
    data.setup("fit")
    assert sorted((batch.prompts[0], batch.rows.item()) for batch in data.train_dataloader()) == [
        ("a cat", 0),
        ("a dog", 1),
    ]
    with pytest.raises(InputError, match="empty list"):
        Prompts([]).setup("fit")
    assert numbered(["p"]).rows.tolist() == [0]


@pytest.mark.nightly
def test_two_processes_take_the_steps_of_one_with_their_joint_batch(tmp_path):
    """In processes of their own, as autograd cannot be forked once it ran."""
    for devices in (1, 2):
        subprocess.run(
            [sys.executable, __file__, str(devices), str(tmp_path / f"{devices}.pt")],
            check=True,
            timeout=200,
        )
    one, two = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    assert_close(two["weights"], one["weights"], atol=1e-6, rtol=0)
    assert two["kl_weight"] == pytest.approx(one["kl_weight"], rel=1e-6)
    assert two["score"] == pytest.approx(one["score"], rel=1e-5)
    assert (
        one["weights"] - torch.cat([p.detach().flatten() for p in Letters(steps=4).parameters()])
    ).abs().max() > 0.1


class Keep(pl.Callback):
    """Write what a fit ended with, in its own process."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            score = trainer.callback_metrics["score"].item()
            torch.save(
                {"weights": weights(pl_module), "kl_weight": pl_module.kl_weight, "score": score},
                self.path,
            )


def _joint(devices, path):
    """One process takes 8 prompts a step; two take 4 each, of the same order."""
    shaping = Shaping(clip=2.0, whiten=True)
    settings = {
        "micro_batch": 3,
        "kl_target": 0.5,
        "kl_weight": 0.1,
        "shaping": shaping,
        "optimizer": partial(SGD, lr=0.3),
    }
    module = PPO(Letters(steps=4), VALUE, "generalized", epochs=2, entropy_weight=0.05, **settings)
    strategy = "ddp_fork" if devices > 1 else "auto"
    limits = {"devices": devices, "strategy": strategy, "max_epochs": 3}
    fit(module, prompts=16, batch_size=8 // devices, callbacks=[Keep(path)], **limits)


if __name__ == "__main__":
    _joint(int(sys.argv[1]), Path(sys.argv[2]))


def test_a_critic_that_the_policy_was_made_without_is_missed_at_once():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match=r"needs a critic.*value_head=True"):
        PPO(policy, VALUE, advantage="generalized")
