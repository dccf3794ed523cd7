"""Batches of a token budget: of like length, each row once, equally many in every epoch."""

import logging
from functools import partial
from itertools import chain, pairwise

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint

from rewardlab import LanguageReward, PreferencePairs, Samples
from rewardlab.data import (
    PairsData,
    Preferences,
    Prompts,
    ResumableLoader,
    Rows,
    SamplesData,
    TargetSamples,
    loader,
)
from rewardlab.data.prompt_data import numbered
from rewardlab.data.token_budget import TokenBudget, budget_of, filled, token_batches
from rewardlab.errors import InputError
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.rewards import Ensemble, Length
from rewardlab.rounds import PostTrain
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.training import DPO, GANRM, PPO, SFT, AdvRM
from rewardlab.training.trainers import SILENT
from rewardlab.types import LabeledSamples

TAIL = torch.empty(300).log_normal_(4, 0.8, generator=torch.Generator().manual_seed(0)).long() + 1
BUDGET = TokenBudget(600, TAIL)
ROWS = Rows(torch.arange(300))


def budgeted(**options):
    return ResumableLoader(ROWS, 1, seed=4, budget=BUDGET, **options)


def listed(batches):
    return [batch.tolist() for batch in batches]


def padded(batch):
    return len(batch) * int(TAIL[batch].max())


def ranks_of(monkeypatch, count):
    """The batches of each of so many processes."""
    shares = []
    for rank in range(count):
        monkeypatch.setattr(loader, "_rank_and_count", lambda rank=rank: (rank, count))
        shares.append(listed(budgeted()))
        assert len(shares[-1]) == len(budgeted())
    return shares


def test_an_epoch_holds_every_row_once_within_the_budget_and_pads_little():
    batches = listed(budgeted())
    assert sorted(chain(*batches)) == list(range(300))
    assert all(padded(batch) <= 600 or len(batch) == 1 for batch in batches)
    assert sum(map(padded, batches)) < 1.2 * TAIL.sum()
    assert len(batches) < 1.35 * TAIL.sum() / 600


def test_epochs_have_other_batches_in_another_order_but_equally_many():
    whole = budgeted()
    passes = [listed(whole) for _ in range(4)]
    assert {len(batches) for batches in passes} == {len(whole)}
    assert listed(budgeted()) == passes[0]
    together = [{frozenset(batch) for batch in batches} for batches in passes]
    assert len(together[0] & together[1]) < len(whole) / 3
    longest = [int(TAIL[batch].max()) for batch in passes[0]]
    assert longest != sorted(longest, reverse=True)


def test_without_shuffling_the_longest_come_first():
    longest = [int(TAIL[batch[0]]) for batch in listed(budgeted(shuffle=False))]
    assert all(first * 1.1 >= second for first, second in pairwise(longest))


@pytest.mark.parametrize("done", [0, 1, 7])
def test_a_loaded_position_in_a_later_epoch_yields_exactly_what_remains(done):
    whole = budgeted()
    listed(whole)
    second = listed(whole)
    stopped = budgeted()
    listed(stopped)
    passing = iter(stopped)
    for _ in range(done):
        next(passing)
    resumed = budgeted()
    resumed.load_state_dict(stopped.state_dict())
    assert listed(resumed) == second[done:]
    assert listed(resumed) == listed(whole)


@pytest.mark.parametrize(
    "other",
    [
        ResumableLoader(ROWS, 4, seed=4),
        ResumableLoader(ROWS, 1, seed=4, budget=TokenBudget(601, TAIL)),
        ResumableLoader(ROWS, 1, seed=4, budget=TokenBudget(600, TAIL + 1)),
    ],
    ids=["old order", "other budget", "other tokenizer"],
)
def test_a_position_among_other_batches_is_refused_both_ways(other):
    for first, second in ((budgeted(), other), (other, budgeted())):
        with pytest.raises(InputError, match=r"tokens.* Resume with the same data and settings"):
            first.load_state_dict(second.state_dict())


