"""PPO: exact where outputs can be enumerated, and what a step of it is."""

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LinearLR
from torch.testing import assert_close

from rewardlab.advantages import leave_one_out
from rewardlab.rewards.functions import Function
from rewardlab.training.ppo import PPO
from rewardlab.training.shaping import Shaping

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
VALUE = LETTERS.VALUE
fit = LETTERS.fit
weights = LETTERS.weights
worth = LETTERS.worth


class TestExactly:
    """One prompt, every output enumerable."""

    beta = 0.3

    def exact(self, policy, reference):
        """The gradient of E[score] - β·KL(π ‖ π_ref), from its definition."""
        log_prob = policy.chances()
        score = worth(policy.decode(policy.everything()))
        nats = log_prob - reference.chances()
        objective = (log_prob.exp() * (score - self.beta * nats)).sum()
        return torch.autograd.grad(objective, policy.next.weight)[0]

    def sampled(self, policy, **settings):
        """Estimates of it [N, ...] from N independent rollouts of 64 prompts."""
        module = PPO(policy, VALUE, kl_weight=self.beta, reference=Letters(seed=5), **settings)
        gradients = []
        for i in range(40):
            experience = module.collect([""] * 64, torch.arange(64 * i, 64 * (i + 1)))
            mask = experience.rollout.trajectory.mask
            loss, _ = module.loss(experience, mask / len(experience))
            gradients.append(-torch.autograd.grad(loss, policy.next.weight)[0])
        return torch.stack(gradients)

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
        exact = self.exact(policy, Letters(seed=5))
        sampled = self.sampled(policy, **settings)
        standard_error = sampled.std(0) / len(sampled) ** 0.5
        errors = (sampled.mean(0) - exact) / (standard_error + 1e-6)
        assert (errors.abs().max() < 4) == right, f"off by {errors.abs().max():.1f} standard errors"

    @pytest.mark.parametrize("kl", ["reward", "k2"])
    def test_it_ends_at_the_reference_tilted_by_the_reward(self, kl):
        """The largest E[s] - β·KL is at π_ref·exp(s/β)/Z."""
        policy = Letters("abcd", steps=1)
        reference = Letters("abcd", steps=1)
        score = worth(reference.decode(reference.everything())) / 2
        wanted = (reference.chances() + score).softmax(0)
        assert (wanted - reference.chances().exp()).abs().sum() / 2 > 0.15
        optimizer = partial(Adam, lr=0.1)
        schedule = partial(LinearLR, start_factor=1.0, end_factor=0.02, total_iters=60)
        halved = Function(lambda samples: worth(samples) / 2)
        module = PPO(policy, halved, kl=kl, kl_weight=1.0, optimizer=optimizer, schedule=schedule)
        fit(module, prompts=64, batch_size=64, max_epochs=60)
        assert (policy.chances().exp() - wanted).abs().sum() / 2 < 0.03


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


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
def test_accumulating_gradients_is_one_large_batch(normalization):
    found = []
    for micro_batch in (None, 5, 1):
        module = PPO(
            Letters(steps=4),
            VALUE,
            micro_batch=micro_batch,
            loss_normalization=normalization,
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
    """With clip 0 a step counts as clipped unless its ratio is 1, to the last bit.

    It counts on the side of its advantage.
    """
    module = PPO(kind(steps=4), VALUE, clip=0.0, kl_weight=0.0)
    assert fit(module, max_epochs=2).callback_metrics["clip_fraction"] == 0
    assert all(part.training for part in module.policy.modules())
    module = PPO(kind(steps=4), VALUE, clip=0.0, kl_weight=0.0, epochs=2)
    assert fit(module, max_epochs=1).callback_metrics["clip_fraction"] > 0.2


def test_a_sample_depends_on_its_row_epoch_and_place_only():
    module = PPO(Letters(steps=4), VALUE)
    whole = module.collect([""] * 3, torch.tensor([0, 1, 2])).samples
    part = module.collect([""], torch.tensor([2])).samples
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


@pytest.mark.parametrize(("lam", "clip"), [(0.95, 0.2), (1.0, 1e-4)])
def test_a_critic_learns_what_is_to_be_expected(lam, clip):
    """V(start) comes near E[s], and later values explain some of the score.

    The ratio's clip is not the critic's.
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


@pytest.mark.nightly
def test_two_processes_take_the_steps_of_one_with_their_joint_batch(tmp_path):
    """In processes of their own, as autograd cannot be forked once it ran."""
    for devices in (1, 2):
        subprocess.run(
            [sys.executable, __file__, str(devices), str(tmp_path / f"{devices}.pt")],
            check=True,
            timeout=200,
        )
    one = torch.load(tmp_path / "1.pt")
    two = torch.load(tmp_path / "2.pt")
    assert_close(two["weights"], one["weights"], atol=1e-6, rtol=0)
    assert two["kl_weight"] == pytest.approx(one["kl_weight"], rel=1e-6)
    assert two["score"] == pytest.approx(one["score"], rel=1e-5)
    start = torch.cat([weight.detach().flatten() for weight in Letters(steps=4).parameters()])
    assert (one["weights"] - start).abs().max() > 0.1


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
