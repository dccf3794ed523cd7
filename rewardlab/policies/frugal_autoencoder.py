"""An autoencoder that sees few pictures at once, and each picture once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rewardlab.networks.shells import GIB
from rewardlab.policies.autoencoder import plain_latents
from rewardlab.policies.bounded import BoundedTable
from rewardlab.policies.resources import Resources


class FrugalAutoencoder:
    """An autoencoder of diffusers that works in small batches and keeps what it encoded.

    It keeps the mean and the deviation of a picture's latents, so each use draws anew, by its own
    seed. Pictures are known by their content. What is kept holds until a weight or a buffer is
    changed, replaced or moved, and for the precision in which it was computed.
    While anything may be kept, pictures are encoded one at a time, so that latents do not depend on
    the pictures beside them, nor on what is kept: to the bit they are those of one at a time.

    Args:
        vae: the autoencoder.
        resources: says how many pictures pass at once, and how much is kept.
    """

    def __init__(self, vae: Any, resources: Resources) -> None:
        self.vae = vae
        self.rows = resources.autoencoder_rows
        self.table = BoundedTable(resources.latents * GIB, "latents")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, pixels: Tensor) -> Any:
        """Return what the autoencoder's `encode` returns: latents, or mean and deviation."""
        parts = []
        state = _state(self.vae, pixels.device) if self.table.limit else None
        for part in torch.split(pixels, self._encoded_rows or max(len(pixels), 1)):
            parts.append(self._encoded(part, state))
        columns = {}
        for name in parts[0]:
            columns[name] = torch.cat([part[name] for part in parts])
        if "latents" in columns:
            return SimpleNamespace(latents=columns["latents"])
        return SimpleNamespace(latent_dist=SimpleNamespace(**columns))

    def decode(self, latents: Tensor, **options: Any) -> tuple[Tensor]:
        """Return the pixels of latents, differentiable."""
        size = self.rows or max(len(latents), 1)
        parts = []
        for start in range(0, max(len(latents), 1), size):
            rows = slice(start, start + size)
            part = self.vae.decode(latents[rows], **_rows_of(options, rows, len(latents)))
            parts.append(part[0])
        return (torch.cat(parts),)

    @property
    def _encoded_rows(self) -> int | None:
        return 1 if self.table.limit else self.rows

    def _encoded(self, pixels: Tensor, state: Hashable) -> dict[str, Tensor]:
        """Return latents, or mean and deviation, of a few pictures.

        Args:
            pixels: [B, C, …].
            state: what the autoencoder is and computes in; None where nothing is kept.
        """
        if state is None:
            return self._run(pixels)
        key = state, _content(pixels)
        kept = self.table.get(key)
        if kept is None:
            kept = self._run(pixels)
            self.table.put(key, kept)
        return {name: column.to(pixels.device) for name, column in kept.items()}

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        encoding = self.vae.encode(pixels)
        if hasattr(encoding, "latent_dist"):
            distribution = encoding.latent_dist
            return {"mean": distribution.mean, "std": distribution.std}
        return {"latents": plain_latents(encoding)}


def _rows_of(options: dict[str, Any], rows: slice, count: int) -> dict[str, Any]:
    """Return options of a call for some of its rows: tensors with a number for each row are cut."""
    cut = {}
    for name, value in options.items():
        has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
        cut[name] = value[rows] if has_rows else value
    return cut


def _state(vae: Any, device: torch.device) -> Hashable:
    """Return what changes when an autoencoder's weights, buffers or precision do.

    Of each tensor it has place, version and the sum of the first row: a change through `.data`
    moves neither of the former, and new weights may be as old as those before.
    """
    places = []
    sums = []
    for tensor in [*vae.parameters(), *vae.buffers()]:
        values = tensor.detach()
        places.append((values.data_ptr(), tensor._version, values.dtype))
        row = values[:1] if values.dim() else values
        sums.append(row.float().sum().to(device))
    numbers = torch.stack(sums).tolist() if sums else []
    kind = device.type
    is_rounded = torch.is_autocast_enabled(kind)
    precision = torch.get_autocast_dtype(kind) if is_rounded else None
    return hash((tuple(places), tuple(numbers), precision))


def _content(pixels: Tensor) -> bytes:
    """Return a hash of pictures' numbers, shape and precision."""
    data = pixels.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{list(data.shape)} {data.dtype}".encode(), digest_size=16)
    digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.digest()
