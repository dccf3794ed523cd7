"""Batches of like length, and each row's score in its own place."""

from __future__ import annotations

import random

import pytest
import torch

from rewardlab.bulk.ahead import ready
from rewardlab.bulk.entries import Entry, Numbered
from rewardlab.bulk.judging import OVERHEAD, How, batches, batches_for, chunks, cuts, judge
from rewardlab.errors import InputError
from rewardlab.networks.text_format import TextFormat
from rewardlab.rewards import Function, LanguageReward
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer


def entries_of(lengths, prompts=None):
    rows = []
    for row, length in enumerate(lengths):
        prompt = prompts[row] if prompts else ""
        rows.append(Numbered(row, Entry(f"line {row}", prompt, "x" * length)))
    return rows


def cost(lengths, ends):
    starts = [0, *ends[:-1]]
    spans = list(zip(starts, ends, strict=True))
    return sum(max(lengths[a:b]) * (b - a) + OVERHEAD for a, b in spans)


def every_cut(count, most):
    if count == 0:
        return [[]]
    ways = []
    for size in range(1, min(most, count) + 1):
        ways += [[*before, count] for before in every_cut(count - size, most)]
    return ways


@pytest.mark.parametrize("seed", range(5))
def test_cuts_are_the_cheapest_of_all(seed):
    generator = random.Random(seed)
    lengths = sorted((int(generator.lognormvariate(7, 1.5)) for _ in range(9)), reverse=True)
    wanted = min(cost(lengths, ends) for ends in every_cut(9, 4))
    assert cost(lengths, cuts(lengths, 4)) == wanted


def test_large_batches_are_cut_without_trying_all():
    class Counted(list):
        looked_at = 0

        def __getitem__(self, place):
            Counted.looked_at += 1
            return super().__getitem__(place)

    lengths = Counted(range(1500, 0, -1))
    cuts(lengths, 1500)
    assert Counted.looked_at < 1500 * 200


def test_batches_hold_every_row_once_and_pad_less():
    generator = random.Random(0)
    lengths = [int(generator.lognormvariate(6, 1)) for _ in range(500)]
    found = batches(entries_of(lengths), 32)
    rows = [row for batch in found for row, _ in batch]
    assert sorted(rows) == list(range(500))
    assert max(map(len, found)) <= 32
    firsts = [batch[0].entry.letters for batch in found]
    assert firsts == sorted(firsts, reverse=True)
    run = sum(len(batch) * batch[0].entry.letters for batch in found)
    in_order = sum(32 * max(lengths[start : start + 32]) for start in range(0, 480, 32))
    assert run < 1.2 * sum(lengths) < 0.4 * in_order


def test_rows_of_one_prompt_stay_together_where_prompts_are_long():
    prompts = [str(row % 5) * 300 for row in range(20)]
    lengths = [1 + 7 * row % 40 for row in range(20)]
    for batch in batches(entries_of(lengths, prompts), 4):
        assert len({entry.prompt for _, entry in batch}) == 1
    short = [str(row % 5) for row in range(20)]
    letters = [
        entry.letters for batch in batches(entries_of(lengths, short), 4) for _, entry in batch
    ]
    assert letters == sorted(letters, reverse=True)


def test_chunks_are_bounded_by_letters_and_pictures():
    texts = [numbered.entry for numbered in entries_of([2**25] * 5)]
    assert [len(chunk) for chunk in chunks(texts, 64)] == [2, 2, 1]
    pictures = [Entry("", output=lambda: None)] * 20
    assert [len(chunk) for chunk in chunks(pictures, 2)] == [8, 8, 4]


def test_a_picture_is_read_when_it_is_scored_and_may_fail():
    def broken():
        raise InputError("a.png cannot be used.")

    def pixels():
        return torch.full((3, 4, 4), 0.5)

    reward = Function(lambda samples: samples.outputs.flatten(1).mean(1))
    batch = [Numbered(7, Entry("a.png", output=broken)), Numbered(8, Entry("b.png", output=pixels))]
    with pytest.raises(InputError, match=r"a\.png cannot be used\. Or leave"):
        ready(batch)
    verdict = judge(reward, ready(batch, skip_unreadable=True), How())
    assert verdict.reasons == ["a.png cannot be used.", ""]
    assert verdict.scores[1] == 0.5
    assert verdict.scores[0].isnan()


def test_texts_and_pictures_in_one_batch_are_a_sentence():
    batch = [Numbered(0, Entry("a", output="text")), Numbered(1, Entry("b", output=lambda: None))]
    with pytest.raises(InputError, match="are texts and pictures"):
        ready(batch)


def language(**options):
    return LanguageReward(tiny_causal_lm(), tiny_tokenizer(), **options)


def test_batches_of_a_token_budget_hold_every_row_once_and_score_as_alone():
    """The tiny tokenizer reads letters, and a context of 64 of them."""
    rows = entries_of([30, 1, 60, 7, 7, 7, 2, 1, 15, 3])
    reward = language()
    how = How(batch_size=2, tokens_per_batch=40)
    found = batches_for(reward, rows, how)
    lengths = [[len(entry.output) + 1 for _, entry in batch] for batch in found]
    assert lengths[0] == [61]
    assert all(len(batch) == 1 or len(batch) * batch[0] <= 40 for batch in lengths)
    assert max(map(len, found)) > 2
    assert sorted(row for batch in found for row, _ in batch) == list(range(10))
    scores = torch.cat([judge(reward, ready(batch), how).scores for batch in found])
    alone = [
        judge(reward, ready([numbered]), How()).scores for batch in found for numbered in batch
    ]
    torch.testing.assert_close(scores, torch.cat(alone))


def test_rows_that_nobody_can_read_are_no_longer_than_nothing():
    rows = entries_of([5, 6])
    rows.append(Numbered(2, Entry("line 2", problem="broken")))
    rows.append(Numbered(3, Entry("line 3", "refused", "x" * 9)))
    refusing = (
        "{% for message in messages %}{{ message.content }}"
        "{% if message.content == 'refused' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )
    reward = language(chat=TextFormat(chat=True, template=refusing))
    found = batches_for(reward, rows, How(tokens_per_batch=40))
    assert [[row for row, _ in batch] for batch in found] == [[1, 0, 2, 3]]


def test_a_token_budget_of_pictures_or_of_a_reward_without_tokens_is_refused():
    picture = [Numbered(0, Entry("a.png", output=lambda: torch.zeros(3, 4, 4)))]
    how = How(tokens_per_batch=40)
    with pytest.raises(InputError, match="these samples are pictures"):
        batches_for(language(), picture, how)
    with pytest.raises(InputError, match=r"needs a model whose tokenizer .*; got Function"):
        batches_for(Function(len), entries_of([3]), how)
