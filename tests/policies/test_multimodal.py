"""Multimodal models that write text are policies of texts, as transformers computes them."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.policies import load_policy
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_tokenizer

TEXT = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 258,
    "eos_token_id": 256,
    "pad_token_id": 257,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def gemma3():
    config = Gemma3Config(
        text_config=TEXT,
        vision_config=SiglipVisionConfig(**VISION).to_dict(),
        mm_tokens_per_image=4,
        image_token_index=250,
        boi_token_index=251,
        eoi_token_index=252,
    )
    return Gemma3ForConditionalGeneration(config)


def llava():
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT),
        vision_config=CLIPVisionConfig(**VISION, projection_dim=32),
        image_token_index=250,
    )
    return LlavaForConditionalGeneration(config)


def qwen2_5_vl():
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "fullatt_block_indexes": [0],
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {name: size for name, size in TEXT.items() if name != "head_dim"}
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": rope},
        vision_config=vision,
        image_token_id=250,
        video_token_id=251,
        vision_start_token_id=252,
        vision_end_token_id=253,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


@torch.no_grad()
def plain_log_prob(network, trajectory, number):
    tensors = trajectory.tensors
    prompt = tensors["prompt"][number][tensors["prompt_mask"][number]]
    response = tensors["response"][number][tensors["response_mask"][number]]
    logits = network(input_ids=torch.cat([prompt, response])[None]).logits[0].float()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, response[:, None])[:, 0]


@pytest.mark.parametrize("make", [gemma3, llava, qwen2_5_vl])
def test_a_multimodal_model_writes_text(tmp_path, make):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = make().eval()
    with silent():
        network.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    policy.max_new_tokens = 4
    trajectory = policy.sample(["Hello", "What is it"], seeds=row_seeds(0, 2))
    scores = policy.log_prob(trajectory)
    for number in range(2):
        expected = plain_log_prob(network, trajectory, number)
        assert_close(scores[number, : len(expected)].detach(), expected, atol=1e-4, rtol=0)
    torch.autograd.backward(scores.sum())
    policy.save_pretrained(tmp_path / "saved")
    assert_close(load_policy(tmp_path / "saved").log_prob(trajectory), scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BartForConditionalGeneration, BartConfig),
        (T5ForConditionalGeneration, T5Config),
    ],
)
def test_an_encoder_decoder_is_refused(tmp_path, kind, config):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_layers": 1}
    with silent():
        kind(config(vocab_size=259, **sizes)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="writes no text"):
        load_policy(tmp_path)
