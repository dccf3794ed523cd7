import json

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.mining import Funnel, adversarial_pairs, non_contextual
from rewardlab.types import PreferencePairs, Samples, concatenate

# Target, witness and judge of four references and eight attacks. The references' disagreement has
# mean -1/2, deviation 1.
REFERENCES = Samples(list("aabb"), ["r0", "r1", "r2", "r3"])
KNOWN = torch.tensor([0.0, 2.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, 1.0, 3.0])
ATTACKS = Samples(
    list("aaaaabbb"), ["x", "x", "y", "r0", "z", "x", "w", "v"], {"seed": torch.arange(8)}
)
SCORES = (
    torch.tensor([3.0, 3.0, 4.0, 9.0, 1.0, 2.0, 2.0, 5.0]),
    torch.tensor([0.0, 0.0, 0.0, 0.0, -9.0, 1.0, 0.0, -1.0]),
)
JUDGE = torch.tensor([1.0, 1.0, 6.0, 5.0, 9.0, 5.0, 1.0, 7.0]), torch.tensor([5.0, 0.0, 5.0, 0.0])


def mine(attacks=ATTACKS, scores=SCORES, references=REFERENCES, known=KNOWN, **options):
    return adversarial_pairs(attacks, *scores, references, *known, **{"relative": False, **options})


def test_the_funnel_by_hand():
    """Row 1 repeats row 0, row 3 a reference; 4 is at the mean, not above; 5 disagrees by 1.5
    deviations; 2 and 7 lead.
    """
    pairs, funnel = mine(cap=1, judge_scores=JUDGE)
    assert dict(funnel.counts) == {
        "generated": 8, "unique": 6, "gated": 5, "disagreeing": 4, "per_prompt": 2, "kept": 1,
    }  # fmt: skip
    expected = {
        "generated": 4 / 8,
        "unique": 2.5 / 6,
        "gated": 0.5,
        "disagreeing": 0.5,
        "per_prompt": 0.0,
        "kept": 0.0,
    }
    assert funnel.precision == pytest.approx(expected)
    assert (pairs.rejected.outputs, pairs.chosen.outputs) == (["v"], ["r2"])
    assert {name: column.tolist() for name, column in pairs.rejected.facts.items()} == {
        "seed": [7], "target": [5.0], "witness": [-1.0], "disagreement": [6.5],
    }  # fmt: skip
    assert pairs.chosen.facts["witness"].tolist() == [1.0]
    assert json.loads(json.dumps(funnel.as_dict()))["counts"]["kept"] == 1
    assert str(funnel).splitlines()[-1].split() == ["kept", "1", "0.125", "0.000"]
    assert "precision" not in mine()[1].as_dict()


def test_most_pairs_of_a_prompt_have_the_largest_disagreement_and_stand_in_the_attacks_order():
    assert mine()[0].rejected.outputs == ["y", "v"]
    assert mine(per_prompt=2)[0].rejected.outputs == ["x", "y", "w", "v"]
    assert mine(per_prompt=2, cap=3)[0].rejected.outputs == ["x", "y", "v"]


def test_the_chosen_side_is_the_first_reference_or_the_targets_best():
    assert mine()[0].chosen.outputs == ["r0", "r2"]
    assert mine(chosen="best")[0].chosen.outputs == ["r1", "r2"]
    assert mine(chosen="best", judge_scores=JUDGE)[1].precision["generated"] == pytest.approx(
        (0.5 + 1) / 8
    )


def test_absolute_disagreement_is_the_papers():
    scores = SCORES[0], torch.tensor([0.0, 0.0, 9.0, 0.0, -9.0, 1.0, 0.0, -1.0])
    assert mine(scores=scores)[0].rejected.outputs == ["x", "v"]
    assert mine(scores=scores, kind="absolute")[0].rejected.outputs == [
        "y",
        "v",
    ]  # |4 - 9|, mean 1/2, deviation 1


def test_an_empirical_quantile_takes_the_place_of_z():
    assert (
        mine(quantile=1.0, per_prompt=9)[1].counts["disagreeing"] == 5
    )  # above 0, the references' largest
    assert mine(quantile=1.0, z=99.0, per_prompt=9)[1].counts["disagreeing"] == 5
    assert mine(z=2.5, per_prompt=9)[1].counts["disagreeing"] == 3  # 2.5 itself is not above


def test_mining_what_was_mined_changes_nothing():
    once, _ = mine(per_prompt=2)
    facts = once.rejected.facts
    twice, funnel = mine(once.rejected, (facts["target"], facts["witness"]), per_prompt=2)
    assert twice.rejected.outputs == once.rejected.outputs
    assert set(funnel.counts.values()) == {len(once)}


