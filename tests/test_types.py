"""The nouns: columns stay together through indexing, moving and joining, and what cannot be is
refused.
"""

import ast
from pathlib import Path

import pytest
import torch

import rewardlab
from rewardlab import types
from rewardlab.errors import InputError
from rewardlab.types import (
    FACTS,
    SOURCES,
    LabeledSamples,
    PreferencePairs,
    Rollout,
    Samples,
    Trajectory,
    balanced,
    concatenate,
    distinct,
    images_of,
    kind_of,
    take,
    texts_of,
)


def samples(count=4):
    pixels = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2) / 10
    return Samples([f"p{i}" for i in range(count)], pixels, {"row": torch.arange(count)})


def trajectory(count=4):
    return Trajectory(
        [f"p{i}" for i in range(count)],
        {"x": torch.arange(count * 3).view(count, 3)},
        torch.ones(count, 3, dtype=torch.bool),
        {"row": torch.arange(count)},
    )


def rollout(count=4):
    columns = torch.arange(count * 3).view(count, 3).float()
    return Rollout(trajectory(count), columns, columns - 1, columns[:, 0], columns[:, :1])


def labeled(inputs, count=4):
    column = torch.arange(count)
    return LabeledSamples(inputs, column / count, column, column.float(), column % len(SOURCES))


NOUNS = {
    "samples": samples(),
    "pairs": PreferencePairs(samples(), samples()),
    "trajectory": trajectory(),
    "rollout": rollout(),
    "labeled": labeled(samples()),
    "features": labeled(torch.arange(8.0).view(4, 2)),
}


def flat(noun):
    """Every column of a noun as plain data."""
    if isinstance(noun, torch.Tensor):
        return noun.tolist()
    if isinstance(noun, dict):
        return {name: flat(column) for name, column in noun.items()}
    if hasattr(noun, "__dataclass_fields__"):
        return {name: flat(getattr(noun, name)) for name in noun.__dataclass_fields__}
    return list(noun)


MASK = torch.tensor([False, True, False, True])


@pytest.mark.parametrize(
    "index", [[1, 3], torch.tensor([1, 3]), slice(1, None, 2), MASK, MASK.tolist(), range(1, 4, 2)]
)
@pytest.mark.parametrize("noun", NOUNS.values(), ids=NOUNS)
def test_an_index_takes_the_same_rows_of_every_column(noun, index):
    joined = concatenate([noun[[1]], noun[[3]]])
    assert len(joined) == 2
    assert flat(noun[index]) == flat(joined) != flat(noun[[3, 1]])


@pytest.mark.parametrize("noun", NOUNS.values(), ids=NOUNS)
def test_parts_join_to_the_whole(noun):
    assert flat(concatenate([noun[:1], noun[1:]])) == flat(noun)


@pytest.mark.parametrize("noun", [noun for name, noun in NOUNS.items() if name != "rollout"])
def test_moving_keeps_every_column(noun):
    assert flat(noun.to("cpu", non_blocking=True)) == flat(noun)
    assert type(noun.to("cpu")) is type(noun)


def test_moving_moves_every_tensor():
    for noun in (samples(), trajectory(), labeled(samples()), labeled(torch.ones(4, 2))):
        moved = noun.to("meta")
        tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
        tensors += [
            column
            for value in vars(moved).values()
            if isinstance(value, dict)
            for column in value.values()
        ]
        assert tensors
        assert all(tensor.is_meta for tensor in tensors)


def test_nouns_are_frozen():
    with pytest.raises(AttributeError):
        samples().prompts = []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((["a"], torch.rand(2, 1, 2, 2)), "got 1 prompts and {'outputs': 2}"),
        ((["a"], ["x"], {"row": torch.arange(3)}), "got 1 prompts and {'row': 3}"),
        ((["a", "b"], torch.rand(2, 4)), r"a torch.float32 tensor \[2, 4\]"),
        ((["a"], torch.ones(1, 1, 2, 2, dtype=torch.uint8)), "a torch.uint8 tensor"),
    ],
)
def test_samples_refuse_columns_that_do_not_fit(arguments, match):
    with pytest.raises(InputError, match=match):
        Samples(*arguments)


