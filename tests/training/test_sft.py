"""Supervised fine-tuning: its loss, its checkpoint, and runs that depend on their seed alone."""

import contextlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from rewardlab import CausalLMPolicy, DiffusionPolicy
from rewardlab.data import ResumableLoader, Rows
from rewardlab.policies.samplers import Sampler
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import SFT, Resumable
from rewardlab.training.base import Trained, frozen_names, trained_state
from rewardlab.types import Samples

ROWS = 6


def images(count=ROWS, rows=True):
    pixels = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    facts = {"row": torch.arange(count)} if rows else {}
    return Samples([["zero", "one"][i % 2] for i in range(count)], pixels, facts)


def policy(**options):
    return DiffusionPolicy(
        tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=2), **options
    )


def fit(*callbacks, module=None, samples=None, ckpt_path=None, **options):
    module = module or SFT(policy(prompt_dropout=0.3), optimizer=partial(torch.optim.Adam, lr=1e-3))
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "callbacks": [*callbacks],
        }
        | {"enable_progress_bar": False, "enable_model_summary": False}
        | options
    )
    trainer.fit(
        module,
        ResumableLoader(Rows(samples or images()), 2, seed=3),
        ckpt_path=ckpt_path,
        weights_only=True,
    )
    return module


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_loss_is_half_the_denoising_loss():
    module = SFT(policy().eval())
    encoded = module.policy.encode(images(), seeds=module.seeds(images()))
    told = module.policy.conditions(images().prompts, guided=False)
    tensors = {name: encoded.tensors[name][:, 0] for name in ("x", "time", "target")}
    predicted = module.policy.predict(tensors["x"], tensors["time"], told)
    half = 0.5 * nn.functional.mse_loss(predicted, tensors["target"])
    torch.testing.assert_close(module._loss(images()).loss, half)


def test_it_lowers_the_loss_on_what_it_learns():
    module = SFT(policy(), optimizer=partial(torch.optim.Adam, lr=2e-3))
    with torch.no_grad():
        before = module._loss(images()).loss
        fit(module=module, max_epochs=8)
        assert module._loss(images()).loss < 0.9 * before


class TestSeeds:
    def test_the_seed_fixes_the_run_to_the_bit_whatever_the_global_state(self):
        runs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            runs.append(fit().policy)
        assert same(*runs)

    def test_another_seed_is_another_run(self):
        assert not same(
            fit().policy,
            fit(module=SFT(policy(), seed=1, optimizer=partial(torch.optim.Adam, lr=1e-3))).policy,
        )

    def test_a_rows_noise_depends_on_the_row_not_on_its_batch(self):
        module = SFT(policy())
        assert torch.equal(module.seeds(images())[[4, 1]], module.seeds(images()[[4, 1]]))

    def test_rows_without_numbers_draw_anew_at_each_step(self):
        class Note(pl.Callback):
            seeds = []  # noqa: RUF012

            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                self.seeds += module.seeds(batch).tolist()

        fit(Note(), samples=images(rows=False))
        assert len(set(Note.seeds)) == 2 * ROWS


class Killed(Exception):  # noqa: N818
    pass


class KillAt(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 4:
            raise Killed


def test_a_run_killed_in_mid_epoch_ends_as_if_it_had_not_been(tmp_path):
    keep = partial(ModelCheckpoint, tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    with contextlib.suppress(Killed):
        fit(keep(), KillAt(), Resumable(), enable_checkpointing=True)
    resumed = fit(
        keep(), Resumable(), ckpt_path=tmp_path / "step=4.ckpt", enable_checkpointing=True
    )
    assert same(resumed.policy, fit().policy)


class TestCheckpoint:
    def saved(self, module, folder):
        fit(ModelCheckpoint(folder, "last"), module=module, max_epochs=1, enable_checkpointing=True)
        return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]

    def test_it_holds_the_trained_weights_only(self, tmp_path):
        module = SFT(policy(), reward=nn.Linear(2, 2))
        found = self.saved(module, tmp_path)
        assert set(found) == {
            f"policy.denoiser.{name}" for name, _ in module.policy.denoiser.named_parameters()
        }

    def test_of_an_adapter_it_holds_the_adapter(self, tmp_path):
        module = SFT(policy(lora_rank=2))
        found = self.saved(module, tmp_path)
        assert found
        assert all("lora_" in name for name in found)
        assert sum(tensor.numel() for tensor in found.values()) < 0.2 * sum(
            p.numel() for p in module.policy.parameters()
        )

    def test_frozen_weights_that_have_two_names_are_left_out_under_both(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(9, 3)
                self.head = nn.Linear(3, 9, bias=False)
                self.adapter = nn.Linear(1, 1)
                self.head.weight = self.embedding.weight
                self.embedding.weight.requires_grad_(False)

        assert frozen_names(Tied()) == {"embedding.weight", "head.weight"}
        assert set(trained_state(Tied())) == {"adapter.weight", "adapter.bias"}
        module = Trained(torch.optim.SGD, None, 0)
        module.network = Tied()
        module.reference = nn.Linear(1, 1)
        assert set(module.state_dict()) == {"network.adapter.weight", "network.adapter.bias"}

    def test_what_is_kept_are_copies(self):
        layer = nn.Linear(1, 1)
        kept = trained_state(layer)
        layer.weight.data.add_(1)
        assert not torch.equal(kept["weight"], layer.weight)


def test_a_schedule_steps_once_an_optimiser_step():
    module = SFT(
        policy(),
        optimizer=partial(torch.optim.SGD, lr=1.0),
        schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
    )
    fit(module=module, max_epochs=1)
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0.5**3)


@pytest.mark.nightly
def test_two_processes_of_unequal_texts_take_the_step_of_one(tmp_path):
    """A mean over steps is not a mean of means.

    The fits run in processes of their own, as autograd cannot be forked once it ran.
    """
    for devices in (1, 2):
        subprocess.run(
            [sys.executable, __file__, str(devices), str(tmp_path / f"{devices}.pt")],
            check=True,
            timeout=200,
        )
    one = torch.load(tmp_path / "1.pt")
    two = torch.load(tmp_path / "2.pt")
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)
    start = torch.cat([each.detach().flatten() for each in tiny_causal_lm().parameters()])
    assert (one - start).abs().max() > 1e-3


class Keep(pl.Callback):
    """Write the weights that a fit ended with, in its own process."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save(
                torch.cat([p.detach().flatten() for p in pl_module.policy.network.parameters()]),
                self.path,
            )


def _joint(devices, path):
    """One process takes all four texts in a step; two take two each, of other lengths."""
    texts = Samples(
        ["a"] * 4, ["b", "so long a text", "c", "another of some length"], {"row": torch.arange(4)}
    )
    module = SFT(
        CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer()),
        optimizer=partial(torch.optim.SGD, lr=0.5),
    )
    limits = {
        "devices": devices,
        "strategy": "ddp_fork" if devices > 1 else "auto",
        "max_epochs": 1,
        "accelerator": "cpu",
    }
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    trainer = pl.Trainer(**limits, **quiet, callbacks=[Keep(path)])
    trainer.fit(module, ResumableLoader(Rows(texts), 4 // devices, seed=3))


if __name__ == "__main__":
    _joint(int(sys.argv[1]), Path(sys.argv[2]))
