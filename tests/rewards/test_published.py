"""Published rewards against a few lines of their own, on tiny checkpoints of the same layout."""

import math
from itertools import pairwise

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear, normalize
from torch.testing import assert_close
from torchvision.transforms.functional import to_pil_image, to_tensor
from transformers import BertTokenizerFast, CLIPConfig, CLIPImageProcessor, CLIPModel

from rewardlab.errors import InputError
from rewardlab.rewards import AestheticReward, ImageReward, SimilarityReward, load_reward
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.testing.tiny_images import byte_tokenizer
from rewardlab.types import Samples

PROMPTS = ["a cat", "a red dog on a hill", ""]
IMAGES = torch.rand(3, 3, 20, 26, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(PROMPTS, IMAGES)
WIDTHS = (32, 24, 12, 8, 4, 1)


def pictures(images):
    """Return images as PIL's, and exactly those as tensors."""
    made = [to_pil_image(image) for image in images]
    return made, torch.stack([to_tensor(picture) for picture in made])


def random_chain(folder, widths=WIDTHS, numbers=(0, 2, 4, 6, 7)):
    """Write a predictor's weights as LAION's file has them."""
    generator = torch.Generator().manual_seed(2)
    weights = {}
    for number, (wide, narrow) in zip(numbers, pairwise(widths), strict=True):
        weights[f"layers.{number}.weight"] = torch.randn(narrow, wide, generator=generator)
        weights[f"layers.{number}.bias"] = torch.randn(narrow, generator=generator)
    torch.save(weights, folder / "predictor.pth")
    return folder / "predictor.pth", weights


def check_gradients(reward):
    images = IMAGES.clone().requires_grad_()
    scores = reward(Samples(PROMPTS, images))
    scores.sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in reward.parameters())
    assert not reward(SAMPLES).requires_grad


def check_reward(reward, folder):
    """Check that it works on rows, batches, videos and after saving, and can be climbed."""
    whole = reward(SAMPLES)
    rows = [reward(SAMPLES[row : row + 1])[0] for row in range(3)]
    assert_close(whole, torch.stack(rows), atol=1e-5, rtol=1e-5)
    video = torch.stack([IMAGES, IMAGES.flip(0)], 1)
    back = reward(Samples(PROMPTS, IMAGES.flip(0)))
    assert_close(reward(Samples(PROMPTS, video)), (whole + back) / 2, atol=1e-5, rtol=1e-5)
    reward.save_pretrained(folder / "saved")
    assert_close(load_reward(folder / "saved")(SAMPLES), whole, atol=1e-5, rtol=1e-5)
    check_gradients(reward)


class TestAesthetic:
    """LAION's predictor: normalised embedding, then linear layers with nothing between."""

    def by_hand(self, weights, model, images):
        transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(size=16), is_train=False
        )
        pixels = torch.stack([transform(picture) for picture in images])
        state = normalize(model.encode_image(pixels), dim=-1)
        for number in (0, 2, 4, 6, 7):
            matrix = weights[f"layers.{number}.weight"]
            state = linear(state, matrix, weights[f"layers.{number}.bias"])
        return state[:, 0]

    @torch.no_grad()
    def test_it_is_a_few_lines(self, tmp_path):
        file, weights = random_chain(tmp_path)
        images, tensors = pictures(torch.rand(3, 3, 16, 16))
        mine = AestheticReward(tiny_tower(), file).eval()
        expected = self.by_hand(weights, tiny_tower(), images)
        assert expected.std() > 1
        assert_close(mine(Samples(PROMPTS, tensors)), expected, atol=1e-3, rtol=1e-4)

    def test_it_works_as_a_reward(self, tmp_path):
        check_reward(AestheticReward(tiny_tower(), random_chain(tmp_path)[0]).eval(), tmp_path)

    def test_the_single_layer_of_the_first_predictor_loads_too(self, tmp_path):
        layer = nn.Linear(32, 1)
        torch.save(layer.state_dict(), tmp_path / "sa_0_4.pth")
        mine = AestheticReward(tiny_tower(), tmp_path / "sa_0_4.pth").eval()
        features = normalize(mine.tower.frozen(IMAGES), dim=-1)
        assert_close(mine(SAMPLES), layer(features)[:, 0].detach())

    @pytest.mark.parametrize(
        ("widths", "message"),
        [
            ((24, 24, 12, 8, 4, 1), "takes embeddings of 24 numbers, and the tower gives 32"),
            ((32, 24, 12, 8, 4, 2), "no aesthetic predictor"),
        ],
    )
    def test_other_predictors_are_refused(self, tmp_path, widths, message):
        with pytest.raises(InputError, match=message):
            AestheticReward(tiny_tower(), random_chain(tmp_path, widths)[0])

    def test_files_of_other_models_are_refused(self, tmp_path):
        torch.save({"layers.a.weight": torch.ones(1, 32)}, tmp_path / "x.pth")
        with pytest.raises(InputError, match="no aesthetic predictor"):
            AestheticReward(tiny_tower(), tmp_path / "x.pth")


