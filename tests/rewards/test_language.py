import json
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rewardlab.errors import InputError
from rewardlab.networks import sharing
from rewardlab.rewards import Ensemble, load_reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.classifier import ClassifierReward
from rewardlab.rewards.formatting import batch_ids, token_ids
from rewardlab.rewards.language import LanguageReward
from rewardlab.testing import RewardConformance
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SAMPLES = Samples(
    ["Say hi.", "Be short!", ""],
    ["Hello, hello there, hé 世", "no", ""],
    {"row": torch.tensor([7, 8, 9])},
)


def tokenizer(template=None, **special):
    """Bytes, and three marks; no padding token unless asked for."""
    marks = ["<|pad|>", "<|end|>", "<|im_start|>"]
    words = Tokenizer(
        models.BPE(
            {s: i for i, s in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *marks])}, []
        )
    )
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = {"pad_token": "<|pad|>", "eos_token": "<|end|>", **special}
    found = PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=["<|im_start|>"], **special
    )
    found.chat_template = template
    return found


def backbone(kind=LlamaForCausalLM, seed=0, **options):
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(
        vocab_size=260,
        max_position_embeddings=128,
        pad_token_id=256,
        eos_token_id=257,
        **shape,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def reward(template=None, **options):
    return LanguageReward(backbone(), tokenizer(template), **options).eval()


def scaled(made):
    """Move heads and weights away from where they start, so that nothing equal is equal by chance."""
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    return made


class Texts:
    def samples(self):
        return SAMPLES


class TestOneHead(Texts, RewardConformance):
    def make(self):
        return reward()


class TestThreeHeadsWithTemplate(Texts, RewardConformance):
    def make(self):
        return reward(CHATML, heads=3, pooling="mean")


class TestFrozen(Texts, RewardConformance):
    @cache  # noqa: B019
    def make(self):
        made = reward(heads=2, frozen=True)
        made.fit_feature_scale(made.features(SAMPLES))
        return made


class TestAdapter(Texts, RewardConformance):
    @cache  # noqa: B019
    def make(self):
        return scaled(reward(lora_rank=2))


class TestEnsemble(Texts, RewardConformance):
    def make(self):
        return Ensemble([reward(seed=1), reward(seed=2)])


@pytest.mark.parametrize("template", [None, CHATML])
def test_transformers_loads_the_folder_and_gives_equal_scores(tmp_path, template):
    for heads in (1, 3):
        mine = scaled(reward(template, heads=heads))
        folder = tmp_path / str(heads)
        mine.save_pretrained(folder)
        network = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=heads
        ).eval()
        ids, _ = token_ids(mine.tokenizer, SAMPLES.prompts, SAMPLES.outputs)
        for side in ("left", "right"):
            mine.tokenizer.padding_side = side
            batch = mine.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
            with torch.no_grad():
                assert torch.allclose(network(**batch).logits, mine.members(SAMPLES), atol=1e-5)
        loaded = load_reward(folder)
        assert loaded.tokenizer.chat_template == template
        assert json.loads((folder / "config.json").read_text())["architectures"] == [
            "LlamaForSequenceClassification"
        ]


def test_transformers_scores_of_standardised_features_differ_by_a_constant(tmp_path):
    mine = reward(frozen=True)
    mine.fit_feature_scale(mine.features(SAMPLES))
    mine.save_pretrained(tmp_path / "reward")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids, _ = token_ids(mine.tokenizer, SAMPLES.prompts, SAMPLES.outputs)
    with torch.no_grad():
        logits = network(**mine.tokenizer.pad({"input_ids": ids}, return_tensors="pt")).logits[:, 0]
        gaps = logits - mine(SAMPLES)
    assert gaps.abs().min() > 1e-3
    assert torch.allclose(gaps, gaps[:1].expand(3), atol=1e-4)


def test_what_is_saved_comes_back(tmp_path):
    mine = reward(CHATML, heads=2, max_length=90, seed=5)
    mine.calibrate(torch.tensor([1.0, 3.0]))
    mine.meaning = "a test"
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert (loaded.meaning, loaded.score_mean.item(), loaded.score_std.item(), loaded.limit) == (
        "a test",
        2.0,
        1.0,
        90,
    )
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "reward")


def test_heads_stay_exact_beside_a_rounded_backbone(tmp_path):
    mine = scaled(reward(frozen=True, dtype="bfloat16"))
    assert mine.backbone.dtype == torch.bfloat16
    mine.save_pretrained(tmp_path / "reward")
    loaded = LanguageReward.from_pretrained(tmp_path / "reward")
    assert torch.equal(loaded.head, mine.head)
    assert torch.equal(loaded(SAMPLES), mine(SAMPLES))
    assert loaded(SAMPLES).dtype == torch.float32


