"""Conformance classes that every policy and reward can be tested with, and tiny models from a seed.

Subclass one in a test file, give it what it asks for, and pytest runs its checks::

    class TestMine(RewardConformance):
        def make(self):
            return MyReward()

        def samples(self):
            return Samples(["a", "b", "c"], torch.rand(3, 3, 8, 8))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.policies.base import At, Policy, Steps
from rewardlab.rewards.abilities import Saved, frozen_features
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import load_as
from rewardlab.seeds import row_seeds
from rewardlab.types import Samples, Trajectory

__all__ = ["PolicyConformance", "RewardConformance"]


class RewardConformance:
    """The laws of every `Reward`. A subclass gives `make` and `samples`.

    `forward` is the score, float32 [B]; `members` are columns, float32 [B, M]; neither depends on
    the batch nor draws from the global generator. A reward with `mean_of_members` scores with the
    mean of its members; any other may score as it likes. A reward with frozen features gives its
    members from them. A saved reward scores the same once it is loaded, or refuses to be saved
    before anything is written.

    Attributes:
        atol: by how much a row's score may differ between batches.
    """

    atol: float = 1e-5

    def make(self) -> Reward:
        """Return the reward, the same one every time."""
        raise NotImplementedError

    def samples(self) -> Samples:
        """Return at least three different samples, the same ones every time."""
        raise NotImplementedError

    def ready(self) -> tuple[Reward, Samples]:
        """Return the reward in eval mode, and the samples."""
        return self.make().eval(), self.samples()

    def test_one_finite_score_a_sample(self) -> None:
        reward, samples = self.ready()
        _check_column(reward(samples), (len(samples),))

    def test_members_are_columns(self) -> None:
        reward, samples = self.ready()
        members = reward.members(samples)
        assert members.dim() == 2, f"members have to be [B, M]; got {list(members.shape)}"
        count = members.shape[1]
        _check_column(members, (len(samples), count))
        alone = reward.members(samples[:1])
        assert alone.shape[1] == count, "the number of members changes with the batch"

    def test_the_score_is_the_mean_of_the_members_where_that_is_promised(self) -> None:
        reward, samples = self.ready()
        if reward.mean_of_members:
            mean = reward.members(samples).mean(1)
            self._check_close(reward(samples), mean)

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        reward, samples = self.ready()
        for score in (reward, reward.members):
            whole = score(samples)
            rows = [score(samples[[row]]) for row in range(len(samples))]
            self._check_close(torch.cat(rows), whole)
            self._check_close(score(samples[[2, 0]]), whole[[2, 0]])

    def test_equal_input_gives_equal_scores_and_global_randomness_is_left_alone(self) -> None:
        reward, samples = self.ready()
        state = torch.get_rng_state()
        assert_close(reward(samples), reward(samples), atol=0, rtol=0)
        same_state = torch.equal(torch.get_rng_state(), state)
        assert same_state, "the reward draws from torch's global generator"

    def test_features_then_score_features_are_the_members(self) -> None:
        reward, samples = self.ready()
        frozen = frozen_features(reward)
        if frozen is not None:
            scores = frozen.score_features(frozen.features(samples))
            self._check_close(scores, reward.members(samples))

    def test_it_is_the_same_after_saving_and_loading(self, tmp_path: Path) -> None:
        reward, samples = self.ready()
        if not isinstance(reward, Saved):
            return
        folder = tmp_path / "reward"
        if not _can_be_saved(reward):
            _check_refuses_to_be_saved(reward, folder)
            return
        reward.save_pretrained(folder)
        loaded = load_as(type(reward), folder, trust=True).eval()
        self._check_close(loaded(samples), reward(samples))
        self._check_close(loaded.members(samples), reward.members(samples))

    def _check_close(self, scores: Tensor, expected: Tensor) -> None:
        assert_close(scores, expected, atol=self.atol, rtol=1e-4)


def _can_be_saved(reward: Saved) -> bool:
    try:
        reward.check_savable()
    except InputError:
        return False
    return True


def _check_refuses_to_be_saved(reward: Saved, folder: Path) -> None:
    try:
        reward.save_pretrained(folder)
    except InputError:
        assert not any(folder.parent.iterdir()), "a reward that cannot be saved wrote something"
        return
    raise AssertionError("check_savable refuses the reward, and save_pretrained does not")


class PolicyConformance:
    """What holds for every `Policy`. A subclass gives `make`, and `prompts` if strings like these
    do not suit it.

    Attributes:
        prompts: at least three.
        noise: names of a trajectory's tensors that hold only what was drawn, so that they are equal
            to the bit in any batch.
        atol: by how much a row may differ between batches; `log_prob_atol` the same for
            log-probabilities.
    """

    prompts: Sequence[str] = ("a cat", "a dog", "two birds")
    noise: Sequence[str] = ()
    atol: float = 1e-4
    log_prob_atol: float = 1e-4

    def make(self) -> Policy:
        """Return a fresh policy with the same weights every time, some of them trainable."""
        raise NotImplementedError

    def sampled(self) -> tuple[Policy, Trajectory]:
        policy = self.make().eval()
        with torch.no_grad():
            return policy, policy.sample(list(self.prompts), seeds=row_seeds(3, len(self.prompts)))

    def test_trajectories_decode_to_samples_of_their_prompts(self) -> None:
        policy, trajectory = self.sampled()
        assert list(policy.decode(trajectory).prompts) == list(self.prompts)
        assert list(
            policy.generate(list(self.prompts), seeds=row_seeds(3, len(self.prompts))).prompts
        ) == list(self.prompts)

    def test_images_are_finite_and_between_0_and_1(self) -> None:
        policy, trajectory = self.sampled()
        outputs = policy.decode(trajectory).outputs
        if isinstance(outputs, Tensor):
            assert outputs.dtype == torch.float32, f"images have to be float32; got {outputs.dtype}"
            assert ((outputs >= 0) & (outputs <= 1)).all(), "images have to be finite and in [0, 1]"

    def test_log_prob_is_a_finite_number_a_step(self) -> None:
        policy, trajectory = self.sampled()
        with torch.no_grad():
            log_prob = policy.log_prob(trajectory)
        assert trajectory.mask.dtype == torch.bool, (
            f"the mask has to be bool; got {trajectory.mask.dtype}"
        )
        assert trajectory.mask.any(1).all(), "every trajectory needs a step that counts"
        _check_column(log_prob.where(trajectory.mask, 0), tuple(trajectory.mask.shape))
        assert log_prob.dtype == torch.float32, (
            f"log-probabilities have to be float32; got {log_prob.dtype}"
        )

    def test_equal_seeds_give_equal_trajectories_and_other_seeds_others(self) -> None:
        policy, trajectory = self.sampled()
        state = torch.get_rng_state()
        again = policy.sample(list(self.prompts), seeds=row_seeds(3, len(self.prompts)))
        assert torch.equal(torch.get_rng_state(), state), (
            "sampling draws from torch's global generator"
        )
        _check_same(again, trajectory, 0)
        other = policy.sample(list(self.prompts), seeds=row_seeds(4, len(self.prompts)))
        assert any(
            not _equal(other.tensors[name], tensor) for name, tensor in trajectory.tensors.items()
        ), "seeds do nothing"

    def test_a_row_is_the_same_in_another_batch(self) -> None:
        policy, trajectory = self.sampled()
        rows = [2, 0]
        part = policy.sample(
            [self.prompts[row] for row in rows], seeds=row_seeds(3, len(self.prompts))[rows]
        )
        _check_same(part, trajectory[rows], self.atol)
        for name in self.noise:
            steps = part.mask.shape[1]
            assert torch.equal(part.tensors[name], _cut(trajectory[rows], name, steps)), (
                f"the noise {name} depends on the batch"
            )
        with torch.no_grad():
            whole = policy.log_prob(trajectory)[rows].where(trajectory.mask[rows], 0)
            alone = policy.log_prob(trajectory[rows]).where(trajectory.mask[rows], 0)
        assert_close(alone, whole, atol=self.log_prob_atol, rtol=1e-4)

    def test_encoding_with_equal_seeds_is_the_same(self) -> None:
        policy, trajectory = self.sampled()
        samples = policy.decode(trajectory)
        seeds = row_seeds(5, len(self.prompts))
        with torch.no_grad():
            encoded = policy.encode(samples, seeds=seeds)
            _check_same(policy.encode(samples, seeds=seeds), encoded, 0)
            log_prob = policy.log_prob(encoded)
        assert list(encoded.prompts) == list(self.prompts)
        _check_column(log_prob.where(encoded.mask, 0), tuple(encoded.mask.shape))

    def test_gradients_reach_the_parameters(self) -> None:
        policy, trajectory = self.sampled()
        policy.train()
        policy.log_prob(trajectory).where(trajectory.mask, 0).sum().backward()
        reached = [
            p
            for p in policy.parameters()
            if p.requires_grad and p.grad is not None and p.grad.abs().sum() > 0
        ]
        assert reached, "no trainable parameter got a gradient from log_prob"

    def test_applying_a_loss_is_the_loss_of_log_prob(self) -> None:
        """A leaf may cut the steps into parts and take gradients early, but sum and gradients are
        the plain ones'.
        """
        policy, trajectory = self.sampled()
        policy.train()
        weights = torch.rand(trajectory.mask.shape, generator=torch.Generator().manual_seed(0)).to(
            trajectory.mask.device
        )
        weights = weights * trajectory.mask
        plain = (weights * policy.log_prob(trajectory).where(trajectory.mask, 0).square()).sum()
        applied = policy.apply_loss(
            trajectory, lambda steps, at: (at(weights) * steps.log_prob.square()).sum()
        )
        assert_close(applied, plain, atol=self.log_prob_atol, rtol=1e-4)
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        found = [torch.autograd.grad(loss, trained, allow_unused=True) for loss in (applied, plain)]
        for own, other in zip(*found, strict=True):
            assert (own is None) == (other is None), "a parameter has a gradient in one way only"
            if own is not None and other is not None:
                assert_close(own, other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=1e-3)

    def test_a_loss_of_whole_outputs_sees_them_whole(self) -> None:
        """Rows of one group come together: here the square of each pair's total, which no part of
        it tells.
        """
        policy, trajectory = self.sampled()
        count = len(trajectory.mask)
        device = trajectory.mask.device
        pair = torch.arange(count, device=device) // 2

        def squares(steps: Steps, at: At) -> Tensor:
            owner = at(pair[:, None]).expand_as(steps.log_prob).flatten()
            weight = at(trajectory.mask).flatten()
            return (
                steps.log_prob.new_zeros(count)
                .index_add(0, owner, weight * steps.log_prob.flatten())
                .square()
                .sum()
            )

        with torch.no_grad():
            applied = policy.apply_loss(trajectory, squares, groups=pair)
            totals = policy.log_prob(trajectory).where(trajectory.mask, 0).sum(1)
        expected = totals.new_zeros(count).index_add(0, pair, totals).square().sum()
        assert_close(applied, expected, atol=self.log_prob_atol, rtol=1e-4)

    def test_the_reference_stays_as_the_policy_was(self) -> None:
        policy, trajectory = self.sampled()
        reference = policy.reference()
        own = {id(parameter) for parameter in policy.parameters()}
        trainable = [p for p in reference.parameters() if p.requires_grad and id(p) not in own]
        assert not trainable, f"the reference has {len(trainable)} trainable tensors of its own"
        before = policy.log_prob(trajectory)
        kept = reference.log_prob(trajectory).detach()
        assert_close(kept, before.detach(), atol=self.log_prob_atol, rtol=1e-4)
        _step(policy, before.where(trajectory.mask, 0).mean())
        with torch.no_grad():
            assert_close(reference.log_prob(trajectory), kept, atol=self.log_prob_atol, rtol=1e-4)
            assert not torch.allclose(policy.log_prob(trajectory), kept, atol=1e-6), (
                "an optimiser step changed nothing"
            )

    def test_it_is_the_same_after_saving_and_loading(self, tmp_path: Path) -> None:
        policy, trajectory = self.sampled()
        policy.save_pretrained(tmp_path / "policy")
        again: Any = type(policy).from_pretrained(tmp_path / "policy")  # type: ignore[attr-defined]
        with torch.no_grad():
            loaded = again.eval().log_prob(trajectory)
            kept = policy.log_prob(trajectory)
        assert_close(loaded, kept, atol=self.log_prob_atol, rtol=1e-4)


def _check_column(column: Tensor, shape: tuple[int, ...]) -> None:
    assert column.shape == shape, f"expected the shape {list(shape)}; got {list(column.shape)}"
    assert column.dtype == torch.float32, f"expected float32; got {column.dtype}"
    assert torch.isfinite(column).all(), "expected finite numbers only"


def _check_same(one: Trajectory, other: Trajectory, atol: float) -> None:
    """Compare two trajectories; one may have fewer steps than the other if no more of them count."""
    steps = min(one.mask.shape[1], other.mask.shape[1])
    assert torch.equal(one.mask[:, :steps], other.mask[:, :steps]), "the masks differ"
    assert not one.mask[:, steps:].any(), "the masks differ in length"
    assert not other.mask[:, steps:].any(), "the masks differ in length"
    assert one.tensors.keys() == other.tensors.keys(), "the tensors' names differ"
    for name in one.tensors:
        assert_close(
            _cut(one, name, steps), _cut(other, name, steps), atol=atol, rtol=0, equal_nan=True
        )


def _cut(trajectory: Trajectory, name: str, steps: int) -> Tensor:
    """Return a tensor of a trajectory, without the steps beyond `steps` if its second dimension is
    theirs.
    """
    tensor = trajectory.tensors[name]
    own = trajectory.mask.shape[1]
    return (
        tensor[:, :steps]
        if own != steps and tensor.dim() > 1 and tensor.shape[1] == own
        else tensor
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _step(policy: Policy, loss: Tensor) -> None:
    """Move the policy's trainable parameters up the gradient of `loss`, far enough to show."""
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    loss.backward()
    optimiser.step()
