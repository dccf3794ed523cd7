import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards import prompt_probe_auc
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.testing import tiny_tower


@pytest.fixture(scope="module")
def features():
    """The embeddings of 30 prompts of a cat and 30 of a dog, in turn."""
    prompts = []
    for i in range(30):
        prompts += [f"a photo of a cat number {i}", f"a photo of a dog number {i}"]
    return load_tower(tiny_tower()).encode_text(prompts)


def test_prompts_that_give_the_class_away_are_found(features):
    labels = torch.tensor([0.0, 1.0]).repeat(30)
    assert prompt_probe_auc(features, labels) > 0.95


def test_prompts_that_both_classes_share_give_nothing_away(features):
    labels = torch.tensor([0.0, 1.0]).repeat(60)
    assert prompt_probe_auc(features.repeat_interleave(2, 0), labels) <= 0.55


def test_labels_by_chance_are_not_found(features):
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(15)
    assert prompt_probe_auc(features, labels, seed=1) < 0.8


def test_one_class_alone_is_refused(features):
    with pytest.raises(InputError, match="two prompts of each class"):
        prompt_probe_auc(features, torch.zeros(60))


def test_rows_that_do_not_fit_are_refused(features):
    labels = torch.tensor([0.0, 1.0]).repeat(30)
    with pytest.raises(InputError, match=r"got \[60, 32\] and \[59\]"):
        prompt_probe_auc(features, labels[:59])
    with pytest.raises(InputError, match=r"got \[60\] and \[60\]"):
        prompt_probe_auc(features[:, 0], labels)
    with pytest.raises(InputError, match="60 features that are not finite"):
        prompt_probe_auc(features.clone().index_fill_(1, torch.tensor([3]), float("nan")), labels)
    with pytest.raises(InputError, match="folds=1"):
        prompt_probe_auc(features, labels, folds=1)
