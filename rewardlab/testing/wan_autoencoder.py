"""A Wan autoencoder whose weights are set by hand: it averages pixels, and paints the averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

COLORS = 3
WIDTH = 8
KEPT = 4  # channels that pass an upsampler, which halves them: the colors, and a constant
CONSTANT = 10.0
"""Norm layers divide by a pixel's length, which a large constant keeps nearly the same."""


@torch.no_grad()
def averaging_wan_autoencoder() -> Any:
    """Return an AutoencoderKLWan whose latents are the colors' means over 4x4 pixels and 4 frames.

    Random weights of that class invert nothing. These do, up to detail below that size, and to 5 %
    of the colors, which its norm layers press together. Its residual branches and its attention
    are zeros. A SiLU is passed in pairs: silu(x) - silu(-x) = x.

    Example:
        >>> vae = averaging_wan_autoencoder()
        >>> videos = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1, 1).expand(2, 3, 5, 8, 8)
        >>> latents = vae.encode(videos).latent_dist.mean
        >>> latents.shape
        torch.Size([2, 3, 2, 2, 2])
        >>> bool((vae.decode(latents).sample - videos).abs().max() < 0.02)
        True
    """
    from diffusers import AutoencoderKLWan

    vae: Any = AutoencoderKLWan(
        base_dim=WIDTH,
        z_dim=COLORS,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        scale_factor_temporal=4,
        scale_factor_spatial=4,
        latents_mean=[0.0] * COLORS,
        latents_std=[0.35] * COLORS,
    )
    for parameter in vae.parameters():
        parameter.zero_()
    _set_encoder(vae.encoder)
    _set_decoder(vae.decoder)
    _center(vae.quant_conv, {channel: {channel: 1.0} for channel in range(2 * COLORS)})
    _center(vae.post_quant_conv, {channel: {channel: 1.0} for channel in range(COLORS)})
    return vae.eval()


def _set_encoder(encoder: Any) -> None:
    _center(encoder.conv_in, _signed(range(COLORS)))
    encoder.conv_in.bias[COLORS] = CONSTANT
    for block in encoder.down_blocks:
        if hasattr(block, "time_conv"):
            for channel in range(WIDTH):
                block.resample[1].weight[channel, channel, :2, :2] = 0.25
                block.time_conv.weight[channel, channel, 1:] = 0.5  # of each pair of frames
    encoder.norm_out.gamma.fill_(CONSTANT / WIDTH**0.5)
    _center(encoder.conv_out, _differences())
    encoder.conv_out.bias[COLORS:] = -20.0  # the logarithm of the variance


def _set_decoder(decoder: Any) -> None:
    _center(decoder.conv_in, _signed(range(COLORS)))
    decoder.conv_in.bias[COLORS] = CONSTANT
    for number, block in enumerate(decoder.up_blocks):
        if number > 0:
            signed = _signed(range(COLORS)) | {COLORS: {COLORS: 1.0}}
            _center(block.resnets[0].conv_shortcut, signed)
        if block.upsamplers is not None:
            sampler = block.upsamplers[0]
            _center(sampler.resample[1], {channel: {channel: 1.0} for channel in range(KEPT)})
            for channel in range(WIDTH):  # both frames of a pair are the same
                sampler.time_conv.weight[channel, channel, -1] = 1.0
                sampler.time_conv.weight[WIDTH + channel, channel, -1] = 1.0
    decoder.norm_out.gamma.fill_(CONSTANT / WIDTH**0.5)
    _center(decoder.conv_out, _differences())


def _signed(colors: range) -> dict[int, dict[int, float]]:
    """Return the rows that copy the colors to the first channels, and negative to later ones."""
    rows = {}
    for color in colors:
        rows[color] = {color: 1.0}
        rows[COLORS + 1 + color] = {color: -1.0}
    return rows


def _differences() -> dict[int, dict[int, float]]:
    """Return the rows that take the colors out of their two signs."""
    return {color: {color: 1.0, COLORS + 1 + color: -1.0} for color in range(COLORS)}


def _center(layer: nn.Module, rows: dict[int, dict[int, float]]) -> None:
    """Set a convolution's taps at the pixel itself, and at its last frame."""
    weight: Any = layer.weight
    middle = weight.shape[-1] // 2
    for row, columns in rows.items():
        for column, value in columns.items():
            taps = weight[row, column]
            if taps.dim() == 3:
                taps = taps[-1]
            taps[middle, middle] = value
