"""Candidates, best and worst, pseudo-labels by rank, and the best of n as a policy."""

import math

import pytest
import torch

from rewardlab import DiffusionPolicy
from rewardlab.errors import InputError
from rewardlab.mining import BestOf, RankBootstrap, best_and_worst, candidates, extremes
from rewardlab.mining.running_best import Candidates
from rewardlab.policies import CausalLMPolicy, Policy, load_policy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, Ensemble, Function
from rewardlab.rewards.scoring import member_scores
from rewardlab.seeds import derive, row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import SFT
from rewardlab.types import Samples

BRIGHTNESS = Brightness()


@pytest.fixture(scope="module")
def policy():
    return DiffusionPolicy(
        tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=2)
    ).eval()


def numbered(count, seed=0):
    """Samples of one pixel each, and row numbers."""
    pixels = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    return Samples(
        [""] * count, pixels, {"row": torch.arange(count), "seed": row_seeds(seed, count)}
    )


class TestCandidates:
    def test_a_prompts_candidates_lie_together_and_differ(self, policy):
        drawn = candidates(policy, ["one", "zero"], 3, seed=0)
        assert list(drawn.prompts) == ["one"] * 3 + ["zero"] * 3
        assert drawn.facts["group"].tolist() == [0, 0, 0, 1, 1, 1]
        assert len(drawn.outputs.flatten(1).unique(dim=0)) == 6

    def test_seeds_fix_them(self, policy):
        first, again, other = (candidates(policy, ["one"], 3, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first.outputs, again.outputs)
        assert not torch.equal(first.outputs, other.outputs)


class TestScore:
    def test_batches_do_not_matter_and_modes_are_kept(self):
        reward, samples = Ensemble([Brightness(), Brightness()]).train(), numbered(7)
        assert torch.equal(member_scores(reward, samples, batch_size=3), reward.members(samples))
        assert reward.training
        member_scores(reward.eval(), samples)
        assert not reward.training

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_score_that_is_not_finite_is_refused_and_its_sample_named(self, bad):
        class Broken(Brightness):
            def forward(self, samples):
                return (
                    samples.outputs.flatten(1).mean(1).masked_fill(samples.facts["row"] == 5, bad)
                )

        with pytest.raises(
            InputError, match=r"Broken gave a score of \[(nan|-?inf)\] to sample 5 \(row 5\)"
        ):
            member_scores(Broken(), numbered(7), batch_size=3)


class TestExtremes:
    def test_the_highest_meets_the_lowest_of_its_own_prompt(self):
        samples = Samples(["a"] * 3 + ["b"] * 3, torch.rand(6, 1, 1, 1), {"row": torch.arange(6)})
        pairs = extremes(samples, torch.tensor([0.2, 0.9, 0.1, 7.0, 5.0, 6.0]), 3)
        assert pairs.chosen.facts["row"].tolist() == [1, 3]
        assert pairs.rejected.facts["row"].tolist() == [2, 4]
        assert list(pairs.chosen.prompts) == ["a", "b"]
        torch.testing.assert_close(pairs.chosen.facts["score"], torch.tensor([0.9, 7.0]))
        torch.testing.assert_close(pairs.rejected.facts["score"], torch.tensor([0.1, 5.0]))

    def test_ties_of_all_candidates_are_left_out(self):
        pairs = extremes(numbered(6), torch.tensor([1.0, 1.0, 2.0, 3.0, 4.0, 4.0]), 2)
        assert pairs.chosen.facts["row"].tolist() == [3]
        assert len(extremes(numbered(4), torch.ones(4), 2)) == 0

    def test_one_text_is_no_pair_though_rounding_parts_its_scores(self):
        samples = Samples(["a"] * 2 + ["b"] * 2, ["same", "same", "one", "two"])
        pairs = extremes(samples, torch.tensor([1.0, 1.0000001, 1.0, 2.0]), 2)
        assert (list(pairs.chosen.outputs), list(pairs.rejected.outputs)) == (["two"], ["one"])

    @pytest.mark.parametrize("k", [1, 0, -2])
    def test_fewer_than_two_candidates_are_refused(self, k):
        with pytest.raises(InputError, match=f"needs two candidates of a prompt; got k={k}"):
            extremes(numbered(4), torch.rand(4), k)

    def test_they_are_refused_before_any_is_drawn(self):
        with pytest.raises(InputError, match="two candidates"):
            best_and_worst(None, BRIGHTNESS, [""], k=1, seed=0)

    def test_best_and_worst_are_the_extremes_of_the_candidates(self, policy):
        pairs = best_and_worst(policy, BRIGHTNESS, ["one", "zero"], k=4, seed=3)
        values = BRIGHTNESS(candidates(policy, ["one", "zero"], 4, 3)).view(2, 4)
        torch.testing.assert_close(BRIGHTNESS(pairs.chosen), values.amax(1))
        torch.testing.assert_close(BRIGHTNESS(pairs.rejected), values.amin(1))


class TestRankBootstrap:
    def test_labels_are_the_papers(self):
        """GAN-RM, section 3.1: exp(-αr) for the r-th best, 1 - exp(-αr) for the r-th worst."""
        bootstrap = RankBootstrap(pool=10, count=3, alpha=0.2)
        expected = [math.exp(-0.2 * rank) for rank in range(3)]
        torch.testing.assert_close(bootstrap.labels("top"), torch.tensor(expected))
        torch.testing.assert_close(bootstrap.labels("bottom"), 1 - torch.tensor(expected))

    def test_the_best_and_the_worst_get_them_in_order(self):
        scores = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.3, 0.2])
        chosen, labels = RankBootstrap(pool=6, count=2, alpha=0.3)(
            numbered(6), scores, numbered(2, seed=9)
        )
        assert chosen.facts["row"].tolist() == [1, 3, 2, 5]
        fall = math.exp(-0.3)
        torch.testing.assert_close(labels, torch.tensor([1.0, fall, 0.0, 1 - fall]))

    @pytest.mark.parametrize(
        ("sides", "rows"),
        [("none", []), ("top", [1, 3]), ("bottom", [2, 5]), ("both", [1, 3, 2, 5])],
    )
    def test_sides(self, sides, rows):
        scores = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.3, 0.2])
        bootstrap = RankBootstrap(pool=6, count=2, alpha=0.3, sides=sides)
        chosen, labels = bootstrap(numbered(6), scores, numbered(2, seed=9))
        assert chosen.facts["row"].tolist() == rows
        assert len(labels) == len(chosen) == len(rows)

    @pytest.mark.parametrize(("alpha", "limit"), [(0.01, 69), (0.1, 6), (0.3, 2)])
    def test_labels_never_cross_one_half_unless_asked_to(self, alpha, limit):
        most = RankBootstrap(pool=1000, count=limit, alpha=alpha)
        assert most.labels("top").min() > 0.5 > most.labels("bottom").max()
        with pytest.raises(
            InputError, match=rf"ln 2/alpha = {limit}; count={limit + 1} .* allow_flipped=true"
        ):
            RankBootstrap(pool=1000, count=limit + 1, alpha=alpha)
        flipped = RankBootstrap(pool=1000, count=limit + 2, alpha=alpha, allow_flipped=True)
        assert flipped.labels("top").min() < 0.5 < flipped.labels("bottom").max()

    @pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": -0.1}, {"count": 0}, {"pool": 99}])
    def test_settings_without_a_sense_are_refused(self, wrong):
        with pytest.raises(InputError, match="RankBootstrap"):
            RankBootstrap(**wrong)

    def test_the_rewards_own_negatives_are_refused(self):
        pool = numbered(6)
        with pytest.raises(InputError, match="2 of the pool were its negatives"):
            RankBootstrap(pool=6, count=2)(pool, torch.rand(6), pool[[1, 4]])


