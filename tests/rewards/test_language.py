import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    OPTForSequenceClassification,
)

from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, load_reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.formatting import token_ids
from rewardlab.rewards.language import LanguageReward
from rewardlab.testing import RewardConformance
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_models.py"))))
SAMPLES = TINY.SAMPLES


class Texts:
    def samples(self):
        return SAMPLES


class TestOneHead(Texts, RewardConformance):
    def make(self):
        return TINY.reward()


class TestThreeHeadsWithTemplate(Texts, RewardConformance):
    def make(self):
        return TINY.reward(TINY.CHATML, heads=3, pooling="mean")


class TestFrozen(Texts, RewardConformance):
    @cache  # noqa: B019
    def make(self):
        made = TINY.reward(heads=2, frozen=True)
        made.fit_feature_scale(made.features(SAMPLES))
        return made


class TestAdapter(Texts, RewardConformance):
    @cache  # noqa: B019
    def make(self):
        return TINY.moved(TINY.reward(lora_rank=2))


class TestEnsemble(Texts, RewardConformance):
    def make(self):
        return Ensemble([TINY.reward(seed=1), TINY.reward(seed=2)])


def states_of(reward, prompt, response):
    """Return the last hidden states [T, D] of one prompt and its response."""
    ids = torch.tensor(token_ids(reward.tokenizer, [prompt], [response]).ids)
    return reward.backbone(ids).last_hidden_state[0]


def test_long_prompts_are_cut_from_the_left_and_responses_never(caplog):
    mine = TINY.reward(max_length=10)
    with torch.no_grad():
        long = mine(Samples(["x" * 50 + "ab"], ["response"]))
        short = mine(Samples(["zzb"], ["response"]))
    assert torch.equal(long, short)
    assert caplog.text.count("cut 1 of 1 prompts") == 1
    rows = {"row": torch.tensor([7, 8])}
    with pytest.raises(InputError, match=r"sample 1 \(row 8\).*11 tokens and the model sees 10"):
        mine(Samples(["a", "b"], ["short", "0123456789"], rows))


def test_the_mean_is_over_the_response():
    mine = TINY.reward(pooling="mean", frozen=True)
    expected = states_of(mine, "ab", "cde")[2:].mean(0)
    features = mine.features(Samples(["ab"], ["cde"]))
    assert torch.allclose(features[0], expected, atol=1e-6)


def test_a_tokenizer_that_pads_with_its_end_token_scores_the_last_word():
    mine = LanguageReward(TINY.backbone(), TINY.tokenizer(pad_token=None)).eval()
    states = states_of(mine, "ab", "cde")
    with torch.no_grad():
        scores = mine(Samples(["ab", "x"], ["cde", "longer than that"]))
        assert torch.allclose(scores[0], states[-2] @ mine.head[0], atol=1e-6)


def test_scoring_drops_nothing_out():
    mine = LanguageReward(TINY.backbone(attention_dropout=0.5), TINY.tokenizer())
    assert mine.training
    with torch.no_grad():
        in_training_mode = mine(SAMPLES)
        assert torch.equal(in_training_mode, mine.eval()(SAMPLES))
    mine.train()
    assert not torch.equal(mine(SAMPLES), mine(SAMPLES))


def test_heads_come_from_the_seed_whatever_their_number():
    one = TINY.reward()
    three = TINY.reward(heads=3)
    other = TINY.reward(seed=1)
    assert torch.equal(one.head[0], three.head[0])
    assert not torch.equal(one.head, other.head)


class TestOneBackboneForSeveral:
    def test_its_weights_are_shared(self):
        network = TINY.backbone()
        shared = network.model.embed_tokens.weight
        adapted = LanguageReward(network, TINY.tokenizer(), lora_rank=2)
        frozen = LanguageReward(network, TINY.tokenizer(), frozen=True)
        copied = LanguageReward(network, TINY.tokenizer())
        assert adapted.backbone.embed_tokens.weight is shared
        assert frozen.backbone.embed_tokens.weight is shared
        assert copied.backbone.embed_tokens.weight is not shared

    def test_training_one_leaves_the_others_alone(self):
        network = TINY.backbone()
        first = LanguageReward(network, TINY.tokenizer(), lora_rank=2, seed=1)
        LanguageReward(network, TINY.tokenizer(), lora_rank=2, seed=2)
        head = LanguageReward(network, TINY.tokenizer(), frozen=True)
        before = head(SAMPLES)
        first(SAMPLES).sum().backward()
        trained = {
            name: parameter
            for name, parameter in first.named_parameters()
            if parameter.requires_grad
        }
        torch.optim.SGD(trained.values(), lr=10.0).step()
        assert torch.equal(head(SAMPLES), before)
        assert "head" in trained
        assert all("lora" in name or name == "head" for name in trained)

    def test_only_a_frozen_one_has_features(self):
        network = TINY.backbone()
        adapted = LanguageReward(network, TINY.tokenizer(), lora_rank=2)
        frozen = LanguageReward(network, TINY.tokenizer(), frozen=True)
        assert frozen_features(adapted) is None
        assert frozen_features(frozen) is frozen
        with pytest.raises(InputError, match="frozen=True has features"):
            adapted.features(SAMPLES)


