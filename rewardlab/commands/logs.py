"""What the commands say on stderr: rewardlab's own log, and none of the libraries' business."""

from __future__ import annotations

import logging
import warnings

LIBRARIES = (
    "pytorch_lightning",
    "lightning_fabric",
    "lightning.pytorch",
    "lightning.fabric",
)
# Patterns of warnings that concern no user.
IGNORED_WARNINGS = (
    ".isinstance.treespec, LeafSpec.",  # pytorch-lightning 2.6.6 on torch >= 2.13
    "The '.*' does not have many workers",
    "Experiment logs directory .* exists and is not empty",  # RunFolder has checked whose it is
    # jsonargparse 4.53, by Lightning 2.6.6
    r"\s*(By default only one Jsonargparse|``.*`` was deprecated in v4|.* parameter was)",
    "Checkpoint directory .* exists and is not empty",
    "Found .* module.s. in eval mode at the start of training",  # frozen parts are meant to be
    "Using ModelCheckpoint with manual optimization",
    # post-training's examples are all trained on
    "You defined a `validation_step` but have no `val_dataloader`",
    "The number of training batches .* is smaller than the logging interval",
)


def set_up_logs() -> None:
    """Let rewardlab say on stderr what it has finished, and quiet the libraries.

    One progress bar and what concerns the user are left; tips, device lists and the libraries' own
    business are dropped.
    """
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logger = logging.getLogger("rewardlab")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.propagate = False
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
