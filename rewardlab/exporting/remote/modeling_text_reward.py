"""A reward of texts: language models, and linear heads on their pooled states. Logit 0 is it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from .configuration_text_reward import TextRewardConfig
from .output_reward import RewardOutput, reward_output
from .tables_text_reward import Messages, tables


class TextRewardModel(PreTrainedModel):
    """One or several language models, whose heads' sum is the score, the only logit.

    Args:
        config: of the networks and the heads.
    """

    config_class = TextRewardConfig
    main_input_name = "input_ids"

    def __init__(self, config: TextRewardConfig) -> None:
        super().__init__(config)
        self.networks = nn.ModuleList()
        self.heads = nn.ModuleList()
        for part in config.networks:
            self.networks.append(network_of(part["config"]))
            self.heads.append(nn.Linear(part["width"], config.outputs, bias=False))
        self.constants = nn.Parameter(torch.zeros(config.outputs))
        self.post_init()  # type: ignore[no-untyped-call]

    def tables(self, tokenizer: Any, conversations: Sequence[Messages]) -> dict[str, Tensor]:
        """Return the tables of conversations that the model takes, on its device."""
        made = tables(tokenizer, conversations)
        return {name: table.to(self.device) for name, table in made.items()}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> RewardOutput | tuple[Any, ...]:
        """Return the scores as logits [B, 1], and the members' [B, M].

        Args:
            input_ids: [B, T] from `tables`, padded on the right.
            attention_mask: [B, T], 1 where there is a token.
            response_mask: [B, T], 1 where the token is the response's.
            return_dict: if false, a tuple is returned.
            options: ignored.

        Raises:
            ValueError: without a response mask, if the mean over the response's tokens is scored.
        """
        outputs = self.constants
        parts = zip(self.networks, self.heads, self.config.networks, strict=True)
        for network, head, part in parts:
            result = network(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            states = result.last_hidden_state
            if part["pooling"] == "mean":
                pooled = mean_state(states, response_mask)
            else:
                pooled = last_state(states, input_ids, attention_mask, part["pad"])
            outputs = outputs + head(pooled.to(self.constants.dtype))
        return reward_output(outputs, return_dict)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights as they are: all of them are loaded."""


def network_of(config: dict[str, Any]) -> Any:
    """Build a language model without a head from its config, all of whose buffers are saved."""
    settings = dict(config)
    kind = settings.pop("model_type")
    network = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    for module in network.modules():
        module._non_persistent_buffers_set.clear()
    return network


def mean_state(states: Tensor, response_mask: Tensor | None) -> Tensor:
    """Return the mean over the states [B, T, D] of a response's tokens, [B, D]."""
    if response_mask is None:
        raise ValueError(
            "This reward scores the mean over the response's tokens, so it has to know which they "
            "are: give response_mask, which model.tables(tokenizer, conversations) makes."
        )
    weights = response_mask[..., None].float()
    sums = (states.float() * weights).sum(1)
    means: Tensor = sums / weights.sum(1)
    return means


def last_state(
    states: Tensor, input_ids: Tensor, attention_mask: Tensor, pad: int | None
) -> Tensor:
    """Return the last state [B, D] of a token other than `pad`; without one, the row's last."""
    is_token = attention_mask if pad is None else (input_ids != pad).long()
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = (columns * is_token).argmax(1)
    rows = torch.arange(input_ids.shape[0], device=input_ids.device)
    return states[rows, last].float()