def test_a_folder_of_a_best_of_n_passes_trust_on_to_its_parts(tmp_path, monkeypatch):
    (tmp_path / "outside.py").write_text(
        "import torch\n"
        "def lengths(samples):\n"
        "    return torch.tensor([float(len(text)) for text in samples.outputs])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from outside import lengths as outside_lengths

    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3)
    best = BestOf(BestOf(policy, Function(outside_lengths), 2), Function(outside_lengths), 2)
    best.save_pretrained(tmp_path / "best")
    with pytest.raises(InputError, match="trust"):
        load_policy(tmp_path / "best")
    loaded = load_policy(tmp_path / "best", trust=True)
    seeds = row_seeds(0, 2)
    expected = best.generate(["a", "b"], seeds=seeds)
    assert loaded.generate(["a", "b"], seeds=seeds).outputs == expected.outputs


class TestBestOf:
    prompts = ("one", "zero", "one")
    seeds = row_seeds(5, 3)

    def test_the_best_of_one_is_the_policy_at_seeds_of_its_own(self, policy):
        own = row_seeds(derive(0, "best of", 0), self.seeds)
        one = BestOf(policy, BRIGHTNESS, 1).generate(self.prompts, seeds=self.seeds)
        assert torch.equal(one.outputs, policy.generate(self.prompts, seeds=own).outputs)

    def test_the_chosen_one_scores_highest_of_its_n(self, policy):
        chosen = BestOf(policy, BRIGHTNESS, 4).generate(self.prompts, seeds=self.seeds)
        own = [
            policy.generate(self.prompts, seeds=row_seeds(derive(0, "best of", i), self.seeds))
            for i in range(4)
        ]
        values = torch.stack([BRIGHTNESS(drawn) for drawn in own], 1)
        torch.testing.assert_close(BRIGHTNESS(chosen), values.amax(1))
        assert len(values.argmax(1).unique()) > 1, (
            "the choice has to differ between rows, or this shows nothing"
        )
        assert list(chosen.prompts) == list(self.prompts)
        assert torch.equal(chosen.facts["seed"], self.seeds)

    def test_more_candidates_never_score_lower(self, policy):
        values = [
            BRIGHTNESS(BestOf(policy, BRIGHTNESS, n).generate(self.prompts, seeds=self.seeds))
            for n in (1, 2, 5)
        ]
        assert (values[0] <= values[1]).all()
        assert (values[1] <= values[2]).all()
        assert values[2].sum() > values[0].sum()

    def test_a_row_does_not_depend_on_its_batch(self, policy):
        best = BestOf(policy, BRIGHTNESS, 3)
        whole = best.generate(self.prompts, seeds=self.seeds)
        alone = best.generate(self.prompts[2:], seeds=self.seeds[2:])
        torch.testing.assert_close(alone.outputs, whole.outputs[2:], atol=1e-5, rtol=0)

    def test_it_ranks_by_the_mean_over_members(self, policy):
        against = Ensemble([Function(lambda samples: -3 * BRIGHTNESS(samples)), BRIGHTNESS])
        dark, bright = (
            BestOf(policy, reward, 4).generate(self.prompts, seeds=self.seeds)
            for reward in (against, BRIGHTNESS)
        )
        assert (BRIGHTNESS(dark) < BRIGHTNESS(bright)).all()

    def test_it_can_itself_be_filtered(self, policy):
        twice = BestOf(BestOf(policy, BRIGHTNESS, 2), BRIGHTNESS, 2)
        assert len(twice.generate(["one"], seeds=self.seeds[:1])) == 1

    def test_it_has_no_probabilities(self, policy):
        best = BestOf(policy, BRIGHTNESS, 2)
        assert not isinstance(best, Policy)
        with pytest.raises(InputError, match=r"BestOf.*cannot be trained.*the policy inside"):
            SFT(best)

    def test_its_folder_loads_as_any_policys_and_draws_the_same(self, policy, tmp_path):
        best = BestOf(policy, BRIGHTNESS, 3)
        best.save_pretrained(tmp_path)
        loaded = load_policy(tmp_path)
        assert (type(loaded), loaded.n) == (BestOf, 3)
        drawn = best.generate(["one", "zero"], seeds=self.seeds[:2])
        again = loaded.generate(["one", "zero"], seeds=self.seeds[:2])
        torch.testing.assert_close(again.outputs, drawn.outputs, atol=0, rtol=0)

    def test_what_cannot_be_saved_is_refused_before_anything_is_written(self, policy, tmp_path):
        with pytest.raises(InputError, match="cannot be saved"):
            BestOf(policy, Function(lambda samples: torch.zeros(len(samples))), 2).save_pretrained(
                tmp_path / "best"
            )
        assert not (tmp_path / "best").exists()

    def test_a_poisson_number_of_candidates_is_a_rows_own(self, policy, tmp_path):
        """Each row takes the best of the first n of the same candidates, its n 1 + Poisson(2)."""
        best = BestOf(policy, BRIGHTNESS, 3, draws="poisson")
        seeds = row_seeds(7, 12)
        counts = best._counts(seeds)
        assert len(counts.unique()) > 2
        drawn = best.generate(["one"] * 12, seeds=seeds)
        for row, count in enumerate(counts.tolist()):
            one = seeds[row : row + 1]
            expected = BestOf(policy, BRIGHTNESS, count).generate(["one"], seeds=one)
            torch.testing.assert_close(drawn.outputs[row], expected.outputs[0], atol=1e-5, rtol=0)
        best.save_pretrained(tmp_path)
        again = load_policy(tmp_path).generate(["one"] * 12, seeds=seeds)
        assert torch.equal(again.outputs, drawn.outputs)
        with pytest.raises(InputError, match=r"whole number n .* draws='fixed' and n=2.5"):
            BestOf(policy, BRIGHTNESS, 2.5)

    def test_poisson_numbers_have_their_mean_and_variance(self, policy):
        counts = BestOf(policy, BRIGHTNESS, 4.5, draws="poisson")._counts(row_seeds(0, 4000))
        assert counts.min() == 1
        assert counts.double().mean().item() == pytest.approx(4.5, abs=0.1)
        assert counts.double().var().item() == pytest.approx(3.5, abs=0.3)

    def test_the_best_of_none_is_refused(self, policy):
        with pytest.raises(InputError, match="n >= 1 outputs; got n=0"):
            BestOf(policy, BRIGHTNESS, 0)


