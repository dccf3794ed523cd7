import json

import open_clip
import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards.tower_description import described
from rewardlab.rewards.tower_files import save_tower
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.rewards.towers import Tower
from rewardlab.testing import tiny_tower

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
VISION = {"image_size": 16, "patch_size": 4, "width": 64, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1}


def clip(vision=None, text=None, **options):
    """Return a CLIP whose towers differ from the tiny ones by what is given."""
    vision_config = VISION | (vision or {})
    text_config = TEXT | (text or {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.model.CLIP(32, vision_config, text_config, **options).eval()


def trainable(module):
    """Return the names of the parameters that are trained."""
    names = set()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            names.add(name)
    return names


@pytest.mark.parametrize(("k", "shape"), [(0, (32,)), (1, (64,)), (2, (17, 64)), (3, (17, 64))])
@pytest.mark.parametrize(
    "vision", [{}, {"pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.1}]
)
def test_the_parts_are_the_whole(k, shape, vision):
    tower = Tower(clip(vision), unlocked_groups=k)
    features = tower.frozen(IMAGES)
    whole = tower.model.visual(tower.prepare(IMAGES))
    assert_close(tower.rest(features), whole, atol=1e-5, rtol=1e-5)
    assert features.shape[1:] == shape


@pytest.mark.parametrize("k", range(4))
def test_what_is_trained_is_what_open_clip_unlocks(k):
    tower = Tower(tiny_tower(), unlocked_groups=k)
    plain = tiny_tower()
    plain.visual.lock(unlocked_groups=k)
    expected = {f"visual.{name}" for name in trainable(plain.visual)}
    assert trainable(tower.model) == expected


@pytest.mark.parametrize("k", [0, 1, 2])
def test_of_a_video_the_mean_embedding_counts(k):
    tower = Tower(tiny_tower(), unlocked_groups=k)
    videos = torch.stack([IMAGES, 0.5 * IMAGES])
    means = []
    for frames in videos:
        embeddings = tower.model.visual(tower.prepare(frames))
        means.append(embeddings.mean(0))
    expected = torch.stack(means)
    assert_close(tower.rest(tower.frozen(videos)), expected, atol=1e-5, rtol=1e-5)


def test_a_shared_model_is_frozen_in_place_and_an_unlocked_one_copied():
    model = tiny_tower()
    assert Tower(model).model is model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert Tower(model, unlocked_groups=1).model is not model


@pytest.mark.parametrize("k", [4, -1])
def test_impossible_cuts_are_refused(k):
    with pytest.raises(InputError, match=f"unlocked_groups={k} does not fit"):
        Tower(tiny_tower(), unlocked_groups=k)


def test_a_tower_with_attention_pooling_is_frozen_only():
    model = clip({"attentional_pool": True})
    with pytest.raises(InputError, match=r"unlocked_groups=1.*with attention pooling"):
        Tower(model, unlocked_groups=1)


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
    tower = Tower(clip())
    for _ in range(2):
        with pytest.raises(InputError, match="knows 600 tokens"):
            tower.encode_text(["a cat"])


def test_repeated_prompts_have_equal_embeddings():
    embedded = Tower(tiny_tower()).encode_text(["a dog", "a cat", "a dog"])
    assert torch.equal(embedded[0], embedded[2])
    alone = Tower(tiny_tower()).encode_text(["a cat"])
    assert_close(embedded[1:2], alone)


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
    expected = Tower(model)
    assert_close(loaded.model.visual(IMAGES), model.visual(IMAGES))
    assert_close(loaded.encode_text(["a cat"]), expected.encode_text(["a cat"]))
    assert loaded.fingerprint(text=True) == expected.fingerprint(text=True)


def timm_clip(kind="CustomTextCLIP", quick_gelu=False, **vision):
    """Return a CLIP with an image tower of timm."""
    vision_config = {"timm_model_name": "test_vit", "image_size": 160} | vision
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(open_clip.model, kind)(
            32, vision_config, TEXT | {"vocab_size": 49408}, quick_gelu=quick_gelu
        )
    return made.eval()


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize(
    "vision",
    [
        {"timm_pool": "", "timm_proj": "linear"},
        {"timm_pool": "avg", "timm_proj": "mlp"},
        {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj_bias": True},
        {"timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": ""},
    ],
)
def test_a_tower_of_timm_is_saved_and_loads(tmp_path, kind, vision):
    model = timm_clip(kind, quick_gelu=kind == "CLIP", **vision)
    save_tower(model, tmp_path / "tower")
    loaded = load_tower(f"local-dir:{tmp_path / 'tower'}", text=True)
    mine = Tower(model)
    with torch.no_grad():
        assert_close(loaded.frozen(IMAGES), mine.frozen(IMAGES), atol=1e-5, rtol=1e-5)
    assert_close(loaded.encode_text(["a cat"]), mine.encode_text(["a cat"]))
    assert loaded.fingerprint() == mine.fingerprint()


def test_a_size_that_timm_does_not_take_is_named():
    with pytest.raises(InputError, match=r"does not take the images of 64x64 .*doesn't match"):
        Tower(timm_clip(timm_model_name="vit_tiny_patch16_224", image_size=64))


def test_what_cannot_be_read_off_is_saved_with_its_config(tmp_path):
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}
    model = clip(vision, {"vocab_size": 49408})
    with pytest.raises(InputError, match=r"save_tower\(model, folder, config="):
        save_tower(model, tmp_path)
    config = {"embed_dim": 32, "vision_cfg": VISION | vision, "text_cfg": TEXT}
    config["text_cfg"] = TEXT | {"vocab_size": 49408}
    save_tower(model, tmp_path, config=config)
    loaded = load_tower(f"local-dir:{tmp_path}")
    assert_close(loaded.frozen(IMAGES), Tower(model).frozen(IMAGES), atol=1e-5, rtol=1e-5)


class TestLongPrompts:
    """The tiny tower's context is 16 tokens, two of which begin and end a prompt."""

    fits = "cat " * 14
    long = "cat " * 15

    def test_they_are_counted_and_said_once(self, caplog):
        tower = Tower(tiny_tower())
        tower.encode_text([self.fits, "a", self.fits.strip() + "s"])
        assert not tower.cut_prompts
        assert not caplog.records
        tower.encode_text([self.long, self.fits, self.long + "dog", self.long])
        tower.encode_text([self.long])
        assert tower.cut_prompts == 3
        assert len(caplog.records) == 1
        assert "2 of 3 prompts are longer" in caplog.text

    def test_they_are_refused_if_asked_for(self):
        tower = load_tower(tiny_tower(), long_prompts="refuse")
        tower.encode_text([self.fits])
        with pytest.raises(InputError, match=r"1 of 2 prompts are longer than the 16 tokens"):
            tower.encode_text([self.fits, self.long])

    def test_other_tokenizers_are_asked_the_same(self):
        class Padded:
            """Ends rows with a token that pads them too, as SigLIP's does."""

            def __call__(self, texts, context_length=16):
                rows = torch.full((len(texts), context_length), 1)
                for row, text in zip(rows, texts, strict=True):
                    count = min(len(text.split()), context_length - 1)
                    row[:count] = torch.arange(2, 2 + count)
                return rows

        tower = Tower(tiny_tower(), tokenizer=Padded(), long_prompts="refuse")
        tower.encode_text(["a " * 15])
        with pytest.raises(InputError, match="1 of 1 prompts"):
            tower.encode_text(["a " * 16])


def test_an_architecture_that_is_not_what_it_seems_is_not_described():
    model = clip()
    model.visual.transformer.resblocks[1].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(InputError, match="cannot be read off"):
        described(model)


class TestFingerprint:
    """It sees frozen weights and settings only."""

    base = Tower(tiny_tower(), 1).fingerprint()

    @torch.no_grad()
    def test_trained_weights_and_the_text_tower_do_not_count(self):
        tower = Tower(tiny_tower(), 1)
        tower.model.visual.proj.add_(1)
        tower.model.token_embedding.weight.add_(1)
        assert tower.fingerprint() == self.base

    @torch.no_grad()
    def test_the_text_tower_counts_if_asked_for(self):
        tower = Tower(tiny_tower(), 1)
        before = tower.fingerprint(text=True)
        tower.model.token_embedding.weight.add_(1)
        assert tower.fingerprint(text=True) != before

    @torch.no_grad()
    def test_a_frozen_weight_counts(self):
        tower = Tower(tiny_tower(), 1)
        tower.model.visual.class_embedding[0] += 1e-6
        assert tower.fingerprint() != self.base

    def test_settings_count(self):
        pooled = Tower(clip({"pool_type": "avg"}), 1).fingerprint()
        cut_elsewhere = Tower(tiny_tower(), 2).fingerprint()
        assert len({self.base, pooled, cut_elsewhere}) == 3
        quick = Tower(clip(quick_gelu=True)).fingerprint()
        assert quick != Tower(clip()).fingerprint()


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-23", "random", "nearest is ViT-B-32"),
        ("ViT-B-32", None, "needs weights"),
        ("ViT-B-32", "no-such-file.pt", "neither a file nor one of open_clip's tags"),
        ("local-dir:no-such-folder", None, "there is no folder"),
    ],
)
def test_missing_towers_are_named(name, pretrained, message):
    with pytest.raises(InputError, match=message):
        load_tower(name, pretrained)


def test_loading_a_folder_says_nothing(tmp_path, caplog, capfd):
    save_tower(tiny_tower(), tmp_path)
    load_tower(f"local-dir:{tmp_path}")
    assert not caplog.records
    assert not capfd.readouterr().err


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
