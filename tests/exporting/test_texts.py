"""Rewards of texts as classifiers of transformers: tokens, heads, constants and refusals."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rewardlab.errors import InputError
from rewardlab.exporting import Origin, combination_of, export_transformers
from rewardlab.exporting.text_folder import text_form
from rewardlab.networks.silence import silent
from rewardlab.rewards import (
    Bottleneck,
    ClassifierReward,
    Ensemble,
    LanguageReward,
    Standardized,
    Weighted,
)
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "rewards/tiny_models.py")))
LINES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"  # without an end
DATED = "{{ strftime_now('%d %b') }}" + TINY.CHATML
SILENT = "{% if not think %}({{ level }}){% endif %}" + TINY.CHATML
SAMPLES = Samples(["Say hi.", "1 + 1 = "], ["Hello there, hé 世", "2\n\n"])


def exported(reward, folder, **options):
    """Export a reward and return the network and the tokenizer that transformers loads."""
    reward.eval()
    (folder / "source").mkdir()
    comparison = export_transformers(
        reward, folder / "out", Origin(str(folder / "source")), **options
    )
    assert comparison.difference <= comparison.tolerance
    with silent():
        network = AutoModelForSequenceClassification.from_pretrained(folder / "out").eval()
        return network, AutoTokenizer.from_pretrained(folder / "out")


def chat_scores(network, tokenizer, samples=SAMPLES):
    """Return the scores of samples as a user of transformers computes them."""
    conversations = []
    for prompt, response in zip(samples.prompts, samples.outputs, strict=True):
        user = {"role": "user", "content": prompt}
        conversations.append([user, {"role": "assistant", "content": response}])
    tables = tokenizer.apply_chat_template(
        conversations, padding=True, return_tensors="pt", return_dict=True
    )
    return scores(network, tables)


@torch.no_grad()
def scores(network, tables):
    offset = getattr(network.config, "reward_offset", 0.0)
    return network(**tables).logits[:, 0] + offset


def framed():
    """A tokenizer that puts a begin-of-text token before every text."""
    made = TINY.tokenizer(bos_token="<|im_start|>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 258)]
    )
    return made


FORMATS = {
    "a template that ends its turns": (TINY.tokenizer(TINY.CHATML), None),
    "a template without an end": (TINY.tokenizer(LINES), None),
    "a template with a clock": (TINY.tokenizer(DATED), {"date": "2026-01-02"}),
    "a template with options": (
        TINY.tokenizer(SILENT),
        {"options": {"think": False, "level": "low"}},
    ),
    "plain text": (TINY.tokenizer(), None),
    "plain text beside a template": (TINY.tokenizer(TINY.CHATML), False),
    "plain text behind a begin-of-text token": (framed(), None),
    "OpenRLHF's end": (TINY.tokenizer(TINY.CHATML), {"ending": "spaced"}),
    "padding with the end token": (TINY.tokenizer(TINY.CHATML, pad_token="<|end|>"), None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_transformers_template_makes_the_rewards_tokens(name, tmp_path):
    tokenizer, chat = FORMATS[name]
    reward = LanguageReward(TINY.backbone(), tokenizer, heads=2, chat=chat)
    network, loaded = exported(reward, tmp_path)
    expected = scores_of(reward, SAMPLES)
    torch.testing.assert_close(chat_scores(network, loaded), expected, atol=1e-5, rtol=0)


def test_a_reward_that_scores_the_very_last_token_gets_another_padding_token(tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer(TINY.CHATML, pad_token="<|end|>"))
    reward.pad = None
    reward.set_chat({"ending": "spaced"})
    network, loaded = exported(reward, tmp_path)
    assert loaded.pad_token != "<|end|>"
    expected = scores_of(reward, SAMPLES)
    torch.testing.assert_close(chat_scores(network, loaded), expected, atol=1e-5, rtol=0)


def shared(seed, **options):
    """A reward on the one frozen backbone, with features that are standardised."""
    reward = LanguageReward(BACKBONE, TINY.tokenizer(), frozen=True, seed=seed, **options)
    reward.fit_feature_scale(torch.randn(8, 32, generator=torch.Generator().manual_seed(seed)))
    return reward


BACKBONE = TINY.backbone()


def bottleneck():
    """A bottleneck on the one frozen backbone."""
    reward = Bottleneck(shared(3), width=4, heads=2)
    reward.fit_feature_scale(torch.randn(8, 32, generator=torch.Generator().manual_seed(9)))
    return reward


SUMS = {
    "an ensemble": lambda: Ensemble([shared(1), shared(2, heads=2)]),
    "a difference": lambda: Weighted([shared(1), shared(2)], [1.0, -0.5]),
    "a bottleneck beside heads": lambda: Weighted([bottleneck(), shared(1)], [2.0, 1.0]),
}


@pytest.mark.parametrize("name", SUMS)
def test_heads_on_one_backbone_become_one_head_and_a_constant(name, tmp_path):
    reward = SUMS[name]()
    network, loaded = exported(reward, tmp_path)
    assert network.score.weight.shape == (1, 32)
    assert abs(network.config.reward_offset) > 0.01
    expected = scores_of(reward, SAMPLES)
    torch.testing.assert_close(chat_scores(network, loaded), expected, atol=1e-5, rtol=0)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"score = logit + {network.config.reward_offset!r}" in card
    assert "It sees 128 tokens" in card
    assert "The network checks nothing" in card


def gpt2():
    """A GPT-2 of two blocks, whose last norm has a bias."""
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 128}
    return GPT2Model(GPT2Config(vocab_size=260, pad_token_id=256, eos_token_id=257, **sizes))


def test_a_constant_goes_into_the_bias_of_the_last_norm(tmp_path):
    inner = LanguageReward(gpt2(), TINY.tokenizer(), heads=2).eval()
    before = scores_of(inner, SAMPLES)
    reward = Standardized(inner, mean=2.0, std=0.5)
    network, loaded = exported(reward, tmp_path)
    assert not hasattr(network.config, "reward_offset")
    expected = scores_of(reward, SAMPLES)
    torch.testing.assert_close(chat_scores(network, loaded), expected, atol=1e-5, rtol=0)
    assert torch.equal(scores_of(inner, SAMPLES), before)


def classifier(kind, config, labels, **options):
    """A tiny published encoder with labels."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    settings = config(
        vocab_size=260,
        pad_token_id=256,
        num_labels=labels,
        num_attention_heads=2,
        max_position_embeddings=400,
        initializer_range=0.3,
        **sizes,
        **options,
    )
    return kind(settings).eval()


