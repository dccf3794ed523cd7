"""The activation and the preprocessing of towers by name, with a tag, a file or a folder."""

import json

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch.testing import assert_close

from rewardlab import Samples, VisionReward
from rewardlab.errors import InputError
from rewardlab.rewards.tower_files import save_tower
from rewardlab.rewards.tower_forms import form_of_file, form_of_random, form_of_tag
from rewardlab.rewards.tower_loading import load_tower

IMAGES = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
SIZE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CLIP_MEAN = pytest.approx((0.48145466, 0.4578275, 0.40821073))
HALF = (0.5, 0.5, 0.5)
SIGLIP = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Stand for ViT-L-14 and its quick twin; `small(numbers, ...)` gives the former tags."""
    registry = dict(open_clip.factory._MODEL_CONFIGS)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", registry)
    registry["Small"] = SIZE
    registry["Small-quickgelu"] = SIZE | {"quick_gelu": True}
    registry["Plain"] = SIZE

    def with_tags(name, **tags):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
        monkeypatch.setattr(
            open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "weights.pt")
        )

    return with_tags


@pytest.fixture
def weights(small, tmp_path):
    """A weights file that was trained with QuickGELU, and the model itself."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.create_model("Small-quickgelu").eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt", model


@torch.no_grad()
def embedded(tower):
    return tower.model.visual(IMAGES[:, :, :16, :16])


def own_tag(**options):
    return {"url": "x", "mean": HALF, "std": HALF, "resize_mode": "squash", **options}


