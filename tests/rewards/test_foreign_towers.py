"""Towers of timm and of transformers: the features, preprocessing and folders of their libraries."""

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from torchvision.transforms.functional import to_pil_image, to_tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, SiglipConfig, SiglipModel

from rewardlab import Samples, VisionReward
from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.rewards.timm_towers import numbers_of, open_timm
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.rewards.towers import Tower
from rewardlab.rewards.transformers_towers import TransformersTower
from rewardlab.testing.tiny_images import byte_tokenizer

KINDS = ["test_vit", "test_vit2", "test_efficientnet", "test_resnet", "test_convnext", "test_nfnet"]
IMAGES = torch.rand(2, 3, 170, 200, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(["", ""], IMAGES)


def trunk(name="test_vit", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **options).eval()


def hard_picture(shape=(170, 240)):
    noise = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    return to_pil_image((noise > 0.5).float())


def own_features(model, picture):
    config = timm.data.resolve_model_data_config(model)
    pixels = timm.data.create_transform(**config, is_training=False)(picture)[None]
    with torch.no_grad():
        hidden = model.forward_features(pixels)
        return pixels, model.forward_head(hidden, pre_logits=True)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_timm_sees_what_timm_shows_it(name):
    model = trunk(name)
    tower = Tower(model)
    picture = hard_picture()
    pixels, features = own_features(model, picture)
    prepared = tower.prepare(to_tensor(picture)[None])
    assert (prepared - pixels).abs().max() * 0.225 * 255 < 1.1
    assert_close(tower.model.encode_image(pixels), features)
    assert_close(tower.frozen(to_tensor(picture)[None]), features, atol=2e-2, rtol=2e-2)
    assert tower.width == features.shape[1]


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_dinov2.lvd142m",
        "vit_small_patch16_dinov3.lvd1689m",
        "vit_base_patch16_siglip_224.webli",
        "efficientnet_b0.ra_in1k",
        "resnet50.a1_in1k",
        "vit_base_patch32_clip_448.laion2b_ft_in12k_in1k",
    ],
)
@pytest.mark.parametrize("shape", [(90, 130), (230, 120)])
def test_real_configs_are_preprocessed_as_timm_does(name, shape):
    from rewardlab.rewards.preprocessing import Preprocessing

    config = timm.models.get_pretrained_cfg(name).to_dict()
    data = timm.data.resolve_data_config(pretrained_cfg=config)
    picture = hard_picture(shape)
    expected = timm.data.create_transform(**data, is_training=False)(picture)
    prepared = Preprocessing(numbers_of(config))(to_tensor(picture)[None])[0]
    assert (prepared - expected).abs().max() * max(data["std"]) * 255 < 1.3


def test_pictures_of_the_towers_size_are_cropped_too():
    model = trunk("test_efficientnet")
    assert model.pretrained_cfg["crop_pct"] < 1
    picture = hard_picture((160, 160))
    pixels, _ = own_features(model, picture)
    tower = Tower(model)
    assert (tower.prepare(to_tensor(picture)[None]) - pixels).abs().max() * 0.225 * 255 < 1.1
    exact = tower.prepare(to_tensor(picture)[None], resize=False)
    mean = tower.prepare.mean
    assert_close(exact, (to_tensor(picture)[None] - mean) / tower.prepare.std)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_saved_as_timm_saves(tmp_path, name):
    tower = Tower(trunk(name))
    tower.save(tmp_path / "tower")
    loaded = load_tower(f"local-dir:{tmp_path / 'tower'}")
    assert_close(loaded.frozen(IMAGES), tower.frozen(IMAGES), atol=1e-5, rtol=1e-5)
    assert loaded.fingerprint() == tower.fingerprint()
    own = timm.create_model(f"local-dir:{tmp_path / 'tower'}", pretrained=True).eval()
    pixels = tower.prepare(IMAGES)
    with torch.no_grad():
        assert_close(own(pixels), tower.frozen(IMAGES), atol=1e-4, rtol=1e-4)