@pytest.mark.parametrize("source", ["folder", "instance"])
def test_a_published_classifier_is_a_reward(tmp_path, source):
    network = backbone(LlamaForSequenceClassification, num_labels=1).eval()
    words = tokenizer(CHATML)
    network.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    mine = load_reward(tmp_path) if source == "folder" else LanguageReward(network, words).eval()
    for prompt, text in (("Say hi.", "Hello"), ("Why?", "")):
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        ids = words.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            assert torch.allclose(
                mine(Samples([prompt], [text])), network(**ids).logits[:, 0], atol=1e-6
            )


def test_a_published_encoder_is_a_reward(tmp_path):
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    network = BertForSequenceClassification(
        BertConfig(vocab_size=260, num_labels=1, pad_token_id=256, **shape)
    ).eval()
    words = tokenizer()
    network.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    mine = load_reward(tmp_path)
    assert type(mine) is ClassifierReward
    with torch.no_grad():
        expected = network(**words(["Say hi."], ["Hello"], return_tensors="pt")).logits[:, 0]
        assert torch.allclose(
            mine(Samples(["Say hi.", "hm"], ["Hello", "a longer one"]))[:1], expected, atol=1e-6
        )
    mine.save_pretrained(tmp_path / "again")
    assert torch.allclose(load_reward(tmp_path / "again")(SAMPLES[[0, 1]]), mine(SAMPLES[[0, 1]]))
    with pytest.raises(InputError, match="response alone"):
        mine(Samples(["a"], ["b" * 600]))
    with pytest.raises(InputError, match="Is it an encoder"):
        LanguageReward(network, words)


