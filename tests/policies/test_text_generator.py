"""What draws in a policy's place: tokens alone are taken, weights go over, ratios stay its own."""

from __future__ import annotations

import sys
from copy import deepcopy
from types import ModuleType, SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from rewardlab import CausalLMPolicy, DiffusionPolicy, InputError
from rewardlab.data.prompt_data import Prompts
from rewardlab.policies import VLLMSampler
from rewardlab.policies.abilities import TextGenerator
from rewardlab.rewards import Function
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import PPO, SFT, DrawBy
from rewardlab.training.trainers import SILENT

PROMPTS = ["a", "cat", "a"]
SEEDS = row_seeds(3, 3)


def policy(**options):
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), **{"max_new_tokens": 6} | options)


class Replaying(TextGenerator):
    """Draws as the policy itself does, with more behind each response's end."""

    def __init__(self, behind=()):
        self.behind = list(behind)
        self.calls = []

    def draw(self, policy, prompts, seeds, limits, terms):
        self.calls.append((limits, terms))
        policy.draw_by(None)
        sampler = policy._sampler(terms.top_k, terms.top_p)
        responses = sampler.draw(prompts, seeds, limits)
        policy.draw_by(self)
        return [response.tokens + self.behind for response in responses]


@pytest.mark.parametrize("options", [{}, {"micro_batch": 1}, {"stop": ["e"]}, {"temperature": 0.3}])
def test_the_seam_changes_no_bit_of_what_is_drawn(options):
    ours = policy(**options)
    expected = ours.sample(PROMPTS, seeds=SEEDS)
    generator = Replaying()
    ours.draw_by(generator)
    trajectory = ours.sample(PROMPTS, seeds=SEEDS)
    for name, tensor in expected.tensors.items():
        assert trajectory.tensors[name].equal(tensor), name
    for name, fact in expected.facts.items():
        assert trajectory.facts[name].equal(fact), name
    ((limits, terms),) = generator.calls  # the whole batch at once
    assert limits == [6, 6, 6]
    assert terms.temperature == options.get("temperature", 1.0)
    assert list(terms.stop) == options.get("stop", [])
    ours.draw_by(None)
    assert ours.sample(PROMPTS, seeds=SEEDS).tensors["response"].equal(expected.tensors["response"])


def test_what_stands_behind_an_end_or_the_limit_is_cut_off():
    ours = policy(stop=["e"], max_new_tokens=20)
    expected = ours.generate(PROMPTS, seeds=SEEDS)
    ours.draw_by(Replaying(behind=[7, 8, 9]))
    samples = ours.generate(PROMPTS, seeds=SEEDS)
    assert samples.outputs == expected.outputs
    assert samples.facts["length"].equal(expected.facts["length"])
    assert samples.facts["finished"].equal(expected.facts["finished"])
    assert expected.facts["finished"].any()


def test_truncation_goes_over_and_rollouts_stay_whole():
    ours = policy(top_k=3, top_p=0.9)
    generator = Replaying()
    ours.draw_by(generator)
    ours.generate(PROMPTS, seeds=SEEDS)
    assert generator.calls[0][1][1:3] == (3, 0.9)
    with pytest.raises(InputError, match="exactly the distribution"):
        ours.sample(PROMPTS, seeds=SEEDS)


@pytest.mark.parametrize("row", [[], [10**6], [-1]])
def test_no_token_or_another_vocabulary_is_refused(row):
    class Wrong(TextGenerator):
        def draw(self, policy, prompts, seeds, limits, terms):
            return [row] * len(prompts)

    ours = policy()
    ours.draw_by(Wrong())
    with pytest.raises(InputError, match="no token, or one outside of the vocabulary"):
        ours.sample(PROMPTS, seeds=SEEDS)


def test_a_reference_under_an_adapter_draws_by_itself():
    ours = policy(lora_rank=2)
    generator = Replaying()
    ours.draw_by(generator)
    ours.reference().sample(PROMPTS, seeds=SEEDS)
    assert not generator.calls
    ours.sample(PROMPTS, seeds=SEEDS)
    assert len(generator.calls) == 1