def test_the_number_of_processes_is_part_of_a_position(monkeypatch):
    state = budgeted().state_dict()
    monkeypatch.setattr(loader, "_rank_and_count", lambda: (0, 2))
    with pytest.raises(InputError, match="'processes': 1"):
        budgeted().load_state_dict(state)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_processes_have_equally_many_rows_of_each_batch_within_the_budget(monkeypatch, count):
    shares = ranks_of(monkeypatch, count)
    assert len({len(batches) for batches in shares}) == 1
    for parts in zip(*shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert all(padded(part) <= 600 or len(part) == 1 for part in parts)
    rows = list(chain(*chain(*shares)))
    assert set(rows) == set(range(300))
    assert len(rows) < 300 + count


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_data_smaller_than_a_batch_is_one_that_every_process_has(monkeypatch, rows, ranks):
    budget = TokenBudget(10_000, torch.arange(rows) + 3)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(loader, "_rank_and_count", lambda rank=rank: (rank, ranks))
        shares.append(listed(ResumableLoader(Rows(torch.arange(rows)), 1, budget=budget)))
    assert {len(batches) for batches in shares} == {1}
    assert set(chain(*chain(*shares))) == set(range(rows))


@pytest.mark.parametrize("lengths", [[1], [2, 2, 1], [50, 50, 50], [9, 8, 3, 2, 1, 1, 1]])
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_are_as_full_as_the_budget_allows(lengths, ranks):
    starts = [0, *filled(lengths, 10, ranks)]
    for start, end in pairwise(starts):
        assert end - start <= ranks or -(-(end - start) // ranks) * lengths[start] <= 10
        if end < len(lengths):
            one_more = -(-(end + 1 - start) // ranks)
            assert one_more > 1
            assert one_more * lengths[start] > 10


def test_the_number_of_batches_depends_on_no_order():
    generator = torch.Generator().manual_seed(1)
    counts = set()
    for _ in range(20):
        counts.add(len(token_batches(BUDGET, torch.randperm(300, generator=generator), 2)))
    assert len(counts) == 1


def test_there_is_no_last_batch_to_drop():
    with pytest.raises(InputError, match="drop_last"):
        ResumableLoader(ROWS, 1, drop_last=True, budget=BUDGET)


# The loops. Tokens of the tiny tokenizer are letters, and a text's end is one more.
PROMPTS = ["q" * (1 + row % 3) for row in range(24)]
CHOSEN = ["a" * (1 + 2 * row % 45) for row in range(24)]
REJECTED = ["b" * (1 + 7 * row % 31) for row in range(24)]
PAIRS = PreferencePairs(Samples(PROMPTS, CHOSEN), Samples(PROMPTS, REJECTED))


def policy():
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3)


def reward(seed=0):
    return LanguageReward(tiny_causal_lm(), tiny_tokenizer(), seed=seed)


class Seen(pl.Callback):
    """Notes the rows of each batch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if isinstance(batch, LabeledSamples):
            self.rows.append(batch.rows.tolist())
            return
        half = batch.chosen if isinstance(batch, PreferencePairs) else batch
        self.rows.append(half.facts["row"].tolist())


def fit(module, data, *callbacks, **options):
    """Train for two epochs, and return the rows of each batch."""
    seen = Seen()
    settings = {**SILENT, "enable_checkpointing": bool(callbacks)}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=[seen, *callbacks], **settings)
    trainer.fit(module, data, **options)
    return seen.rows


LOOPS = {
    "AdvRM": (lambda: AdvRM(reward()), partial(Preferences, PAIRS, held_out=4)),
    "DPO": (lambda: DPO(policy()), partial(PairsData, PAIRS)),
    "SFT": (lambda: SFT(policy()), partial(SamplesData, PAIRS.chosen)),
}


@pytest.mark.filterwarnings("ignore:Total length")
@pytest.mark.parametrize("name", LOOPS)
def test_loops_take_batches_of_the_budget(name):
    loop, data = LOOPS[name]
    module = loop()
    batches = fit(module, data(tokens_per_batch=120))
    steps = module.trainer.global_step // 2
    assert len(batches) == 2 * steps
    first, second = batches[:steps], batches[steps:]
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert first != second
    assert len(set(chain(*first))) == len(list(chain(*first))) >= 20
    per_pair = 1 if name == "SFT" else 2
    for rows in batches:
        sizes = []
        for row in rows:
            answer = len(CHOSEN[row])
            if per_pair == 2:
                answer = max(answer, len(REJECTED[row]))
            sizes.append(per_pair * (len(PROMPTS[row]) + answer))
        assert len(rows) * max(sizes) <= 120 or len(rows) == 1


def targets(**options):
    return TargetSamples(PAIRS.chosen, PAIRS.rejected, held_out=4, **options)


@pytest.mark.filterwarnings("ignore:Total length", "ignore:Be aware that when using")
def test_gan_rm_takes_targets_that_are_texts_by_the_budget(tmp_path):
    module = GANRM(reward())
    data = targets(tokens_per_batch=120)
    checkpoints = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    batches = fit(module, data, checkpoints)
    samples = data.split("train").inputs
    lengths = [len(p) + len(o) + 1 for p, o in zip(samples.prompts, samples.outputs, strict=True)]
    steps = len(batches) // 2
    assert sorted(chain(*batches[:steps])) == sorted(chain(*batches[steps:])) == list(range(40))
    assert len({len(rows) for rows in batches}) > 3
    for rows in batches:
        assert len(rows) * max(lengths[row] for row in rows) <= 120 or len(rows) == 1
    resumed = GANRM(reward())
    path = tmp_path / f"step={steps + 3}.ckpt"
    remaining = fit(resumed, targets(tokens_per_batch=120), ckpt_path=path, weights_only=True)
    assert remaining == batches[steps + 3 :]
    for name, weight in resumed.state_dict().items():
        assert torch.equal(weight, module.state_dict()[name])


def test_targets_without_a_budget_come_in_the_old_order():
    data = targets(batch_size=16)
    data.setup("fit")
    old = ResumableLoader(Rows(data.split("train")), 16, seed=0)
    rows = [batch.rows.tolist() for batch in data.train_dataloader()]
    assert rows == [batch.rows.tolist() for batch in old]


def test_other_negatives_keep_the_budget():
    data = targets(tokens_per_batch=99).against(PAIRS.rejected[:8])
    assert (data.tokens_per_batch, data.few(8).tokens_per_batch) == (99, 99)


def test_features_of_a_frozen_reward_are_refused_before_they_are_computed(monkeypatch):
    frozen = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True)
    monkeypatch.setattr(frozen, "features", None)
    with pytest.raises(InputError, match="these samples are features that a frozen reward"):
        fit(GANRM(frozen), targets(tokens_per_batch=120))


@pytest.mark.filterwarnings("ignore:Total length", "ignore:Be aware that when using")
def test_a_fit_that_goes_on_inside_an_epoch_ends_as_one_that_was_not_stopped(tmp_path):
    loop, data = LOOPS["AdvRM"]
    whole = loop()
    checkpoints = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    batches = fit(whole, data(tokens_per_batch=120), checkpoints)
    done = len(batches) // 2 + 3
    resumed = loop()
    path = tmp_path / f"step={done}.ckpt"
    remaining = fit(resumed, data(tokens_per_batch=120), ckpt_path=path, weights_only=True)
    assert remaining == batches[done:]
    for name, weight in resumed.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])


def test_rows_longer_than_the_budget_are_batches_of_their_own_and_that_is_said_once(caplog):
    samples = Samples(["q"] * 4, ["a" * 9, "b" * 30, "c" * 40, "d" * 9])
    with caplog.at_level(logging.WARNING, "rewardlab"):
        budget = budget_of(samples, 24, [reward()], "samples")
    assert [rows.tolist() for rows in token_batches(budget, torch.arange(4))] == [[2], [1], [0, 3]]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "2 of 4 samples have more tokens than tokens_per_batch=24"
    )


def test_what_does_not_fit_the_context_counts_as_cut_to_it():
    long = Samples(["q" * 200, "q"], ["a", "a"])
    both = Ensemble([reward(0), reward(1)])
    assert budget_of(long, 64, [both], "samples").lengths.tolist() == [64, 3]


PICTURES = Samples([""] * 2, torch.rand(2, 1, 8, 8))
REFUSED = {
    "pictures": (PICTURES, 64, [], "are pictures, which are equally large. Leave it out"),
    "pairs of pictures": (PreferencePairs(PICTURES, PICTURES), 64, [], "are pictures"),
    "features": (torch.ones(2, 3), 64, [], "are features that a frozen reward computes once"),
    "prompts": (numbered(["a"]), 64, [], "are prompts without responses"),
    "no tokenizer": (PAIRS, 64, [Length()], "needs a model whose tokenizer .*; got Length"),
    "no model": (PAIRS, 64, [], "got no model"),
    "no budget": (PAIRS, 0, [], "should be at least 1; got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_tokens_is_refused(name):
    noun, tokens, models, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        budget_of(noun, tokens, models, "rows")


def test_folders_of_pictures_are_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    data = SamplesData(tmp_path, tokens_per_batch=64)
    data.setup("fit")
    with pytest.raises(InputError, match="these samples are pictures"):
        data.train_dataloader()


def test_adversarial_pairs_join_under_the_same_budget():
    assert Preferences(PAIRS, tokens_per_batch=99).extended(PAIRS[:2]).tokens_per_batch == 99


def test_post_training_takes_texts_of_a_budget(tmp_path):
    seen = Seen()
    trainer = partial(pl.Trainer, max_epochs=1, accelerator="cpu")
    post_train = PostTrain(DPO, trainer, callbacks=[seen], tokens_per_batch=120)
    module = post_train.build(policy(), Length(), policy())
    folder = tmp_path / "stage"
    folder.mkdir()
    post_train(module, PAIRS, None, folder, tmp_path / "scratch")
    assert module.trainer.global_step > 4


def test_post_training_by_prompts_has_no_budget(tmp_path):
    trainer = partial(pl.Trainer, max_epochs=1, accelerator="cpu")
    post_train = PostTrain(PPO, trainer, tokens_per_batch=120)
    module = post_train.build(policy(), Length(), policy())
    with pytest.raises(InputError, match="these examples are prompts without responses"):
        post_train(module, numbered(["a"]), None, tmp_path, tmp_path / "scratch")


SOURCES = [
    partial(data, "nowhere.jsonl") for data in (Preferences, SamplesData, PairsData, TargetSamples)
]


@pytest.mark.parametrize("name", ["batch_size", "tokens_per_batch"])
@pytest.mark.parametrize("data", [*SOURCES, PostTrain])
def test_a_batch_of_nothing_is_refused_before_a_file_is_read(data, name):
    with pytest.raises(InputError, match=f"{name} should be at least 1; got 0"):
        data(**{name: 0})


def test_prompts_of_no_batch_are_refused_before_their_file_is_read():
    with pytest.raises(InputError, match="batch_size should be at least 1; got 0"):
        Prompts("nowhere.txt", batch_size=0)
