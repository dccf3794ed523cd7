import json

import pytest
import torch
from safetensors.torch import load_file

from rewardlab.errors import InputError
from rewardlab.losses import discrimination_loss
from rewardlab.rewards import VisionReward, load_reward, prompt_probe_auc
from rewardlab.rewards.towers import load_tower
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

IMAGES = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(["a cat", "a dog", "a cat", ""], IMAGES, {"row": torch.arange(10, 14)})


def reward(**options):
    return VisionReward(tiny_tower(), **({"heads": 3, "width": 8} | options)).eval()


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("conditional", [False, True])
def test_scores_are_the_mean_of_heads_on_embeddings(k, conditional):
    mine = reward(unlocked_groups=k, conditional=conditional)
    image = mine.tower.model.visual(mine.tower.prepare(IMAGES))
    text = mine.tower.encode_text(SAMPLES.prompts)
    seen = torch.cat([image, text, image * text], dim=1) if conditional else image
    torch.testing.assert_close(mine.members(SAMPLES), mine.projection(seen), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine(SAMPLES), mine.projection(seen).mean(1), atol=1e-5, rtol=1e-5)


def test_a_conditional_reward_of_a_video_sees_every_frame():
    mine = reward(unlocked_groups=2, conditional=True)
    video = Samples(["a cat"], IMAGES[None])
    image = mine.tower.model.visual(mine.tower.prepare(IMAGES)).mean(0, keepdim=True)
    text = mine.tower.encode_text(video.prompts)
    expected = mine.projection(torch.cat([image, text, image * text], dim=1))
    torch.testing.assert_close(mine.members(video), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [0, 2])