@torch.no_grad()
def cosines(model, images, prompts, context=16):
    """Return cosines with open_clip's own calls, an image and a prompt at a time."""
    tokenizer = SimpleTokenizer(context_length=context)
    rows = []
    for image, prompt in zip(images, prompts, strict=True):
        left = model.encode_image(image[None])[0]
        right = model.encode_text(tokenizer([prompt]))[0]
        rows.append((left @ right / left.norm() / right.norm()).item())
    return torch.tensor(rows)


def prepared(images, size=16, mode="shortest"):
    config = open_clip.transform.PreprocessCfg(size=size, resize_mode=mode)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    return torch.stack([transform(picture) for picture in images])


class TestSimilarity:
    """CLIPScore, PickScore and HPS: one cosine on three scales."""

    @pytest.mark.parametrize("prefix", ["", "A photo depicts "])
    def test_clip_score(self, prefix):
        images, tensors = pictures(torch.rand(3, 3, 16, 16))
        mine = SimilarityReward(tiny_tower(), prefix=prefix).eval()
        texts = [prefix + prompt for prompt in PROMPTS]
        own = cosines(tiny_tower(), prepared(images), texts)
        expected = 2.5 * own.clamp_min(0)
        assert (own < 0).any() or (own > 0).any()
        assert_close(mine(Samples(PROMPTS, tensors)), expected, atol=1e-4, rtol=1e-4)

    def test_hps_from_a_training_checkpoint(self, tmp_path, monkeypatch):
        registry = dict(open_clip.factory._MODEL_CONFIGS)
        monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", registry)
        vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
        text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
        registry["Small-H"] = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
        registry["Small-H-quickgelu"] = registry["Small-H"] | {"quick_gelu": True}
        with torch.random.fork_rng():
            torch.manual_seed(4)
            model = open_clip.create_model("Small-H").eval()
        state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": state}, tmp_path / "HPS.pt")
        mine = SimilarityReward("Small-H", str(tmp_path / "HPS.pt"), kind="hps").eval()
        images, tensors = pictures(IMAGES)
        expected = cosines(model, prepared(images, mode="longest"), PROMPTS)
        assert_close(mine(Samples(PROMPTS, tensors)), expected, atol=5e-3, rtol=0)
        check_reward(mine, tmp_path)

    def test_pick_score_from_a_folder_of_transformers(self, tmp_path):
        model = write_clip(tmp_path)
        mine = SimilarityReward(f"local-dir:{tmp_path / 'pick'}", kind="pick_score").eval()
        images, tensors = pictures(torch.rand(3, 3, 32, 32))
        processor = CLIPImageProcessor.from_pretrained(tmp_path / "pick")
        tokenizer = byte_tokenizer(tmp_path / "tokenizer")
        rows = []
        with torch.no_grad():
            for picture, prompt in zip(images, PROMPTS, strict=True):
                pixels = processor(images=picture, return_tensors="pt").pixel_values
                ids = tokenizer(prompt, return_tensors="pt").input_ids
                left = model.get_image_features(pixel_values=pixels).pooler_output
                right = model.get_text_features(input_ids=ids).pooler_output
                cosine = torch.cosine_similarity(left, right)
                rows.append(model.logit_scale.exp() * cosine[0])
        scores = mine(Samples(PROMPTS, tensors))
        assert_close(scores, torch.stack(rows), atol=1e-3, rtol=1e-4)
        check_reward(mine, tmp_path)

    def test_what_cannot_work_is_refused(self):
        with pytest.raises(InputError, match="knows the kinds clip_score, pick_score, hps"):
            SimilarityReward(tiny_tower(), kind="pick")
        with pytest.raises(InputError, match="takes a prefix that is a text"):
            SimilarityReward(tiny_tower(), prefix=None)
        mine = SimilarityReward(tiny_tower(), long_prompts="refuse")
        with pytest.raises(InputError, match="longer than the 16 tokens"):
            mine(Samples(["cat " * 30], IMAGES[:1]))

    def test_a_frozen_tower_is_shared(self, tmp_path):
        model = tiny_tower()
        one, two = SimilarityReward(model), SimilarityReward(model, kind="hps")
        assert one.tower.model is two.tower.model
        check_reward(two.eval(), tmp_path)


