"""Not scored is a value: who says it, how it travels through rewards, and what ends a run."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import (
    Attack,
    Corrected,
    Debiased,
    Ensemble,
    Framewise,
    Function,
    Gated,
    Judged,
    Length,
    Member,
    Pessimistic,
    Relative,
    Repetition,
    Reward,
    Standardized,
    Tolerant,
    Weighted,
    load_reward,
    member_scores,
    scores_of,
)
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.pessimism import MemberScale, SoftMinimum
from rewardlab.rewards.scoring import judged, judged_by
from rewardlab.rewards.unscored import judged_batch, partial_scores
from rewardlab.types import Samples

HELPERS = Path(__file__).parent.with_name("refusing.py")
REFUSING = SimpleNamespace(**runpy.run_path(str(HELPERS)))
Refusing = REFUSING.Refusing
texts = REFUSING.texts
SAMPLES = texts("one two", "refuse this", "three")
CLEAN = Samples(["hi"] * 4, ["one two", "a b c", "three", "d e f g"])
SCALE = MemberScale(torch.tensor([2.0, -0.5]), torch.tensor([1.0, 0.5]))


def test_a_reward_that_is_not_partial_is_scored_whole_and_equal_to_the_bit():
    result = judged(Length(), CLEAN, batch_size=3)
    assert_close(result.scores, scores_of(Length(), CLEAN), atol=0, rtol=0)
    assert result.reasons == [""] * 4
    assert result.unscored == 0


def test_what_is_not_scored_is_nan_with_its_reason():
    result = judged(Refusing(), SAMPLES, batch_size=2)
    assert result.scored.tolist() == [True, False, True]
    assert result.scores[[0, 2]].tolist() == [2.0, 1.0]
    assert result.reasons == ["", "Refusing: it says refuse", ""]


@pytest.mark.parametrize("score", [scores_of, member_scores])
def test_strict_places_name_the_sample_its_reason_and_where_it_may_be_left_out(score):
    for reward in (Refusing(), Standardized(Refusing(), 0.0, 1.0)):
        with pytest.raises(InputError, match=r"sample 1 .*it says refuse\. .*judged") as caught:
            score(reward, SAMPLES)
        assert "1 such samples in 3" in str(caught.value)


def test_strict_places_stay_strict_inside_lenient_ones():
    """So a constant that a reward measures while it scores cannot hold a hole."""
    measuring = Function(lambda samples: scores_of(Refusing(), samples))
    with pytest.raises(InputError, match="here each one has to be scored"):
        judged(measuring, SAMPLES)


def letters(samples):
    return torch.tensor([float(len(text)) for text in samples.outputs])


BOTH = [Refusing(), Repetition()]
MADE_OF_OTHERS = {
    "standardized": Standardized(Refusing(), 1.0, 2.0),
    "weighted": Weighted(BOTH, [1.0, 0.5]),
    "ensemble": Ensemble(BOTH),
    "member": Member(Ensemble(BOTH), 0),
    "minimum": Pessimistic(Ensemble(BOTH)),
    "deviation": Pessimistic(Ensemble(BOTH), "mean_minus_std", 1.0),
    "soft minimum": SoftMinimum(Ensemble(BOTH), SCALE),
    "relative": Relative(Refusing(), CLEAN),
    "quantile": Relative(Refusing(), CLEAN, scale="quantile"),
    "debiased": Debiased(Refusing(), CLEAN, [Function(letters)], share=1.0),
    "corrected": Corrected(Length(), Refusing()),
    "target": Attack(Refusing(), Length(), threshold=0.0),
    "gate": Gated(Length(), gate=Refusing()),
    "gated": Gated(Refusing(), gate=Length()),
    "nested": Weighted([Ensemble(BOTH), Standardized(Refusing(), 0.0, 1.0)], [1.0, 1.0]),
    "tolerant": Tolerant(Ensemble(BOTH), 0.5),
}


@pytest.mark.parametrize("name", MADE_OF_OTHERS)
def test_a_reward_made_of_others_scores_what_each_needed_part_scores(name):
    """Every wrapper: the reason names the part, and the other rows are as without that sample."""
    reward = MADE_OF_OTHERS[name]
    result = judged(reward, SAMPLES)
    assert result.scored.tolist() == [True, False, True]
    assert "Refusing: it says refuse" in result.reasons[1]
    assert_close(result.scores[[0, 2]], judged(reward, SAMPLES[[0, 2]]).scores, atol=0, rtol=0)


def test_a_part_that_is_not_needed_may_leave_a_sample_out():
    """Below the threshold an attack does not count its witness."""
    attack = Attack(Length(), Refusing(), threshold=1.5, penalty=0.0)
    result = judged(attack, texts("one two", "refuse", "refuse this"))
    assert result.scores[1].item() == 1.0
    assert result.scored.tolist() == [True, True, False]


def test_a_video_is_not_scored_where_a_frame_is_not():
    class Bright(Reward, Partial):
        most_unscored = 1.0

        def judge(self, samples):
            means = samples.outputs.flatten(1).mean(1)
            return Judged(means, ["too bright" if mean > 0.8 else "" for mean in means])

        def forward(self, samples):
            return partial_scores(self, samples)

    videos = torch.full((2, 3, 3, 2, 2), 0.5)
    videos[1, 2] = 0.9
    result = judged(Framewise(Bright()), Samples(["", ""], videos))
    assert result.scored.tolist() == [True, False]
    assert result.reasons[1] == "Bright: too bright"


def test_nan_from_a_network_stops_even_beside_a_partial_reward():
    broken = Weighted([Refusing(), Corrected(Length(), constant_nan())], [1.0, 1.0])
    with pytest.raises(InputError, match="Weighted gave a score of nan to sample 0"):
        judged(broken, SAMPLES)


def constant_nan():
    class Broken(Reward):
        def forward(self, samples):
            return torch.full((len(samples),), torch.nan)

    return Broken()


def test_a_judge_without_a_reason_for_its_nan_is_refused():
    class Silent(Reward, Partial):
        most_unscored = 1.0

        def judge(self, samples):
            return Judged(torch.full((len(samples),), torch.nan), [""] * len(samples))

        def forward(self, samples):
            return partial_scores(self, samples)

    with pytest.raises(InputError, match="Silent gave a score of nan"):
        judged(Silent(), CLEAN)


def test_tolerant_finds_the_samples_at_fault_alone():
    calls = []

    def short(samples):
        calls.append(len(samples))
        if any(len(text) > 7 for text in samples.outputs):
            raise InputError("a text is longer than 7")
        return torch.tensor([float(len(text)) for text in samples.outputs])

    result = judged(Tolerant(Function(short), 0.5), SAMPLES)
    assert result.scores[[0, 2]].tolist() == [7.0, 5.0]
    assert result.reasons == ["", "Tolerant: a text is longer than 7", ""]
    assert calls == [3, 1, 2, 1, 1]


def test_tolerant_leaves_out_nan_and_infinity_and_no_bug():
    values = torch.tensor([1.0, torch.nan, torch.inf])

    class Given(Reward):
        def forward(self, samples):
            return values[: len(samples)]

    result = judged(Tolerant(Given(), 0.9), SAMPLES)
    assert result.reasons[1:] == ["Tolerant: its score is nan", "Tolerant: its score is inf"]
    assert result.scored.tolist() == [True, False, False]
    with pytest.raises(ZeroDivisionError):
        judged(Tolerant(Function(lambda samples: 1 / 0)), SAMPLES)


def test_tolerant_hands_on_the_members_of_an_ensemble():
    def words(samples):
        if any("refuse" in text for text in samples.outputs):
            raise InputError("it says refuse")
        return torch.tensor([float(len(text.split())) for text in samples.outputs])

    reward = Tolerant(Ensemble([Function(words), Repetition()]), 0.5)
    members = judged_by(reward, reward.members, SAMPLES, batch_size=2)
    assert_close(members.scores[[0, 2]], torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    assert members.scores[1].isnan().all()
    assert members.reasons == ["", "Tolerant: it says refuse", ""]
    assert judged_by(reward, reward.members, SAMPLES[1:2]).scores.shape == (1, 2)
    with pytest.raises(InputError, match="it says refuse"):
        member_scores(reward, SAMPLES)


def test_tolerant_rules_over_the_share_of_what_is_inside():
    strict = Refusing()
    strict.most_unscored = 0.0
    result = judged(Tolerant(strict, 0.5), SAMPLES)
    assert result.reasons[1] == "Tolerant: Refusing: it says refuse"


def test_tolerant_is_saved_with_its_share(tmp_path):
    Tolerant(Length(), 0.25).save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert isinstance(loaded, Tolerant)
    assert loaded.most_unscored == 0.25
    assert loaded(SAMPLES).tolist() == [2.0, 2.0, 1.0]
    with pytest.raises(InputError, match=r"share of the samples, in \[0, 1\]; got 5"):
        Tolerant(Length(), 5)


def test_the_share_counts_all_samples_since_the_start():
    """0.05 of at least 100: the first five failures are allowed wherever they come, not a sixth."""
    reward = Refusing(most_unscored=0.05)
    for _ in range(5):
        judged(reward, texts("fine", "refuse"))
    with pytest.raises(
        InputError, match=r"6 of 11 samples .* most_unscored=0\.05 allows"
    ) as caught:
        judged(reward, texts("refuse"))
    assert "it says refuse" in str(caught.value)


def test_the_share_of_many_samples_is_of_all_of_them():
    reward = Refusing(most_unscored=0.05)
    judged(reward, texts(*["fine"] * 180))
    judged(reward, texts(*["refuse"] * 9, *["fine"] * 11))  # 9 of 200 are below 10
    judged(reward, texts("refuse"))
    with pytest.raises(InputError, match="11 of 202 samples"):
        judged(reward, texts("refuse"))


def test_at_a_share_of_0_the_first_ends_the_run():
    with pytest.raises(InputError, match=r"did not score sample 1 .*most_unscored is 0"):
        judged(Refusing(most_unscored=0.0), SAMPLES)


def test_each_reward_has_its_own_count_and_a_server_has_none():
    for _ in range(3):
        judged(Refusing(most_unscored=0.01), texts("refuse"))
    served = Refusing(most_unscored=0.0)
    assert judged(served, SAMPLES, limited=False).unscored == 1


def test_gradients_flow_through_what_is_scored():
    """The rows that are not scored get none, and no NaN."""
    images = torch.rand(3, 3, 2, 2, requires_grad=True)

    class Dim(Reward, Partial):
        most_unscored = 1.0

        def judge(self, samples):
            return Judged(samples.outputs.flatten(1).mean(1), ["", "too dark", ""])

        def forward(self, samples):
            return partial_scores(self, samples)

    reward = Standardized(Dim(), 0.1, 2.0)
    result = judged_batch(reward, Samples([""] * 3, images))
    result.scores[result.scored].sum().backward()
    assert images.grad is not None
    assert (images.grad[1] == 0).all()
    assert_close(images.grad[0], torch.full((3, 2, 2), 1 / 24))


def test_members_are_told_also_where_a_whole_first_batch_is_unscored():
    def strict(batch):
        if any("refuse" in text for text in batch.outputs):
            raise InputError("It refuses")
        return torch.tensor([float(len(text)) for text in batch.outputs])

    def pair():
        return Tolerant(Ensemble([Function(strict), Length()]), 1)

    samples = texts("refuse this", "refuse that", "one two", "refuse it", "three")
    for reward in (pair(), Tolerant(pair(), 1), Ensemble([pair(), Length()])):
        parts = judged_by(reward, reward.members, samples, 2)  # how many there are is not known yet
        whole = judged_by(reward, reward.members, samples, 5)
        assert_close(parts.scores[[2, 4]], whole.scores[[2, 4]], atol=0, rtol=0)
        assert parts.reasons == whole.reasons
        assert parts.scored.tolist() == [False, False, True, False, True]
