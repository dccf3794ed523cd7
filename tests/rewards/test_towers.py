import json

import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image, to_tensor

from rewardlab.errors import InputError
from rewardlab.rewards.preprocessing import Preprocessing
from rewardlab.rewards.tower_files import described, save_tower
from rewardlab.rewards.towers import Tower, load_tower
from rewardlab.testing import tiny_tower

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
VISION = {"image_size": 16, "patch_size": 4, "width": 64, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1}


def clip(vision=None, text=None, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.model.CLIP(
            32, VISION | (vision or {}), TEXT | (text or {}), **kwargs
        ).eval()


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize(
    "vision", [{}, {"pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.1}]
)
def test_the_parts_are_the_whole(k, vision):
    tower = Tower(clip(vision), unlocked_groups=k)
    features = tower.frozen(IMAGES)
    torch.testing.assert_close(
        tower.rest(features), tower.model.visual(tower.prepare(IMAGES)), atol=1e-5, rtol=1e-5
    )
    assert list(features.shape[1:]) == [[32], [64], [17, 64], [17, 64]][k]


@pytest.mark.parametrize("k", range(4))
def test_what_is_trained_is_what_open_clip_unlocks(k):
    tower, plain = Tower(tiny_tower(), unlocked_groups=k), tiny_tower()
    plain.visual.lock(unlocked_groups=k)
    expected = {
        f"visual.{name}"
        for name, parameter in plain.visual.named_parameters()
        if parameter.requires_grad
    }
    assert {
        name for name, parameter in tower.model.named_parameters() if parameter.requires_grad
    } == expected


@pytest.mark.parametrize("k", [0, 1, 2])
def test_of_a_video_the_mean_embedding_counts(k):
    tower = Tower(tiny_tower(), unlocked_groups=k)
    video = IMAGES.repeat(2, 1, 1, 1).unflatten(0, (2, 3)) * torch.tensor([1.0, 0.5]).view(
        2, 1, 1, 1, 1
    )
    expected = torch.stack([tower.model.visual(tower.prepare(frames)).mean(0) for frames in video])
    torch.testing.assert_close(tower.rest(tower.frozen(video)), expected, atol=1e-5, rtol=1e-5)


def test_a_shared_model_is_frozen_in_place_and_an_unlocked_one_copied():
    model = tiny_tower()
    assert Tower(model).model is model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert Tower(model, unlocked_groups=1).model is not model


@pytest.mark.parametrize(
    ("k", "model"),
    [(4, tiny_tower), (-1, tiny_tower), (1, lambda: clip({"attentional_pool": True}))],
)
def test_impossible_cuts_are_refused(k, model):
    with pytest.raises(InputError, match="unlocked_groups"):
        Tower(model(), unlocked_groups=k)


def test_a_resnet_works_frozen_and_only_so():
    model = clip({"layers": (1, 1, 1, 1), "width": 8, "image_size": 32, "head_width": 8})
    tower = Tower(model)
    assert tower.frozen(IMAGES).shape == (3, 32)
    with pytest.raises(InputError, match="ModifiedResNet"):
        Tower(model, unlocked_groups=1)
    with pytest.raises(InputError, match="cannot be read off"):
        save_tower(model, "unused")


def test_other_modules_are_refused():
    with pytest.raises(InputError, match=r"open_clip model.*Linear"):
        load_tower(torch.nn.Linear(2, 2))


def test_prompts_are_tokenised_to_the_models_length():
    tower = load_tower(tiny_tower(), text=True)
    embedded = tower.encode_text(["a cat", "a dog", "a cat and " * 20])
    assert embedded.shape == (3, 32)
    assert not torch.allclose(embedded[0], embedded[1])


def test_a_text_half_that_is_too_small_for_the_tokenizer_is_named():
    with pytest.raises(InputError, match="knows 600 tokens"):
        Tower(clip()).encode_text(["a cat"])


def test_repeated_prompts_have_equal_embeddings():
    embedded = Tower(tiny_tower()).encode_text(["a dog", "a cat", "a dog"])
    assert torch.equal(embedded[0], embedded[2])
    torch.testing.assert_close(embedded[1:2], Tower(tiny_tower()).encode_text(["a cat"]))


def test_a_saved_tower_loads_as_local_dir(tmp_path):
    model = clip(
        {"ls_init_value": 0.1, "mlp_ratio": 3.0},
        text=TEXT | {"vocab_size": 49408},
        quick_gelu=True,
        init_logit_bias=-1.0,
    )
    model.train()
    save_tower(model, tmp_path / "tower")
    assert model.training
    loaded = load_tower(f"local-dir:{tmp_path / 'tower'}", text=True)
    model.eval()
    torch.testing.assert_close(loaded.model.visual(IMAGES), model.visual(IMAGES))
    torch.testing.assert_close(loaded.encode_text(["a cat"]), Tower(model).encode_text(["a cat"]))
    assert loaded.fingerprint(text=True) == Tower(model).fingerprint(text=True)


def test_an_architecture_that_is_not_what_it_seems_is_not_described():
    model = clip()
    model.visual.transformer.resblocks[1].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(InputError, match="cannot be read off"):
        described(model)


def test_the_fingerprint_sees_frozen_weights_and_settings_only():
    base = Tower(tiny_tower(), 1).fingerprint()
    trained, touched, pooled = (
        Tower(tiny_tower(), 1),
        Tower(tiny_tower(), 1),
        Tower(clip({"pool_type": "avg"}), 1),
    )
    with torch.no_grad():
        trained.model.visual.proj.add_(1)
        trained.model.token_embedding.weight.add_(1)
        touched.model.visual.class_embedding[0] += 1e-6
    assert trained.fingerprint() == base
    assert trained.fingerprint(text=True) != Tower(tiny_tower(), 1).fingerprint(text=True)
    assert (
        len(
            {
                base,
                touched.fingerprint(),
                pooled.fingerprint(),
                Tower(tiny_tower(), 2).fingerprint(),
            }
        )
        == 4
    )
    assert Tower(clip()).fingerprint() != Tower(clip(quick_gelu=True)).fingerprint()


@pytest.mark.parametrize(
    ("name", "pretrained", "words"),
    [
        ("ViT-B-23", "random", "nearest is ViT-B-32"),
        ("ViT-B-32", None, "needs weights"),
        ("ViT-B-32", "no-such-file.pt", "neither a file nor one of open_clip's tags"),
        ("local-dir:no-such-folder", None, "there is no folder"),
    ],
)
def test_missing_towers_are_named(name, pretrained, words):
    with pytest.raises(InputError, match=words):
        load_tower(name, pretrained)


def test_incomplete_and_broken_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no open_clip_config\.json"):
        load_tower(f"local-dir:{tmp_path}")
    save_tower(tiny_tower(), tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="Are the weights whole"):
        load_tower(f"local-dir:{tmp_path}")
    weights.unlink()
    with pytest.raises(InputError, match="there is no weights file"):
        load_tower(f"local-dir:{tmp_path}")


def test_weights_of_another_architecture_are_named(tmp_path):
    save_tower(tiny_tower(), tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="do they belong to it"):
        load_tower(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(40, 31), (9, 16), (16, 12)])
def test_preprocessing_is_open_clips(mode, interpolation, shape):
    numbers = {
        "size": (16, 16),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "interpolation": interpolation,
        "resize_mode": mode,
    }
    noise = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1))
    image = to_pil_image(noise).resize(shape[::-1], Image.Resampling.BICUBIC)
    expected = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**numbers), is_train=False
    )(image)
    got = Preprocessing(numbers)(to_tensor(image)[None])[0]
    torch.testing.assert_close(got, expected, atol=2 / 255 / 0.2, rtol=0)
    assert (got - expected).abs().mean() < 0.5 / 255 / 0.2


def test_images_of_the_right_size_are_only_normalised():
    prepare = Preprocessing({"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3})
    assert torch.equal(prepare(IMAGES), (IMAGES - 0.5) / 0.25)


def test_grey_images_get_three_equal_channels():
    prepare = Preprocessing({"size": 16, "mean": [0.0] * 3, "std": [1.0] * 3})
    assert torch.equal(prepare(IMAGES[:, :1]), IMAGES[:, :1].expand(-1, 3, -1, -1))


def test_gradients_pass_the_resize():
    images = torch.rand(1, 3, 40, 30).requires_grad_()
    Preprocessing({"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3})(images).sum().backward()
    assert (images.grad.abs().sum((1, 3)) > 0).any()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(InputError, match=f"tower whose channels do not fit: .* have {channels}"):
        Tower(tiny_tower()).frozen(torch.rand(1, channels, 16, 16))


def test_without_resize_both_sizes_are_named():
    with pytest.raises(InputError, match=r"16x16.*8x24"):
        Tower(tiny_tower()).frozen(torch.rand(1, 3, 8, 24), resize=False)