class Counted(Function):
    """Brightness that counts how many pictures it saw at once."""

    def __init__(self):
        super().__init__(lambda samples: samples.outputs.flatten(1).mean(1))
        self.seen = []

    def forward(self, samples):
        self.seen.append(len(samples))
        return super().forward(samples)


@pytest.mark.parametrize("draws", ["fixed", "poisson"])
def test_the_best_of_blocks_is_the_best_of_all(monkeypatch, draws):
    """Of many pictures a block is in memory; what is drawn is the same to the bit."""
    prompts = ["one", "zero", "one", "zero", "one"]
    seeds = row_seeds(3, 5)
    outputs = []
    pairs = []
    for block in (10_000, 4):
        monkeypatch.setattr("rewardlab.mining.running_best.BATCH", block)
        policy = DiffusionPolicy(
            tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=2), micro_batch=2
        ).eval()
        reward = Counted()
        best = BestOf(policy, reward, 3, draws).generate(prompts, seeds=seeds)
        assert best.prompts == prompts
        outputs.append(best)
        assert max(reward.seen) <= block
        pairs.append(best_and_worst(policy, reward, prompts, k=5, seed=1))
    assert torch.equal(outputs[0].outputs, outputs[1].outputs)
    assert torch.equal(outputs[0].facts["inner_seed"], outputs[1].facts["inner_seed"])
    for half in ("chosen", "rejected"):
        whole, blocks = (getattr(pair, half) for pair in pairs)
        assert torch.equal(whole.outputs, blocks.outputs)
        assert torch.equal(whole.facts["score"], blocks.facts["score"])
        assert whole.facts["group"].tolist() == blocks.facts["group"].tolist() == [0, 1, 2, 3, 4]


def test_best_and_worst_are_those_of_the_whole_pool(policy):
    pairs = best_and_worst(policy, BRIGHTNESS, ["one", "zero"], k=6, seed=4)
    pool = candidates(policy, ["one", "zero"], 6, seed=4)
    whole = extremes(pool, BRIGHTNESS(pool), 6)
    for half in ("chosen", "rejected"):
        assert torch.equal(getattr(pairs, half).outputs, getattr(whole, half).outputs)
        assert torch.equal(getattr(pairs, half).facts["seed"], getattr(whole, half).facts["seed"])


def test_a_group_of_which_none_is_scored_keeps_its_first():
    scores = torch.tensor([torch.nan, torch.nan, 1.0, torch.nan, 3.0])
    rows = Candidates(numbered(5), scores, torch.tensor([0, 0, 1, 1, 1]))
    assert rows.ends(worst=False).samples.facts["row"].tolist() == [0, 4]
    assert rows.ends(worst=True).samples.facts["row"].tolist() == [0, 0, 4, 2]
