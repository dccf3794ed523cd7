"""What is saved is what was scored: folders are loaded and tried as soon as they are written."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rewardlab.errors import InputError
from rewardlab.networks.loading import load_tokenizer
from rewardlab.policies import CausalLMPolicy, load_policy
from rewardlab.rewards import LanguageReward, load_reward
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

SAMPLES = Samples(["What is 12345?", "hello"], ["It is 67890.", "world"])


def by_threes():
    """Return a tokenizer of bytes whose digits come by threes, as Llama 3's do."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {symbol: number for number, symbol in enumerate(sorted(alphabet))}
    merges = []
    for number in range(100):
        pair = f"{number:02d}"
        vocabulary[pair] = len(vocabulary)
        merges.append((pair[0], pair[1]))
    for number in range(1000):
        triple = f"{number:03d}"
        vocabulary[triple] = len(vocabulary)
        merges.append((triple[:2], triple[2]))
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\p{N}]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|end|>", "<|pad|>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")


def qwen2(tokenizer):
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Qwen2ForCausalLM(config).eval()


def test_a_qwen2_body_keeps_the_ids_of_its_own_tokenizer(tmp_path):
    """Beside a qwen2 config transformers replaces what tokenizer.json says of digits."""
    tokenizer = by_threes()
    ids = tokenizer("12345").input_ids
    assert len(ids) == 2
    policy = CausalLMPolicy(qwen2(tokenizer), tokenizer)
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.tokenizer("12345").input_ids == ids
    trajectory = policy.encode(SAMPLES, seeds=torch.arange(2))
    again = loaded.encode(SAMPLES, seeds=torch.arange(2))
    assert_close(loaded.log_prob(again), policy.log_prob(trajectory))
    loaded.save_pretrained(tmp_path / "again")
    assert load_tokenizer(None, tmp_path / "again", "A")("12345").input_ids == ids

    reward = LanguageReward(qwen2(tokenizer).model, tokenizer).eval()
    reward.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    with torch.no_grad():
        assert_close(loaded(SAMPLES), reward(SAMPLES))


def test_a_tokenizer_changed_in_a_way_that_no_file_holds_is_refused(tmp_path):
    class Shouting(PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            return super().__call__(text.upper() if isinstance(text, str) else text, **options)

    tokenizer = Shouting(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="<|end|>")
    policy = CausalLMPolicy(tiny_causal_lm(), tokenizer)
    with pytest.raises(InputError, match="gives back is another than was used"):
        policy.save_pretrained(tmp_path / "policy")
    reward = LanguageReward(tiny_causal_lm(), tokenizer)
    with pytest.raises(InputError, match="gives back is another than was used"):
        reward.save_pretrained(tmp_path / "reward")
    assert not (tmp_path / "reward").exists()


def test_a_model_changed_in_a_way_that_its_config_does_not_tell_is_refused(tmp_path):
    def doubled(module, args, output):
        return 2 * output

    network = tiny_causal_lm()
    network.model.layers[0].mlp.register_forward_hook(doubled)
    with pytest.raises(InputError, match="scores a probe text otherwise"):
        CausalLMPolicy(network, tiny_tokenizer()).save_pretrained(tmp_path / "policy")
    reward = LanguageReward(network, tiny_tokenizer(), frozen=True)
    with pytest.raises(InputError, match="scores a probe otherwise"):
        reward.save_pretrained(tmp_path / "reward")
    assert not (tmp_path / "reward").exists()


def test_a_reward_keeps_its_mode_when_it_is_saved(tmp_path):
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    reward.save_pretrained(tmp_path / "reward")
    assert reward.training
    assert reward.backbone.training
