"""No loop keeps activations of a frozen tower for its backward pass; ReFL alone has to."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.modules import module as modules

from rewardlab import CausalLMPolicy, DiffusionPolicy, LanguageReward, VisionReward
from rewardlab.data import PairsData, Preferences, Prompts, TargetSamples
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Bottleneck, Corrected, Ensemble, Framewise
from rewardlab.seeds import generators, row_seeds, uniform
from rewardlab.testing import tiny_causal_lm, tiny_stable_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.training import DPO, GANRM, PPO, AdvRM, Online, ReFL
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

OPTIONS = SILENT | {"limit_val_batches": 0}


class Watch:
    """What autograd keeps while a module of frozen weights alone runs, by the module's class."""

    def __init__(self):
        self.running = []
        self.seen = set()
        self.kept = {}

    def __enter__(self):
        self.handles = [
            modules.register_module_forward_pre_hook(self.begin),
            modules.register_module_forward_hook(self.end, always_call=True),
        ]
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def begin(self, module, _):
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            self.running.append(module)
            self.seen.add(type(module).__name__)

    def end(self, module, *_):
        if self.running and self.running[-1] is module:
            self.running.pop()

    def keep(self, tensor):
        if self.running and not isinstance(tensor, nn.Parameter):
            name = type(self.running[0]).__name__
            self.kept[name] = self.kept.get(name, 0) + tensor.nbytes
        return tensor


def images(count=4, size=16):
    pixels = uniform((3, size, size), generators(row_seeds(0, count)))
    return Samples(["a", "b"] * (count // 2), pixels)


def texts(words=("ant", "bee", "cat", "dog")):
    return Samples(["a", "b"] * 2, list(words))


def text_pairs():
    return PreferencePairs(texts(), texts(("eel", "fox", "gnu", "hen")))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    tiny_stable_diffusion(folder / "tokenizer").save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def painter(pipeline):
    return DiffusionPolicy(pipeline, sampler=Sampler(steps=2), size=16)


def writer():
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3)


def frozen_language(**options):
    return LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True, **options)


def tower(unlocked_groups=0, **options):
    return VisionReward(tiny_tower(), unlocked_groups=unlocked_groups, **options)


def gan_rm(unlocked_groups, _):
    data = TargetSamples(images(8), images(8), batch_size=8)
    return GANRM(tower(unlocked_groups)), data


def adv_rm(_):
    return AdvRM(frozen_language(heads=2)), Preferences(text_pairs(), batch_size=4)


def dpo(pipeline):
    return DPO(painter(pipeline)), PairsData(PreferencePairs(images(), images()), batch_size=4)


def online(_):
    reward = Corrected(
        Ensemble([frozen_language(seed=1), frozen_language(seed=2)]),
        Bottleneck(frozen_language(seed=3)),
    )
    callback = Online(texts(), rows=4)
    loop = PPO(writer(), reward, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    return loop, Prompts(["a", "b"], batch_size=2), callback


def climbing(loop, pipeline):
    return loop(painter(pipeline), tower()), Prompts(["a", "b"], batch_size=2)


RUNS = {
    "GANRM": partial(gan_rm, 0),
    "GANRM, 1 group": partial(gan_rm, 1),
    "GANRM, 2 groups": partial(gan_rm, 2),
    "AdvRM": adv_rm,
    "DPO": dpo,
    "PPO": partial(climbing, PPO),
    "Online": online,
}


def kept_by(loop, data, *callbacks):
    with Watch() as watch:
        pl.Trainer(max_steps=1, max_epochs=-1, callbacks=[*callbacks], **OPTIONS).fit(loop, data)
    assert watch.seen, "nothing frozen ran: is the tower trained?"
    return watch.kept


@pytest.mark.parametrize("name", RUNS)
def test_frozen_towers_keep_nothing(name, pipeline):
    assert kept_by(*RUNS[name](pipeline)) == {}


def test_the_watch_sees_a_tower_that_a_gradient_passes(pipeline):
    kept = kept_by(*climbing(ReFL, pipeline))
    assert kept["VisionReward"] > 10**5


@pytest.mark.parametrize(
    "reward", [tower(), tower(conditional=True), Framewise(tower()), frozen_language()]
)
def test_a_score_with_a_gradient_to_the_heads_keeps_nothing_of_the_tower(reward):
    samples = texts() if isinstance(reward, LanguageReward) else images()
    if isinstance(reward, Framewise):
        samples = Samples(samples.prompts, samples.outputs[:, None])
    with Watch() as watch:
        scores = reward.train()(samples)
    assert scores.requires_grad
    assert watch.kept == {}
