"""Exported folders, loaded and scored by other libraries in a process without rewardlab."""

import json
from collections import namedtuple

import pytest
import torch
from PIL import Image

from rewardlab import VisionReward, load_reward
from rewardlab.exporting import Origin, export_transformers
from rewardlab.rewards import Ensemble, LanguageReward, Standardized
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.storage import as_samples
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer, tiny_tower
from rewardlab.types import Samples

from .alone import card_code, run_alone

SIZES = ((64, 48), (17, 90), (16, 16), (33, 20))  # width and height
MODES = ("RGB", "L", "RGBA", "RGB")
EXTRA_TEXTS = """
conversations = []
for prompt, response in {pairs!r}:
    user = {{"role": "user", "content": prompt}}
    conversations.append([user, {{"role": "assistant", "content": response}}])
tables = tokenizer.apply_chat_template(
    conversations, padding=True, return_tensors="pt", return_dict=True
)
with torch.no_grad():
    print(model(**tables).logits[:, 0].tolist())
"""
EXTRA_MEANS = """
conversations = []
for prompt, response in {pairs!r}:
    user = {{"role": "user", "content": prompt}}
    conversations.append([user, {{"role": "assistant", "content": response}}])
with torch.no_grad():
    output = model(**model.tables(tokenizer, conversations))
print(output.logits[:, 0].tolist())
print(output.members.tolist())
"""
EXTRA_PICTURES = """
pictures = [Image.open(name) for name in {names!r}]
with torch.no_grad():
    print(model(processor(pictures)["pixel_values"]).logits[:, 0].tolist())
"""
Printed = namedtuple("Printed", "texts images means paths scores")
PAIRS = [("Name a color.", "Blue, of course."), ("1+1=", "2"), ("hello", "")]
LONG_PAIRS = [*PAIRS, ("a long prompt " * 9, "short")]


def text_reward(folder):
    """Write a reward with an offset, that standardises a trained adapter's heads."""
    reward = LanguageReward(
        tiny_causal_lm(context=128), tiny_tokenizer(chat=True), heads=3, lora_rank=2
    )
    for name, parameter in reward.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    Standardized(reward, mean=0.3, std=0.5).save_pretrained(folder)
    return load_reward(folder)


def mean_reward(folder):
    """Write two members on networks of their own that score the mean over a response."""
    members = []
    for seed in (1, 2):
        backbone = tiny_causal_lm(seed=seed, context=64)
        members.append(LanguageReward(backbone, tiny_tokenizer(), pooling="mean", seed=seed))
    Ensemble([members[0], Standardized(members[1], mean=0.3, std=0.5)]).save_pretrained(folder)
    return load_reward(folder)


def image_reward(folder):
    """Write a reward with two heads whose features are standardised."""
    reward = VisionReward(tiny_tower(), heads=2, width=8, feature_share=0.5)
    features = reward.features(Samples([""] * 8, torch.rand(8, 3, 16, 16)))
    reward.fit_feature_scale(features)
    reward.save_pretrained(folder)
    return load_reward(folder)


def write_pictures(folder):
    """Write pictures of several shapes and modes, and return their paths."""
    paths = []
    for number, (size, mode) in enumerate(zip(SIZES, MODES, strict=True)):
        channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
        count = size[0] * size[1] * channels
        generator = torch.Generator().manual_seed(number)
        levels = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
        path = folder / f"{number}.png"
        Image.frombytes(mode, size, levels.numpy().tobytes()).save(path)
        paths.append(path)
    return paths


def picture_scores(reward, paths):
    """Return a reward's scores of picture files, one by one since their sizes differ."""
    scores = [scores_of(reward, as_samples("", [path])) for path in paths]
    return torch.cat(scores)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The rewards, what was scored, and the scores that a process without rewardlab printed."""
    folder = tmp_path_factory.mktemp("alone")
    texts = text_reward(folder / "rm")
    images = image_reward(folder / "gan")
    means = mean_reward(folder / "means")
    paths = write_pictures(folder)
    export_transformers(texts, folder / "text", Origin(str(folder / "rm")))
    export_transformers(images, folder / "image", Origin(str(folder / "gan")))
    export_transformers(means, folder / "mean", Origin(str(folder / "means")))
    code = "import os\nfrom pathlib import Path\n"
    further = {
        "text": EXTRA_TEXTS.format(pairs=PAIRS),
        "image": EXTRA_PICTURES.format(names=[str(path) for path in paths]),
        "mean": EXTRA_MEANS.format(pairs=LONG_PAIRS),
    }
    for name, more in further.items():
        code += f"os.chdir({str(folder / name)!r})\n{card_code(folder / name)}{more}"
    lines = run_alone(code, folder, folder / "cache").strip().splitlines()
    scores = [torch.tensor(json.loads(line)) for line in lines]
    return Printed(texts, images, means, paths, scores)


def test_a_text_folder_scores_without_rewardlab_as_the_reward_does(printed):
    texts = printed.texts
    scores = printed.scores
    expected = scores_of(texts, Samples(["12"], ["3"]))
    torch.testing.assert_close(scores[0], expected, atol=1e-5, rtol=0)
    samples = Samples([pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS])
    offset = -0.3 / 0.5
    expected = scores_of(texts, samples)
    assert expected.std() > 0.1
    torch.testing.assert_close(scores[1] + offset, expected, atol=1e-5, rtol=0)


def test_an_image_folder_scores_files_of_several_shapes_as_the_reward_does(printed):
    expected = picture_scores(printed.images, printed.paths)
    assert expected.std() > 0.001
    torch.testing.assert_close(printed.scores[3], expected, atol=1e-5, rtol=0)


def test_the_cards_code_of_images_scores_its_gray_picture(printed):
    gray = torch.full((1, 3, 48, 64), 128 / 255)
    expected = scores_of(printed.images, Samples([""], gray))
    torch.testing.assert_close(printed.scores[2], expected, atol=1e-5, rtol=0)


def test_means_on_two_networks_score_without_rewardlab_a_long_prompt_too(printed):
    expected = scores_of(printed.means, Samples(["12"], ["3"]))
    torch.testing.assert_close(printed.scores[4], expected, atol=1e-5, rtol=0)
    samples = Samples([pair[0] for pair in LONG_PAIRS], [pair[1] for pair in LONG_PAIRS])
    expected = scores_of(printed.means, samples)
    assert expected.std() > 0.01
    torch.testing.assert_close(printed.scores[5], expected, atol=1e-5, rtol=0)
    members = member_scores(printed.means, samples)
    torch.testing.assert_close(printed.scores[6], members, atol=1e-5, rtol=0)
