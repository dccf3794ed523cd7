"""Cache of what the embedded worlds train, on disk under a hash of settings and versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewardlab.provenance import fingerprint, versions
from rewardlab.runs.locks import locked
from rewardlab.storage.atomic import atomic_folder

__all__ = ["cached"]


def cached(
    name: str, settings: dict[str, Any], packages: Sequence[str], make: Callable[[Path], None]
) -> Path:
    """Return the folder that `make` filled, now or in an earlier run.

    An earlier run has the same settings and the same versions of packages. The folder is in
    `$REWARDLAB_CACHE`, by default `.cache/rewardlab` in the home folder.

    Args:
        name: prefix of the folder's name.
        settings: all that the content depends on.
        packages: packages whose versions the content depends on.
        make: fills the temporary folder that it gets; if it raises, nothing is kept.
    """
    home = Path(os.environ.get("REWARDLAB_CACHE") or Path.home() / ".cache" / "rewardlab")
    used = {package: versions()[package] for package in packages}
    digest = fingerprint({"settings": settings, "versions": used})
    folder = home / f"{name}-{digest}"
    if folder.exists():
        return folder
    locks = home / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with locked(locks / folder.name, wait=True):  # another process may be making it
        if not folder.exists():
            with atomic_folder(folder) as new:
                make(new)
    return folder
