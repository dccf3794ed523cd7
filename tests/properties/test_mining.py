"""Best and worst, best of n, adversarial pairs and pseudo-labels: what holds for any scores."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rewardlab.errors import InputError
from rewardlab.mining import BestOf, RankBootstrap, adversarial_pairs, best_and_worst
from rewardlab.mining.candidates import extremes
from rewardlab.policies.base import CallableGenerator
from rewardlab.rewards import Function, Length
from rewardlab.types import Samples

SCORES = st.integers(-50, 50)
SEEDS = st.integers(0, 2**40)


def value_of(output):
    """A number that a drawn output has, spread over 0 to 96."""
    return int(output) % 97


def values(samples):
    return torch.tensor([float(value_of(output)) for output in samples.outputs])


def write_seeds(prompts, seeds):
    return [str(seed) for seed in seeds.tolist()]


POLICY = CallableGenerator(write_seeds)
REWARD = Function(values)


@given(st.integers(1, 4), st.integers(2, 5), st.data())
def test_extremes_are_a_prompts_highest_and_lowest(rows, k, data):
    numbers = data.draw(st.lists(SCORES, min_size=rows * k, max_size=rows * k))
    prompts = [str(row // k) for row in range(rows * k)]
    samples = Samples(prompts, [str(row) for row in range(rows * k)])
    pairs = extremes(samples, torch.tensor(numbers, dtype=torch.float32), k)
    expected = []
    for row in range(rows):
        group = numbers[row * k : row * k + k]
        if max(group) > min(group):
            best = str(row * k + group.index(max(group)))
            worst = str(row * k + group.index(min(group)))
            expected.append((str(row), best, worst))
    prompts = pairs.chosen.prompts
    found = zip(prompts, pairs.chosen.outputs, pairs.rejected.outputs, strict=True)
    assert list(found) == expected
    scores = torch.tensor(numbers, dtype=torch.float32) * 2 + 7  # of the same order
    assert extremes(samples, scores, k).chosen.outputs == pairs.chosen.outputs


@given(st.integers(1, 3), st.integers(2, 6), SEEDS)
def test_drawn_extremes_are_in_order_and_come_again(rows, k, seed):
    prompts = [str(row) for row in range(rows)]
    pairs = best_and_worst(POLICY, REWARD, prompts, k=k, seed=seed)
    assert (REWARD(pairs.chosen) > REWARD(pairs.rejected)).all()
    again = best_and_worst(POLICY, REWARD, prompts, k=k, seed=seed)
    assert again.chosen.outputs == pairs.chosen.outputs


@given(st.lists(SEEDS, min_size=1, max_size=5), st.integers(1, 6))
def test_the_best_of_n_is_a_rows_own_and_no_worse_with_more(seeds, n):
    prompts = ["a"] * len(seeds)
    few = BestOf(POLICY, REWARD, n).generate(prompts, seeds=torch.tensor(seeds))
    more = BestOf(POLICY, REWARD, n + 3).generate(prompts, seeds=torch.tensor(seeds))
    assert (REWARD(more) >= REWARD(few)).all()
    assert few.facts["seed"].tolist() == seeds
    for row, seed in enumerate(seeds):
        alone = BestOf(POLICY, REWARD, n).generate(["a"], seeds=torch.tensor([seed]))
        assert alone.outputs[0] == few.outputs[row]


@st.composite
def attacks(draw):
    """Attacks and references of up to three prompts, each with target and witness scores."""
    prompts = [str(number) for number in range(draw(st.integers(1, 3)))]
    references = Samples(prompts * 3, [f"reference {row}" for row in range(3 * len(prompts))])
    count = draw(st.integers(0, 8))
    places = draw(st.lists(st.sampled_from(prompts), min_size=count, max_size=count))
    texts = draw(st.lists(st.sampled_from("abcd"), min_size=count, max_size=count))
    columns = []
    for length in (count, count, len(references), len(references)):
        column = draw(st.lists(SCORES, min_size=length, max_size=length))
        columns.append(torch.tensor(column, dtype=torch.float64))
    return Samples(places, texts), columns, references


def pairs_of(case, shift=0.0, scale=1.0, **options):
    """Adversarial pairs, with an offset that depends on the prompt put on the target's scores."""
    samples, columns, references = case
    target, witness, reference_target, reference_witness = columns
    offsets = torch.tensor([shift * int(prompt) for prompt in samples.prompts]).double()
    of_references = torch.tensor([shift * int(prompt) for prompt in references.prompts]).double()
    return adversarial_pairs(
        samples,
        target * scale + offsets,
        witness,
        references,
        reference_target * scale + of_references,
        reference_witness,
        **options,
    )