def write_clip(tmp_path):
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 514, "max_position_embeddings": 24}
    text |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    image |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=image, projection_dim=16)
        model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "pick")
    byte_tokenizer(tmp_path / "tokenizer").save_pretrained(tmp_path / "pick")
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor.save_pretrained(tmp_path / "pick")
    return model


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "red", "dog", "on", "hill"]


def bert_tokenizer():
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)})


def blip_layout(width=64, text_width=64, patch=8, side=4, layers=2):
    """Return random weights under ImageReward's own names: two layers in each half."""
    shapes = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, side * side + 1, width),
        "blip.visual_encoder.patch_embed.proj": (width, 3, patch, patch),
        "blip.visual_encoder.norm": (width,),
        "blip.text_encoder.embeddings.word_embeddings": (len(WORDS), text_width),
        "blip.text_encoder.embeddings.position_embeddings": (40, text_width),
        "blip.text_encoder.embeddings.LayerNorm": (text_width,),
    }
    for number in range(layers):
        block = f"blip.visual_encoder.blocks.{number}"
        shapes |= {f"{block}.norm1": (width,), f"{block}.norm2": (width,)}
        shapes |= {f"{block}.attn.qkv": (3 * width, width), f"{block}.attn.proj": (width, width)}
        shapes |= {f"{block}.mlp.fc1": (128, width), f"{block}.mlp.fc2": (width, 128)}
        layer = f"blip.text_encoder.encoder.layer.{number}"
        for kind, source in (("attention", text_width), ("crossattention", width)):
            shapes[f"{layer}.{kind}.self.query"] = (text_width, text_width)
            shapes[f"{layer}.{kind}.self.key"] = (text_width, source)
            shapes[f"{layer}.{kind}.self.value"] = (text_width, source)
            shapes[f"{layer}.{kind}.output.dense"] = (text_width, text_width)
            shapes[f"{layer}.{kind}.output.LayerNorm"] = (text_width,)
        shapes[f"{layer}.intermediate.dense"] = (96, text_width)
        shapes[f"{layer}.output.dense"] = (text_width, 96)
        shapes[f"{layer}.output.LayerNorm"] = (text_width,)
    for number, narrow, wide in ((0, 16, text_width), (2, 8, 16), (4, 4, 8), (6, 4, 4), (7, 1, 4)):
        shapes[f"mlp.layers.{number}"] = (narrow, wide)
    return filled(shapes)


def filled(shapes):
    generator = torch.Generator().manual_seed(5)
    whole = ("cls_token", "pos_embed")
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        scale = 1.0 if len(shape) == 1 else 3 / math.sqrt(shape[-1])
        if name.endswith(whole):
            weights[name] = values
            continue
        weights[f"{name}.weight"] = 1 + 0.2 * values if len(shape) == 1 else scale * values
        if not name.endswith("embeddings"):
            weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return weights


def attend(query, key, value, mask=None):
    scores = query @ key.transpose(-1, -2) / 8  # one head of 64
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(-1) @ value


