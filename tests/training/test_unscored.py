"""Loops whose reward leaves samples out: as if those had not been drawn."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD, AdamW
from torch.testing import assert_close

from rewardlab import DiffusionPolicy, Sampler
from rewardlab.advantages import decoupled, group_normalized, leave_one_out
from rewardlab.data.prompt_data import NumberedPrompts, Prompts
from rewardlab.errors import InputError
from rewardlab.evaluation import Readings
from rewardlab.policies import CausalLMPolicy
from rewardlab.rewards import Brightness, Ensemble, Function, Judged, Pessimistic, Reward, Weighted
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.unscored import partial_scores, tallies_of
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import ReFL, VelocityMatching
from rewardlab.training.base import HearsRollouts
from rewardlab.training.gated_kl import GatedKL
from rewardlab.training.ppo import PPO
from rewardlab.training.refl import mean_of_scored
from rewardlab.training.rollouts import present, weights_of, without_unscored
from rewardlab.training.shaping import Shaping, preference_as_reward, reference_figures, whitened
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

HERE = Path(__file__).parent
LETTERS = SimpleNamespace(**runpy.run_path(str(HERE / "letters.py")))
Letters = LETTERS.Letters
Refusing = runpy.run_path(str(HERE.with_name("refusing.py")))["Refusing"]
ROWS = torch.arange(6)
PROMPTS = ["a", "b"]


class Missing(Reward, Partial):
    """What another reward says, but nothing of outputs of which a test is true."""

    def __init__(self, reward, test, most_unscored=1.0):
        super().__init__()
        self.reward = reward
        self.test = test
        self.most_unscored = most_unscored

    def judge(self, samples):
        reasons = ["left out" if self.test(output) else "" for output in samples.outputs]
        return Judged(self.reward(samples), reasons)

    def forward(self, samples):
        return partial_scores(self, samples)


def lengths(samples):
    return torch.tensor([float(len(text)) for text in samples.outputs])


def codes(samples):
    return torch.tensor([float(sum(map(ord, text)) % 7) for text in samples.outputs])


def language_loop(reward, advantage, **options):
    """A loop over a tiny language model; what it says starts with one of many words."""
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
    options = {"samples_per_prompt": 6, "kl_weight": 0.0, "seed": 3, **options}
    return PPO(policy, reward, advantage, optimizer=lambda weights: SGD(weights, 0.5), **options)


def marked(text):
    return sum(map(ord, text)) % 3 == 0


def partial(most_unscored=1.0):
    return Missing(Function(codes), marked, most_unscored)


def after_one_step(loop, prompts=PROMPTS):
    trainer = pl.Trainer(max_epochs=1, **SILENT)
    trainer.fit(loop, Prompts(prompts, batch_size=len(prompts)))
    return trainer, {name: weight.clone() for name, weight in loop.policy.named_parameters()}


@pytest.mark.parametrize(
    ("advantage", "by_hand"),
    [("leave_one_out", leave_one_out), ("group_normalized", group_normalized)],
)
def test_the_advantages_of_a_run_are_those_without_the_samples_that_are_not_scored(
    advantage, by_hand
):
    """RLOO and GRPO on a tiny language model."""
    found = language_loop(partial(), advantage).collect(PROMPTS, torch.arange(2))
    whole = language_loop(Function(codes), advantage).collect(PROMPTS, torch.arange(2))
    scores = found.rollout.scores.view(2, 6)
    assert 0 < scores.isnan().sum() < 6
    for row in range(2):
        scored = ~scores[row].isnan()
        expected = by_hand(whole.rollout.scores.view(2, 6)[row][scored][None])[0]
        advantages = found.rollout.advantages.view(2, 6)[row]
        assert_close(advantages[scored], expected)
        assert (advantages[~scored] == 0).all()


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
@pytest.mark.parametrize("kl", ["reward", "k3"])
def test_a_step_is_that_of_the_scored_rows_alone(kl, normalization):
    """Loss, KL and entropy: the gradient equals that of the experience with the rows cut out."""
    options = {"kl": kl, "kl_weight": 0.1, "loss_normalization": normalization}
    reference = CausalLMPolicy(tiny_causal_lm(seed=1), tiny_tokenizer(), max_new_tokens=4)
    gradients = []
    for cut in (False, True):
        loop = language_loop(
            partial(), "leave_one_out", reference=reference, entropy_weight=0.1, **options
        )
        experience = loop.collect(PROMPTS, torch.arange(2))
        scored = ~experience.rollout.scores.isnan()
        learned = experience[scored] if cut else without_unscored(experience)
        weights = weights_of(learned, normalization)
        loss, _ = loop.loss(learned, weights)
        loss.backward()
        gradients.append([weight.grad for weight in loop.policy.parameters()])
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients[0] if gradient is not None)
    for masked, cut_out in zip(*gradients, strict=True):
        assert_close(masked, cut_out, atol=1e-6, rtol=1e-4)


def test_a_run_logs_its_share_and_means_over_what_is_scored():
    trainer, after = after_one_step(language_loop(partial(), "leave_one_out", micro_batch=5))
    collected = language_loop(partial(), "leave_one_out").collect(PROMPTS, torch.arange(2))
    scores = collected.rollout.scores
    metrics = trainer.callback_metrics
    assert_close(metrics["unscored"], scores.isnan().float().mean())
    assert_close(metrics["score"], present(scores).mean())
    assert_close(metrics["score_std"], present(scores).std(correction=0))
    assert all(weight.isfinite().all() for weight in after.values())


def test_a_run_with_nothing_scored_moves_nothing():
    reward = Missing(Function(codes), lambda text: True)
    before = dict(language_loop(reward, "leave_one_out").policy.named_parameters())
    trainer, after = after_one_step(language_loop(reward, "leave_one_out", epochs=2))
    for name, weight in after.items():
        assert_close(weight, before[name], atol=0, rtol=0)
    assert trainer.callback_metrics["unscored"].item() == 1.0


class Switched(pl.Callback):
    """Lets a reward refuse everything from the second rollout on, and keeps the weights."""

    def __init__(self):
        self.refuses = False
        self.weights = []
        self.states = []

    def on_train_batch_end(self, trainer, module, *_):
        self.refuses = True
        weights = [weight.detach().clone() for weight in module.policy.parameters()]
        self.weights.append(weights)
        [optimizer] = trainer.optimizers
        states = list(optimizer.state.values())
        self.states.append([float(state["step"]) for state in states])


def test_a_step_with_nothing_scored_leaves_weights_and_momentum_and_counts(caplog):
    switch = Switched()
    reward = Missing(Function(codes), lambda text: switch.refuses)
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
    loop = PPO(policy, reward, samples_per_prompt=6, kl_weight=0.0, optimizer=decaying, epochs=2)
    trainer = pl.Trainer(max_steps=6, callbacks=[switch], **SILENT)
    trainer.fit(loop, Prompts(PROMPTS * 3, batch_size=2))
    assert trainer.global_step == 6
    first, second, third = switch.weights
    assert any(not torch.equal(*pair) for pair in zip(first, policy_weights(), strict=True))
    for pair in (*zip(first, second, strict=True), *zip(first, third, strict=True)):
        assert_close(*pair, atol=0, rtol=0)
    assert switch.states[0] == switch.states[2]
    said = [line for line in caplog.messages if "No output of a PPO step is scored" in line]
    assert len(said) == 4


def decaying(weights):
    return AdamW(weights, 0.1, weight_decay=0.1)


def policy_weights():
    return list(tiny_causal_lm().parameters())


def test_a_resumed_run_counts_on_what_was_not_scored(tmp_path):
    loop = language_loop(partial(), "leave_one_out")
    trainer, _ = after_one_step(loop)
    tallies = tallies_of(loop.reward)
    assert 0 < tallies[""][1] < tallies[""][0] == 12
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = language_loop(partial(), "leave_one_out")
    again = pl.Trainer(max_epochs=1, **SILENT)
    again.fit(resumed, Prompts(PROMPTS, batch_size=2), ckpt_path=tmp_path / "last.ckpt")
    assert tallies_of(resumed.reward) == tallies
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["unscored"] = [{"": [100, 4]}, {"": [50, 2]}]
    other = language_loop(partial(), "leave_one_out")
    other.on_load_checkpoint(checkpoint)
    assert tallies_of(other.reward) == {"": [75, 3]}, "two processes' counts, taken on by one"


def test_the_table_of_samples_says_null(tmp_path):
    loop = language_loop(partial(), "leave_one_out", table_every=1)
    options = {**SILENT, "default_root_dir": tmp_path}
    pl.Trainer(max_epochs=1, **options).fit(loop, Prompts(PROMPTS, batch_size=2))
    (file,) = tmp_path.rglob("samples.jsonl")
    for line in file.read_text().splitlines():
        row = json.loads(line, parse_constant=pytest.fail)
        assert (row["score"] is None) == marked(row["output"])


def test_readings_are_over_what_is_scored():
    readings = Readings({"codes": partial()}, prompts=PROMPTS, samples=12)
    trainer = pl.Trainer(max_epochs=1, callbacks=[readings], **SILENT)
    trainer.fit(language_loop(partial(), "leave_one_out"), Prompts(PROMPTS, batch_size=2))
    assert all(row["codes"] == row["codes"] == row["reward"] for row in readings.rows)


def test_more_than_the_share_ends_the_run_with_a_sentence():
    loop = language_loop(partial(0.01), "leave_one_out")
    with pytest.raises(InputError, match=r"more than most_unscored=0\.01 allows .*left out"):
        after_one_step(loop)
    with pytest.raises(InputError, match="its most_unscored is 0"):
        after_one_step(language_loop(partial(0.0), "leave_one_out"))


def test_a_clean_run_is_equal_to_the_bit():
    reward = Missing(Function(codes), lambda text: False)
    _, one = after_one_step(language_loop(reward, "group_normalized", minibatch=4, epochs=2))
    plain = language_loop(Function(codes), "group_normalized", minibatch=4, epochs=2)
    _, other = after_one_step(plain)
    for name, weight in one.items():
        assert_close(weight, other[name], atol=0, rtol=0)


def test_a_critic_sees_no_rows_that_are_not_scored():
    reward = Missing(Function(lengths), lambda text: "b" in text)
    loop = PPO(Letters(steps=3), reward, "generalized", samples_per_prompt=4, kl_weight=0.0)
    experience = loop.collect([""] * 6, ROWS)
    missing = experience.rollout.scores.isnan()
    assert 0 < missing.sum() < 24
    assert (experience.rollout.advantages[missing] == 0).all()
    scored = experience[~missing]
    whole = PPO(Letters(steps=3), Function(lengths), "generalized", samples_per_prompt=4,
                kl_weight=0.0).collect([""] * 6, ROWS)  # fmt: skip
    assert_close(scored.rollout.advantages, whole.rollout.advantages[~missing])
    assert not without_unscored(experience).rollout.trajectory.mask[missing].any()


def test_decoupled_advantages_keep_what_some_reward_scored():
    def test(text):
        return "b" in text

    both = Weighted([Missing(Function(lengths), test), Function(LETTERS.worth)], [1.0, 1.0])
    loop = PPO(Letters(steps=3), both, "decoupled", samples_per_prompt=4, kl_weight=0.0)
    experience = loop.collect([""] * 6, ROWS)
    texts = experience.samples.outputs
    first = lengths(experience.samples)
    first[[test(text) for text in texts]] = torch.nan
    components = torch.stack([first, LETTERS.worth(experience.samples)], 1).view(6, 4, 2)
    assert first.isnan().any()
    assert not experience.rollout.scores.isnan().any()
    expected = decoupled(components, torch.ones(2)).view(-1, 1)
    assert_close(experience.rollout.advantages, expected, atol=1e-5, rtol=1e-5)
    neither = Weighted([Missing(Function(lengths), test)] * 2, [1.0, 1.0])
    loop = PPO(Letters(steps=3), neither, "decoupled", samples_per_prompt=4, kl_weight=0.0)
    experience = loop.collect([""] * 6, ROWS)
    assert_close(experience.rollout.scores.isnan(), first.isnan())
    assert (experience.rollout.advantages[first.isnan()] == 0).all()


NAN = torch.nan


def test_whitening_and_preferences_do_not_spread_what_is_missing():
    assert_close(whitened(torch.tensor([1.0, NAN, 3.0])), torch.tensor([-1.0, NAN, 1.0]),
                 equal_nan=True)  # fmt: skip
    references = torch.tensor([[0.0, NAN], [NAN, NAN], [1.0, 2.0]])
    found = preference_as_reward(torch.tensor([0.0, 1.0, NAN]), references, 1.0)
    assert_close(found, torch.tensor([0.5, NAN, NAN]), equal_nan=True)


def test_reference_figures_are_those_of_the_scored_references():
    samples = Samples([""] * 6, [""] * 6)
    scores = torch.tensor([1.0, 3.0, NAN, 5.0, NAN, NAN])
    figures = reference_figures(scores, samples, 3, Shaping(par=1.0))
    assert figures.mean == 3.0
    assert figures.deviation == pytest.approx(2**0.5)  # 1 and 3; what is alone says nothing


@pytest.mark.parametrize(
    "shaping", [Shaping(clip=1.0), Shaping(par=1.0), Shaping(whiten=True), Shaping(par=1.0, references="pooled")]
)  # fmt: skip
def test_shaped_rewards_of_what_is_scored_are_numbers(shaping):
    reward = Missing(Function(lengths), lambda text: "b" in text)
    loop = PPO(Letters(steps=3), reward, samples_per_prompt=4, shaping=shaping, kl_weight=0.0)
    experience = loop.collect([""] * 6, ROWS)
    assert 0 < experience.rollout.scores.isnan().sum() < 24
    assert experience.rollout.advantages.isfinite().all()
    assert experience.rollout.advantages.abs().max() > 0


def test_a_gated_kl_counts_where_reward_and_witnesses_score():
    witness = Missing(Function(lengths), lambda text: text.startswith("a"))
    gate = GatedKL([witness], share=1.0, highest=1.0)
    reward = Missing(Function(LETTERS.worth), lambda text: text.endswith("b"))
    loop = PPO(Letters(steps=3), reward, samples_per_prompt=4, kl_weight=0.1)
    samples = loop.collect([""] * 6, ROWS).samples
    scores = loop.collect([""] * 6, ROWS).rollout.scores
    loop.log_dict = lambda *_, **__: None  # there is no trainer
    shares = gate.kl_shares(loop, samples, scores)
    for share, text in zip(shares, samples.outputs, strict=True):
        if text.startswith("a") or text.endswith("b"):
            assert share == 0
    assert shares.sum() > 0


class Heard(pl.Callback, HearsRollouts):
    def __init__(self):
        self.outputs = []

    def on_rollout(self, module, samples):
        self.outputs.append(samples.outputs)


def bright():
    """The brightness of pictures, but of none above the middle."""
    return Missing(Brightness(), lambda image: image.mean() > 0.5)


def images_loop(kind, reward, **options):
    policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
    return kind(policy, reward, optimizer=lambda weights: SGD(weights, 0.1), **options)


def test_velocities_are_matched_on_what_is_scored():
    loop = images_loop(VelocityMatching, bright(), samples_per_prompt=4)
    batch = NumberedPrompts([""] * 4, torch.arange(4))
    drawn = loop.draw(batch)
    missing = drawn.scores.isnan()
    assert 0 < missing.sum() < 16
    draws = drawn.scored()
    assert len(draws.samples) == 16 - missing.sum()
    assert_close(draws.advantages, group_normalized(drawn.scores.view(-1, 4)).flatten()[~missing])
    assert drawn.share() == 1


@pytest.mark.parametrize("kind", [VelocityMatching, ReFL])
def test_callbacks_hear_of_scored_samples_alone_and_weights_stay_numbers(kind):
    heard = Heard()
    loop = images_loop(kind, bright())
    trainer = pl.Trainer(max_epochs=1, callbacks=[heard], **SILENT)
    trainer.fit(loop, Prompts([""] * 8, batch_size=8))
    assert 0 < trainer.callback_metrics["unscored"].item() < 1
    assert all(image.mean() <= 0.5 for images in heard.outputs for image in images)
    assert all(weight.isfinite().all() for weight in loop.policy.parameters())


@pytest.mark.parametrize("kind", [VelocityMatching, ReFL])
def test_loops_over_images_take_no_gradient_where_nothing_is_scored(kind):
    loop = images_loop(kind, Missing(Brightness(), lambda image: True))
    before = [weight.clone() for weight in loop.policy.parameters()]
    trainer = pl.Trainer(max_epochs=1, **SILENT)
    trainer.fit(loop, Prompts([""] * 2, batch_size=2))
    for weight, old in zip(loop.policy.parameters(), before, strict=True):
        assert_close(weight, old, atol=0, rtol=0)


def refl_gradient(reward, images):
    """The gradient of ReFL's mean score to the images."""
    leaf = images.clone().requires_grad_()
    scores = images_loop(ReFL, reward).scores(Samples([""] * len(images), leaf))
    mean_of_scored(scores).backward()
    return leaf.grad


def test_refl_gets_the_gradient_of_the_scored_images():
    """Also through a deviation over members, whose own gradient at a missing score is NaN."""
    dim = Function(lambda samples: 1 - samples.outputs.flatten(1).square().mean(1))
    reward = Pessimistic(Ensemble([bright(), dim]), "mean_minus_std", 1.0)
    whole = Pessimistic(Ensemble([Brightness(), dim]), "mean_minus_std", 1.0)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9
    images[1] = 0.9
    gradient = refl_gradient(reward, images)
    assert (gradient[1] == 0).all()
    scored = [0, 2, 3]
    assert_close(gradient[scored], refl_gradient(whole, images[scored]))
