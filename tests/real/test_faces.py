"""The face half on real weights: generator, expression net, detector and towers."""

import pytest
import torch
from torch.testing import assert_close

from rewardlab import InputError, Samples, VisionReward, load_policy
from rewardlab.rewards.probe import prompt_probe_auc
from rewardlab.rewards.scoring import in_batches, scores_of
from rewardlab.seeds import row_seeds


def drawn(count, seed=0):
    from real.faces import face_policy

    return face_policy().generate([""] * count, seeds=row_seeds(seed, count))


def test_another_file_and_a_missing_one_end_in_the_command(tmp_path, monkeypatch):
    from real.files import FILES, model_file

    monkeypatch.setenv("REWARDLAB_MODELS", str(tmp_path))
    with pytest.raises(InputError, match=r"is missing.*make models"):
        model_file("faces")
    path = tmp_path / FILES["faces"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"SHA-256.*make models"):
        model_file("faces")


def test_the_expression_net_on_the_generators_faces(needs):
    """Few of them are happy, those that it ranks first are, and the gradient makes them happier."""
    needs("faces", "expression")
    from real.expression import Expression

    faces = drawn(128)
    judge = Expression()
    scores = judge(faces)
    assert 0.1 < scores.mean() < 0.3
    assert scores.topk(4).values.mean() > 0.8
    pixels = faces.outputs[:8].clone().requires_grad_()
    log_odds = Expression(log_odds=True)(Samples([""] * 8, pixels))
    assert_close(log_odds.sigmoid(), scores[:8], atol=1e-5, rtol=1e-4)
    log_odds.sum().backward()
    moved = (pixels + 0.02 * pixels.grad.sign()).detach().clamp(0, 1)
    assert (judge(Samples([""] * 8, moved)) > scores[:8]).all()


def test_the_probabilities_of_all_expressions_sum_to_one(needs):
    needs("faces", "expression")
    from real.expression import LABELS, Expression

    faces = drawn(4)
    total = sum(Expression(label)(faces) for label in LABELS)
    assert_close(total, torch.ones(4))
    with pytest.raises(InputError, match="happy"):
        Expression("hapy")


def test_the_detector_tells_faces_from_what_is_none(needs):
    needs("faces", "detector")
    from real.detector import FaceDetector

    faces = drawn(64)
    detector = FaceDetector()
    pixels = faces.outputs
    order = torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))
    shuffled = Samples([""] * 64, pixels.flatten(2)[:, :, order].view_as(pixels))
    assert detector(faces).mean() > 0.9
    assert detector(shuffled).mean() < 0.1


def test_the_generator_is_saved_with_its_policy(needs, tmp_path):
    needs("faces")
    from real.faces import face_policy

    policy = face_policy()
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy", trust=True)
    seeds = row_seeds(1, 2)
    drawn = [each.generate(["", ""], seeds=seeds).outputs for each in (policy, loaded)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["efficientnet", "mobilenet"])
def test_a_pretrained_tower_tells_smiles_better_than_an_untrained_one(needs, name):
    """A linear probe on its features tells the 150 happiest of 1,000 faces from the 150 unhappiest.

    Cross-validated; EfficientNet-Lite0 measured 0.79 against 0.73 untrained.
    """
    needs("faces", "expression", name)
    from real.expression import Expression
    from real.towers import tower

    faces = drawn(1000, 7)
    order = scores_of(Expression(), faces).argsort()
    both = faces[torch.cat([order[-150:], order[:150]])]
    labels = torch.cat([torch.ones(150), torch.zeros(150)])
    aucs = {}
    for pretrained in (True, False):
        reward = VisionReward(tower(name, pretrained=pretrained))
        aucs[pretrained] = prompt_probe_auc(in_batches(reward, reward.features, both), labels)
    assert aucs[True] > 0.7
    assert aucs[True] > aucs[False] + 0.02


def test_a_trunks_weights_have_the_order_of_its_file(needs):
    """Pictures have the same ImageNet features by torchvision's own MobileNetV2."""
    needs("mobilenet")
    from torchvision.models import mobilenet_v2

    from real.files import model_file
    from real.towers import tower

    reward = VisionReward(tower("mobilenet"))
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    network = mobilenet_v2().eval()
    network.load_state_dict(torch.load(model_file("mobilenet"), weights_only=True))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = network.features((images - mean) / std).mean((2, 3))
        features = reward.features(Samples(["", ""], images))
    assert_close(features, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("way", ["best_of_n", "sft", "dpo", "ppo", "refl"])
def test_every_config_builds(needs, way, tmp_path):
    needs("faces", "expression", "efficientnet", "mobilenet", "detector")
    from real.story import CONFIGS
    from rewardlab.commands.rounds import build

    files = [CONFIGS / "smiles.yaml", CONFIGS / f"way_{way}.yaml"]
    words = [word for file in files for word in ("--config", str(file))]
    built = build([*words, "--out", str(tmp_path / "run"), "--experiment.seed=3"])
    assert built.rounds.seed == 3
    assert list(built.rounds.evaluation.judges) == ["happy", "witness", "face"]
