"""The conformance class of policies; see `rewardlab.testing.conformance` for its use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rewardlab.conversations import Prompt
from rewardlab.policies.base import At, Policy, RowLosses, Steps
from rewardlab.seeds import row_seeds
from rewardlab.testing.checks import check_column
from rewardlab.types import Trajectory

__all__ = ["PolicyConformance"]


class PolicyConformance:
    """The laws of every `Policy`. A subclass gives `make`, and `prompts` that suit it.

    A trajectory decodes to samples of its prompts. `log_prob` is a finite float32 per step, and its
    gradient reaches the trained weights. Equal seeds give equal trajectories, and a row does not
    depend on its batch. `apply_loss` and `apply_row_loss` are the same loss of `log_prob`, in value
    and gradients, however a leaf walks over the steps. A reference stays as the policy was. A saved
    policy scores the same once it is loaded.

    Attributes:
        prompts: at least three strings.
        noise: names of a trajectory's tensors that hold only what was drawn; they are equal to the
            bit in any batch.
        atol: by how much a row may differ between batches.
        log_prob_atol: the same for log-probabilities.
    """

    prompts: Sequence[Prompt] = ("a cat", "a dog", "two birds")
    noise: Sequence[str] = ()
    atol: float = 1e-4
    log_prob_atol: float = 1e-4

    def make(self) -> Policy:
        """Return a fresh policy with the same weights every time, some of them trainable."""
        raise NotImplementedError

    def sampled(self) -> tuple[Policy, Trajectory]:
        """Return the policy in eval mode, and a trajectory of its own."""
        policy = self.make().eval()
        with torch.no_grad():
            trajectory = self._sample(policy, seed=3)
        return policy, trajectory

    def test_trajectories_decode_to_samples_of_their_prompts(self) -> None:
        policy, trajectory = self.sampled()
        prompts = list(self.prompts)
        assert list(policy.decode(trajectory).prompts) == prompts
        generated = policy.generate(prompts, seeds=self._seeds(3))
        assert list(generated.prompts) == prompts

    def test_images_are_finite_and_between_0_and_1(self) -> None:
        policy, trajectory = self.sampled()
        outputs = policy.decode(trajectory).outputs
        if isinstance(outputs, Tensor):
            kind = outputs.dtype
            assert kind == torch.float32, f"images have to be float32; got {kind}"
            in_range = (outputs >= 0) & (outputs <= 1)
            assert in_range.all(), "images have to be finite and in [0, 1]"

    def test_log_prob_is_a_finite_number_a_step(self) -> None:
        policy, trajectory = self.sampled()
        mask = trajectory.mask
        with torch.no_grad():
            log_prob = policy.log_prob(trajectory)
        assert mask.dtype == torch.bool, f"the mask has to be bool; got {mask.dtype}"
        assert mask.any(1).all(), "every trajectory needs a step that counts"
        kind = log_prob.dtype
        assert kind == torch.float32, f"log-probabilities have to be float32; got {kind}"
        masked = log_prob.where(mask, 0)
        check_column(masked, mask.shape)

    def test_equal_seeds_give_equal_trajectories_and_other_seeds_others(self) -> None:
        policy, trajectory = self.sampled()
        state = torch.get_rng_state()
        again = self._sample(policy, seed=3)
        same_state = torch.equal(torch.get_rng_state(), state)
        assert same_state, "sampling draws from torch's global generator"
        _check_same(again, trajectory, atol=0)
        other = self._sample(policy, seed=4)
        assert not _equal(other.tensors, trajectory.tensors), "seeds do nothing"

    def test_a_row_is_the_same_in_another_batch(self) -> None:
        policy, whole = self.sampled()
        rows = [2, 0]
        prompts = [self.prompts[row] for row in rows]
        seeds = self._seeds(3)[rows]
        part = policy.sample(prompts, seeds=seeds)
        expected = whole[rows]
        _check_same(part, expected, self.atol)
        expected = _shortened(expected, part.mask.shape[1])
        for name in self.noise:
            noise = part.tensors[name]
            same = torch.equal(noise, expected.tensors[name])
            assert same, f"the noise {name} depends on the batch"
        with torch.no_grad():
            log_prob = _masked_log_prob(policy, whole)
            alone = _masked_log_prob(policy, whole[rows])
        self._check_close(alone, log_prob[rows])

    def test_encoding_with_equal_seeds_is_the_same(self) -> None:
        policy, trajectory = self.sampled()
        samples = policy.decode(trajectory)
        seeds = self._seeds(5)
        with torch.no_grad():
            encoded = policy.encode(samples, seeds=seeds)
            again = policy.encode(samples, seeds=seeds)
            log_prob = _masked_log_prob(policy, encoded)
        _check_same(again, encoded, atol=0)
        assert list(encoded.prompts) == list(self.prompts)
        check_column(log_prob, encoded.mask.shape)

    def test_scoring_draws_nothing(self) -> None:
        """Ratios of a policy to itself are 1, and the reference equals the policy at first."""
        policy, trajectory = self.sampled()
        with torch.no_grad():
            log_prob = _masked_log_prob(policy, trajectory)
            reference = _masked_log_prob(policy.reference(), trajectory)
            again = _masked_log_prob(policy, trajectory)
        assert torch.equal(again, log_prob), "log_prob draws at random"
        self._check_close(reference, log_prob)

    def test_gradients_reach_the_parameters(self) -> None:
        policy, trajectory = self.sampled()
        policy.train()
        total = _totals(policy, trajectory).sum()
        gradients = torch.autograd.grad(total, _trained(policy), allow_unused=True)
        present = [gradient for gradient in gradients if gradient is not None]
        reached = [gradient for gradient in present if gradient.abs().sum() > 0]
        assert reached, "no trainable parameter got a gradient from log_prob"

    def test_applying_a_loss_is_the_loss_of_log_prob(self) -> None:
        """A leaf may cut the steps into parts and take gradients early: sum and gradients stay."""
        policy, trajectory = self.sampled()
        policy.train()
        mask = trajectory.mask
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(mask.shape, generator=generator)
        weights = weights.to(mask.device) * mask

        def weighted_squares(steps: Steps, at: At) -> Tensor:
            squares = steps.log_prob.square()
            return (at(weights) * squares).sum()

        squares = _masked_log_prob(policy, trajectory).square()
        plain = (weights * squares).sum()
        applied = policy.apply_loss(trajectory, weighted_squares)
        self._check_same_loss(policy, applied, plain)

    def test_a_loss_of_whole_outputs_sees_them_whole(self) -> None:
        """Rows of one group come together: here the square of each pair's total."""
        policy, trajectory = self.sampled()
        mask = trajectory.mask
        pair = _row_numbers(trajectory) // 2

        def squares(steps: Steps, at: At) -> Tensor:
            log_probs = at(mask) * steps.log_prob
            owners = at(pair[:, None]).expand_as(log_probs)
            return _squared_sums(log_probs.flatten(), owners.flatten())

        with torch.no_grad():
            applied = policy.apply_loss(trajectory, squares, groups=pair)
            totals = _totals(policy, trajectory)
        self._check_close(applied, _squared_sums(totals, pair))

    def test_applying_a_loss_of_rows_is_the_loss_of_summed_log_prob(self) -> None:
        """Each row's total comes once, with its number; the totals come back."""
        policy, trajectory = self.sampled()
        policy.train()
        numbers = _row_numbers(trajectory)
        targets = numbers.float() - 1
        seen = []

        def distances(totals: Tensor, rows: Tensor) -> Tensor:
            seen.append(rows)
            differences = totals - targets[rows]
            return differences.square().sum()

        plain_totals = _totals(policy, trajectory)
        plain = (plain_totals - targets).square().sum()
        applied = policy.apply_row_loss(trajectory, distances)
        rows = torch.cat(seen).sort().values
        assert torch.equal(rows, numbers), f"every row comes once; got {rows.tolist()}"
        self._check_row_losses(policy, applied, plain, plain_totals)

    def test_applying_a_loss_of_groups_is_the_loss_of_summed_log_prob(self) -> None:
        """Rows of one group come together, in order: here the square of each group's total."""
        policy, trajectory = self.sampled()
        policy.train()
        groups = _row_numbers(trajectory) % 2

        def squares(totals: Tensor, rows: Tensor) -> Tensor:
            in_order = rows.diff() > 0
            assert in_order.all(), f"rows come in rising order; got {rows.tolist()}"
            return _squared_sums(totals, groups[rows])

        plain_totals = _totals(policy, trajectory)
        plain = _squared_sums(plain_totals, groups)
        applied = policy.apply_row_loss(trajectory, squares, groups=groups)
        self._check_row_losses(policy, applied, plain, plain_totals)

    def test_the_reference_stays_as_the_policy_was(self) -> None:
        policy, trajectory = self.sampled()
        reference = policy.reference()
        shared = {id(parameter) for parameter in policy.parameters()}
        trained = {id(parameter) for parameter in _trained(reference)}
        count = len(trained - shared)
        assert count == 0, f"the reference has {count} trainable tensors of its own"
        before = policy.log_prob(trajectory)
        reference_before = reference.log_prob(trajectory).detach()
        self._check_close(reference_before, before.detach())
        loss = before.where(trajectory.mask, 0).mean()
        _step(policy, loss)
        with torch.no_grad():
            reference_after = reference.log_prob(trajectory)
            after = policy.log_prob(trajectory)
        self._check_close(reference_after, reference_before)
        unchanged = torch.allclose(after, reference_before, atol=1e-6)
        assert not unchanged, "an optimizer step changed nothing"

    def test_it_is_the_same_after_saving_and_loading(self, tmp_path: Path) -> None:
        policy, trajectory = self.sampled()
        folder = tmp_path / "policy"
        policy.save_pretrained(folder)
        kind: Any = type(policy)
        loaded = kind.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = policy.log_prob(trajectory)
            log_prob = loaded.log_prob(trajectory)
        self._check_close(log_prob, expected)

    def _seeds(self, seed: int) -> Tensor:
        return row_seeds(seed, len(self.prompts))

    def _sample(self, policy: Policy, seed: int) -> Trajectory:
        prompts = list(self.prompts)
        return policy.sample(prompts, seeds=self._seeds(seed))

    def _check_close(self, log_prob: Tensor, expected: Tensor) -> None:
        assert_close(log_prob, expected, atol=self.log_prob_atol, rtol=1e-4)

    def _check_row_losses(
        self, policy: Policy, applied: RowLosses, plain: Tensor, plain_totals: Tensor
    ) -> None:
        """Compare a loss of rows with the plain one, and the totals that come back with it."""
        assert not applied.totals.requires_grad, "the totals that come back have no gradient"
        self._check_close(applied.totals, plain_totals.detach())
        self._check_same_loss(policy, applied.loss, plain)

    def _check_same_loss(self, policy: Policy, applied: Tensor, plain: Tensor) -> None:
        """Compare two losses, and their gradients by every trained parameter."""
        self._check_close(applied, plain)
        trained = _trained(policy)
        gradients = torch.autograd.grad(applied, trained, allow_unused=True)
        expected = torch.autograd.grad(plain, trained, allow_unused=True)
        for own, other in zip(gradients, expected, strict=True):
            assert (own is None) == (other is None), "a parameter has a gradient in one way only"
            if own is not None and other is not None:
                scale = max(1.0, other.abs().max().item())
                assert_close(own, other, atol=1e-5 * scale, rtol=1e-3)


