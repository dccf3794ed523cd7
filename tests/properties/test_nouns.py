"""Samples, pairs and labelled samples: taking, joining and counting rows as plain lists do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.errors import InputError
from rewardlab.types import (
    LabeledSamples,
    PreferencePairs,
    Samples,
    balanced,
    concatenate,
    distinct,
    take,
)

TEXTS = st.text(max_size=8)
NUMBERS = st.integers(-(2**62), 2**62)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, NUMBERS), min_size=1, max_size=8)


def samples_of(rows):
    prompts, outputs, numbers = zip(*rows, strict=True)
    return Samples(list(prompts), list(outputs), {"row": torch.tensor(numbers)})


def rows_of(samples):
    return list(zip(samples.prompts, samples.outputs, samples.facts["row"].tolist(), strict=True))


@st.composite
def rows_and_index(draw):
    """Rows, an index of one of the four kinds, and the positions that it means."""
    rows = draw(ROWS)
    count = len(rows)
    kind = draw(st.sampled_from(["slice", "list", "tensor", "mask"]))
    if kind == "slice":
        index = draw(st.slices(count).filter(lambda part: (part.step or 1) > 0))
        return rows, index, list(range(count))[index]
    if kind == "mask":
        mask = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return rows, torch.tensor(mask), [place for place in range(count) if mask[place]]
    places = draw(st.lists(st.integers(-count, count - 1), max_size=10))
    index = torch.tensor(places, dtype=torch.long) if kind == "tensor" else places
    return rows, index, places


@given(rows_and_index())
def test_rows_are_taken_as_from_a_list(case):
    rows, index, places = case
    taken = samples_of(rows)[index]
    assert rows_of(taken) == [rows[place] for place in places]


@given(rows_and_index())
def test_strings_and_tensors_are_taken_alike(case):
    rows, index, _ = case
    numbers = [row[2] for row in rows]
    assert list(take(numbers, index)) == take(torch.tensor(numbers), index).tolist()


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_joined_parts_are_the_list_of_their_rows(parts):
    joined = concatenate([samples_of(rows) for rows in parts])
    assert rows_of(joined) == [row for rows in parts for row in rows]


@given(ROWS, st.integers(0, 8))
def test_what_is_cut_and_joined_is_the_whole(rows, place):
    whole = samples_of(rows)
    assert rows_of(concatenate([whole[:place], whole[place:]])) == rows


@given(ROWS, ROWS)
def test_only_facts_that_all_parts_have_are_joined(one, other):
    first = samples_of(one).with_facts(score=torch.zeros(len(one)))
    joined = concatenate([first, samples_of(other)])
    assert list(joined.facts) == ["row"]
    assert len(joined) == len(one) + len(other)


@given(ROWS, st.dictionaries(st.sampled_from(["row", "seed", "score"]), NUMBERS))
def test_facts_are_added_and_replaced_and_the_rest_stays(rows, values):
    before = samples_of(rows)
    columns = {name: torch.full((len(rows),), value) for name, value in values.items()}
    after = before.with_facts(**columns)
    assert list(after.prompts) == list(before.prompts)
    assert list(after.outputs) == list(before.outputs)
    expected = {"row": before.facts["row"], **columns}
    assert after.facts.keys() == expected.keys()
    assert all(after.facts[name].equal(column) for name, column in expected.items())
    assert rows_of(before) == rows


@given(ROWS, st.integers(1, 5))
def test_columns_of_another_length_are_refused(rows, more):
    column = torch.zeros(len(rows) + more)
    with pytest.raises(InputError, match="one entry a prompt"):
        samples_of(rows).with_facts(score=column)


@given(st.lists(st.sampled_from(["a", "b", "c", ""])))
def test_distinct_values_give_back_the_rows(values):
    found = distinct(values)
    assert [found.values[place] for place in found.places] == values
    assert [values[row] for row in found.first_rows] == found.values
    assert len(set(found.values)) == len(found.values)
    assert found.first_rows == sorted(found.first_rows)
    assert all(value not in values[:row] for row, value in zip(*found[1::-1], strict=True))


@given(rows_and_index(), st.integers(0, 100))
def test_halves_of_pairs_stay_together(case, first):
    rows, index, places = case
    chosen = samples_of(rows)
    rejected = Samples(chosen.prompts, [f"not {row[1]}" for row in rows])
    taken = PreferencePairs(chosen, rejected).numbered(first)[index]
    assert list(taken.rejected.outputs) == [f"not {rows[place][1]}" for place in places]
    count = len(rows)
    numbers = [first + place % count for place in places]
    assert taken.chosen.facts["row"].tolist() == taken.rejected.facts["row"].tolist() == numbers


@given(ROWS.filter(lambda rows: len({row[0] for row in rows}) > 1), st.randoms())
def test_halves_of_different_prompts_are_refused(rows, rng):
    turned = sorted(rows, key=lambda row: row[0])
    if [row[0] for row in turned] == [row[0] for row in rows]:
        turned = turned[::-1]
    with pytest.raises(InputError, match="differ in prompts or in their order"):
        PreferencePairs(samples_of(rows), samples_of(turned))


@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(lambda bits: len(set(bits)) == 2))
def test_balanced_weights_give_each_class_half(bits):
    labels = torch.tensor(bits).float()
    weights = balanced(labels)
    half = torch.tensor(len(bits) / 2)
    torch.testing.assert_close(weights[labels == 1].sum(), half)
    torch.testing.assert_close(weights[labels == 0].sum(), half)


@given(st.lists(st.integers(1, 63), min_size=1, max_size=12))
def test_balanced_weights_of_soft_labels_keep_the_mass(levels):
    labels = torch.tensor(levels) / 64
    torch.testing.assert_close(balanced(labels).sum(), torch.tensor(float(len(levels))))


@given(rows_and_index())
def test_labelled_samples_are_taken_row_by_row(case):
    rows, index, places = case
    count = len(rows)
    numbers = torch.arange(count)
    labelled = LabeledSamples(
        samples_of(rows), numbers / count, numbers, numbers + 0.5, numbers % 4
    )
    taken = labelled[index]
    expected = [place % count for place in places]
    assert rows_of(taken.inputs) == [rows[place] for place in places]
    assert taken.rows.tolist() == expected
    assert taken.weights.tolist() == [place + 0.5 for place in expected]