def test_a_file_of_an_architecture_of_both_kinds_has_to_be_told(weights):
    file, model = weights
    with pytest.raises(InputError, match=r"Say gelu='quick' or gelu='exact'"):
        VisionReward("Small", pretrained=str(file))
    expected = model.visual(IMAGES[:, :, :16, :16]).detach()
    for name, gelu in (("Small", "quick"), ("Small-quickgelu", None), ("Small-quickgelu", "quick")):
        tower = load_tower(name, str(file), gelu=gelu)
        assert_close(embedded(tower), expected, atol=1e-5, rtol=0)
        assert isinstance(tower.model.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    exact = load_tower("Small", str(file), gelu="exact")
    assert not torch.allclose(embedded(exact), expected, atol=1e-3)
    with pytest.raises(InputError, match=r"gelu='exact' contradicts the architecture"):
        load_tower("Small-quickgelu", str(file), gelu="exact")


def test_what_was_told_is_saved(weights, tmp_path):
    file, _ = weights
    mine = VisionReward("Small", str(file), gelu="quick", preprocessing=SIGLIP, width=8).eval()
    samples = Samples(["", ""], IMAGES)
    for tower in (True, False):
        mine.save_pretrained(tmp_path / "reward", tower=tower)
        loaded = VisionReward.from_pretrained(tmp_path / "reward")
        assert torch.allclose(loaded(samples), mine(samples), atol=1e-6)
        assert loaded.tower.prepare.numbers["resize_mode"] == "squash"
    given = VisionReward.from_pretrained(tmp_path / "reward", tower=mine.tower.model)
    assert torch.equal(given(samples), mine(samples))


def test_the_config_beside_a_file_decides(weights, tmp_path):
    _, model = weights
    open_clip.set_model_preprocess_cfg(model, SIGLIP | {"size": 16})
    save_tower(model, tmp_path / "folder", config=SIZE | {"quick_gelu": True})
    beside = str(tmp_path / "folder" / "open_clip_model.safetensors")
    tower = load_tower("Small", beside)
    assert_close(embedded(tower), model.visual(IMAGES[:, :, :16, :16]).detach(), atol=1e-5, rtol=0)
    assert tower.prepare.numbers["resize_mode"] == "squash"
    with pytest.raises(InputError, match=r"gelu='exact' contradicts the open_clip_config.json"):
        load_tower("Small", beside, gelu="exact")
    with pytest.raises(InputError, match=r"gelu='exact' contradicts local-dir"):
        load_tower(f"local-dir:{tmp_path / 'folder'}", gelu="exact")


def test_a_tag_brings_its_activation_and_its_numbers(weights, small, recwarn):
    _, model = weights
    small("Small", openai=own_tag(quick_gelu=True), exact=own_tag())
    tower = load_tower("Small", "openai")
    assert_close(embedded(tower), model.visual(IMAGES[:, :, :16, :16]).detach(), atol=1e-5, rtol=0)
    assert tower.prepare.numbers["mean"] == HALF
    assert tower.config()["quick_gelu"]
    assert not torch.allclose(embedded(load_tower("Small", "exact")), embedded(tower), atol=1e-3)
    assert not recwarn.list
    with pytest.raises(InputError, match=r"gelu='exact' contradicts open_clip's tag openai"):
        load_tower("Small", "openai", gelu="exact")


def test_numbers_that_all_tags_share_are_a_files(weights, small):
    file, _ = weights
    small("Plain", one=own_tag(), two=own_tag())
    tower = load_tower("Plain", str(file))
    assert tower.prepare.numbers["mean"] == HALF
    assert tower.prepare.numbers["resize_mode"] == "squash"


def test_numbers_that_differ_between_tags_have_to_be_told(weights, small):
    file, _ = weights
    small("Plain", one=own_tag(), two=own_tag(mean=(0.1, 0.2, 0.3)))
    with pytest.raises(InputError, match=r"Say preprocessing=TAG"):
        load_tower("Plain", str(file))
    said = load_tower("Plain", str(file), preprocessing="two")
    assert said.prepare.numbers["mean"] == (0.1, 0.2, 0.3)
    mapped = load_tower("Plain", str(file), preprocessing={"mean": (0.3,) * 3, "std": HALF})
    assert mapped.prepare.numbers["mean"] == (0.3,) * 3
    with pytest.raises(InputError, match=r"none of open_clip's tags for Plain \(one, two\)"):
        load_tower("Plain", str(file), preprocessing="three")
    with pytest.raises(InputError, match=r"got zoom as well"):
        load_tower("Plain", str(file), preprocessing={"zoom": 2})


@pytest.mark.parametrize(
    ("name", "gelu", "mean", "mode"),
    [
        ("ViT-B-16-SigLIP", None, HALF, "squash"),
        ("ViT-L-16-SigLIP2-256", None, HALF, "squash"),
        ("PE-Core-B-16", None, HALF, "squash"),
        ("ViT-L-14", "quick", CLIP_MEAN, "shortest"),
        ("ViT-L-14-quickgelu", None, CLIP_MEAN, "shortest"),
        ("ViT-B-32", "exact", CLIP_MEAN, "shortest"),
        ("MobileCLIP-S1", None, (0.0, 0.0, 0.0), "shortest"),
        ("ViT-L-14-CLIPA", None, pytest.approx((0.485, 0.456, 0.406)), "squash"),
        ("coca_ViT-B-32", None, CLIP_MEAN, "shortest"),
    ],
)
def test_files_of_real_architectures(tmp_path, name, gelu, mean, mode):
    form = form_of_file(name, tmp_path / "weights.pt", gelu, None)
    assert form.numbers["mean"] == mean
    assert form.numbers["resize_mode"] == mode
    assert form.is_quick == (gelu == "quick" or name.endswith("quickgelu"))


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-B-32", "ViT-B-16", "RN50", "ViT-H-14-378"])
def test_real_architectures_of_both_kinds_are_asked(tmp_path, name):
    with pytest.raises(InputError, match="a file does not say which"):
        form_of_file(name, tmp_path / "weights.pt", None, None)
    with pytest.raises(InputError, match="gelu is 'quick' or 'exact'"):
        form_of_tag("ViT-L-14", "openai", "fast", None)


def test_an_exact_vit_l_14_has_two_preprocessings(tmp_path):
    with pytest.raises(InputError, match=r"laion2b_s32b_b82k has mean \[0.5, 0.5, 0.5\]"):
        form_of_file("ViT-L-14", tmp_path / "weights.pt", "exact", None)
    said = form_of_file("ViT-L-14", tmp_path / "weights.pt", "exact", "laion2b_s32b_b82k")
    assert said.numbers["mean"] == HALF


def test_every_published_pair_gets_its_own_form():
    quick = 0
    for name, tag in open_clip.list_pretrained():
        form = form_of_tag(name, tag, None, None)
        config = open_clip.get_model_config(name)
        published = open_clip.get_pretrained_cfg(name, tag)
        own = published.get("quick_gelu", False) or config.get("quick_gelu", False)
        assert form.is_quick == own, (name, tag)
        quick += form.is_quick
    assert quick > 50
    assert form_of_random("ViT-L-14", None, None).numbers == {}


def test_weights_beside_a_folder_or_a_model_are_refused(weights, tmp_path):
    file, model = weights
    save_tower(model, tmp_path / "folder")
    with pytest.raises(InputError, match=r"brings its own weights; got pretrained=random"):
        load_tower(f"local-dir:{tmp_path / 'folder'}", "random")
    with pytest.raises(InputError, match=r"has its weights and its activation"):
        load_tower(model, str(file))
    with pytest.raises(InputError, match=r"preprocessing is a mapping of numbers"):
        load_tower(model, preprocessing="openai")
    with pytest.raises(InputError, match=r"A tower is a name, a folder .* or a model; got 5"):
        load_tower(5)


def test_a_folders_numbers_are_checked(weights, tmp_path):
    _, model = weights
    save_tower(model, tmp_path / "folder")
    file = tmp_path / "folder" / "open_clip_config.json"
    config = json.loads(file.read_text())
    for name, value in (("mean", "half"), ("std", [0, 0, 0]), ("fill_color", None), ("size", -1)):
        odd = config | {"preprocess_cfg": config["preprocess_cfg"] | {name: value}}
        file.write_text(json.dumps(odd))
        if name in ("size", "fill_color"):  # open_clip replaces the one and drops the other
            assert load_tower(f"local-dir:{tmp_path / 'folder'}").prepare.size == (16, 16)
        else:
            with pytest.raises(InputError, match=f"Preprocessing with {name}="):
                load_tower(f"local-dir:{tmp_path / 'folder'}")