def _masked_log_prob(policy: Policy, trajectory: Trajectory) -> Tensor:
    return policy.log_prob(trajectory).where(trajectory.mask, 0)


def _totals(policy: Policy, trajectory: Trajectory) -> Tensor:
    return _masked_log_prob(policy, trajectory).sum(1)


def _row_numbers(trajectory: Trajectory) -> Tensor:
    return torch.arange(len(trajectory), device=trajectory.mask.device)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _squared_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Return the sum over groups of the square of the sum of a group's values."""
    zeros = values.new_zeros(int(groups.max()) + 1)
    sums = zeros.index_add(0, groups, values)
    return sums.square().sum()


def _check_same(one: Trajectory, other: Trajectory, atol: float) -> None:
    """Compare two trajectories; one may have more steps if none of the further ones counts."""
    lengths = [trajectory.mask.shape[1] for trajectory in (one, other)]
    steps = min(lengths)
    one = _shortened(one, steps)
    other = _shortened(other, steps)
    assert torch.equal(one.mask, other.mask), "the masks differ"
    assert one.tensors.keys() == other.tensors.keys(), "the tensors' names differ"
    for name, tensor in one.tensors.items():
        assert_close(tensor, other.tensors[name], atol=atol, rtol=0, equal_nan=True)


def _shortened(trajectory: Trajectory, steps: int) -> Trajectory:
    """Return a trajectory without the steps after `steps`, none of which may count."""
    mask = trajectory.mask
    total = mask.shape[1]
    if total == steps:
        return trajectory
    assert not mask[:, steps:].any(), "the masks differ in length"
    tensors = {}
    for name, tensor in trajectory.tensors.items():
        has_steps = tensor.dim() > 1 and tensor.shape[1] == total
        if has_steps:
            tensor = tensor[:, :steps]
        tensors[name] = tensor
    return replace(trajectory, tensors=tensors, mask=mask[:, :steps])


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two trajectories have equal tensors, to the bit."""
    equal = [torch.equal(tensor, other[name]) for name, tensor in one.items()]
    return all(equal)


def _step(policy: Policy, loss: Tensor) -> None:
    """Move the policy's trainable parameters down the gradient of `loss`, far enough to show."""
    optimizer = torch.optim.Adam(_trained(policy), lr=1e-2)
    torch.autograd.backward(loss)
    optimizer.step()
