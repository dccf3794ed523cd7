"""What a fit on a folder of pictures or videos would see: sizes, doubles, what is left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardlab.data.file_measures import read_header
from rewardlab.storage.media_folder import MediaFolder

_MOST_SIZES = 3  # that are named
_MOST_SKIPPED = 5


def folder_figures(media: MediaFolder) -> dict[str, Any]:
    """Return the counts, sizes and doubles of a folder's pictures or videos.

    Returns:
        "files" that are used; "unusable", how many are not, and "reasons" of the first of them by
        their names; "prompts", files with one, and "distinct_prompts"; "duplicated", files whose
        bytes an earlier one has; for pictures "sizes", the three most frequent as width×height,
        "smallest", the shortest side, and "types".

    Example:
        >>> from PIL import Image
        >>> from rewardlab.storage import ImageFolder
        >>> folder = getfixture("tmp_path")
        >>> for name in ("a", "b"):
        ...     Image.new("RGB", (12, 8)).save(folder / f"{name}.png")
        >>> figures = folder_figures(ImageFolder(folder))
        >>> figures["files"], figures["duplicated"], figures["sizes"]
        (2, 1, {'12×8': 2})
    """
    prompts = [str(prompt) for prompt in media.prompts if str(prompt).strip()]
    reasons = {}
    for path, reason in media.skipped[:_MOST_SKIPPED]:
        reasons[str(path.relative_to(media.folder))] = reason
    return {
        "files": len(media.paths),
        "unusable": len(media.skipped),
        "reasons": reasons,
        "prompts": len(prompts),
        "distinct_prompts": len(set(prompts)),
        "duplicated": _duplicated(media.paths),
        **_headers(media.paths),
    }


def _duplicated(paths: Sequence[Path]) -> int:
    """Return how many files have the bytes of an earlier one; folders of frames are left out."""
    files = [path for path in paths if path.is_file()]
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in files}
    return len(files) - len(digests)


def _headers(paths: Sequence[Path]) -> dict[str, Any]:
    """Return sizes and types of the pictures among files."""
    sizes: Counter[str] = Counter()
    types: Counter[str] = Counter()
    sides = []
    for path in paths:
        header = read_header(path) if path.is_file() else None
        if header is not None:
            sizes[f"{header.width}×{header.height}"] += 1
            types[header.kind] += 1
            sides.append(min(header.width, header.height))
    return {
        "sizes": dict(sizes.most_common(_MOST_SIZES)),
        "other_sizes": max(0, len(sizes) - _MOST_SIZES),
        "smallest": min(sides, default=None),
        "types": dict(types),
    }
