"""Rewards of images as models of transformers: towers of three libraries, heads, refusals."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from rewardlab import VisionReward
from rewardlab.errors import InputError
from rewardlab.exporting import Origin, export_transformers
from rewardlab.exporting.remote.image_processing_image_reward import ImageRewardProcessor
from rewardlab.exporting.remote.modeling_image_reward import ImageRewardModel
from rewardlab.rewards import (
    AestheticReward,
    Bottleneck,
    Ensemble,
    ImageReward,
    LanguageReward,
    Standardized,
    Tolerant,
    Weighted,
)
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.rewards.towers import Tower
from rewardlab.rewards.transformers_towers import PaddedTexts, TransformersTower
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

REWARDS_TESTS = Path(__file__).parents[1] / "rewards"
TINY = SimpleNamespace(**runpy.run_path(str(REWARDS_TESTS / "tiny_models.py")))
PUBLISHED = SimpleNamespace(**runpy.run_path(str(REWARDS_TESTS / "test_published.py")))
TOWER = tiny_tower()
NUMBERS = {
    "size": (32, 32),
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25] * 3,
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def pictures(height, width, count=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def fitted(reward, seed=0):
    """Give a reward features that are standardised; return it in eval mode."""
    features = reward.features(Samples([""] * 8, pictures(32, 32, 8, seed)))
    reward.fit_feature_scale(features)
    return reward.eval()


def heads(seed, **options):
    return fitted(VisionReward(TOWER, width=6, seed=seed, **options), seed)


def clip():
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 260, "eos_token_id": 257}
    config = CLIPConfig(
        text_config={**text, **layers, "bos_token_id": 258}, vision_config={**vision, **layers}
    )
    torch.manual_seed(0)
    return TransformersTower(CLIPModel(config).eval(), NUMBERS)


def dino():
    torch.manual_seed(0)
    return timm.create_model(
        "vit_small_patch16_dinov3", pretrained=False, num_classes=0, img_size=32, depth=1
    )


def unlocked():
    """A reward that trained its tower's last blocks."""
    reward = VisionReward(TOWER, width=6, unlocked_groups=2)
    with torch.no_grad():
        for parameter in reward.tower.parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(1)
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return reward.eval()


REWARDS = {
    "several heads that see some features": lambda: heads(1, heads=3, feature_share=0.5),
    "an ensemble on one tower": lambda: Ensemble([heads(1), heads(2, heads=2)]),
    "a difference, standardized": lambda: Standardized(
        Weighted([heads(1), heads(2)], [1.0, -2.0]), 0.25, 0.5
    ),
    "two bottlenecks": lambda: Weighted(
        [fitted(Bottleneck(heads(1), width=4), 1), fitted(Bottleneck(heads(2), width=3), 2)],
        [1.0, 2.0],
    ),
    "unlocked groups": unlocked,
    "a tower of timm with buffers of its own": lambda: fitted(VisionReward(dino(), width=6)),
    "a tower of transformers": lambda: fitted(VisionReward(clip(), width=6)),
}


@pytest.mark.parametrize("name", REWARDS)
def test_the_folders_model_scores_as_the_reward_does(name, tmp_path):
    reward = REWARDS[name]().eval()
    export_transformers(reward, tmp_path / "out", Origin(str(tmp_path)))
    model = ImageRewardModel.from_pretrained(tmp_path / "out").eval()
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    for height, width in ((45, 31), (16, 16), (20, 90)):
        batch = pictures(height, width)
        with torch.no_grad():
            scores = model(processor(batch)["pixel_values"]).logits[:, 0]
        expected = scores_of(reward, Samples([""] * 3, batch))
        assert expected.std() > 1e-4
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_of_a_video_the_mean_embedding_counts(tmp_path):
    reward = heads(1)
    export_transformers(reward, tmp_path / "out", Origin(str(tmp_path)))
    model = ImageRewardModel.from_pretrained(tmp_path / "out").eval()
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    video = pictures(24, 24, count=4)
    pixels = processor(video)["pixel_values"][None]
    expected = scores_of(reward, Samples([""], video[None]))
    with torch.no_grad():
        torch.testing.assert_close(model(pixels, return_dict=False)[0][0], expected)