def drawn(prompts, k, seed, spread=1.0):
    """K samples a prompt with scores that are noise, and the prompts' numbers."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(prompts).repeat_interleave(k)
    scores = [
        spread * torch.randn(len(rows), generator=generator, dtype=torch.float64) for _ in range(2)
    ]
    return (
        Samples([f"p{row}" for row in rows.tolist()], [f"{seed}-{i}" for i in range(len(rows))]),
        scores,
        rows,
    )


def test_an_offset_of_each_prompt_and_any_scale_change_no_pair():
    references, known, where = drawn(20, 4, 0)
    attacks, scores, place = drawn(20, 10, 1, spread=3.0)
    expected, funnel = mine(attacks, scores, references, known, relative=True)
    assert 5 < len(expected) < 20
    offsets = (
        torch.randn(2, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 50
    )
    moved, moved_known = (
        [
            scale * (column + offset[rows])
            for column, offset, scale in zip(columns, offsets, (0.1, 7.0), strict=True)
        ]
        for columns, rows in ((scores, place), (known, where))
    )
    found, moved_funnel = mine(attacks, moved, references, moved_known, relative=True)
    assert (found.rejected.outputs, found.chosen.outputs) == (
        expected.rejected.outputs,
        expected.chosen.outputs,
    )
    assert moved_funnel == funnel
    torch.testing.assert_close(
        found.rejected.facts["disagreement"], expected.rejected.facts["disagreement"]
    )
    swamped, _ = mine(attacks, moved, references, moved_known, relative=False)
    assert swamped.rejected.outputs != expected.rejected.outputs


@pytest.mark.parametrize("k", [2, 4])
def test_fresh_references_disagree_as_often_as_z_says(k):
    """P(z > 1.96) is 0.025, with the gate a little less; without the residuals' widening it would
    be 0.13 at K = 2.
    """
    references, known, _ = drawn(1500, k, 0)
    fresh, scores, _ = drawn(1500, 1, 1)
    _, funnel = mine(fresh, scores, references, known, relative=True, cap=9999)
    assert 0.012 < funnel.counts["disagreeing"] / 1500 < 0.032


def test_images_are_told_apart_by_their_pixels():
    pixels = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    attacks = Samples([""] * 4, torch.stack([pixels[0], pixels[1], pixels[0], pixels[2]]))
    references = Samples(["", ""], torch.stack([pixels[2], torch.zeros(1, 2, 2)]))
    scores = torch.tensor([9.0, 8.0, 9.0, 9.0]), torch.zeros(4)
    pairs, funnel = mine(
        attacks, scores, references, (torch.tensor([0.0, 1.0]), torch.zeros(2)), per_prompt=5
    )
    assert list(funnel.counts.values()) == [4, 2, 2, 2, 2, 2]
    assert pairs.rejected.outputs.equal(pixels[:2])
    assert pairs.chosen.outputs.equal(pixels[[2, 2]])


def test_nothing_found_is_no_pairs():
    pairs, funnel = mine(z=100.0, judge_scores=JUDGE)
    assert len(pairs) == 0
    assert funnel.precision["kept"] is None
    assert "-" in str(funnel)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="1 prompts have none, such as 'c'"):
        mine(Samples(["c"], ["x"]), (torch.ones(1), torch.ones(1)))
    with pytest.raises(InputError, match=r"for each of 8 samples; got \[\[8\], \[4\]\]"):
        mine(scores=(SCORES[0], KNOWN[1]))
    with pytest.raises(InputError, match="one finite score"):
        mine(known=(KNOWN[0], KNOWN[1] / 0))
    with pytest.raises(InputError, match="judge_scores of the references"):
        mine(judge_scores=(JUDGE[0], JUDGE[0]))
    with pytest.raises(InputError, match="Are they one reward"):
        mine(known=(KNOWN[0], KNOWN[0]))
    with pytest.raises(InputError, match="2 or more a prompt"):
        mine(
            references=REFERENCES[[0, 2]], known=(KNOWN[0][[0, 2]], KNOWN[1][[0, 2]]), relative=True
        )


def test_a_funnel_without_a_judge_is_a_table_of_counts():
    assert str(Funnel({"generated": 0, "kept": 0})).splitlines() == [
        "step         left  share",
        "generated       0  0.000",
        "kept            0  0.000",
    ]


PAIRS = PreferencePairs(
    *(Samples(list("aab"), [f"{name}{i}{side}" for i, name in enumerate("aab")]) for side in "+-")
)


def test_non_contextual_losers_answer_another_prompt():
    found = non_contextual(PAIRS, seed=0)
    assert len(found) == 9
    for prompt, better, worse, label in zip(
        found.chosen.prompts,
        found.chosen.outputs,
        found.rejected.outputs,
        found.chosen.facts["label"].tolist(),
        strict=True,
    ):
        assert worse[0] != prompt
        assert (better[0] == prompt) == (label == 1.0)
        assert (better[-1] == worse[-1]) == (label == 1.0)
    assert len(non_contextual(PAIRS, seed=0, ties=False)) == 6
    assert len(concatenate([PAIRS, found])) == 12


def test_the_other_pair_is_drawn_evenly_and_by_the_seed():
    chosen = [non_contextual(PAIRS, seed, ties=False).rejected.outputs[2] for seed in range(200)]
    assert 70 < chosen.count("a0+") < 130
    assert chosen.count("a0+") + chosen.count("a1+") == 200
    with pytest.raises(InputError, match="all 2 pairs have one prompt"):
        non_contextual(PAIRS[:2], seed=0)
