"""The language head that a LanguageReward may keep beside its own, for GRM's regularizer."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.kernels import linear_log_prob
from rewardlab.networks.heads import check_head, softcap_of
from rewardlab.networks.loading import config_of, is_name, load_network, text_class
from rewardlab.networks.unregistered import hold
from rewardlab.rewards.language_states import TokenStates, response_mask


class HeadSource:
    """Where the language head of a reward's backbone is, until somebody wants it.

    A folder's or hub id's is loaded then. Of an instance the head alone is kept, not the model, and
    nothing if it is tied to the embeddings. Copies of a reward share it.

    Args:
        model: a folder, a hub id, or a transformers model with any head or none.
    """

    def __init__(self, model: str | Path | Any) -> None:
        self.name = str(model) if is_name(model) else None
        self.kind: Any = None
        self.layer: Any = None
        self.is_tied = False
        if self.name is None:
            self._take(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> HeadSource:
        return self

    def head(self, backbone: Any, is_frozen: bool) -> LanguageHead:
        """Return the head on a reward's backbone.

        Raises:
            InputError: if the model has no language head, or the backbone is frozen.
        """
        if is_frozen:
            raise InputError(
                "GRM's regularizer holds the backbone's states to what they say of the next token, "
                "and a frozen backbone's never change. Set likelihood_weight=0, or train the "
                "backbone: frozen=False, or lora_rank."
            )
        if self.name is not None:
            kind = text_class(config_of(self.name))
            if kind is not None:
                self._take(load_network(kind, self.name, torch.float32))
        if self.layer is None and not self.is_tied:
            raise InputError(
                "GRM's regularizer holds a reward to its language model's own head, and the model "
                f"that this one was made of ({self.name or type(backbone).__name__}) has none. "
                "Make the LanguageReward of a causal language model, or set likelihood_weight=0."
            )
        network = self._network(backbone)
        was_training = backbone.training
        check_head(network.eval(), "GRM's regularizer")
        backbone.train(was_training)
        return LanguageHead(network, backbone, self.is_tied)

    def _take(self, network: Any) -> None:
        """Keep a causal language model's head; nothing of another model."""
        if type(network).__name__.endswith("ForSequenceClassification"):
            return
        if not hasattr(network, "get_output_embeddings") or network.base_model is network:
            return
        layer = network.get_output_embeddings()
        if layer is None:
            return
        self.kind = type(network)
        self.is_tied = layer.weight is network.get_input_embeddings().weight
        self.layer = None if self.is_tied else layer

    def _network(self, backbone: Any) -> Any:
        """Return the language model of a backbone and this head."""
        with torch.device("meta"):
            network = self.kind(backbone.config)
        setattr(network, network.base_model_prefix, backbone)
        if self.is_tied:
            network.get_output_embeddings().weight = backbone.get_input_embeddings().weight
        else:
            layer = deepcopy(self.layer).to(backbone.device, backbone.dtype)
            network.set_output_embeddings(layer)
        return network


class LanguageHead(nn.Module):
    """The head with which a language model draws tokens, on a reward's backbone.

    A head that is tied to the embeddings is the backbone's own, and is trained as those are.
    Another one is a copy that stays as it was. Neither is saved with the reward.

    Args:
        network: a causal language model of transformers.
        backbone: the reward's.
        is_tied: whether the head is the backbone's embeddings.
    """

    weight: Tensor | None
    bias: Tensor | None
    backbone: Any

    def __init__(self, network: Any, backbone: Any, is_tied: bool) -> None:
        super().__init__()
        layer = network.get_output_embeddings()
        self.softcap = softcap_of(network)
        self.is_tied = is_tied
        hold(self, "backbone", backbone)
        self._keep("weight", None if is_tied else layer.weight)
        self._keep("bias", getattr(layer, "bias", None))

    def forward(self, tokens: TokenStates, count: int) -> Tensor:
        """Return the mean over its tokens of log p(response | prompt), float32 [count].

        The prompt's last state says the response's first token. A row without a prompt begins with
        its second.

        Args:
            tokens: states of whole rows.
            count: how many of the first rows are wanted.
        """
        weight: Any = self.weight
        if self.is_tied:
            weight = self.backbone.get_input_embeddings().weight
        targets = tokens.ids[:count, 1:]
        mask = response_mask(tokens)[:count, 1:]
        steps = linear_log_prob(
            tokens.states[:count, :-1].flatten(0, 1),
            weight,
            targets.flatten(),
            bias=self.bias,
            softcap=self.softcap,
            mask=mask.flatten(),
        )
        totals = steps.log_prob.view(mask.shape).sum(1)
        means: Tensor = totals / mask.sum(1).clamp_min(1)
        return means

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        """Keep a copy of a tensor that is neither trained nor saved."""
        copy = None if tensor is None else tensor.detach().clone()
        self.register_buffer(name, copy, persistent=False)