class Engine:
    """vLLM's `LLM` as far as it is documented: a model from a folder, read anew when told to."""

    def __init__(self, model, **options):
        self.folder = model
        self.options = options
        self.calls = []
        self.model = self._read()

    def _read(self):
        return AutoModelForCausalLM.from_pretrained(self.folder).eval()

    def collective_rpc(self, method):
        self.calls.append(method)
        self.model = self._read()

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm):
        assert use_tqdm is False
        results = []
        for prompt, parameters in zip(prompts, sampling_params, strict=True):
            self.calls.append(parameters)
            generator = torch.Generator().manual_seed(parameters.seed % 2**31)
            tokens = list(prompt["prompt_token_ids"])
            for _ in range(parameters.max_tokens):
                logits = self.model(torch.tensor([tokens])).logits[0, -1] / parameters.temperature
                tokens.append(logits.softmax(0).multinomial(1, generator=generator).item())
                if tokens[-1] in parameters.stop_token_ids:
                    break
            response = tokens[len(prompt["prompt_token_ids"]) :]
            output = SimpleNamespace(token_ids=tuple(response), logprobs="not to be used")
            results.append(SimpleNamespace(outputs=[output]))
        return results


@pytest.fixture
def engines(monkeypatch):
    """The engines that were made of a module with vLLM's documented names."""
    made = []

    def make(**options):
        made.append(Engine(**options))
        return made[-1]

    module = ModuleType("vllm")
    module.LLM = make
    module.SamplingParams = lambda **options: SimpleNamespace(**options)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_vllm_gets_the_weights_once_and_again_after_each_change(engines, tmp_path):
    ours = policy(temperature=0.7, lora_rank=2)
    generator = VLLMSampler(folder=tmp_path / "weights", gpu_memory=0.4)
    ours.draw_by(generator)
    ours.sample(PROMPTS, seeds=SEEDS)
    ours.sample(PROMPTS, seeds=SEEDS)
    (engine,) = engines
    assert engine.options["gpu_memory_utilization"] == 0.4
    assert engine.options["max_model_len"] == ours.limit
    assert "reload_weights" not in engine.calls
    trained = [weight for weight in ours.network.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data += 0.1  # which no version counter sees
    ours.sample(PROMPTS, seeds=SEEDS)
    assert engine.calls.count("reload_weights") == engine.calls.count("reset_prefix_cache") == 1
    tokens = torch.tensor([[5, 6, 7]])
    assert_close(engine.model(tokens).logits, ours.network(tokens).logits, rtol=1e-4, atol=1e-5)
    parameters = engine.calls[0]
    assert (parameters.seed, parameters.max_tokens) == (SEEDS[0].item(), 6)
    assert (parameters.temperature, parameters.top_p, parameters.top_k) == (0.7, 1.0, -1)
    assert parameters.stop_token_ids == list(ours.ends)


def letters(samples):
    return torch.tensor([float(len(set(text))) for text in samples.outputs])


def test_ppo_by_vllm_climbs_with_ratios_of_the_policy_itself(engines, tmp_path):
    """At the first step every ratio is 1 and the KL 0, whatever the engine's log-probabilities."""
    ours = policy()
    first = deepcopy(ours)
    loop = PPO(ours, Function(letters), kl="k3", optimizer=lambda weights: SGD(weights, lr=0.3))
    noted = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            noted.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    callbacks = [DrawBy(VLLMSampler(tmp_path / "weights")), Note()]
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, **SILENT)
    trainer.fit(loop, Prompts(["a", "b"], batch_size=2))
    (engine,) = engines
    assert noted[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert noted[0]["clip_fraction"] == 0
    assert noted[1]["kl"] != pytest.approx(0.0, abs=1e-6)
    assert engine.calls.count("reload_weights") == 1  # before the second rollout
    assert ours.text_generator is None
    changed = [
        not weight.equal(before)
        for weight, before in zip(ours.parameters(), first.parameters(), strict=True)
    ]
    assert any(changed)


def test_without_vllm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"pip install 'rewardlab\[vllm\]'"):
        VLLMSampler()


def test_a_policy_of_images_is_not_drawn_by_something_else():
    loop = SFT(DiffusionPolicy(tiny_diffusion(classes=0)))
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[DrawBy(Replaying())], **SILENT)
    with pytest.raises(InputError, match="such as a CausalLMPolicy; got a DiffusionPolicy"):
        trainer.fit(loop, Prompts(["a"]))
