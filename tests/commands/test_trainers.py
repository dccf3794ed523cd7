"""Rounds refuse, before they start, trainers that their loops or rounds cannot follow."""

from __future__ import annotations

import pytest
import torch

from rewardlab.commands.trainers_of_rounds import check_trainers
from rewardlab.errors import InputError


def config(loop="rewardlab.training.PPO", **options):
    trainer = {"class_path": "pytorch_lightning.Trainer", "init_args": options}
    stage = {"loop": {"class_path": loop}, "trainer": trainer}
    return {"rounds": {"class_path": "a.B", "init_args": {"post_train": stage}}}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gradient_clip_val": 1.0}, "rounds.post_train.trainer: .*`gradient_clip`"),
        ({"precision": "bf16-true"}, "rounds.post_train.trainer: .*bf16-mixed"),
        ({"devices": 2, "strategy": "ddp"}, "rounds.post_train.trainer asks for several processes"),
        ({"devices": [0, 1]}, "devices=1"),
        ({"num_nodes": 2}, "devices=1"),
    ],
)
def test_a_trainer_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        check_trainers(config(**options))


def test_other_trainers_are_taken(monkeypatch):
    check_trainers(config(devices=1, strategy="ddp", precision="bf16-mixed"))
    check_trainers(config("rewardlab.training.SFT", gradient_clip_val=1.0))
    check_trainers({"rounds": {"class_path": "a.B"}})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_trainers(config(accelerator="cpu"))
    with pytest.raises(InputError, match="several processes"):
        check_trainers(config(accelerator="gpu", devices="auto"))