def test_training_moves_the_heads_and_what_is_unlocked_only(k):
    mine = reward(unlocked_groups=k).train()
    assert not any(module.training for module in mine.tower.modules())
    before = mine.frozen_fingerprint()
    features = mine.features(SAMPLES)
    assert not features.requires_grad
    optimiser = torch.optim.Adam([p for p in mine.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = discrimination_loss(mine.score_features(features), torch.tensor([1.0, 0, 1, 0]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert mine.frozen_fingerprint() == before
    torch.testing.assert_close(mine.features(SAMPLES), features, atol=0, rtol=0)


def test_gradients_reach_the_pixels_if_asked_for():
    images = IMAGES.clone().requires_grad_()
    mine = reward()
    mine(Samples(SAMPLES.prompts, images)).sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in mine.tower.parameters())


def test_the_prompt_counts_if_and_only_if_conditional():
    other = Samples(["a boat"] * 4, IMAGES)
    assert torch.equal(reward()(SAMPLES), reward()(other))
    assert not torch.allclose(reward(conditional=True)(SAMPLES), reward(conditional=True)(other))


def test_grey_images_score_as_their_colour_form():
    grey = IMAGES[:, :1]
    torch.testing.assert_close(
        reward()(Samples([""] * 4, grey)), reward()(Samples([""] * 4, grey.repeat(1, 3, 1, 1)))
    )


def test_standardised_features_reach_the_heads():
    mine = reward(unlocked_groups=2, conditional=True)
    mine.fit_feature_scale(mine.features(SAMPLES))
    assert mine.projection.mean.abs().sum() > 0
    assert mine.projection.mean.shape == (96,)


def test_strings_are_refused():
    message = (
        r"VisionReward scores images \[B, 3, H, W\] in \[0, 1\]; got a list of 2 strings. "
        r"Is the policy a language model\?"
    )
    with pytest.raises(InputError, match=message):
        reward()(Samples(["a", "b"], ["x", "y"]))


def test_a_score_that_is_not_finite_names_its_sample():
    images = IMAGES.clone()
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"sample 1 \(row 11\) with the prompt 'a dog'"):
        reward()(Samples(SAMPLES.prompts, images, SAMPLES.facts))


def test_without_resize_another_size_is_refused():
    with pytest.raises(InputError, match=r"16x16.*20x20"):
        reward(resize=False)(SAMPLES)


@pytest.mark.parametrize(
    "options",
    [{}, {"unlocked_groups": 2, "conditional": True, "feature_share": 0.5, "resize": True}],
)
def test_a_saved_reward_scores_the_same(tmp_path, options):
    mine = reward(**options)
    mine.fit_feature_scale(mine.features(SAMPLES))
    with torch.no_grad():
        for parameter in mine.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    mine.calibrate(mine(SAMPLES))
    mine.meaning = "score: bootstrapped"
    mine.save_pretrained(tmp_path / "reward")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reward"]
    loaded = load_reward(tmp_path / "reward")
    torch.testing.assert_close(loaded.members(SAMPLES), mine.members(SAMPLES), atol=1e-5, rtol=1e-5)
    assert (loaded.meaning, loaded.score_std, loaded.training) == (
        "score: bootstrapped",
        mine.score_std,
        False,
    )
    assert loaded.frozen_fingerprint() == mine.frozen_fingerprint()
    assert load_tower(f"local-dir:{tmp_path / 'reward' / 'tower'}").width == 32


def test_a_reward_without_its_tower_is_small_and_asks_for_the_right_one(tmp_path):
    mine, folder = reward(), tmp_path / "reward"
    mine.save_pretrained(folder, tower=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not any(name.startswith("tower") for name in load_file(folder / "model.safetensors"))
    shared = tiny_tower()
    loaded = VisionReward.from_pretrained(folder, tower=shared)
    assert loaded.tower.model is shared
    torch.testing.assert_close(loaded(SAMPLES), mine(SAMPLES), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="saved without its tower"):
        VisionReward.from_pretrained(folder)
    with pytest.raises(InputError, match="trained on another tower"):
        VisionReward.from_pretrained(folder, tower=tiny_tower(seed=1))


def test_a_named_tower_is_found_again_and_verified(tmp_path):
    load_tower(tiny_tower()).save(tmp_path / "tower")
    name = f"local-dir:{tmp_path / 'tower'}"
    mine = VisionReward(name, width=8).eval()
    mine.save_pretrained(tmp_path / "reward", tower=False)
    assert (
        json.loads((tmp_path / "reward" / "config.json").read_text())["init_args"]["tower"] == name
    )
    torch.testing.assert_close(
        VisionReward.from_pretrained(tmp_path / "reward")(SAMPLES),
        mine(SAMPLES),
        atol=1e-5,
        rtol=1e-5,
    )
    load_tower(tiny_tower(seed=1)).save(tmp_path / "tower")
    with pytest.raises(InputError, match="trained on another tower than local-dir"):
        VisionReward.from_pretrained(tmp_path / "reward")


def test_saving_replaces_an_earlier_reward_and_nothing_else(tmp_path):
    reward(heads=1).save_pretrained(tmp_path / "reward")
    reward(heads=2).save_pretrained(tmp_path / "reward", tower=False)
    assert not (tmp_path / "reward" / "tower").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not replaced"):
        reward().save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_save_that_fails_leaves_nothing(tmp_path):
    model = tiny_tower()
    model.visual.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(InputError, match="cannot be read off"):
        VisionReward(model, width=8).save_pretrained(tmp_path / "reward")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "config.json").write_text('{"architectures": []}'), "names no class_path"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"short"),
            "not a readable safetensors file",
        ),
        (lambda f: edit(f, "heads", 4), "does not fit config.json"),
        (lambda f: edit(f, "tower", None), "saved without its tower"),
    ],
)
def test_damaged_folders_are_named(tmp_path, damage, words):
    reward().save_pretrained(tmp_path / "reward")
    damage(tmp_path / "reward")
    with pytest.raises(InputError, match=words):
        VisionReward.from_pretrained(tmp_path / "reward")


def edit(folder, name, value):
    config = json.loads((folder / "config.json").read_text())
    config["init_args"][name] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_constants_of_equal_scores_are_refused():
    with pytest.raises(InputError, match="deviation 0"):
        reward().calibrate(torch.ones(5))


def test_the_prompt_probe_tells_prompts_that_give_the_class_away():
    tower = load_tower(tiny_tower())
    prompts = [
        f"a photo of {animal} number {i}" for i in range(30) for animal in ("a cat", "a dog")
    ]
    features = tower.encode_text(prompts)
    told = torch.tensor([0.0, 1.0]).repeat(30)
    chance = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(15)
    assert prompt_probe_auc(features, told) > 0.95
    assert (
        prompt_probe_auc(features.repeat_interleave(2, 0), torch.tensor([0.0, 1.0]).repeat(60))
        <= 0.55
    )
    assert prompt_probe_auc(features, chance, seed=1) < 0.8
    with pytest.raises(InputError, match="two prompts of each class"):
        prompt_probe_auc(features, torch.zeros(60))
