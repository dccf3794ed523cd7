"""The scorer of a reward of images: vision towers, and heads on their embeddings."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.exporting.combination import Outputs, Term
from rewardlab.exporting.prompt_tokens import PROMPTS, PromptTokens, prompt_tokens
from rewardlab.exporting.remote.modeling_image_reward import keep_buffers, without_text
from rewardlab.provenance import fingerprint
from rewardlab.rewards import AestheticReward, Bottleneck, Reward, VisionReward
from rewardlab.rewards.timm_towers import TimmTower, timm_config
from rewardlab.rewards.towers import Tower
from rewardlab.rewards.transformers_towers import TransformersTower


class Look(NamedTuple):
    """How a reward looks at pictures.

    Attributes:
        tower: the reward's.
        key: equal for rewards whose heads see the same numbers of a picture.
        resizes: whether pictures of other sizes than the tower's are taken.
        conditional: whether prompts are seen.
        normalizes: whether embeddings are brought to length 1.
    """

    tower: Tower
    key: str
    resizes: bool
    conditional: bool
    normalizes: bool


class JoinedHead(NamedTuple):
    """Heads on one tower as one on features that are standardised, in float64.

    outputs = weight @ gelu(hidden_weight @ x + hidden_bias) + bias, or weight @ x + bias.

    Attributes:
        mean: [D].
        std: [D].
        hidden_weight: [H, D]; None for a linear head.
        hidden_bias: [H]; None for a linear head.
        weight: [O, H], or [O, D] of a linear head.
        bias: [O].
    """

    mean: Tensor
    std: Tensor
    hidden_weight: Tensor | None
    hidden_bias: Tensor | None
    weight: Tensor
    bias: Tensor


class TowerPart(NamedTuple):
    """A tower, with its text half where prompts are seen.

    Attributes:
        description: from which the exported code builds it.
        network: it, with its weights.
    """

    description: dict[str, Any]
    network: nn.Module


class PlacedHead(NamedTuple):
    """A head, and the number of the tower that it stands on."""

    tower: int
    head: JoinedHead


class ImageScorer(NamedTuple):
    """What an exported model of images is made of.

    Attributes:
        towers: one or more.
        heads: one or two on each tower.
        outputs: O, 1 or 1 + M.
        look: whose preprocessing counts.
        prompts: how prompts become tokens; None where they are not seen.
    """

    towers: list[TowerPart]
    heads: list[PlacedHead]
    outputs: int
    look: Look
    prompts: PromptTokens | None


def is_of_images(reward: Reward) -> bool:
    """Tell whether a term's network scores images."""
    inner = reward.reward if isinstance(reward, Bottleneck) else reward
    return isinstance(inner, AestheticReward | VisionReward)


def image_scorer(outputs: Outputs) -> ImageScorer:
    """Return the towers and heads of a reward of images.

    Heads of a kind on one tower become one: their hidden units side by side. A Bottleneck's score,
    which is of its mean, and an aesthetic predictor, a chain without activations, are linear heads.

    Raises:
        InputError: if there are networks of another kind, or towers see other pixels or tokens.
    """
    looks: dict[str, Look] = {}
    heads: dict[tuple[str, bool], list[JoinedHead]] = {}
    for term in outputs.terms:
        look = look_of(term.reward)
        head = _head(term)
        looks.setdefault(look.key, look)
        heads.setdefault((look.key, head.hidden_weight is None), []).append(head)
    _check_same_pixels(list(looks.values()))
    numbers = {key: number for number, key in enumerate(looks)}
    placed = []
    for (key, _), parts in heads.items():
        placed.append(PlacedHead(numbers[key], _joined(parts)))
    first = placed[0].head
    placed[0] = placed[0]._replace(head=first._replace(bias=first.bias + outputs.offsets))
    return ImageScorer(
        towers=[tower_part(look) for look in looks.values()],
        heads=placed,
        outputs=len(outputs.offsets),
        look=next(iter(looks.values())),
        prompts=_prompts(list(looks.values())),
    )


def look_of(reward: Reward) -> Look:
    """Return how the reward that a term's heads stand on looks at pictures.

    Raises:
        InputError: if it is of another kind.
    """
    inner = reward.reward if isinstance(reward, Bottleneck) else reward
    if isinstance(inner, AestheticReward):
        key = fingerprint(["normalized", inner.tower.fingerprint()])
        return Look(inner.tower, key, resizes=True, conditional=False, normalizes=True)
    if isinstance(inner, VisionReward):
        key = _embedding_fingerprint(inner)
        conditional = inner.conditional
        return Look(inner.tower, key, inner.resize, conditional, normalizes=False)
    raise InputError(
        f"An export has networks of one kind, and this reward adds one of images and a "
        f"{type(inner).__name__}. Export them one by one."
    )


def _embedding_fingerprint(reader: VisionReward) -> str:
    """Return a hash of all that the heads' inputs depend on."""
    trained = {}
    for name, tensor in reader.trained_state().items():
        if name.startswith("tower."):
            trained[name] = tensor
    return fingerprint([reader.frozen_fingerprint(), reader.conditional, trained])


def _check_same_pixels(looks: list[Look]) -> None:
    """Refuse towers that see other pixels of the same picture.

    Raises:
        InputError: naming how many there are.
    """
    kinds = {fingerprint([look.tower.prepare.numbers, look.resizes]) for look in looks}
    if len(kinds) > 1:
        raise InputError(
            f"An export has one image processor, and the {len(looks)} towers of this reward "
            f"prepare pictures in {len(kinds)} ways. Export the members one by one (the numbered "
            "folders of a saved ensemble), or let `rewardlab export --to flow-factory` write a "
            "reward that loads all."
        )


