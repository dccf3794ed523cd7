"""Weights files of towers: understood, or refused with the names that do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards.tower_files import save_tower
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.rewards.tower_weights import read_weights, weights_file
from rewardlab.testing import tiny_tower

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NAME = "open_clip_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    save_tower(tiny_tower(), tmp_path / "tower")
    return tmp_path / "tower"


def weights():
    return dict(tiny_tower().state_dict())


@torch.no_grad()
def loaded(folder):
    return load_tower(f"local-dir:{folder}").model.visual(IMAGES)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_wrappers_prefixes_are_understood(folder, prefix):
    prefixed = {prefix + name: tensor for name, tensor in weights().items()}
    save_file(prefixed, folder / NAME)
    assert_close(loaded(folder), tiny_tower().visual(IMAGES).detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("container", ["state_dict", "model"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_checkpoints_of_trainers_are_understood(folder, container, dtype):
    (folder / NAME).unlink()
    state = {f"module.{name}": tensor.to(dtype) for name, tensor in weights().items()}
    content = {"epoch": 3, "name": "run", container: state, "optimizer": {"state": {}}}
    torch.save(content, folder / "epoch_3.pth")
    atol = 1e-5 if dtype == torch.float32 else 1e-2
    assert_close(loaded(folder), tiny_tower().visual(IMAGES).detach(), atol=atol, rtol=0)


def without(name):
    def damage(state):
        del state[name]

    return damage


def with_extra(state):
    state["score.weight"] = torch.ones(2)


def with_another_grid(state):
    state["visual.positional_embedding"] = torch.ones(10, 64)


def half_prefixed(state):
    state["module.visual.proj"] = state.pop("visual.proj")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("visual.proj"), r"missing visual\.proj, unexpected none"),
        (without("text_projection"), r"missing text_projection"),
        (with_extra, r"missing none, unexpected score\.weight"),
        (with_another_grid, r"of another shape visual\.positional_embedding \[10, 64\] for \[17"),
        (half_prefixed, r"missing visual\.proj, unexpected module\.visual\.proj"),
    ],
)
def test_what_does_not_fit_is_named(folder, damage, message):
    state = weights()
    damage(state)
    save_file(state, folder / NAME)
    with pytest.raises(InputError, match=message):
        loaded(folder)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_how_to_convert_it(tmp_path):
    script = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(script, tmp_path / "ViT-L-14.pt")
    with pytest.raises(InputError, match=r"TorchScript archive.*state_dict\(\)"):
        read_weights(tmp_path / "ViT-L-14.pt")


class Opens:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (open, ("was-unpickled", "w"))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Opens()}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="without running code in it"):
        read_weights(tmp_path / "weights.pt")
    assert not (tmp_path / "was-unpickled").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.ones(3), {}])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.bin")
    with pytest.raises(InputError, match="holds no weights by their names"):
        read_weights(tmp_path / "weights.bin")


def test_two_files_that_no_name_decides_between_are_refused(folder):
    (folder / NAME).rename(folder / "a.safetensors")
    assert weights_file(folder).name == "a.safetensors"
    save_file(weights(), folder / "b.safetensors")
    with pytest.raises(InputError, match=r"holds 2 weights files.*a\.safetensors, b\.safetensors"):
        loaded(folder)