def gradient(checkpointing):
    """Return the gradient of the embeddings, with activations recomputed or kept."""
    made = LanguageReward(TINY.backbone(), TINY.tokenizer(), gradient_checkpointing=checkpointing)
    made(SAMPLES).sum().backward()
    return made.backbone.embed_tokens.weight.grad


def test_gradients_reach_the_backbone_with_checkpointing_too():
    kept = gradient(checkpointing=False)
    assert kept.abs().sum() > 0
    assert_close(gradient(checkpointing=True), kept, atol=1e-6, rtol=1e-5)


def test_images_are_refused():
    images = Samples(["", ""], torch.rand(2, 3, 8, 8))
    with pytest.raises(InputError, match=r"LanguageReward scores texts.*got images \[2, 3, 8, 8\]"):
        TINY.reward()(images)


def test_scores_that_are_not_finite_are_refused():
    made = TINY.reward()
    with torch.no_grad():
        made.head.fill_(torch.nan)
    message = r"LanguageReward gave a score of \[nan\] to sample 0 \(row 7\)"
    with pytest.raises(InputError, match=message):
        made(SAMPLES)


def without_padding():
    tokenizer = TINY.tokenizer(pad_token=None, eos_token=None)
    return LanguageReward(TINY.backbone(), tokenizer)


def with_unknown_tokens():
    tokenizer = TINY.tokenizer(extra_special_tokens=["<a>", "<b>"])
    return LanguageReward(TINY.backbone(), tokenizer)


def with_other_heads():
    classifier = TINY.backbone(LlamaForSequenceClassification, num_labels=2)
    return LanguageReward(classifier, TINY.tokenizer(), heads=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LanguageReward(TINY.backbone()), "no tokenizer"),
        (lambda: LanguageReward("no/such-folder"), "cannot load no/such-folder"),
        (lambda: TINY.reward(heads=0), "at least one head"),
        (lambda: TINY.reward(frozen=True, lora_rank=2), "either frozen or"),
        (without_padding, "neither a padding nor an end"),
        (with_unknown_tokens, "backbone embeds 260"),
        (with_other_heads, "with 2 scores"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_members_with_different_tokenizers_are_an_ensemble_all_the_same():
    """Rewards meet in texts, so each member reads with its own tokenizer and template."""
    plain = LanguageReward(tiny_causal_lm(0), tiny_tokenizer(), seed=0).eval()
    chat = LanguageReward(tiny_causal_lm(1), tiny_tokenizer(chat=True), seed=1).eval()
    samples = Samples(["a cat", "dogs"], ["sat.", "ran"])
    expected = torch.cat([plain.members(samples), chat.members(samples)], 1)
    assert torch.equal(Ensemble([plain, chat]).members(samples), expected)


def classifier_rows(network, tokenizer, samples, end):
    """Return the logits of a classifier of transformers, a row at a time."""
    logits = []
    for prompt, output in zip(samples.prompts, samples.outputs, strict=True):
        ids = [*tokenizer(prompt + output).input_ids, end]
        with torch.no_grad():
            logits.append(network(torch.tensor([ids])).logits[0, 0])
    return torch.stack(logits)


@pytest.mark.parametrize("pad", [True, False])
def test_a_classifier_without_padding_token_scores_the_very_last_token(tmp_path, pad):
    """It is what transformers takes where a config names no padding token."""
    config = tiny_causal_lm().config
    config.num_labels = 1
    config.pad_token_id = None
    network = LlamaForSequenceClassification(config).eval()
    tokenizer = tiny_tokenizer(pad=pad)
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    samples = Samples(["Hi", "Hi", "Hi"], ["yes", " you", " a cat"])
    expected = classifier_rows(network, tokenizer, samples, 256)
    reward = load_reward(tmp_path / "model")
    with torch.no_grad():
        assert_close(reward(samples), expected, atol=1e-5, rtol=1e-4)
    reward.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert_close(load_reward(tmp_path / "saved")(samples), expected, atol=1e-5, rtol=1e-4)
    plain = LlamaForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert_close(classifier_rows(plain, tokenizer, samples, 256), expected)


def opt(kind, **options):
    config = OPTConfig(
        vocab_size=259,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        init_std=0.3,
        eos_token_id=256,
        pad_token_id=257,
        bos_token_id=258,
        **options,
    )
    return kind(config).eval()


def test_states_narrower_than_the_network_are_scored_as_opt_350m_has_them(tmp_path):
    samples = Samples(["Hi", "Hi", "Hi"], ["yes", " you", " a cat"])
    network = opt(OPTForSequenceClassification, num_labels=1)
    expected = classifier_rows(network, tiny_tokenizer(), samples, 256)
    reward = LanguageReward(network, tiny_tokenizer()).eval()
    fresh = LanguageReward(opt(OPTForCausalLM), tiny_tokenizer(), heads=2).eval()
    with torch.no_grad():
        assert_close(reward(samples), expected, atol=1e-5, rtol=1e-4)
        assert fresh.members(samples).shape == (3, 2)
    for number, saved in enumerate((reward, fresh)):
        saved.save_pretrained(tmp_path / str(number))
        with torch.no_grad():
            assert_close(load_reward(tmp_path / str(number))(samples), saved(samples))
