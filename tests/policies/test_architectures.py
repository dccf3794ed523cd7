"""Laws of policies over the causal language models of transformers, each small and random."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.policies import CausalLMPolicy
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_tokenizer

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("architectures.py"))))
FAMILIES = [
    "OPTConfig",  # its dropouts are numbers
    "BioGptConfig",
    "GPTBigCodeConfig",
    "FalconConfig",
    "Starcoder2Config",
    "PersimmonConfig",
    "BloomConfig",
    "CTRLConfig",
    "GPT2Config",
    "GPTNeoXConfig",
    "GPTJConfig",
    "LlamaConfig",
    "Qwen3Config",
    "Gemma2Config",
    "Phi3Config",
    "MixtralConfig",
    "PhimoeConfig",  # its router jitters in training mode
    "DeepseekV3Config",
    "Lfm2Config",
    "Qwen3NextConfig",
    "NemotronHConfig",
]
REFUSED = {
    "MambaConfig": "no cache",
    "RwkvConfig": "no cache",
    "RecurrentGemmaConfig": "no cache",
    "OpenAIGPTConfig": "no cache",
    "xLSTMConfig": "cannot run",
    "BartConfig": "behind padding",
    "MarianConfig": "behind padding",
    "WhisperConfig": "behind padding",
    "CohereConfig": "alters its logits",
}
CLASSES = {config.__name__: config for config in SMALL.CAUSAL}


def make(name, **options):
    network = SMALL.small_causal_lm(CLASSES[name], rate=0.3)
    return CausalLMPolicy(network, tiny_tokenizer(), max_new_tokens=4, **options)


def check(policy):
    """Check that scoring draws nothing, and is as transformers has it row by row."""
    trajectory = policy.sample(["Hello", "What is it"], seeds=row_seeds(0, 2))
    reference = policy.reference().log_prob(trajectory)
    scores = policy.log_prob(trajectory)
    assert scores.requires_grad
    assert torch.equal(policy.log_prob(trajectory), scores)
    assert_close(scores.detach(), reference, atol=1e-5, rtol=0)
    alone = policy.log_prob(trajectory[[0]])
    assert_close(alone, scores[:1, : alone.shape[1]], atol=1e-4, rtol=0)
    for number in range(2):
        expected = plain_log_prob(policy.network, trajectory, number)
        assert_close(scores[number, : len(expected)], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def plain_log_prob(network, trajectory, number):
    """Return the log-probabilities of a row's response, from the whole model on that row alone."""
    tensors = trajectory.tensors
    prompt = tensors["prompt"][number][tensors["prompt_mask"][number]]
    response = tensors["response"][number][tensors["response_mask"][number]]
    network.eval()
    logits = network(input_ids=torch.cat([prompt, response])[None]).logits[0].float()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, response[:, None])[:, 0]


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_is_off_whatever_the_config_says(name):
    check(make(name))


@pytest.mark.parametrize("name", ["OPTConfig", "GPT2Config", "BloomConfig", "GPTNeoXConfig"])
def test_recomputed_activations_draw_nothing_and_give_the_same_gradients(name):
    gradients = []
    for checkpointing in (False, True):
        policy = make(name, gradient_checkpointing=checkpointing)
        recomputing = [part for part in policy.network.modules() if part.training]
        assert bool(recomputing) == checkpointing
        trajectory = policy.sample(["Hello", "What is it"], seeds=row_seeds(0, 2))
        scores = policy.log_prob(trajectory)
        assert torch.equal(policy.log_prob(trajectory), scores)
        torch.autograd.backward(scores.sum())
        gradients.append([weight.grad for weight in policy.network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert_close(recomputed, plain)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_scored_otherwise_than_drawn_is_refused(name):
    with pytest.raises(InputError, match=REFUSED[name]):
        make(name)


@pytest.mark.nightly
def test_every_architecture_keeps_the_laws_or_is_refused():
    checked = 0
    for name in sorted(CLASSES):
        try:
            policy = make(name)
        except InputError:
            continue
        except NotImplementedError:  # it cannot be built small
            continue
        check(policy)
        checked += 1
    assert checked > 90