def test_videos_are_samples_too():
    assert len(Samples(["a"], torch.rand(1, 4, 3, 2, 2))) == 1


def test_pairs_refuse_halves_of_different_prompts():
    with pytest.raises(InputError, match="differ in prompts or in their order"):
        PreferencePairs(samples(), samples()[[1, 0, 2, 3]])


def test_facts_that_a_part_lacks_are_dropped():
    assert set(concatenate([samples().with_facts(extra=torch.ones(4)), samples()]).facts) == {"row"}


def test_with_facts_replaces_and_leaves_the_original():
    before = samples()
    assert before.with_facts(row=torch.zeros(4)).facts["row"].tolist() == [0] * 4
    assert before.facts["row"].tolist() == [0, 1, 2, 3]


def test_take_of_nothing():
    assert take(["a"], []) == []
    assert len(samples()[:0]) == 0


def test_balanced_gives_each_class_half_of_the_mass():
    labels = torch.tensor([1.0, 0.75, 0.0, 0.0, 0.5, 0.0])
    weights = balanced(labels)
    torch.testing.assert_close(
        (weights * labels).sum() + (weights * (1 - labels)).sum(), weights.sum()
    )
    torch.testing.assert_close(balanced(torch.tensor([1.0, 0.0])), torch.ones(2))
    hard = torch.tensor([1.0, 0.0, 0.0])
    assert (balanced(hard) * hard).sum() == 1.5 == (balanced(hard) * (1 - hard)).sum()


def test_sources_are_told_by_name():
    assert labeled(samples()).of("generated").tolist() == [False, True, False, False]


def test_the_earlier_name_of_labeled_samples_still_works():
    assert types.Labelled is LabeledSamples


def test_rows_are_numbered_in_order_and_anew():
    numbered = samples()[[3, 1]].numbered(first=5)
    assert numbered.facts["row"].tolist() == [5, 6]
    pairs = PreferencePairs(samples(), samples()).numbered()
    assert pairs.chosen.facts["row"].tolist() == pairs.rejected.facts["row"].tolist()


@pytest.mark.parametrize("values", [[], ["a"], ["b", "a", "b", "c", "a"], [(1, 2), (1,), (1, 2)]])
def test_distinct_values_and_places_give_the_rows_back(values):
    unique = distinct(values)
    assert [unique.values[place] for place in unique.places] == values
    assert [values[row] for row in unique.first_rows] == unique.values
    assert len(set(unique.values)) == len(unique.values)
    assert unique.first_rows == sorted(unique.first_rows)


def test_samples_of_the_other_kind_are_refused_in_the_name_of_who_asked():
    texts = Samples(["a"], ["x"])
    assert images_of(samples(), "Judge").shape == (4, 1, 2, 2)
    assert texts_of(texts, "Judge") == ["x"]
    with pytest.raises(InputError, match=r"Judge scores images \[B, 3, H, W\].*list of 1 strings"):
        images_of(texts, "Judge", channels="3")
    with pytest.raises(InputError, match=r"Judge scores texts.*got images \[4, 1, 2, 2\]"):
        texts_of(samples(), "Judge")
    assert (kind_of(texts), kind_of(samples())) == ("texts", "images [1, 2, 2]")


def written_facts(path):
    """Return the names of the facts that a file sets by `with_facts(name=...)`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "with_facts":
            names.update(keyword.arg for keyword in node.keywords if keyword.arg)
    return names


def test_every_fact_that_the_package_sets_is_in_the_list():
    names = set()
    for path in Path(rewardlab.__file__).parent.rglob("*.py"):
        names |= written_facts(path)
    assert {"row", "seed", "group", "attack"} <= names
    assert names <= set(FACTS)


@pytest.mark.parametrize(
    ("prompts", "outputs", "message"),
    [
        ("hi", ["a", "b"], "one prompt a sample in a list"),
        (["a", "b"], "no", "one output a sample in a list"),
        ([[{"role": "user", "content": "hi"}]], ["a"], "string or a Conversation; got a list"),
        ([None], ["a"], "got a NoneType"),
    ],
)
def test_prompts_and_outputs_of_another_form_are_refused_at_once(prompts, outputs, message):
    with pytest.raises(InputError, match=message):
        Samples(prompts, outputs)