def test_a_reward_on_it_is_a_reward(tmp_path):
    mine = VisionReward(trunk(img_size=96), heads=2, width=8).eval()
    assert mine.tower.prepare.size == (96, 96)
    mine.save_pretrained(tmp_path / "whole")
    mine.save_pretrained(tmp_path / "bare", tower=False)
    assert_close(load_reward(tmp_path / "whole")(SAMPLES), mine(SAMPLES), atol=1e-5, rtol=1e-5)
    given = VisionReward.from_pretrained(tmp_path / "bare", tower=trunk(img_size=96))
    assert_close(given(SAMPLES), mine(SAMPLES))
    other = trunk("test_vit3", img_size=96)
    with pytest.raises(InputError, match="trained on another tower"):
        VisionReward.from_pretrained(tmp_path / "bare", tower=other)
    images = IMAGES.clone().requires_grad_()
    mine(Samples(["", ""], images)).sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    video = Samples(["", ""], torch.stack([IMAGES, IMAGES], 1))
    assert_close(mine(video), mine(SAMPLES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_weights_file_loads_by_name(tmp_path, prefix):
    model = trunk("test_efficientnet")
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    tower = load_tower("timm:test_efficientnet.r160_in1k", str(tmp_path / "weights.safetensors"))
    expected = Tower(model)
    assert_close(tower.frozen(IMAGES), expected.frozen(IMAGES))
    assert tower.fingerprint() == expected.fingerprint()
    by_architecture = load_tower("timm:test_efficientnet", str(tmp_path / "weights.safetensors"))
    assert by_architecture.prepare.numbers == tower.prepare.numbers


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = trunk("test_vit").state_dict()
    del state["pos_embed"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"missing pos_embed, unexpected none"):
        load_tower("timm:test_vit", str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("timm:test_vitt", "random", "timm has no model named test_vitt; the nearest is test_vit"),
        ("timm:test_vit", None, r"needs weights: got pretrained=None.*\(r160_in1k\)"),
        ("timm:test_vit", "none.pt", "neither a file nor one of timm's tags"),
        ("timm:test_vit.in21k", "random", "timm has no weights in21k of test_vit"),
    ],
)
def test_what_timm_does_not_have_is_named(name, pretrained, message):
    with pytest.raises(InputError, match=message):
        load_tower(name, pretrained)


def test_tags_that_differ_have_to_be_named(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    file = str(tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"Name its tag: timm:resnet18\.TAG"):
        open_timm("timm:resnet18", file, None)
    random = open_timm("timm:test_vit", "random", {"mean": (0.1, 0.2, 0.3)})
    assert random.numbers["mean"] == (0.1, 0.2, 0.3)
    with pytest.raises(InputError, match="got zoom as well"):
        open_timm("timm:test_vit", "random", {"zoom": 2})


def test_a_tower_without_texts_or_blocks_to_unlock_says_so():
    with pytest.raises(InputError, match="no text half at all"):
        VisionReward(trunk(), conditional=True)(SAMPLES)
    with pytest.raises(InputError, match="VisionTransformer of another library"):
        Tower(trunk(), unlocked_groups=1)
    with pytest.raises(InputError, match="says itself what it is"):
        load_tower("timm:test_vit", "random", gelu="quick")
    with pytest.raises(InputError, match="Make it with a global_pool"):
        Tower(trunk(global_pool=""))


def test_a_model_that_timm_builds_otherwise_is_not_saved(tmp_path):
    model = trunk()
    model.blocks[0].mlp.act = torch.nn.ReLU()
    with pytest.raises(InputError, match="timm builds another model"):
        Tower(model).save(tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


@pytest.mark.parametrize("damage", ["architecture", "model_args", "pretrained_cfg"])
@pytest.mark.parametrize("value", [None, 5, "x", [1]])
def test_odd_folders_are_harmless_or_refused(tmp_path, damage, value):
    Tower(trunk()).save(tmp_path / "tower")
    file = tmp_path / "tower" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {damage: value}))
    try:
        tower = load_tower(f"local-dir:{tmp_path / 'tower'}")
    except InputError:
        return
    assert torch.isfinite(tower.frozen(IMAGES)).all()


def clip(tmp_path, kind="clip"):
    """A CLIP or SigLIP of transformers with its tokenizer and preprocessor, in a folder."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 514, "max_position_embeddings": 24}
    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    image |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "clip":
            text |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
            config = CLIPConfig(text_config=text, vision_config=image, projection_dim=16)
            model = CLIPModel(config)
        else:
            model = SiglipModel(SiglipConfig(text_config=text, vision_config=image))
    folder = tmp_path / kind
    model.eval().save_pretrained(folder)
    byte_tokenizer(tmp_path / "tokenizer").save_pretrained(folder)
    squash = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**(crop if kind == "clip" else squash)).save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_clip_of_transformers_is_a_tower(tmp_path, kind):
    folder, model = clip(tmp_path, kind)
    tower = load_tower(f"local-dir:{folder}", text=True)
    picture = hard_picture((50, 70))
    processor = CLIPImageProcessor.from_pretrained(folder)
    pixels = processor(images=picture, return_tensors="pt").pixel_values
    prepared = tower.prepare(to_tensor(picture)[None])
    assert (prepared - pixels).abs().max() * 0.27 * 255 < 1.1
    tokenizer = byte_tokenizer(tmp_path / "tokenizer")
    inputs = tokenizer(["a cat"], padding="max_length", max_length=24, return_tensors="pt")
    with torch.no_grad():
        image = model.get_image_features(pixel_values=prepared).pooler_output
        text = model.get_text_features(input_ids=inputs.input_ids).pooler_output
        assert_close(tower.frozen(to_tensor(picture)[None]), image, atol=1e-5, rtol=1e-5)
    assert_close(tower.encode_text(["a cat"]), text, atol=1e-5, rtol=1e-5)
    tower.save(tmp_path / "again")
    again = load_tower(f"local-dir:{tmp_path / 'again'}", text=True)
    assert again.fingerprint(text=True) == tower.fingerprint(text=True)
    assert again.prepare.numbers == tower.prepare.numbers


def test_a_conditional_reward_stands_on_a_clip_of_transformers(tmp_path, caplog):
    folder, _ = clip(tmp_path)
    mine = VisionReward(f"local-dir:{folder}", conditional=True, width=8).eval()
    mine.save_pretrained(tmp_path / "reward")
    samples = Samples(["a cat", "a dog"], IMAGES)
    assert_close(load_reward(tmp_path / "reward")(samples), mine(samples), atol=1e-5, rtol=1e-5)
    assert not caplog.records
    mine(Samples(["a cat " * 20, "a dog"], IMAGES))
    assert "1 of 2 prompts are longer" in caplog.text


def test_an_instance_of_transformers_is_given_with_its_numbers(tmp_path):
    _, model = clip(tmp_path)
    numbers = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    tower = Tower(TransformersTower(model, numbers))
    assert tower.frozen(IMAGES).shape == (2, 16)
    with pytest.raises(InputError, match="has no tokenizer"):
        tower.encode_text(["a cat"])
    with pytest.raises(InputError, match="a TransformersTower; got a CLIPModel"):
        Tower(model)


def test_folders_of_transformers_that_are_no_tower_are_refused(tmp_path):
    folder, _ = clip(tmp_path)
    (folder / "preprocessor_config.json").write_text('{"size": {"longest_edge": 32}}')
    with pytest.raises(InputError, match="is none that a tower's images have"):
        load_tower(f"local-dir:{folder}")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="holds no preprocessor_config"):
        load_tower(f"local-dir:{folder}")


def test_the_shortest_edge_may_be_longer_than_the_crop(tmp_path):
    folder, _ = clip(tmp_path)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, resample=2
    )
    processor.save_pretrained(folder)
    picture = Image.new("RGB", (80, 50), (200, 30, 90))
    picture.paste((10, 250, 20), (20, 10, 50, 30))
    pixels = processor(images=picture, return_tensors="pt").pixel_values
    prepared = load_tower(f"local-dir:{folder}").prepare(to_tensor(picture)[None])
    assert (prepared - pixels).abs().max() * 0.27 * 255 < 1.1
