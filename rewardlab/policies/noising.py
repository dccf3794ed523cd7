"""How a diffusion model's data are noised for training, and the clean data behind a prediction."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError


class NoiseLevels(NamedTuple):
    """Coefficients of x_t = signal · x0 + noise · ε and of the network's target.

    The target is target_signal · x0 + target_noise · ε. The four tensors have one shape.
    """

    signal: Tensor
    noise: Tensor
    target_signal: Tensor
    target_noise: Tensor

    def over(self, dims: int) -> NoiseLevels:
        """Return the levels with `dims` further dimensions of size 1, to multiply latents with."""
        return NoiseLevels(*[over_dimensions(column, dims) for column in self])


class Noising(nn.Module):
    """The table of a schedule's training steps, which moves with the policy and is not saved.

    Attributes:
        time: float32 [N], rising; the time that the network receives.
        signal, noise, target_signal, target_noise: float32 [N], as in `NoiseLevels`.
    """

    time: Tensor
    signal: Tensor
    noise: Tensor
    target_signal: Tensor
    target_noise: Tensor

    def __init__(self, time: Tensor, levels: NoiseLevels) -> None:
        super().__init__()
        self.register_buffer("time", time.float(), persistent=False)
        self.register_buffer("signal", levels.signal.float(), persistent=False)
        self.register_buffer("noise", levels.noise.float(), persistent=False)
        self.register_buffer("target_signal", levels.target_signal.float(), persistent=False)
        self.register_buffer("target_noise", levels.target_noise.float(), persistent=False)

    def at(self, steps: Tensor) -> NoiseLevels:
        """Return the levels at training steps, int64 of any shape."""
        return NoiseLevels(
            self.signal[steps],
            self.noise[steps],
            self.target_signal[steps],
            self.target_noise[steps],
        )

    def at_time(self, time: Tensor) -> NoiseLevels:
        """Return the levels at times [B], linear between the table's times."""
        after = torch.searchsorted(self.time, time).clamp(1, len(self.time) - 1)
        before = after - 1
        share = (time - self.time[before]) / (self.time[after] - self.time[before])
        levels = zip(self.at(before), self.at(after), strict=True)
        return NoiseLevels(*[lower.lerp(upper, share) for lower, upper in levels])


def noising(scheduler: Any, shift: float | None = None) -> Noising:
    """Return the table of training noise levels and of the target (ε, v, x0 or velocity).

    Args:
        scheduler: of diffusers.
        shift: of flow matching's time, where it depends on the pictures' size; by default the
            scheduler's own.
    """
    if is_flow(scheduler):
        return _flow_noising(scheduler, shift)
    alpha_bar = alphas_cumprod(scheduler)
    signal = alpha_bar.sqrt()
    noise = (1 - alpha_bar).sqrt()
    zeros = torch.zeros_like(alpha_bar)
    ones = torch.ones_like(alpha_bar)
    levels = {
        "epsilon": NoiseLevels(signal, noise, target_signal=zeros, target_noise=ones),
        "v_prediction": NoiseLevels(signal, noise, target_signal=-noise, target_noise=signal),
        "sample": NoiseLevels(signal, noise, target_signal=ones, target_noise=zeros),
    }
    return Noising(torch.arange(len(alpha_bar)), levels[scheduler.config.prediction_type])


def predicted_x0(x: Tensor, output: Tensor, levels: NoiseLevels) -> Tensor:
    """Return the clean data x0 that a network's output at x_t stands for.

    From x_t = s·x0 + n·ε and the output f = a·x0 + b·ε follows x0 = (b·x_t - n·f)/(b·s - n·a). It
    is DDPM's equation 15 (arXiv 2006.11239) where f is ε.

    Args:
        x: x_t, [B, ...].
        output: f, of the same shape.
        levels: s, n, a and b, each [B].

    Example:
        >>> half, zero, one = torch.tensor([[0.5], [0.0], [1.0]])
        >>> levels = NoiseLevels(half, half, target_signal=zero, target_noise=one)
        >>> x0, noise = torch.tensor([[3.0]]), torch.tensor([[1.0]])
        >>> predicted_x0(half * x0 + half * noise, noise, levels)
        tensor([[3.]])
    """
    signal, noise, target_signal, target_noise = levels.over(x.dim() - 1)
    return (target_noise * x - noise * output) / (target_noise * signal - noise * target_signal)


def velocity_of(x: Tensor, output: Tensor, levels: NoiseLevels) -> Tensor:
    """Return the velocity that a network's output at x_t stands for, up to a positive factor.

    For a variance-preserving schedule, s² + n² = 1, the velocity is v = s·ε - n·x0. With the output
    f = a·x0 + b·ε it is (f - (s·a + n·b)·x_t)/(b·s - n·a), and the numerator is returned, with the
    denominator's sign (-1 where f is x0).

    Args:
        x: x_t, [B, ...].
        output: f, of the same shape.
        levels: s, n, a and b, each [B].

    Example:
        >>> side, zero, one = torch.tensor([[0.6], [0.0], [1.0]])
        >>> levels = NoiseLevels(side, 0.8 * one, target_signal=zero, target_noise=one)
        >>> round(velocity_of(torch.tensor([[1.0]]), torch.tensor([[1.0]]), levels).item(), 4)
        0.2
    """
    signal, noise, target_signal, target_noise = levels.over(x.dim() - 1)
    numerator = output - (signal * target_signal + noise * target_noise) * x
    return numerator * (target_noise * signal - noise * target_signal).sign()


def over_dimensions(values: Tensor, dims: int) -> Tensor:
    """Return `values` with `dims` further dimensions of size 1, to multiply larger tensors with.

    Example:
        >>> over_dimensions(torch.ones(2, 5), 3).shape
        torch.Size([2, 5, 1, 1, 1])
    """
    return values.reshape(*values.shape, *[1] * dims)


def is_flow(scheduler: Any) -> bool:
    """Return whether the scheduler does flow matching.

    Its paths from noise to data are straight, and the network predicts a velocity.
    """
    config = scheduler.config
    by_config = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return "FlowMatch" in type(scheduler).__name__ or bool(by_config)


def flow_shift(scheduler: Any) -> float:
    """Return the time shift that a flow matching scheduler's config names."""
    name = "shift" if "FlowMatch" in type(scheduler).__name__ else "flow_shift"
    return float(scheduler.config.get(name) or 1.0)


def alphas_cumprod(scheduler: Any) -> Tensor:
    """Return ᾱ of each training step of a variance-preserving schedule, float64 [N].

    Raises:
        InputError: if the scheduler has none.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"The pipeline's {type(scheduler).__name__} has no training noise schedule that "
            "rewardlab knows; it reads variance-preserving schedules (alphas_cumprod) and flow "
            "matching."
        )
    alpha_bar: Tensor = scheduler.alphas_cumprod
    return alpha_bar.double()


def _flow_noising(scheduler: Any, shift: float | None) -> Noising:
    """Return the noise levels of the flow's training schedule, shifted towards noise.

    The noise level rises from near 0 to 1.
    """
    count = scheduler.config.num_train_timesteps
    if shift is None:
        shift = flow_shift(scheduler)
    sigma = torch.arange(1, count + 1, dtype=torch.float64) / count
    sigma = (shift * sigma / (1 + (shift - 1) * sigma)).float()
    ones = torch.ones_like(sigma)
    levels = NoiseLevels(1 - sigma, sigma, target_signal=-ones, target_noise=ones)
    return Noising(sigma * count, levels)
