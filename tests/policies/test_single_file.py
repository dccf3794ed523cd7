"""Checkpoints of one file become folders whose pictures are the original's, or are refused."""

from __future__ import annotations

import json
import runpy
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rewardlab.errors import InputError
from rewardlab.policies import DiffusionPolicy, Sampler, folder_from_single_file
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_stable_diffusion, tiny_stable_diffusion_xl

LAYOUT = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("original_layout.py"))))
KINDS = {
    "sd": (tiny_stable_diffusion, LAYOUT.original_stable_diffusion),
    "sdxl": (tiny_stable_diffusion_xl, LAYOUT.original_stable_diffusion_xl),
}
CONFIGS = shutil.ignore_patterns("*.safetensors")


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch):
    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders with a whole folder, one of its configs alone, and the file."""
    folders = {}
    for kind, (make, original) in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        pipeline = make(folder / "tokenizer")
        pipeline.save_pretrained(folder / "whole")
        shutil.copytree(folder / "whole", folder / "configs", ignore=CONFIGS)
        write(original(pipeline), folder / "model.safetensors")
        folders[kind] = folder
    return folders


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def files(made, kind, tmp_path):
    shutil.copytree(made[kind], tmp_path, dirs_exist_ok=True)
    return SimpleNamespace(
        whole=tmp_path / "whole",
        configs=tmp_path / "configs",
        file=tmp_path / "model.safetensors",
        out=tmp_path / "out",
    )


def write(weights, file, dtype=None):
    tensors = {}
    for name, tensor in weights.items():
        is_number = dtype is not None and tensor.is_floating_point()
        tensors[name] = tensor.to(dtype if is_number else tensor.dtype).contiguous().clone()
    save_file(tensors, file)


def pictures(folder):
    sampler = Sampler(steps=2, eta=0.0, guidance=3.0)
    policy = DiffusionPolicy(folder, sampler=sampler)
    return policy.generate(["a cat", "two dogs"], seeds=row_seeds(1, 2)).outputs


def test_pictures_are_those_of_the_folder_that_it_was_made_of(files):
    out = folder_from_single_file(files.file, files.configs, files.out)
    assert torch.equal(pictures(out), pictures(files.whole))


def test_half_precision_is_kept_and_widened_on_loading(files):
    weights = load_file(files.file)
    write(weights, files.file, torch.float16)
    out = folder_from_single_file(files.file, files.configs, files.out)
    stored = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert (pictures(out) - pictures(files.whole)).abs().max() < 0.02


def test_an_autoencoder_that_the_file_lacks_is_the_folders(files):
    weights = load_file(files.file)
    write({n: t for n, t in weights.items() if not n.startswith("first_stage")}, files.file)
    out = folder_from_single_file(files.file, files.whole, files.out)
    assert torch.equal(pictures(out), pictures(files.whole))
    with pytest.raises(InputError, match="holds no vae, and neither does"):
        folder_from_single_file(files.file, files.configs, files.out)


DAMAGES = {
    "lost": lambda weights, name: weights.pop(name),
    "further": lambda weights, name: weights.update({f"{name}.further": torch.zeros(3)}),
    "cut": lambda weights, name: weights.update({name: weights[name][:-1]}),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_do_not_fit_are_refused(files, part, damage):
    weights = load_file(files.file)
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond")
    prefix = prefixes[("unet", "vae", "text_encoder").index(part)]
    names = [name for name in weights if name.startswith(prefix) and "_ids" not in name]
    DAMAGES[damage](weights, sorted(names)[len(names) // 2])
    write(weights, files.file)
    with pytest.raises(InputError, match=f"The {part}.* does not fit"):
        folder_from_single_file(files.file, files.configs, files.out)
    assert not files.out.exists()


@pytest.mark.parametrize("kind", ["sd"], indirect=True)
def test_folders_of_another_kind_are_refused(files, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is no folder of one"):
            folder_from_single_file(files.file, folder, files.out)
    write(load_file(files.file) | {"v_pred": torch.zeros(0)}, files.file)
    with pytest.raises(InputError, match="Set prediction_type to 'v_prediction'"):
        folder_from_single_file(files.file, files.configs, files.out)
    scheduler = files.configs / "scheduler" / "scheduler_config.json"
    content = json.loads(scheduler.read_text(encoding="utf-8"))
    scheduler.write_text(json.dumps(content | {"prediction_type": "v_prediction"}))
    assert folder_from_single_file(files.file, files.configs, files.out) == files.out


OTHERS = {
    "FLUX's own layout": ["double_blocks.0.img_mod.lin.weight"],
    "Stable Diffusion 3's own layout": ["model.diffusion_model.joint_blocks.0.x.weight"],
    "Stable Diffusion 2's own layout": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "cond_stage_model.model.ln_final.bias",
    ],
    "names such as blocks.0.weight": ["blocks.0.weight"],
    "holds an adapter and no model": ["lora_unet_down_blocks_0.lora_down.weight"],
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_layouts_are_refused_by_name(message, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(1) for name in OTHERS[message]}, file)
    with pytest.raises(InputError, match=message) as caught:
        folder_from_single_file(file, "FOLDER", tmp_path / "out")
    conversion = "load_lora_weights" if "adapter" in message else "local_files_only=True"
    assert conversion in str(caught.value)


def test_a_file_in_a_folders_place_is_refused_before_anything_is_loaded(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"no weights")
    for source in (file, "someone/model.safetensors"):
        with pytest.raises(InputError, match=r"is one file[\s\S]*folder_from_single_file\("):
            DiffusionPolicy(str(source))
    for source in ("model.ckpt", "someone/model.gguf"):
        with pytest.raises(InputError, match=r"is one file, which is no safetensors. Convert it"):
            DiffusionPolicy(source)
    with pytest.raises(InputError, match=r"is no .safetensors file, or is cut off"):
        folder_from_single_file(file, tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="There is no file"):
        folder_from_single_file(tmp_path / "none", tmp_path, tmp_path / "out")
