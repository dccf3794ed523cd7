"""What is cut off, edited or of other types is refused in a sentence that names the file."""

import json

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.policies import DiffusionPolicy, load_policy
from rewardlab.rewards import Ensemble, Length, Repetition, Weighted, load_reward
from rewardlab.storage import load_samples, save_samples
from rewardlab.storage.loading import loading
from rewardlab.storage.saved_settings import check_settings
from rewardlab.testing import tiny_diffusion
from rewardlab.types import Samples

ROWS = {"rows": 2, "facts": {"seed": "int64"}}


@pytest.fixture
def samples(tmp_path):
    texts = Samples(["a", "b"], ["x", "y"], {"seed": torch.arange(2)})
    save_samples(tmp_path / "samples", texts)
    return tmp_path / "samples"


@pytest.mark.parametrize(
    "facts", [7, [], {"seed": "no_dtype"}, {"seed": 3}, {"seed": "Tensor"}, {"seed": None}]
)
def test_dtypes_that_are_none_are_refused(samples, facts):
    (samples / "samples.json").write_text(json.dumps({**ROWS, "facts": facts}))
    with pytest.raises(InputError, match=r"samples\.json is not the JSON object that was saved"):
        load_samples(samples)


@pytest.mark.parametrize("content", ["[" * 50_000, '{"rows": ' + "9" * 5_000 + "}", '{"chan'])
def test_json_that_is_none_is_refused(samples, content):
    (samples / "samples.json").write_text(content)
    with pytest.raises(InputError, match=r"samples\.json is not the JSON object that was saved"):
        load_samples(samples)


def test_facts_of_several_shapes_are_no_facts_unless_they_were_saved(samples):
    rows = [{"output": "x", "seed": 1, "mine": [1]}, {"output": "y", "seed": [2], "mine": [1, 2]}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (samples / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"values of 'seed' in metadata\.jsonl are not int64s"):
        load_samples(samples)
    (samples / "samples.json").unlink()
    assert load_samples(samples).facts == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["zero", 1]}, r"labels should be list\[str\] \| None; got \['zero', 1\]"),
        ({"labels": "zero"}, r"labels should be list\[str\] \| None; got zero"),
        ({"micro_batch": 1.5}, r"micro_batch should be int \| None"),
        ({"micro_batch": True}, r"micro_batch should be int \| None"),
        ({"colour": 1}, "DiffusionPolicy takes no 'colour'"),
        ([1], "should hold settings"),
    ],
)
def test_settings_of_other_types_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_settings(DiffusionPolicy, settings, "policy.json")


def test_settings_of_a_saved_policy_are_checked_when_it_is_loaded(tmp_path):
    DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"]).save_pretrained(tmp_path / "policy")
    load_policy(tmp_path / "policy")
    file = tmp_path / "policy" / "policy.json"
    content = json.loads(file.read_text())
    content["init_args"]["labels"] = [0, 1]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"policy\.json: labels should be"):
        load_policy(tmp_path / "policy")


@pytest.mark.parametrize("value", ["many", "ab", [1, None], {}, [1.0], [1.0] * 3, None])
def test_a_rewards_weights_of_other_types_or_number_are_refused(tmp_path, value):
    Weighted([Length(), Repetition()], [1.0, 2.0]).save_pretrained(tmp_path / "reward")
    edit(tmp_path / "reward" / "config.json", weights=value)
    with pytest.raises(InputError, match=r"should (hold|be list)"):
        load_reward(tmp_path / "reward")


@pytest.mark.parametrize("count", [1, 3, 2**62, -1, 0, "2", None])
def test_an_ensembles_count_is_that_of_its_folders(tmp_path, count):
    Ensemble([Length(), Repetition()]).save_pretrained(tmp_path / "reward")
    edit(tmp_path / "reward" / "config.json", count=count)
    with pytest.raises(InputError, match="should hold"):
        load_reward(tmp_path / "reward")


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_what_a_loader_raises_is_the_cause_of_the_sentence():
    with (
        pytest.raises(InputError, match=r"r cannot be loaded \(KeyError: 'a'\)") as refused,
        loading("r"),
    ):
        {}["a"]
    assert isinstance(refused.value.__cause__, KeyError)
    with pytest.raises(InputError, match=r"^as it was$"), loading("r"):
        raise InputError("as it was")


def test_settings_of_classes_without_types_are_left_to_them():
    class Own:
        def __init__(self, sign=1.0, **options):
            pass

    class Strict:
        def __init__(self, sign=1.0):
            pass

    check_settings(Own, {"sign": "any", "other": 3}, "reward.json")
    check_settings(Strict, {"sign": 2}, "reward.json")
    with pytest.raises(InputError, match="Strict takes no 'other'"):
        check_settings(Strict, {"other": 3}, "reward.json")
