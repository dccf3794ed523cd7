"""ClassifierReward on encoders of many kinds: how long a pair may be, and what it loses."""

from inspect import signature

import pytest
import torch
import transformers
from tokenizers import processors
from transformers import BertTokenizerFast

from rewardlab.errors import InputError
from rewardlab.rewards import ClassifierReward
from rewardlab.types import Samples

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
SIZE = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "num_labels": 1,
}
SHIFTS = {
    "Roberta": 1,
    "XLMRoberta": 1,
    "Camembert": 1,
    "Data2VecText": 1,
    "RobertaPreLayerNorm": 1,
    "MPNet": 2,  # whose padding token is number 1, whatever its config says
}
KINDS = [*SHIFTS, "Bert", "Electra", "Albert", "ConvBert", "DebertaV2", "ModernBert"]
TABLE = 32  # rows of the table of positions


def tokenizer(marks=3):
    """A tokenizer of words; its pairs have `marks` special tokens, three (BERT) or four."""
    made = BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    if marks == 4:
        made._tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.model_max_length = 10**30  # what one has that names no limit
    return made


def network(kind, **options):
    config = getattr(transformers, f"{kind}Config")
    size = SIZE | {"max_position_embeddings": TABLE, "initializer_range": 0.3} | options
    if kind == "Albert":
        size["embedding_size"] = 32
    if kind == "ModernBert":
        size |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, f"{kind}ForSequenceClassification")(config(**size))
    return made.eval()


def bart():
    size = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_labels": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ffn = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": TABLE}
    config = transformers.BartConfig(
        vocab_size=len(WORDS),
        eos_token_id=3,
        pad_token_id=0,
        bos_token_id=2,
        **size,
        **heads,
        **ffn,
    )
    return transformers.BartForSequenceClassification(config).eval()


def t5():
    config = transformers.T5Config(
        vocab_size=7, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, num_labels=1
    )
    config.eos_token_id = 3
    config.decoder_start_token_id = 0
    return transformers.T5ForSequenceClassification(config).eval()


def by_hand(net, prompt, response, marks=3):
    """Return the logit of a pair of counts of words, made without the tokenizer's help."""
    middle = [3] * (marks - 2)
    ids = [2, *[5] * prompt, *middle, *[6] * response, 3]
    kinds = [0] * (1 + prompt + len(middle)) + [1] * (response + 1)
    inputs = {"input_ids": torch.tensor([ids])}
    if "token_type_ids" in signature(net.forward).parameters and marks == 3:
        inputs["token_type_ids"] = torch.tensor([kinds])
    with torch.no_grad():
        return net(**inputs).logits[0, 0]


def words(prompt, response):
    return Samples(["a " * prompt], ["b " * response])


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_pair_fits_and_a_longer_one_loses_the_prompts_end(kind, caplog):
    net = network(kind)
    mine = ClassifierReward(net, tokenizer()).eval()
    assert mine.max_length == TABLE - SHIFTS.get(kind, 0)
    room = mine.max_length - 3
    expected = by_hand(net, room - 4, 4)
    assert torch.allclose(mine(words(room - 4, 4))[0], expected, atol=1e-4)
    assert not caplog.records
    assert torch.allclose(mine(words(90, 4))[0], expected, atol=1e-4)
    mine(words(90, 4))
    assert mine.cut_pairs == 2
    assert len(caplog.records) == 1
    assert torch.allclose(mine(words(90, room - 1))[0], by_hand(net, 1, room - 1), atol=1e-4)
    with pytest.raises(InputError, match=f"of sample 0 the prompt has 90.*alone has {room}"):
        mine.check_samples(words(90, room))


def test_roberta_with_its_own_padding_token_has_two_positions_fewer():
    net = network("Roberta", pad_token_id=1, type_vocab_size=1)
    mine = ClassifierReward(net, tokenizer(marks=4)).eval()
    assert mine.max_length == TABLE - 2
    expected = by_hand(net, TABLE - 9, 3, marks=4)
    assert torch.allclose(mine(words(60, 3))[0], expected, atol=1e-4)
    with pytest.raises(InputError, match="4 of which mark the texts"):
        mine(words(60, TABLE - 6))


def test_bart_sees_its_whole_context():
    mine = ClassifierReward(bart(), tokenizer()).eval()
    assert mine.max_length == TABLE
    assert torch.isfinite(mine(words(90, 4))).all()


def test_t5_has_no_limit():
    net = t5()
    mine = ClassifierReward(net, tokenizer()).eval()
    assert mine.max_length is None
    scores = mine(words(200, 100))
    assert torch.allclose(scores[0], by_hand(net, 200, 100), atol=1e-5)
    assert ClassifierReward(net, tokenizer(), max_length=16).max_length == 16


def test_xlnet_says_that_it_has_none():
    config = transformers.XLNetConfig(
        vocab_size=7, d_model=32, n_layer=1, n_head=2, d_inner=64, num_labels=1, pad_token_id=0
    )
    net = transformers.XLNetForSequenceClassification(config).eval()
    mine = ClassifierReward(net, tokenizer()).eval()
    assert mine.max_length is None
    assert torch.isfinite(mine(words(50, 50))).all()


@pytest.mark.parametrize("marks", [3, 4])
def test_what_pairs_lose_is_chosen(marks):
    net = network("Bert")
    room = 16 - marks
    both = ClassifierReward(net, tokenizer(marks), max_length=16, cut="pair").eval()
    none = ClassifierReward(net, tokenizer(marks), max_length=16, cut="nothing").eval()
    fits = words(room - 5, 5)
    assert torch.allclose(none(fits), both(fits), atol=1e-6)
    with pytest.raises(InputError, match="let it be cut"):
        none(words(room - 4, 5))
    assert torch.isfinite(both(words(3, 200))).all()
    assert torch.isfinite(both(words(200, 200))).all()
    empty = ClassifierReward(net, tokenizer(marks), max_length=16).eval()
    assert torch.isfinite(empty(Samples([""], ["b " * room]))).all()


def test_special_tokens_in_texts_stay_text():
    net = network("Bert")
    mine = ClassifierReward(net, tokenizer()).eval()
    spelled = Samples(["a", "a"], ["b [SEP] b", "b"])
    ids = tokenizer()(["b [SEP] b"], add_special_tokens=False, split_special_tokens=True)
    assert 3 not in ids["input_ids"][0]
    assert torch.isfinite(mine(spelled)).all()
    assert torch.allclose(mine(spelled)[1:], mine(Samples(["a"], ["b"])), atol=1e-6)


def test_a_network_that_cannot_score_a_pair_is_refused_at_once():
    net = t5()
    del net.config.decoder_start_token_id
    with pytest.raises(InputError, match=r"T5For.* cannot score a pair.*decoder_start_token_id"):
        ClassifierReward(net, tokenizer())
