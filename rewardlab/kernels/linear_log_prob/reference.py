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
    """Return (log_prob, log_sum_exp, entropy or None) [N], in float32 (float64 for float64).

    Example:
        >>> targets = torch.tensor([1])
        >>> log_prob, log_sum_exp, _ = reference(torch.ones(1, 2), torch.zeros(2, 2), targets)
        >>> bool(torch.equal(log_prob, -log_sum_exp))
        True
    """
    operand_type = torch.promote_types(hidden.dtype, weight.dtype)
    dtype = torch.promote_types(operand_type, torch.float32)
    logits = hidden.to(dtype) @ weight.to(dtype).T
    if bias is not None:
        logits = logits + bias.to(dtype)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits / temperature
    log_probs = logits.log_softmax(1)
    entropies = None
    if entropy:
        probabilities = log_probs.exp()
        finite = log_probs.masked_fill(log_probs == -torch.inf, 0)
        entropies = -(probabilities * finite).sum(1)
    log_prob = log_probs.gather(1, targets[:, None])[:, 0]
    return log_prob, logits.logsumexp(1), entropies
