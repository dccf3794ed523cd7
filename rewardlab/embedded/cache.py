"""What the embedded worlds train once: kept on disk under a hash of its settings and versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint, versions
from rewardlab.storage.atomic import atomic_folder


def cached(
    name: str, settings: dict[str, Any], packages: Sequence[str], make: Callable[[Path], None]
) -> Path:
    """Return the folder that `make` filled, now or in an earlier run of the same settings and
    versions of packages.

    It lies in `$REWARDLAB_CACHE`, by default `.cache/rewardlab` in the home folder.
    """
    home = Path(os.environ.get("REWARDLAB_CACHE") or Path.home() / ".cache" / "rewardlab")
    used = {package: versions()[package] for package in packages}
    folder = home / f"{name}-{fingerprint({'settings': settings, 'versions': used})}"
    if folder.exists():
        return folder
    try:
        with atomic_folder(folder) as fresh:
            make(fresh)
    except InputError:
        if not folder.exists():  # otherwise another process has made the same meanwhile
            raise
    return folder