def test_the_end_token_is_appended_once():
    plain, chat = tokenizer(), tokenizer(CHATML)
    end = plain.eos_token_id
    for text in ("hello", "hello<|end|>", ""):
        (ids,), (start,) = token_ids(plain, ["say "], [text])
        assert (ids.count(end), ids[-1], start) == (1, end, 4)
    (rendered,), (start,) = token_ids(chat, ["say"], ["hello"])
    answer = chat.decode(rendered[start:])
    assert answer == "hello<|end|>\n"
    bare = tokenizer("{% for m in messages %}{{ m['content'] }}|{% endfor %}")
    assert bare.decode(token_ids(bare, ["say"], ["hello"])[0][0]) == "say|hello|"
    open_ended = tokenizer(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    assert (
        open_ended.decode(token_ids(open_ended, ["say"], ["hello"])[0][0])
        == "user: say\nassistant: hello\n<|end|>"
    )


def test_long_prompts_are_cut_from_the_left_and_responses_never(caplog):
    mine = reward(max_length=10)
    with torch.no_grad():
        assert torch.equal(
            mine(Samples(["x" * 50 + "ab"], ["response"])), mine(Samples(["zzb"], ["response"]))
        )
    assert caplog.text.count("cut 1 of 1 prompts") == 1
    with pytest.raises(InputError, match=r"sample 1 \(row 8\).*11 tokens and the model sees 10"):
        mine(Samples(["a", "b"], ["short", "0123456789"], {"row": torch.tensor([7, 8])}))
    begun = tokenizer(bos_token="<|im_start|>")
    begun.chat_template = (
        "<|im_start|>{{ messages[0]['content'] }}"
        "{% if messages|length > 1 %}{{ messages[1]['content'] }}<|end|>{% endif %}"
    )
    rows, starts, _ = batch_ids(
        mine.tokenizer, Samples(["abcdefgh"], ["12345678"]), mine.limit, "LanguageReward"
    )
    ids = mine._whole(rows, starts)[1]
    assert mine.tokenizer.decode(ids[0]) == "h12345678<|end|>"
    mine = LanguageReward(backbone(), begun, max_length=10)
    rows, starts, _ = batch_ids(
        mine.tokenizer, Samples(["abcdefgh"], ["1234567"]), mine.limit, "LanguageReward"
    )
    _, ids, spans = mine._whole(rows, starts)
    assert begun.decode(ids[0]) == "<|im_start|>h1234567<|end|>"
    assert spans.tolist() == [[2, 10]]


def test_the_mean_is_over_the_response():
    mine = reward(pooling="mean", frozen=True)
    states = mine.backbone(
        torch.tensor(token_ids(mine.tokenizer, ["ab"], ["cde"])[0])
    ).last_hidden_state[0]
    assert torch.allclose(mine.features(Samples(["ab"], ["cde"]))[0], states[2:].mean(0), atol=1e-6)


def test_a_tokenizer_that_pads_with_its_end_token_scores_the_last_word(tmp_path):
    mine = LanguageReward(backbone(), tokenizer(pad_token=None)).eval()
    states = mine.backbone(
        torch.tensor(token_ids(mine.tokenizer, ["ab"], ["cde"])[0])
    ).last_hidden_state[0]
    with torch.no_grad():
        assert torch.allclose(
            mine(Samples(["ab", "x"], ["cde", "longer than that"]))[0],
            states[-2] @ mine.head[0],
            atol=1e-6,
        )
    mine.save_pretrained(tmp_path / "reward")
    assert (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").config.pad_token_id
        == 257
    )


def test_scoring_drops_nothing_out():
    mine = LanguageReward(backbone(attention_dropout=0.5), tokenizer())
    assert mine.training
    with torch.no_grad():
        assert torch.equal(mine(SAMPLES), mine.eval()(SAMPLES))
    mine.train()
    assert not torch.equal(mine(SAMPLES), mine(SAMPLES))


def test_heads_come_from_the_seed_whatever_their_number():
    one, three, other = reward(), reward(heads=3), reward(seed=1)
    assert torch.equal(one.head[0], three.head[0])
    assert not torch.equal(one.head, other.head)


def test_frozen_rewards_share_one_backbone_and_leave_it_alone():
    network = backbone()
    first, second = (
        LanguageReward(network, tokenizer(), lora_rank=2, seed=seed) for seed in (1, 2)
    )
    head = LanguageReward(network, tokenizer(), frozen=True)
    weights = [made.backbone.embed_tokens.weight for made in (first, second, head)]
    assert all(weight is network.model.embed_tokens.weight for weight in weights)
    before = head(SAMPLES)
    first(SAMPLES).sum().backward()
    torch.optim.SGD([p for p in first.parameters() if p.requires_grad], lr=10.0).step()
    assert torch.equal(head(SAMPLES), before)
    trained = [name for name, parameter in first.named_parameters() if parameter.requires_grad]
    assert "head" in trained
    assert all("lora" in name or name == "head" for name in trained)
    assert frozen_features(first) is None
    assert frozen_features(head) is head
    with pytest.raises(InputError, match="frozen=True has features"):
        first.features(SAMPLES)
    copied = LanguageReward(network, tokenizer())
    assert copied.backbone.embed_tokens.weight is not network.model.embed_tokens.weight


def test_gradients_reach_the_backbone_with_checkpointing_too():
    grads = []
    for checkpointing in (False, True):
        made = LanguageReward(backbone(), tokenizer(), gradient_checkpointing=checkpointing)
        made(SAMPLES).sum().backward()
        grads.append(made.backbone.embed_tokens.weight.grad)
    assert grads[0].abs().sum() > 0
    assert torch.allclose(*grads, atol=1e-6)


def test_other_decoders_work_too(tmp_path):
    network = GPT2Model(GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=2, n_positions=128))
    mine = LanguageReward(network, tokenizer()).eval()
    mine.save_pretrained(tmp_path / "reward")
    assert torch.allclose(load_reward(tmp_path / "reward")(SAMPLES), mine(SAMPLES), atol=1e-6)


def test_images_are_refused():
    with pytest.raises(InputError, match=r"LanguageReward scores texts.*got images \[2, 3, 8, 8\]"):
        reward()(Samples(["", ""], torch.rand(2, 3, 8, 8)))


def test_scores_that_are_not_finite_are_refused():
    made = reward()
    with torch.no_grad():
        made.head.fill_(torch.nan)
    with pytest.raises(
        InputError, match=r"LanguageReward gave a score of \[nan\] to sample 0 \(row 7\)"
    ):
        made(SAMPLES)