def test_a_reward_that_does_not_resize_refuses_other_sizes_here_too(tmp_path):
    reward = VisionReward(TOWER, width=6, resize=False).eval()
    export_transformers(reward, tmp_path / "out", Origin(str(tmp_path)))
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    assert processor(pictures(16, 16))["pixel_values"].shape == (3, 3, 16, 16)
    with pytest.raises(ValueError, match="resizing is off"):
        processor(pictures(17, 16))


SETTINGS = {
    "shortest": {"resize_mode": "shortest"},
    "longest, filled": {"resize_mode": "longest", "fill_color": 128, "size": (20, 12)},
    "oblong": {"resize_mode": "shortest", "interpolation": "bilinear", "size": (20, 12)},
    "cropped": {"resize_mode": "shortest", "crop_pct": 0.875},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", [(33, 50), (90, 7), (16, 16), (8, 11)])
def test_the_processor_prepares_as_the_tower_does(name, size, tmp_path):
    tower = Tower(TOWER, numbers=SETTINGS[name])
    numbers = tower.prepare.numbers
    processor = ImageRewardProcessor(
        size={"height": numbers["size"][0], "width": numbers["size"][1]},
        image_mean=list(numbers["mean"]),
        image_std=list(numbers["std"]),
        **{key: numbers[key] for key in ("interpolation", "resize_mode", "fill_color")},
        crop_pct=numbers.get("crop_pct"),
    )
    batch = pictures(*size)
    torch.testing.assert_close(processor(batch)["pixel_values"], tower.prepare(batch))


def test_pictures_tensors_and_arrays_of_one_picture_are_one(tmp_path):
    processor = ImageRewardProcessor(size={"height": 8, "width": 8})
    levels = torch.arange(11 * 9 * 3, dtype=torch.uint8).view(11, 9, 3)
    picture = Image.fromarray(levels.numpy())
    forms = [picture, levels.numpy(), levels.permute(2, 0, 1), levels.permute(2, 0, 1) / 255]
    tables = [processor(form)["pixel_values"] for form in forms]
    assert all(torch.equal(table, tables[0]) for table in tables)
    gray = processor([picture.convert("L"), levels.numpy()[:, :, 0]])["pixel_values"]
    assert gray.shape == (2, 3, 8, 8)


def seeing_prompts(seed, **options):
    """A reward of a picture beside its prompt, whose features are standardised."""
    reward = VisionReward(TOWER, width=6, seed=seed, conditional=True, **options)
    features = reward.features(Samples([f"a cat and {number}" for number in range(8)], BATCH))
    reward.fit_feature_scale(features)
    return reward.eval()


def aesthetic(folder):
    """A chain of linear layers on normalised embeddings."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for number, (columns, rows) in enumerate(((32, 16), (16, 4), (4, 1))):
        weights[f"layers.{2 * number}.weight"] = torch.randn(rows, columns, generator=generator)
        weights[f"layers.{2 * number}.bias"] = torch.randn(rows, generator=generator)
    save_file(weights, folder / "predictor.safetensors")
    return AestheticReward(TOWER, folder / "predictor.safetensors").eval()


def with_prompts(tokenizer):
    tower = clip()
    tower.tokenizer = PaddedTexts(tokenizer, tower.network.config.text_config)
    return VisionReward(tower, width=6, conditional=True, heads=2).eval()


BATCH = pictures(16, 16, 8)
PROMPTS = ["a cat", "", "two dogs on a wet street at night, one red and one blue"]
FURTHER = {
    "a picture beside its prompt": lambda folder: seeing_prompts(1, heads=2),
    "prompts and unlocked groups": lambda folder: seeing_prompts(1, unlocked_groups=2),
    "a picture beside its prompt, by transformers": lambda folder: with_prompts(TINY.tokenizer()),
    "an ensemble of which one sees prompts": lambda folder: Ensemble([heads(1), seeing_prompts(2)]),
    "two towers": lambda folder: Ensemble(
        [heads(1), VisionReward(tiny_tower(1), width=6, heads=2)]
    ),
    "a bottleneck beside heads": lambda folder: Weighted(
        [heads(1), fitted(Bottleneck(heads(2), width=4), 2)], [1.0, 1.0]
    ),
    "an aesthetic predictor": aesthetic,
    "an aesthetic predictor beside heads": lambda folder: Weighted(
        [Standardized(aesthetic(folder), 5.0, 2.0), heads(1)], [1.0, 0.5]
    ),
    "a tolerant": lambda folder: Tolerant(heads(1)),
}


def prompt_ids(reward, prompts):
    """Return the tokens of prompts, as the card says to make them; None if they are not seen."""
    for part in reward.modules():
        if getattr(part, "conditional", False) and isinstance(part, VisionReward):
            return part.tower.tokenizer(prompts)
    return None


@pytest.mark.parametrize("name", FURTHER)
def test_prompts_several_towers_and_predictors_score_as_the_reward_does(name, tmp_path):
    reward = FURTHER[name](tmp_path).eval()
    samples = Samples(PROMPTS, pictures(24, 24))
    expected = scores_of(reward, samples)
    export_transformers(reward, tmp_path / "out", Origin(__file__))
    model = ImageRewardModel.from_pretrained(tmp_path / "out").eval()
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    tables = dict(processor(samples.outputs))
    ids = prompt_ids(reward, PROMPTS)
    if ids is not None:
        tables["input_ids"] = ids
    with torch.no_grad():
        output = model(**tables)
    assert expected.std() > 1e-4
    torch.testing.assert_close(output.logits[:, 0], expected, atol=1e-5, rtol=0)
    members = member_scores(reward, samples)
    if members.shape[1] > 1:
        torch.testing.assert_close(output.members, members, atol=1e-5, rtol=0)


def test_an_aesthetic_predictor_normalizes_each_frame(tmp_path):
    reward = aesthetic(tmp_path)
    export_transformers(reward, tmp_path / "out", Origin(__file__))
    model = ImageRewardModel.from_pretrained(tmp_path / "out").eval()
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    video = pictures(24, 24, count=4)
    expected = scores_of(reward, Samples([""], video[None]))
    with torch.no_grad():
        logits = model(processor(video)["pixel_values"][None]).logits[:, 0]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_the_folder_of_a_reward_that_sees_prompts_says_so(tmp_path):
    export_transformers(with_prompts(TINY.tokenizer()), tmp_path / "out", Origin(str(tmp_path)))
    model = ImageRewardModel.from_pretrained(tmp_path / "out").eval()
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="give input_ids"):
        model(**processor(pictures(24, 24)))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "It sees 77 tokens of a prompt" in card
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert loaded("a cat")["input_ids"] == TINY.tokenizer()("a cat")["input_ids"]


def image_reward(folder):
    weights = PUBLISHED.blip_layout()
    save_file(weights, folder / "weights.safetensors")
    return ImageReward(folder / "weights.safetensors", PUBLISHED.bert_tokenizer())


REFUSED = {
    "prepare pictures in 2 ways": lambda folder: Ensemble(
        [heads(1), VisionReward(tiny_tower(1, image_size=32), width=6)]
    ),
    "one of images and a LanguageReward": lambda folder: Weighted(
        [heads(1), LanguageReward(TINY.backbone(), TINY.tokenizer())], [1.0, 1.0]
    ),
    "An ImageReward is one published checkpoint": image_reward,
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_model_of_pixels_scores_is_refused(words, tmp_path):
    reward = REFUSED[words](tmp_path)
    with pytest.raises(InputError, match=words):
        export_transformers(reward, tmp_path / "out", Origin(str(tmp_path)))
    assert not (tmp_path / "out").exists()
