"""A pretrained tower against an untrained one on real pictures, which are a user's own files.

`$REWARDLAB_PICTURES` is a folder with the folders `targets` and `others`: the horses of CIFAR-10 and
the rest, or two designers' emoji ([pretrained networks](../../docs/real-models.md)).
"""

import pytest
import pytorch_lightning as pl
import torch

from rewardlab import GANRM, TargetSamples, VisionReward, as_samples

COUNT = 300
SIDE = 96


def pictures(folder):
    """Return some of a folder's pictures as samples."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg"))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[:COUNT]
    return as_samples("", [str(files[place]) for place in order.tolist()])


@pytest.mark.parametrize("name", ["efficientnet", "mobilenet"])
def test_a_pretrained_towers_held_out_auc_is_well_above_the_untrained_ones(needs, given, name):
    """GAN-RM on 300 targets and 300 others, 30 % held out, 15 epochs.

    Noto's emoji against Twemoji: EfficientNet-Lite0 0.900 against 0.744, MobileNetV2 0.943 against
    0.671 untrained. CIFAR-10's horses, when the tower was chosen: 0.967 against 0.715.
    """
    needs(name)
    from real.towers import tower

    root = given("REWARDLAB_PICTURES", "the folders targets and others")
    wanted, others = pictures(root / "targets"), pictures(root / "others")
    aucs = {}
    for pretrained in (True, False):
        pl.seed_everything(0)
        reward = VisionReward(tower(name, SIDE, pretrained=pretrained), heads=4, width=64)
        trainer = pl.Trainer(max_epochs=15, logger=False, enable_checkpointing=False)
        trainer.fit(GANRM(reward), TargetSamples(wanted, others, held_out=0.3))
        aucs[pretrained] = trainer.callback_metrics["val/auc"].item()
    assert aucs[True] > 0.85
    assert aucs[True] > aucs[False] + 0.05