def broken_folder(folder, change):
    reward().save_pretrained(folder)
    if change == "shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(config | {"hidden_size": 64, "head_dim": 32})
        )
    if change == "layers":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    if change == "weights":
        (folder / "model.safetensors").write_bytes(b"short")
    if change == "reward":
        (folder / "reward.json").write_text(
            '{"class_path": "rewardlab.rewards.language.LanguageReward"}'
        )
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("shape", "cannot load .* of one backbone"),
        ("layers", "lacks 9 weights"),
        ("weights", "cannot load"),
        ("reward", "not what save_pretrained wrote"),
    ],
)
def test_a_folder_of_parts_that_do_not_fit_is_refused(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        load_reward(broken_folder(tmp_path / "reward", change))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LanguageReward(backbone()), "no tokenizer"),
        (lambda: LanguageReward("no/such-folder"), "cannot load no/such-folder"),
        (lambda: reward(heads=0), "at least one head"),
        (lambda: reward(frozen=True, lora_rank=2), "either frozen or"),
        (
            lambda: LanguageReward(backbone(), tokenizer(pad_token=None, eos_token=None)),
            "neither a padding nor an end",
        ),
        (
            lambda: LanguageReward(backbone(), tokenizer(extra_special_tokens=["<a>", "<b>"])),
            "backbone embeds 260",
        ),
        (
            lambda: LanguageReward(
                backbone(LlamaForSequenceClassification, num_labels=2), tokenizer()
            ),
            "with 2 scores",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_that_rows_share_is_run_once_and_nothing_else_changes(pooling, chat, monkeypatch):
    """Keys and values of a prompt depend on it alone, so all its responses may borrow them: scores
    and gradients are equal.
    """
    mine, found, rows = (
        LanguageReward(tiny_causal_lm(), tiny_tokenizer(chat=chat), heads=2, pooling=pooling),
        [],
        [],
    )
    samples = Samples(
        ["a cat"] * 3 + ["the dogs barked at"] * 2,
        ["sat.", "ran away, very far", "x", "them all night", "it"],
    )
    mine.backbone.register_forward_hook(
        lambda module, args, kwargs, output: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    for worth in (9.0, 0.0):
        monkeypatch.setattr(sharing, "WORTH_SHARING", worth)
        scores = mine.members(samples)
        weights = [weight for weight in mine.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(scores.square().sum(), weights, allow_unused=True)
        found.append([scores, *(gradient for gradient in gradients if gradient is not None)])
    assert rows == [5, 2, 5]
    for own, other in zip(found[1], found[0], strict=True):
        assert_close(own, other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=1e-4)


def test_what_the_gradient_needs_of_shared_prompts_is_computed_anew_with_the_same_dropout(
    monkeypatch,
):
    """Layer 0 runs for the prompts, for the responses, and for the prompts again; kept instead, all
    is the same to the bit.
    """
    network = tiny_causal_lm()
    for layer in network.model.layers:
        layer.self_attn.attention_dropout = 0.5
    mine, runs, found = LanguageReward(network, tiny_tokenizer(), lora_rank=2), [], []
    weights = [weight for weight in mine.parameters() if weight.requires_grad]
    mine.backbone.layers[0].register_forward_pre_hook(lambda *_: runs.append(1))
    monkeypatch.setattr(sharing, "WORTH_SHARING", 0.0)
    for kept in (False, True):
        if kept:
            monkeypatch.setattr(
                "rewardlab.rewards.language.checkpoint", lambda run, *given, **_: run(*given)
            )
        torch.manual_seed(0)
        scores = mine.members(Samples(["a cat"] * 3, ["sat.", "ran away", "x"]))
        gradients = torch.autograd.grad(scores.square().sum(), weights, allow_unused=True)
        found.append([scores, *(each for each in gradients if each is not None)])
        runs.append("|")
    assert runs == [1, 1, 1, "|", 1, 1, "|"]
    assert len(found[0]) > 3
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    torch.manual_seed(1)
    assert not torch.equal(
        mine.members(Samples(["a cat"] * 3, ["sat.", "ran away", "x"])), found[0][0]
    ), "no dropout"
    with torch.no_grad():
        runs.clear()
        mine.members(Samples(["a cat"] * 3, ["sat.", "ran away", "x"]))
    assert runs == [1, 1]


def test_rows_without_a_prompt_or_a_word_of_their_own_are_run_whole():
    mine = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    rows = [[5, 6, 7, 1], [5, 6, 7, 2], [5, 6, 7, 3]]
    assert mine._worth_sharing(rows, [3, 3, 3])
    assert not mine._worth_sharing(rows, [0, 3, 3])
    assert not mine._worth_sharing([*rows, [5, 6, 7, mine.pad]], [3, 3, 3, 3])
    assert not mine._worth_sharing([[1, 9], [2, 9], [3, 9]], [1, 1, 1])


def test_members_with_different_tokenizers_are_an_ensemble_all_the_same():
    """Rewards meet in texts, so each member reads with its own tokenizer and template."""
    members = [
        LanguageReward(tiny_causal_lm(seed), tiny_tokenizer(chat=seed == 1), seed=seed).eval()
        for seed in (0, 1)
    ]
    samples = Samples(["a cat", "dogs"], ["sat.", "ran"])
    together = Ensemble(members).members(samples)
    assert torch.equal(together, torch.cat([member.members(samples) for member in members], 1))
