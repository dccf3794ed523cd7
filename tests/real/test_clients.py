"""The reward clients of OpenRLHF and verl, as they are installed, against `rewardlab serve`.

`$REWARDLAB_OPENRLHF` and `$REWARDLAB_VERL` name folders with the unpacked packages, as in test_peers.py.
"""

import asyncio
import importlib
import runpy
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import torch

from rewardlab import LanguageReward, Samples
from rewardlab.rewards import scores_of
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

ROOT = Path(__file__).parents[1]
SERVED = SimpleNamespace(**runpy.run_path(str(ROOT / "serving" / "served.py")))
Refusing = runpy.run_path(str(ROOT / "refusing.py"))["Refusing"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}#{{m.role}}\n{{m.content}}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}#assistant\n{% endif %}"
)


@pytest.fixture
def reward():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    return LanguageReward(tiny_causal_lm(context=128), tokenizer).eval()


@pytest.fixture
def openrlhf_client(unpacked):
    unpacked("REWARDLAB_OPENRLHF", "openrlhf", ["openrlhf", "openrlhf.utils"], {})
    return importlib.import_module("openrlhf.utils.agent").SingleTurnAgentExecutor


@pytest.fixture
def verl_client(unpacked):
    stand_ins = {
        "ray": {"remote": lambda cls: cls},
        "ray.actor": {"ActorHandle": object},
        "omegaconf": {"DictConfig": dict, "open_dict": None},
        "tensordict": {"TensorDict": dict},
        "verl.protocol": {"DataProto": object, "pad_dataproto_to_divisor": None},
        "verl.single_controller.ray.base": {"RayResourcePool": object},
        "verl.trainer.ppo.reward": {
            "load_reward_manager": None,
            "resolve_reward_manager_cls": None,
        },
        "verl.utils": {"hf_tokenizer": None},
        "verl.utils.fs": {"copy_to_local": None},
        "verl.utils.ray_utils": {"get_event_loop": None},
        "verl.experimental.reward_loop.reward_model": {"RewardModelManager": object},
    }
    parts = ["verl", "verl.experimental", "verl.experimental.reward_loop"]
    unpacked("REWARDLAB_VERL", "verl", parts, stand_ins)
    return importlib.import_module("verl.experimental.reward_loop.reward_loop").RewardLoopWorker


def test_openrlhfs_client_gets_the_scores_in_process(reward, openrlhf_client):
    tokenizer = reward.tokenizer
    prompt = reward.texts.row_text("hi")
    tokens = tokenizer(prompt + "hello<|end|>", add_special_tokens=False).input_ids
    query = tokenizer.decode(tokens, skip_special_tokens=False)  # as its `execute` does
    with SERVED.serving(reward) as server:
        client = openrlhf_client(f"{server.url}/get_reward")
        (answer,) = asyncio.run(client._fetch_rewards_via_http([query], [prompt], ["label"]))
    wanted = scores_of(reward, Samples(["hi"], ["hello"])).tolist()
    assert answer["rewards"] == answer["scores"] == wanted
    assert answer["extra_logs"] == {}


def test_openrlhfs_client_gets_null_where_nothing_was_scored(openrlhf_client):
    with SERVED.serving(Refusing()) as server:
        client = openrlhf_client(f"{server.url}/get_reward")
        (answer,) = asyncio.run(client._fetch_rewards_via_http(["refuse"], [""], [""]))
    assert answer["rewards"] == [None]
    with pytest.raises(RuntimeError):  # what its trainer does with it: it stops
        torch.tensor([answer["rewards"]])


def worker(verl_client, engine, url, tokenizer):
    """Return verl's worker for a served reward, without its cluster."""
    client = object.__new__(verl_client)
    rollout = SimpleNamespace(name=engine)
    model = SimpleNamespace(model_path="r0", rollout=rollout)
    client.config = SimpleNamespace(reward=SimpleNamespace(reward_model=model))
    client.reward_router_address = urlsplit(url).netloc
    client.input_tokenizer = client.reward_model_tokenizer = tokenizer
    return client


class Item(SimpleNamespace):
    """The one row that verl's worker reads."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self


def item(tokenizer, prompt, response):
    ids = torch.tensor(tokenizer(response + "<|end|>").input_ids)
    batch = {"responses": ids, "attention_mask": torch.ones(len(ids), dtype=torch.long)}
    return Item(batch=batch, non_tensor_batch={"raw_prompt": prompt})


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_verls_client_gets_the_scores_in_process(reward, verl_client, engine):
    row = item(reward.tokenizer, [{"role": "user", "content": "hi"}], "hello")
    with SERVED.serving(reward) as server:
        client = worker(verl_client, engine, server.url, reward.tokenizer)
        answer = asyncio.run(client.compute_score_disrm(row))
    assert [answer["reward_score"]] == scores_of(reward, Samples(["hi"], ["hello"])).tolist()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_verls_client_stops_where_nothing_was_scored(verl_client, engine):
    tokenizer = tiny_tokenizer(chat=True)
    row = item(tokenizer, [{"role": "user", "content": "hi"}], "refuse")
    with SERVED.serving(Refusing()) as server:
        client = worker(verl_client, engine, server.url, tokenizer)
        with pytest.raises(Exception, match="422"):
            asyncio.run(client.compute_score_disrm(row))
        assert server.app.metrics.text({}).count('status="422"} 1') == 1  # it is not asked again
