import torch

from rewardlab.networks.sharing import keeps_only_keys_and_values, prompt_cache
from rewardlab.networks.tokens import padded, positions_of
from rewardlab.testing import tiny_causal_lm


def cache_of(backbone):
    ids, mask = padded([[5, 6, 7], [8, 9]], left=True)
    return prompt_cache(backbone, ids, mask.long(), positions_of(mask))


def test_keys_and_values_are_those_of_a_plain_pass_with_gradients_and_without():
    backbone = tiny_causal_lm().base_model
    assert keeps_only_keys_and_values(backbone)
    with_gradients = cache_of(backbone)
    with torch.no_grad():
        plain = cache_of(backbone)
    assert len(plain.layers) == len(with_gradients.layers) == 2
    for one, other in zip(with_gradients.layers, plain.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)
        assert one.keys.requires_grad


def test_gradients_flow_through_the_cache():
    backbone = tiny_causal_lm().base_model
    cache_of(backbone).layers[1].values.square().sum().backward()
    assert backbone.layers[0].self_attn.k_proj.weight.grad.abs().sum() > 0
