"""The scorer of a reward of images: one vision tower, and one head on its embedding."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.exporting.combination import Combination, Term
from rewardlab.exporting.remote.modeling_image_reward import keep_buffers, without_text
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Bottleneck, Reward, VisionReward
from rewardlab.rewards.timm_towers import TimmTower, timm_config
from rewardlab.rewards.towers import Tower
from rewardlab.rewards.transformers_towers import TransformersTower


class JoinedHead(NamedTuple):
    """All heads as one on features that are standardised, in float64.

    score = weight @ gelu(hidden_weight @ x + hidden_bias) + bias, or weight @ x + bias.

    Attributes:
        mean: [D].
        std: [D].
        hidden_weight: [H, D]; None for a linear head.
        hidden_bias: [H]; None for a linear head.
        weight: [H], or [D] of a linear head.
        bias: a number.
    """

    mean: Tensor
    std: Tensor
    hidden_weight: Tensor | None
    hidden_bias: Tensor | None
    weight: Tensor
    bias: float


class TowerPart(NamedTuple):
    """The image half of a tower.

    Attributes:
        description: from which the exported code builds it.
        network: it, with its weights.
    """

    description: dict[str, Any]
    network: nn.Module


class ImageScorer(NamedTuple):
    """What an exported model of images is made of.

    Attributes:
        tower: the image half.
        head: all heads as one.
        reader: the reward whose preprocessing counts.
    """

    tower: TowerPart
    head: JoinedHead
    reader: VisionReward


def image_scorer(combination: Combination) -> ImageScorer:
    """Return tower and head of a combination of rewards of images.

    Heads on one tower become one: their hidden units side by side. A Bottleneck's score, which is
    of its mean, is a linear head.

    Raises:
        InputError: if the towers are several, the score depends on prompts, or MLP heads are mixed
            with linear ones.
    """
    readers = [_reader(term.reward) for term in combination.terms]
    reader = readers[0]
    for other in readers:
        _check_unconditional(other)
    fingerprints = {_tower_fingerprint(other) for other in readers}
    if len(fingerprints) > 1:
        raise InputError(
            f"This reward is made of {len(fingerprints)} vision towers, and an exported model has "
            "one. Heads on one frozen tower become one head; others cannot. Export the members one "
            "by one (the numbered folders of a saved ensemble)."
        )
    heads = [_head(term) for term in combination.terms]
    return ImageScorer(tower_part(reader.tower), _joined(heads, combination.offset), reader)


def _reader(reward: Reward) -> VisionReward:
    """Return the reward that a term's heads stand on.

    Raises:
        InputError: if it is of another kind than the first one's.
    """
    inner = reward.reward if isinstance(reward, Bottleneck) else reward
    if isinstance(inner, VisionReward):
        return inner
    raise InputError(
        f"A reward that adds a VisionReward and a {type(inner).__name__} has several networks, and "
        "an exported model is one. Export them one by one."
    )


def _check_unconditional(reader: VisionReward) -> None:
    """Refuse a reward that sees the prompt.

    Raises:
        InputError: naming the argument.
    """
    if reader.conditional:
        raise InputError(
            "A VisionReward with conditional=True scores the prompt beside the picture, and an "
            "exported model takes pixels alone. Train with conditional=False, or let `rewardlab "
            "export --to flow-factory` write a reward that loads the whole."
        )


def _tower_fingerprint(reader: VisionReward) -> str:
    """Return a hash of all that the heads' inputs depend on."""
    trained = {}
    for name, tensor in reader.trained_state().items():
        if name.startswith("tower."):
            trained[name] = tensor
    return fingerprint([reader.frozen_fingerprint(), trained])


@torch.no_grad()
def _head(term: Term) -> JoinedHead:
    """Return the weighted sum of a term's heads as one head."""
    reward: Any = term.reward
    if isinstance(reward, Bottleneck):
        rows = reward.head.double().cpu() @ reward.to_mean.double().cpu()
        mean = reward.mean.double().cpu()
        std = reward.std.double().cpu()
        return JoinedHead(mean, std, None, None, term.weights @ rows, 0.0)
    projection = reward.projection
    seen = projection.hidden_weight * projection.mask[:, None]
    scaled = term.weights[:, None] * projection.weight.double().cpu()
    return JoinedHead(
        mean=projection.mean.double().cpu(),
        std=projection.std.double().cpu(),
        hidden_weight=seen.double().cpu().flatten(0, 1),
        hidden_bias=projection.hidden_bias.double().cpu().flatten(),
        weight=scaled.flatten(),
        bias=float(term.weights @ projection.bias.double().cpu()),
    )


def _joined(heads: list[JoinedHead], offset: float) -> JoinedHead:
    """Return several heads' sum as one head, on the first one's standardised features.

    Raises:
        InputError: if some are linear and others not.
    """
    if len({head.hidden_weight is None for head in heads}) > 1:
        raise InputError(
            "A VisionReward's heads have hidden units and a Bottleneck's have none, and an "
            "exported model has heads of one kind. Export them one by one."
        )
    first = heads[0]
    bias = offset + sum(head.bias for head in heads)
    if first.hidden_weight is None:
        moved = [_moved(head.weight[None], torch.zeros(1), head, first) for head in heads]
        weight = torch.stack([part.weight[0] for part in moved]).sum(0)
        bias += sum(part.bias.item() for part in moved)
        return first._replace(weight=weight, bias=bias)
    parts = [_moved(head.hidden_weight, head.hidden_bias, head, first) for head in heads]
    return first._replace(
        hidden_weight=torch.cat([part.weight for part in parts]),
        hidden_bias=torch.cat([part.bias for part in parts]),
        weight=torch.cat([head.weight for head in heads]),
        bias=bias,
    )


class _Layer(NamedTuple):
    """A linear layer: weight [H, D] and bias [H]."""

    weight: Tensor
    bias: Tensor


def _moved(weight: Any, bias: Any, head: JoinedHead, first: JoinedHead) -> _Layer:
    """Return a layer on one head's standardised features as one on the first head's."""
    shift = (first.mean - head.mean) / head.std
    return _Layer(weight * (first.std / head.std), bias + weight @ shift)


def tower_part(tower: Tower) -> TowerPart:
    """Return the image half of a tower, and what builds it without rewardlab.

    Raises:
        InputError: if its architecture is not known.
    """
    model: Any = tower.model
    if isinstance(model, TimmTower):
        description = {"library": "timm", "config": timm_config(model.visual)}
        network = deepcopy(model.visual)
        network.reset_classifier(0)
    elif isinstance(model, TransformersTower):
        description = {"library": "transformers", "config": model.network.config.to_dict()}
        network = deepcopy(model.network)
        without_text(network)
    else:
        description = {"library": "open_clip", "config": _image_config(tower)}
        network = deepcopy(model.visual)
    keep_buffers(network)
    return TowerPart(description, network.eval())


def _image_config(tower: Tower) -> dict[str, Any]:
    """Return what of an open_clip config its image half is built from.

    Raises:
        InputError: if the model is no plain CLIP.
    """
    config = tower.config()
    if "multimodal_cfg" in config:
        raise InputError(
            "An export builds open_clip's plain image halves, and this tower is a CoCa, which has "
            "another. Take a CLIP or SigLIP tower."
        )
    names = ("embed_dim", "vision_cfg", "quick_gelu")
    return {name: config[name] for name in names if name in config}
