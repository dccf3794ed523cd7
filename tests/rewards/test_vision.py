import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.losses import discrimination_loss
from rewardlab.rewards import VisionReward
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

IMAGES = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(["a cat", "a dog", "a cat", ""], IMAGES, {"row": torch.arange(10, 14)})


def reward(**options):
    return VisionReward(tiny_tower(), heads=3, width=8, **options).eval()


def embeddings(reward, images):
    """Return the tower's embeddings of images, without any cut."""
    return reward.tower.model.visual(reward.tower.prepare(images))


def features_of_pairs(image, text):
    return torch.cat([image, text, image * text], dim=1)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("conditional", [False, True])
def test_scores_are_the_mean_of_heads_on_embeddings(k, conditional):
    mine = reward(unlocked_groups=k, conditional=conditional)
    features = embeddings(mine, IMAGES)
    if conditional:
        texts = mine.tower.encode_text(SAMPLES.prompts)
        features = features_of_pairs(features, texts)
    expected = mine.projection(features)
    assert_close(mine.members(SAMPLES), expected, atol=1e-5, rtol=1e-5)
    assert_close(mine(SAMPLES), expected.mean(1), atol=1e-5, rtol=1e-5)


def test_a_conditional_reward_of_a_video_sees_every_frame():
    mine = reward(unlocked_groups=2, conditional=True)
    video = Samples(["a cat"], IMAGES[None])
    image = embeddings(mine, IMAGES).mean(0, keepdim=True)
    text = mine.tower.encode_text(video.prompts)
    expected = mine.projection(features_of_pairs(image, text))
    assert_close(mine.members(video), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [0, 2])
def test_training_moves_the_heads_and_what_is_unlocked_only(k):
    mine = reward(unlocked_groups=k).train()
    assert not any(module.training for module in mine.tower.modules())
    before = mine.frozen_fingerprint()
    features = mine.features(SAMPLES)
    assert not features.requires_grad
    trained = [parameter for parameter in mine.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=1e-2)
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    losses = []
    for _ in range(8):
        loss = discrimination_loss(mine.score_features(features), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert mine.frozen_fingerprint() == before
    assert_close(mine.features(SAMPLES), features, atol=0, rtol=0)


def test_gradients_reach_the_pixels_if_asked_for():
    images = IMAGES.clone().requires_grad_()
    mine = reward()
    mine(Samples(SAMPLES.prompts, images)).sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in mine.tower.parameters())


def test_the_prompt_counts_if_and_only_if_conditional():
    other = Samples(["a boat"] * 4, IMAGES)
    plain = reward()
    conditional = reward(conditional=True)
    assert torch.equal(plain(SAMPLES), plain(other))
    assert not torch.allclose(conditional(SAMPLES), conditional(other))


def test_grey_images_score_as_their_colour_form():
    grey = Samples([""] * 4, IMAGES[:, :1])
    in_color = Samples([""] * 4, IMAGES[:, :1].repeat(1, 3, 1, 1))
    assert_close(reward()(grey), reward()(in_color))


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


def test_constants_of_equal_scores_are_refused():
    with pytest.raises(InputError, match="deviation 0"):
        reward().calibrate(torch.ones(5))


def test_a_conditional_reward_refuses_long_prompts_if_asked_to(tmp_path):
    mine = reward(conditional="refuse")
    assert mine.conditional is True
    mine(SAMPLES)
    long = Samples(["cat " * 20] * 4, IMAGES)
    with pytest.raises(InputError, match="longer than the 16 tokens"):
        mine(long)
    mine.save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match="longer than the 16 tokens"):
        VisionReward.from_pretrained(tmp_path / "reward")(long)
    assert torch.isfinite(reward(conditional=True)(long)).all()
