"""Adapters count in both modes, also where torch takes weights without running their layers."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.networks import lora
from rewardlab.policies import LatentPolicy

FEATURES = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[False, False, False], [False, False, True]])


def encoder(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2)


def moved(network):
    """Move the adapters, as training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight += torch.randn(weight.shape, generator=generator)
    return network


@pytest.mark.parametrize("padding", [None, PADDING])
@pytest.mark.parametrize("options", [{}, {"activation": "gelu", "norm_first": True}])
@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
def test_adapters_of_encoder_layers_count_in_evaluation(padding, options, with_gradient):
    network = encoder(**options)
    plain = network.eval()(FEATURES, src_key_padding_mask=padding)
    lora.add(network, 2, "all-linear", torch.float32)
    trained = moved(network).train()(FEATURES, src_key_padding_mask=padding)
    network.eval()
    with torch.set_grad_enabled(with_gradient):
        evaluated = network(FEATURES, src_key_padding_mask=padding)
        merged = lora.merged(network)(FEATURES, src_key_padding_mask=padding)
    seen = torch.ones(2, 3, dtype=torch.bool) if padding is None else ~padding
    assert (evaluated - plain)[seen].abs().max() > 0.1
    assert_close(evaluated[seen], trained[seen])
    assert_close(merged[seen], trained[seen])


def test_every_adapter_gets_a_gradient():
    network = encoder().eval()
    lora.add(network, 2, "all-linear", torch.float32)
    moved(network)(FEATURES).square().sum().backward()
    adapters = {name: weight for name, weight in network.named_parameters() if "lora_" in name}
    assert len(adapters) == 8
    assert all(weight.grad is not None for weight in adapters.values())


def test_attention_alone_takes_no_adapter():
    with pytest.raises(InputError, match="only the output layers of torch"):
        lora.add(nn.Sequential(nn.MultiheadAttention(8, 2)), 2, ["out_proj"], None)


class Decoder(nn.Module):
    """An encoder of torch as the generator of a latent policy."""

    def __init__(self):
        super().__init__()
        self.encoder = encoder()

    def forward(self, latents, prompts):
        return self.encoder(latents).reshape(-1, 3, 2, 4).sigmoid()


def test_a_latent_policys_adapter_changes_what_it_draws():
    policy = LatentPolicy(Decoder(), shape=[3, 8], lora_rank=2)
    seeds = torch.arange(2)
    before = policy.generate(["", ""], seeds=seeds).outputs
    moved(policy.generator)
    assert (policy.generate(["", ""], seeds=seeds).outputs - before).abs().max() > 0.01
