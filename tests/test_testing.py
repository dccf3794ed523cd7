"""The conformance classes pass a policy that keeps the rules and fail one that breaks a rule."""

from functools import partial

import pytest
import torch
from torch import nn

from rewardlab.policies import Policy, frozen_copy
from rewardlab.policies.base import Steps
from rewardlab.seeds import generators, normal
from rewardlab.testing import PolicyConformance, tiny_stable_diffusion, tiny_tower
from rewardlab.types import Samples, Trajectory


class Walk(Policy):
    """Three Gaussian steps towards a learned point, ending in a 1x2x2 image."""

    dimensions = 4

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.full((4,), 0.3))

    def sample(self, prompts, *, seeds):
        noise = normal((3, 4), generators(seeds))
        point = self.point.detach()
        place = torch.zeros(len(prompts), 4)
        places = [place]
        for step in range(3):
            place = place + (point - place) / 2 + 0.1 * noise[:, step]
            places.append(place)
        mask = torch.ones(len(prompts), 3, dtype=torch.bool)
        return Trajectory(prompts, {"places": torch.stack(places, 1), "noise": noise}, mask)

    def encode(self, samples, *, seeds):
        noise = normal((1, 4), generators(seeds))
        places = torch.stack([0.1 * noise[:, 0], samples.outputs.flatten(1)], 1)
        mask = torch.ones(len(samples), 1, dtype=torch.bool)
        return Trajectory(samples.prompts, {"places": places, "noise": noise}, mask)

    def decode(self, trajectory):
        last = trajectory.tensors["places"][:, -1]
        return Samples(trajectory.prompts, last.view(-1, 1, 2, 2).clamp(0, 1))

    def log_prob(self, trajectory):
        places = trajectory.tensors["places"]
        before = places[:, :-1]
        after = places[:, 1:]
        mean = before + (self.point - before) / 2
        return -((after - mean) ** 2).mean(2) * 50

    def save_pretrained(self, folder):
        folder.mkdir()
        torch.save(self.point.detach(), folder / "point.pt")

    @classmethod
    def from_pretrained(cls, folder):
        policy = cls()
        policy.point.data.copy_(torch.load(folder / "point.pt"))
        return policy


class TestWalk(PolicyConformance):
    noise = ("noise",)

    def make(self):
        return Walk()


class Unseeded(Walk):
    def sample(self, prompts, *, seeds):
        return super().sample(prompts, seeds=torch.randint(99, (len(prompts),)))


class SeededByBatch(Walk):
    def sample(self, prompts, *, seeds):
        return super().sample(prompts, seeds=seeds[0] + torch.arange(len(prompts)))


class Deaf(Walk):
    def sample(self, prompts, *, seeds):
        return super().sample(prompts, seeds=torch.zeros_like(seeds))


class Double(Walk):
    def log_prob(self, trajectory):
        return super().log_prob(trajectory).double()


class Detached(Walk):
    def log_prob(self, trajectory):
        return super().log_prob(trajectory).detach() + 0 * self.point.sum()


class RowByRow(Walk):
    """Walks over single rows, whatever the groups."""

    def apply_loss(self, trajectory, loss, **options):
        log_prob = self.log_prob(trajectory)
        losses = []
        for row in range(len(trajectory)):
            losses.append(loss(Steps(log_prob[row]), partial(self.pick, row, trajectory)))
        return torch.stack(losses).sum()

    def pick(self, row, trajectory, table):
        return table.expand(trajectory.mask.shape)[row]


class FirstRowsOnly(Walk):
    """Leaves the last row out of a loss of rows."""

    def apply_row_loss(self, trajectory, loss, **options):
        return super().apply_row_loss(trajectory[:-1], loss)


class HalfGradient(Walk):
    """Gives a loss of rows the right value and half of its gradient."""

    def apply_row_loss(self, trajectory, loss, **options):
        applied = super().apply_row_loss(trajectory, loss, **options)
        half = applied.loss / 2
        return applied._replace(loss=half + half.detach())


class OwnReference(Walk):
    def reference(self):
        return self


class TrainableReference(Walk):
    def reference(self):
        return frozen_copy(self).requires_grad_(True)


class Forgetful(Walk):
    def save_pretrained(self, folder):
        folder.mkdir()
        torch.save(torch.zeros(4), folder / "point.pt")


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        (Unseeded, "test_equal_seeds_give_equal_trajectories_and_other_seeds_others"),
        (Deaf, "test_equal_seeds_give_equal_trajectories_and_other_seeds_others"),
        (SeededByBatch, "test_a_row_is_the_same_in_another_batch"),
        (Double, "test_log_prob_is_a_finite_number_a_step"),
        (Detached, "test_gradients_reach_the_parameters"),
        (RowByRow, "test_a_loss_of_whole_outputs_sees_them_whole"),
        (RowByRow, "test_applying_a_loss_of_groups_is_the_loss_of_summed_log_prob"),
        (FirstRowsOnly, "test_applying_a_loss_of_rows_is_the_loss_of_summed_log_prob"),
        (HalfGradient, "test_applying_a_loss_of_rows_is_the_loss_of_summed_log_prob"),
        (HalfGradient, "test_applying_a_loss_of_groups_is_the_loss_of_summed_log_prob"),
        (OwnReference, "test_the_reference_stays_as_the_policy_was"),
        (TrainableReference, "test_the_reference_stays_as_the_policy_was"),
        (Forgetful, "test_it_is_the_same_after_saving_and_loading"),
    ],
)
def test_each_check_can_fail(policy, check, tmp_path):
    conformance = PolicyConformance()
    conformance.make = policy
    arguments = (tmp_path,) if "saving" in check else ()
    with pytest.raises(AssertionError):
        getattr(conformance, check)(*arguments)


def test_a_walk_over_single_rows_is_a_loss_of_rows():
    conformance = PolicyConformance()
    conformance.make = RowByRow
    conformance.test_applying_a_loss_of_rows_is_the_loss_of_summed_log_prob()


def test_a_tiny_tower_comes_from_its_seed_alone():
    state = torch.get_rng_state()
    one = tiny_tower()
    again = tiny_tower()
    other = tiny_tower(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.visual.proj, again.visual.proj)
    assert not torch.equal(one.visual.proj, other.visual.proj)
    assert tiny_tower(image_size=8).visual.image_size == (8, 8)


def test_a_tiny_pipeline_takes_the_path_of_its_folder_as_text(tmp_path):
    pipeline = tiny_stable_diffusion(str(tmp_path / "scratch"))
    assert pipeline("a cat", num_inference_steps=1, output_type="np").images.shape[0] == 1