ENCODERS = {
    "one label": (BertForSequenceClassification, BertConfig, 1, None, {}),
    "two labels": (BertForSequenceClassification, BertConfig, 2, 0, {}),
    "a label apart": (
        RobertaForSequenceClassification,
        RobertaConfig,
        3,
        1,
        {"problem_type": "regression", "type_vocab_size": 2},
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_log_odds_become_one_label_without_a_constant_beside_it(name, tmp_path):
    kind, config, labels, label, options = ENCODERS[name]
    network = classifier(kind, config, labels, **options)
    reward = Standardized(ClassifierReward(network, TINY.tokenizer(), label=label), 0.5, 2.0)
    loaded_network, loaded = exported(reward, tmp_path)
    assert loaded_network.config.num_labels == 1
    assert not hasattr(loaded_network.config, "reward_offset")
    assert network.config.num_labels == labels
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "rewardlab cuts the end of a prompt that is too long" in card
    tables = loaded(SAMPLES.prompts, list(SAMPLES.outputs), padding=True, return_tensors="pt")
    expected = scores_of(reward, SAMPLES)
    torch.testing.assert_close(scores(loaded_network, tables), expected, atol=1e-5, rtol=0)


def test_weights_in_half_precision_stay_near_and_leave_the_reward_as_it_is(tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer())
    before = scores_of(reward.eval(), SAMPLES)
    network, _ = exported(reward, tmp_path, dtype="bfloat16")
    assert network.dtype == torch.bfloat16
    assert torch.equal(scores_of(reward, SAMPLES), before)
    assert next(reward.parameters()).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_reward_that_computes_in_half_precision_is_held_to_its_own(dtype, tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer(), heads=3, dtype=dtype)
    network, tokenizer = exported(reward, tmp_path)
    assert network.dtype == torch.float32
    error = (chat_scores(network, tokenizer) - scores_of(reward, SAMPLES)).abs().max()
    assert 0 < error < 0.05


def three_labels():
    return ClassifierReward(
        classifier(BertForSequenceClassification, BertConfig, 3), TINY.tokenizer(), label=[0, 1]
    )


REFUSED = {
    "several labels": three_labels,
    "adds a LanguageReward and a ClassifierReward": lambda: Weighted(
        [shared(1), three_labels()], [1.0, 1.0]
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_classifier_scores_is_refused_and_nothing_is_written(words, tmp_path):
    reward = REFUSED[words]().eval()
    with pytest.raises(InputError, match=words):
        export_transformers(reward, tmp_path / "out", Origin(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_score_as_the_reward_is_refused(tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer()).eval()
    block = reward.backbone.layers[0]
    block.mlp.register_forward_hook(lambda module, inputs, output: 3 * output)
    with pytest.raises(InputError, match=r"gives .* to a probe where the reward gives"):
        export_transformers(reward, tmp_path / "out", Origin(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_context_too_short_for_any_probe_is_refused():
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer(), max_length=1).eval()
    with pytest.raises(InputError, match="takes none of"):
        text_form(combination_of(Standardized(reward, 0.0, 1.0)))
