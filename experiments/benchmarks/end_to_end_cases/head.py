"""A language model's head: log-probabilities, and a policy loss with its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from end_to_end_cases.measuring import Figures, measured


class Head(NamedTuple):
    """A head's operands: [rows, width], [vocabulary, width] and int64 [rows]."""

    hidden: Any
    weight: Any
    targets: Any


def head(
    rows: int = 1024, width: int = 512, vocabulary: int = 32768, kind: str = "float32"
) -> Head:
    """Return random operands of the type `kind` that need a gradient."""
    import torch

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    dtype = getattr(torch, kind)
    scaled = 3 * weight
    return Head(hidden.to(dtype).requires_grad_(), scaled.to(dtype).requires_grad_(), targets)


def forward_ours(kind: str = "float32") -> Figures:
    """Measure log-probabilities by our kernel."""
    import torch

    from rewardlab.kernels import linear_log_prob

    operands = head(kind=kind)

    def job() -> None:
        linear_log_prob(*operands, budget=8 * 2**20)

    with torch.no_grad():
        return measured(job)


def forward_naive(kind: str = "float32") -> Figures:
    """Measure log-probabilities by all logits."""
    import torch

    operands = head(kind=kind)

    def job() -> None:
        # in one expression: a name for the logits would keep them beside their logarithms
        log_probs = (operands.hidden @ operands.weight.T).float().log_softmax(1)
        log_probs.gather(1, operands.targets[:, None])

    with torch.no_grad():
        return measured(job)


class _PolicyLoss:
    """PPO's clipped loss with k3 and an entropy bonus, of the share `live` of the rows."""

    def __init__(self, operands: Head, live: float) -> None:
        import torch

        count = len(operands.targets)
        generator = torch.Generator().manual_seed(1)
        self.mask = torch.rand(count, generator=generator) < live
        with torch.no_grad():
            log_prob = _log_probs_of_targets(operands, _log_probs(operands))
        noise = torch.randn(count, generator=generator)
        self.old = log_prob + 0.1 * noise
        self.advantages = torch.randn(count, generator=generator)

    def __call__(self, log_prob: Any, entropy: Any, rows: Any) -> Any:
        import torch

        old = self.old[rows]
        advantages = self.advantages[rows]
        ratio = (log_prob - old).exp()
        behind = old - log_prob
        clipped = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        k3 = behind.exp() - 1 - behind
        losses = -clipped + 0.04 * k3 - 0.01 * entropy
        return losses.sum() / self.mask.sum()


def _log_probs(operands: Head) -> Any:
    return (operands.hidden @ operands.weight.T).log_softmax(1)


def _log_probs_of_targets(operands: Head, log_probs: Any) -> Any:
    return log_probs.gather(1, operands.targets[:, None])[:, 0]


def policy_loss_ours(live: float) -> Figures:
    """Measure the policy loss by our kernel, forward and backward."""
    from rewardlab.kernels import linear_loss

    operands = head()
    loss = _PolicyLoss(operands, live)

    def job() -> None:
        operands.hidden.grad = None
        operands.weight.grad = None
        value, _ = linear_loss(*operands, loss, mask=loss.mask, entropy=True)
        value.backward()

    return measured(job, 5)


def policy_loss_naive(live: float) -> Figures:
    """Measure the policy loss by all logits, forward and backward."""
    operands = head()
    loss = _PolicyLoss(operands, live)

    def job() -> None:
        operands.hidden.grad = None
        operands.weight.grad = None
        log_probs = _log_probs(operands)
        entropy = -(log_probs.exp() * log_probs).sum(1)
        log_prob = _log_probs_of_targets(operands, log_probs)
        rows = loss.mask.nonzero()[:, 0]
        loss(log_prob[loss.mask], entropy[loss.mask], rows).backward()

    return measured(job, 5)