class ByHand:
    """ImageReward's pass in plain torch, under its own names, with one attention head a half."""

    def __init__(self, weights):
        self.weights = weights

    def dense(self, name, x):
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name, x, eps):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, x.shape[-1:], weight, bias, eps)

    def image(self, pixels):
        own = "blip.visual_encoder"
        patch = f"{own}.patch_embed.proj"
        x = conv2d(pixels, self.weights[f"{patch}.weight"], self.weights[f"{patch}.bias"], stride=8)
        x = x.flatten(2).transpose(1, 2)
        start = self.weights[f"{own}.cls_token"].expand(len(x), -1, -1)
        x = torch.cat([start, x], 1) + self.weights[f"{own}.pos_embed"]
        for number in range(2):
            block = f"{own}.blocks.{number}"
            rows = self.norm(f"{block}.norm1", x, 1e-6)
            query, key, value = self.dense(f"{block}.attn.qkv", rows).chunk(3, -1)
            x = x + self.dense(f"{block}.attn.proj", attend(query, key, value))
            rows = self.norm(f"{block}.norm2", x, 1e-6)
            hidden = gelu(self.dense(f"{block}.mlp.fc1", rows))
            x = x + self.dense(f"{block}.mlp.fc2", hidden)
        return self.norm(f"{own}.norm", x, 1e-6)

    def read(self, layer, kind, x, source, mask=None):
        query = self.dense(f"{layer}.{kind}.self.query", x)
        key = self.dense(f"{layer}.{kind}.self.key", source)
        value = self.dense(f"{layer}.{kind}.self.value", source)
        out = self.dense(f"{layer}.{kind}.output.dense", attend(query, key, value, mask))
        return self.norm(f"{layer}.{kind}.output.LayerNorm", out + x, 1e-12)

    def score(self, pixels, ids, mask):
        patches = self.image(pixels)
        own = "blip.text_encoder"
        words = self.weights[f"{own}.embeddings.word_embeddings.weight"][ids]
        places = self.weights[f"{own}.embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self.norm(f"{own}.embeddings.LayerNorm", words + places, 1e-12)
        for number in range(2):
            layer = f"{own}.encoder.layer.{number}"
            x = self.read(layer, "attention", x, x, mask.bool())
            x = self.read(layer, "crossattention", x, patches)
            hidden = gelu(self.dense(f"{layer}.intermediate.dense", x))
            hidden = self.dense(f"{layer}.output.dense", hidden)
            x = self.norm(f"{layer}.output.LayerNorm", hidden + x, 1e-12)
        x = x[:, 0]
        for number in (0, 2, 4, 6, 7):
            x = self.dense(f"mlp.layers.{number}", x)
        return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


class TestImageReward:
    """BLIP in transformers' classes, under the published checkpoint's names."""

    @pytest.fixture
    def file(self, tmp_path):
        torch.save(blip_layout(), tmp_path / "ImageReward.pt")
        return tmp_path / "ImageReward.pt"

    @torch.no_grad()
    def test_it_is_blip_by_hand(self, file):
        mine = ImageReward(file, bert_tokenizer())
        images, tensors = pictures(torch.rand(3, 3, 32, 32))
        rows = bert_tokenizer()(
            PROMPTS, padding="max_length", max_length=35, truncation=True, return_tensors="pt"
        )
        pixels = prepared(images, size=32)
        expected = ByHand(blip_layout()).score(pixels, rows.input_ids, rows.attention_mask)
        assert expected.std() > 0.1
        assert_close(mine(Samples(PROMPTS, tensors)), expected, atol=1e-3, rtol=1e-3)

    def test_it_works_as_a_reward(self, file, tmp_path):
        check_reward(ImageReward(file, bert_tokenizer()), tmp_path)

    def test_what_the_published_file_holds_beside_is_left_out(self, tmp_path):
        weights = blip_layout()
        weights["blip.vision_proj.weight"] = torch.ones(2, 2)
        weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
        save_file(weights, tmp_path / "weights.safetensors")
        assert (
            ImageReward(tmp_path / "weights.safetensors", bert_tokenizer())(SAMPLES)
            .isfinite()
            .all()
        )

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("blip.visual_encoder.norm.weight", "missing post_layernorm.weight"),
            ("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias", "missing encoder"),
            ("blip.visual_encoder.patch_embed.proj.weight", "lacks the weight embeddings"),
            ("mlp.layers.2.bias", "missing 2.bias"),
        ],
    )
    def test_a_missing_weight_is_named(self, tmp_path, name, message):
        weights = blip_layout()
        del weights[name]
        save_file(weights, tmp_path / "weights.safetensors")
        with pytest.raises(InputError, match=message):
            ImageReward(tmp_path / "weights.safetensors", bert_tokenizer())

    def test_other_checkpoints_are_refused(self, tmp_path):
        save_file({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
        with pytest.raises(InputError, match="no checkpoint of ImageReward"):
            ImageReward(tmp_path / "weights.safetensors", bert_tokenizer())


class TestSimilarityConformance(RewardConformance):
    def make(self):
        return SimilarityReward(tiny_tower())

    def samples(self):
        return SAMPLES