def _prompts(looks: list[Look]) -> PromptTokens | None:
    """Return how prompts become tokens, None where no tower sees them.

    Raises:
        InputError: if towers see other tokens of the same prompt.
    """
    readers = [prompt_tokens(look.tower) for look in looks if look.conditional]
    if not readers:
        return None
    expected = readers[0].ids(list(PROMPTS))
    for reader in readers[1:]:
        if not reader.ids(list(PROMPTS)).equal(expected):
            raise InputError(
                "An export has one tokenizer, and the towers of this reward see other tokens of "
                "the same prompt. Export the members one by one (the numbered folders of a saved "
                "ensemble)."
            )
    return readers[0]


@torch.no_grad()
def _head(term: Term) -> JoinedHead:
    """Return the weighted sums of a term's heads as one head."""
    reward: Any = term.reward
    if isinstance(reward, AestheticReward):
        return _chain_head(term)
    if isinstance(reward, Bottleneck):
        rows = reward.head.double().cpu() @ reward.to_mean.double().cpu()
        return _linear_head(reward.mean.double().cpu(), reward.std.double().cpu(), term, rows)
    projection = reward.projection
    seen = projection.hidden_weight * projection.mask[:, None]
    scaled = term.weights[..., None] * projection.weight.double().cpu()
    return JoinedHead(
        mean=projection.mean.double().cpu(),
        std=projection.std.double().cpu(),
        hidden_weight=seen.double().cpu().flatten(0, 1),
        hidden_bias=projection.hidden_bias.double().cpu().flatten(),
        weight=scaled.flatten(1),
        bias=term.weights @ projection.bias.double().cpu(),
    )


def _linear_head(mean: Tensor, std: Tensor, term: Term, rows: Tensor) -> JoinedHead:
    """Return the weighted sums of linear heads [K, D] without constants."""
    bias = torch.zeros(len(term.weights), dtype=torch.float64)
    return JoinedHead(mean, std, None, None, term.weights @ rows, bias)


def _chain_head(term: Term) -> JoinedHead:
    """Return an aesthetic predictor's chain of linear layers as one layer."""
    reward: Any = term.reward
    width = reward.tower.width
    chain = deepcopy(reward.predictor).double().cpu()
    mean = torch.zeros(width, dtype=torch.float64)
    constant = chain(mean[None])
    rows = (chain(torch.eye(width, dtype=torch.float64)) - constant).T
    head = _linear_head(mean, torch.ones_like(mean), term, rows)
    return head._replace(bias=term.weights @ constant[0])


def _joined(heads: list[JoinedHead]) -> JoinedHead:
    """Return the sum of heads of a kind as one head, on the first one's standardised features."""
    first = heads[0]
    bias = torch.stack([head.bias for head in heads]).sum(0)
    if first.hidden_weight is None:
        nothing = torch.zeros(len(bias), dtype=torch.float64)
        moved = [_moved(head.weight, nothing, head, first) for head in heads]
        weight = torch.stack([part.weight for part in moved]).sum(0)
        constants = torch.stack([part.bias for part in moved]).sum(0)
        return first._replace(weight=weight, bias=bias + constants)
    parts = [_moved(head.hidden_weight, head.hidden_bias, head, first) for head in heads]
    return first._replace(
        hidden_weight=torch.cat([part.weight for part in parts]),
        hidden_bias=torch.cat([part.bias for part in parts]),
        weight=torch.cat([head.weight for head in heads], 1),
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


def tower_part(look: Look) -> TowerPart:
    """Return a tower without what the reward does not see, and what builds it without rewardlab.

    Raises:
        InputError: if its architecture is not known.
    """
    model: Any = look.tower.model
    if isinstance(model, TimmTower):
        library = "timm"
        config = timm_config(model.visual)
        network = deepcopy(model.visual)
        network.reset_classifier(0)
    elif isinstance(model, TransformersTower):
        library = "transformers"
        config = model.network.config.to_dict()
        config.pop("_name_or_path", None)
        network = deepcopy(model.network)
        if not look.conditional:
            without_text(network)
    else:
        library = "open_clip"
        config = _open_clip_config(look)
        network = deepcopy(model if look.conditional else model.visual)
    keep_buffers(network)
    ways = {"conditional": look.conditional, "normalize": look.normalizes}
    return TowerPart({"library": library, "config": config, **ways}, network.eval())


def _open_clip_config(look: Look) -> dict[str, Any]:
    """Return what of an open_clip config the exported code builds a tower from.

    Raises:
        InputError: if the model is no plain CLIP.
    """
    config = look.tower.config()
    if "multimodal_cfg" in config:
        raise InputError(
            "An export builds open_clip's plain image halves, and this tower is a CoCa, which has "
            "another. Take a CLIP or SigLIP tower."
        )
    if look.conditional and "hf_model_name" in config["text_cfg"]:
        raise InputError(
            "An export builds open_clip's own text halves, and this tower's is a model of "
            "transformers inside of open_clip. Take a CLIP or SigLIP tower, or let `rewardlab "
            "export --to flow-factory` write a reward that loads the whole."
        )
    if look.conditional:
        return deepcopy(config)
    names = ("embed_dim", "vision_cfg", "quick_gelu")
    return {name: config[name] for name in names if name in config}
