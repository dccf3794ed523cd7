"""The definition of linear_log_prob, with all logits at once."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (log_prob, log_sum_exp, entropy or None) [N], in float64 for float64 operands, else in
    float32.

    Example:
        >>> log_prob, log_sum_exp, _ = reference(torch.ones(1, 2), torch.zeros(2, 2), torch.tensor([1]))
        >>> bool(torch.equal(log_prob, -log_sum_exp))
        True
    """
    kind = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    logits = hidden.to(kind) @ weight.to(kind).T
    if bias is not None:
        logits = logits + bias.to(kind)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits / temperature
    log_prob = logits.log_softmax(1)
    spread = (
        -(log_prob.exp() * log_prob.masked_fill(log_prob == -torch.inf, 0)).sum(1)
        if entropy
        else None
    )
    return log_prob.gather(1, targets[:, None])[:, 0], logits.logsumexp(1), spread
