"""Rewards of texts that no class of transformers scores: means over responses, several networks."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from rewardlab.errors import InputError
from rewardlab.exporting import Origin, export_transformers
from rewardlab.exporting.remote.modeling_text_reward import TextRewardModel
from rewardlab.rewards import (
    Bottleneck,
    Corrected,
    Ensemble,
    LanguageReward,
    Standardized,
    Tolerant,
    Weighted,
)
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "rewards/tiny_models.py")))
LINES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"  # without an end
SAMPLES = Samples(
    ["Say hi.", "1 + 1 = ", "", "x" * 160], ["Hello there, hé 世", "2\n\n", "no", "y"]
)


def exported(reward, folder, **options):
    """Export a reward and return the model and the tokenizer that transformers loads."""
    comparison = export_transformers(reward.eval(), folder / "out", Origin(str(folder)), **options)
    assert comparison.difference <= comparison.tolerance
    model = TextRewardModel.from_pretrained(folder / "out").eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder / "out")


@torch.no_grad()
def output_of(model, tokenizer, samples=SAMPLES):
    return model(**model.tables(tokenizer, TINY.conversations(samples)))


def mean(seed=0, template=None, **options):
    """A reward that scores the mean over the response's tokens, on a backbone of its own."""
    options = {"pooling": "mean", "heads": 2, "seed": seed, **options}
    return LanguageReward(TINY.backbone(seed=seed), TINY.tokenizer(template), **options)


def adapted():
    """A reward whose trained adapter is merged."""
    return TINY.moved(mean(lora_rank=2))


def bottleneck():
    inner = mean(frozen=True)
    reward = Bottleneck(inner, width=4, heads=2)
    reward.fit_feature_scale(torch.randn(8, 32, generator=torch.Generator().manual_seed(9)))
    return Weighted([reward, inner], [2.0, 1.0])


REWARDS = {
    "plain texts": mean,
    "a template": lambda: mean(template=TINY.CHATML),
    "a template without an end": lambda: mean(template=LINES),
    "an adapter": adapted,
    "a bottleneck beside heads on one network": bottleneck,
    "an ensemble on two networks": lambda: Ensemble([mean(1), Standardized(mean(2), 0.5, 0.25)]),
    "the last token beside a mean": lambda: Weighted([mean(1, pooling="last"), mean(2)], [1, -2]),
    "a correction": lambda: Corrected(mean(1), mean(2), weight=2.0),
    "the very last token, twice": lambda: Ensemble([mean(1, pooling="last"), very_last()]),
}


def very_last():
    reward = mean(2, pooling="last")
    reward.pad = None
    return reward


@pytest.mark.parametrize("name", REWARDS)
def test_the_folders_model_scores_as_the_reward_does_long_prompts_too(name, tmp_path):
    reward = REWARDS[name]()
    model, tokenizer = exported(reward, tmp_path)
    output = output_of(model, tokenizer)
    expected = scores_of(reward, SAMPLES)
    assert expected.std() > 1e-3
    torch.testing.assert_close(output.logits[:, 0], expected, atol=1e-5, rtol=0)
    members = member_scores(reward, SAMPLES)
    if members.shape[1] > 1:
        torch.testing.assert_close(output.members, members, atol=1e-5, rtol=0)
    else:
        assert output.members is None


def merging_tokenizer():
    """A tokenizer that merges the letters at the end of "hel" otherwise where "lo" follows."""
    made = TINY.tokenizer()
    content = json.loads(made.backend_tokenizer.to_str())
    for number, word in enumerate(("el", "lo", "llo"), start=259):
        content["model"]["vocab"][word] = number
    content["model"]["merges"] = [["l", "o"], ["l", "lo"], ["e", "l"]]
    made._tokenizer = Tokenizer.from_str(json.dumps(content))
    return made


def test_a_token_that_straddles_prompt_and_response_counts_as_here(tmp_path):
    backbone = TINY.backbone()
    backbone.resize_token_embeddings(262, mean_resizing=False)
    reward = LanguageReward(backbone, merging_tokenizer(), pooling="mean")
    samples = Samples(["hel", "he", "hel"], ["lo", "llo", "p"])
    assert reward.token_rows(samples).starts == [1, 2, 2]  # "hel" is h el, "hello" is h e llo
    model, loaded = exported(reward, tmp_path)
    logits = output_of(model, loaded, samples).logits[:, 0]
    torch.testing.assert_close(logits, scores_of(reward, samples), atol=1e-5, rtol=0)


def test_a_response_longer_than_the_context_and_a_missing_mask_are_refused(tmp_path):
    model, tokenizer = exported(mean(), tmp_path)
    with pytest.raises(ValueError, match="A response has 201 tokens, and this reward sees 128"):
        model.tables(tokenizer, TINY.conversations(Samples(["a"], ["b" * 200])))
    tables = model.tables(tokenizer, TINY.conversations(SAMPLES))
    tables.pop("response_mask")
    with pytest.raises(ValueError, match="give response_mask"):
        model(**tables)


def test_half_precision_stays_near(tmp_path):
    reward = mean()
    model, tokenizer = exported(reward, tmp_path, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    error = (output_of(model, tokenizer).logits[:, 0].float() - scores_of(reward, SAMPLES)).abs()
    assert 0 < error.max() < 0.1


def test_the_card_says_what_runs_and_what_a_tolerant_left_out(tmp_path, caplog):
    reward = Tolerant(mean())
    model, tokenizer = exported(reward, tmp_path)
    torch.testing.assert_close(
        output_of(model, tokenizer).logits[:, 0], scores_of(reward, SAMPLES), atol=1e-5, rtol=0
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for words in ("runs the Python files in this folder", "sees 128 tokens", "in a Tolerant"):
        assert words in card
    assert "The export is what that wraps" in caplog.text


REFUSED = {
    "see other tokens": lambda: Ensemble([mean(1), mean(2, template=TINY.CHATML)]),
    "one tokenizer and one context": lambda: Ensemble([mean(1), mean(2, max_length=99)]),
}


@pytest.mark.parametrize("words", REFUSED)
def test_networks_that_read_texts_otherwise_are_refused_and_nothing_is_written(words, tmp_path):
    with pytest.raises(InputError, match=words):
        export_transformers(REFUSED[words]().eval(), tmp_path / "out", Origin(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