@given(attacks(), st.integers(1, 3), st.integers(1, 4))
def test_adversarial_pairs_are_what_they_claim(case, per_prompt, cap):
    try:
        pairs, funnel = pairs_of(case, per_prompt=per_prompt, cap=cap, z=0.5)
    except InputError:
        assume(False)
    samples, (target, _, reference_target, _), references = case
    counts = list(funnel.counts.values())
    assert counts == sorted(counts, reverse=True)
    assert len(pairs) == counts[-1] <= cap
    for prompt in pairs.chosen.prompts:
        assert list(pairs.chosen.prompts).count(prompt) <= per_prompt
    assert (pairs.rejected.facts["disagreement"] > 0.5).all()
    rows = list(zip(samples.prompts, samples.outputs, strict=True))
    for row, prompt in enumerate(pairs.chosen.prompts):
        attack = rows.index((prompt, pairs.rejected.outputs[row]))
        places = [place for place, other in enumerate(references.prompts) if other == prompt]
        assert target[attack] > reference_target[places].mean()
        assert pairs.chosen.outputs[row] == references.outputs[places[0]]


@given(attacks(), st.integers(-40, 40), st.sampled_from([0.5, 1.0, 4.0]))
def test_an_offset_of_a_prompt_and_a_scale_change_no_pair(case, shift, scale):
    try:
        pairs, funnel = pairs_of(case, z=0.731, per_prompt=8)
        other, changed = pairs_of(case, shift, scale, z=0.731, per_prompt=8)
    except InputError:
        assume(False)
    assert changed.counts["unique"] == funnel.counts["unique"]
    lead = case[1][0]
    assume(len(set(lead.tolist())) == len(lead))
    assert other.rejected.outputs == pairs.rejected.outputs
    assert list(other.rejected.prompts) == list(pairs.rejected.prompts)


@given(st.integers(1, 20), st.floats(0.001, 0.03), st.data())
def test_pseudo_labels_go_to_the_ends_and_fade_inwards(count, alpha, data):
    pool = 2 * count + data.draw(st.integers(0, 10))
    scores = data.draw(st.permutations(range(pool)))
    bootstrap = RankBootstrap(pool=pool, count=count, alpha=alpha)
    seeds = torch.arange(pool)
    samples = Samples([""] * pool, [str(score) for score in scores], {"seed": seeds})
    negatives = Samples([""], ["no"], {"seed": torch.tensor([10**6])})
    labelled, labels = bootstrap(samples, torch.tensor(scores).float(), negatives)
    best = [str(score) for score in range(pool - 1, pool - 1 - count, -1)]
    assert labelled.outputs == [*best, *(str(score) for score in range(count))]
    top, bottom = labels[:count], labels[count:]
    assert (top.diff() < 0).all()
    assert (bottom.diff() > 0).all()
    torch.testing.assert_close(top + bottom, torch.ones(count))
    assert (top >= 0.5 - 1e-6).all()


@given(st.text(), st.text())
def test_a_longer_text_scores_higher_by_length(one, other):
    scores = Length()(Samples(["", ""], [one, f"{one} and {other} word"]))
    assert scores[1] > scores[0]
