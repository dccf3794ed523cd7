"""What surrounds PPO's steps: resuming, logs, shaping, refusals and configs."""

import csv
import json
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim import Adam
from torch.testing import assert_close

from rewardlab.advantages import group_normalized, leave_one_out
from rewardlab.data.prompt_data import Prompts, numbered
from rewardlab.errors import InputError
from rewardlab.policies.base import Policy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards.base import Reward
from rewardlab.rewards.functions import Brightness, Function
from rewardlab.storage.samples import load_samples
from rewardlab.testing.tiny_images import tiny_diffusion
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.ppo import PPO
from rewardlab.training.resumable import Resumable
from rewardlab.training.sample_table import SampleTable
from rewardlab.training.shaping import ReferenceFigures, Shaping
from rewardlab.types import PreferencePairs, Samples

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
VALUE = LETTERS.VALUE
fit = LETTERS.fit
weights = LETTERS.weights
worth = LETTERS.worth


def image_policy():
    sampler = Sampler(steps=3, eta=0.7)
    return DiffusionPolicy(tiny_diffusion(classes=0, flow=True), sampler=sampler)


def table(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def run(folder, ckpt_path=None):
    """Take 12 steps in epochs of 3 batches, or those after a checkpoint; return the loop."""
    module = PPO(
        Letters(steps=3),
        VALUE,
        minibatch=8,
        kl_target=0.5,
        kl_weight=0.2,
        shaping=Shaping(clip=2.0, length_penalty=0.1, par=2.0),
        table_every=2,
        optimizer=partial(Adam, lr=0.05),
    )
    checkpoints = ModelCheckpoint(
        folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1
    )
    fit(
        module,
        prompts=5,
        batch_size=2,
        callbacks=[checkpoints, Resumable()],
        logger=CSVLogger(folder, name="", version=""),
        ckpt_path=ckpt_path,
        max_steps=12,
        max_epochs=-1,
    )
    return module


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    """Weights, the KL's weight, the reference's figures, metrics and the table are the same."""
    straight = run(tmp_path / "a")
    run(tmp_path / "b")
    checkpoint = torch.load(tmp_path / "b/checkpoints/step=5.ckpt", weights_only=True)
    torch.save(checkpoint, tmp_path / "five.ckpt")
    with (tmp_path / "b/samples.jsonl").open("a") as file:
        file.write('{"step": 99, "pro')  # a kill in the middle of a line
    resumed = run(tmp_path / "b", tmp_path / "five.ckpt")
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.kl_weight == straight.kl_weight != 0.2
    assert resumed.reference_figures == straight.reference_figures
    assert table(tmp_path / "b") == table(tmp_path / "a")
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    names = checkpoint["state_dict"].keys()
    assert {name.split(".")[0] for name in names} == {"policy"}


LOGGED = [
    *("score", "score_std", "kl", "kl_k2", "clip_fraction", "advantage_std"),
    *("lr", "entropy", "length", "kl_weight", "explained_variance"),
]


def test_what_is_logged_and_kept_for_a_judge(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    settings = {"table_every": 2, "kl_target": 1.0, "optimizer": partial(Adam, lr=0.02)}
    module = PPO(Letters(), VALUE, "generalized", **settings)
    fit(module, max_epochs=4, logger=logger)
    logged = rows(tmp_path)
    assert set(LOGGED) <= logged[-1].keys()
    assert float(logged[0]["kl"]) == 0 < float(logged[-1]["kl_k2"])
    variance = float(logged[0]["explained_variance"])
    assert variance == pytest.approx(0, abs=0.05), "the critic says 0 at first"
    lines = table(tmp_path)
    assert [line["step"] for line in lines] == [0] * 32 + [2] * 32
    scores = [line["score"] for line in lines]
    assert sum(scores[:32]) / 32 == pytest.approx(float(logged[0]["score"]), rel=1e-5)
    outputs = [line["output"] for line in lines]
    assert worth(Samples([""] * 64, outputs)).tolist() == scores


def test_images_are_kept_as_a_folder(tmp_path):
    images = Samples(["a"] * 20, torch.rand(20, 1, 4, 4))
    for _ in range(2):  # a resumed run writes it again
        SampleTable(tmp_path, 0).write(7, images, [0.5] * 20)
    kept = load_samples(tmp_path / "samples/000007")
    assert len(kept) == 16
    assert kept.facts["score"].tolist() == [0.5] * 16


class TestShaping:
    """Penalties are multiples of the reference's deviation, whatever a reward's scale."""

    @pytest.mark.parametrize(
        "shaping", [Shaping(1.0), Shaping(None, 0.7), Shaping(1.5, 0.5), Shaping(whiten=True)]
    )
    def test_advantages_scale_with_the_reward(self, shaping):
        found = []
        for scale, offset in ((1.0, 0.0), (8.0, 3.0)):
            reward = Function(
                lambda samples, scale=scale, offset=offset: scale * worth(samples) + offset
            )
            module = PPO(Letters(steps=3), reward, shaping=shaping, kl_weight=0.0)
            found.append(
                module.collect([""] * 8, torch.arange(8)).rollout.advantages
                / (1 if shaping.whiten else scale)
            )
        assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
        plain = (
            PPO(Letters(steps=3), VALUE, kl_weight=0.0)
            .collect([""] * 8, torch.arange(8))
            .rollout.advantages
        )
        assert not torch.allclose(found[0], plain, atol=1e-2)

    def test_long_outputs_lose(self):
        module = PPO(Letters(steps=3), VALUE, shaping=Shaping(length_penalty=2.0), kl_weight=0.0)
        experience = module.collect([""] * 8, torch.arange(8))
        figures, lengths = module.reference_figures, experience.samples.facts["length"].float()
        wanted = experience.rollout.scores - 2 * figures.deviation * lengths / figures.length
        assert_close(experience.rollout.advantages, leave_one_out(wanted.view(8, 4)).view(-1, 1))

    def test_unfinished_outputs_lose(self):
        shaping = Shaping(unfinished_penalty=3.0)
        figures = ReferenceFigures(mean=1.0, deviation=2.0, length=10.0)
        facts = {"finished": torch.tensor([True, False])}
        samples = Samples(["a"] * 2, ["b", "c"], facts)
        assert shaping.needs_reference
        assert shaping(torch.tensor([5.0, 5.0]), samples, figures).tolist() == [5.0, -1.0]
        with pytest.raises(InputError, match='the fact "finished" of the samples'):
            shaping(torch.tensor([5.0]), Samples(["a"], ["b"]), figures)

    def test_a_reward_without_a_deviation_and_outputs_without_a_length_are_refused(self):
        constant = Function(lambda samples: torch.ones(len(samples)))
        module = PPO(Letters(), constant, shaping=Shaping(clip=1.0))
        with pytest.raises(
            InputError, match=r"its 16 samples score alike \(1\) within each prompt"
        ):
            module.collect([""] * 4, torch.arange(4))
        module = PPO(image_policy(), Brightness(), shaping=Shaping(length_penalty=1.0))
        with pytest.raises(InputError, match=r'the fact "length" of the samples; they have'):
            module.collect([""] * 2, torch.arange(2))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            lambda s: worth(s).index_fill(0, torch.tensor([6]), float("nan")),
            r"score of nan to sample 6 \(row \d\)",
        ),
        (
            lambda s: worth(s)[:, None],
            r"a tensor \[32\]; got a tensor \[32, 1\]|one score a sample",
        ),
        (lambda s: 0.0, r"got a float"),
    ],
)
def test_a_wrong_score_stops_the_run_and_changes_no_weight(scores, message):
    module = PPO(Letters(), Function(scores))
    before = weights(module)
    with pytest.raises(InputError, match=message):
        fit(module, max_epochs=1)
    assert torch.equal(weights(module), before)


def test_what_cannot_work_is_refused_at_once():
    image = image_policy()
    for settings, message in (
        (
            {"policy": image, "advantage": "generalized"},
            "needs a policy with `value`; DiffusionPolicy has none. Take leave",
        ),
        (
            {"policy": image, "entropy_weight": 0.1},
            "entropy_weight=0.1 needs a policy with `entropy`",
        ),
        ({"policy": image, "kl": "k3"}, 'means over 64 dimensions. Take "reward" or "k2"'),
        (
            {"policy": Letters(), "samples_per_prompt": 1},
            "got samples_per_prompt=1. Take at least 2",
        ),
        (
            {"policy": Letters(), "kl_target": 1.0, "kl_weight": 0.0},
            "both have to be above 0; got 1 and 0",
        ),
    ):
        with pytest.raises(InputError, match=message):
            PPO(reward=Brightness(), **settings)


def test_the_reward_is_neither_trained_nor_changed():
    class Scale(Reward):
        def __init__(self):
            super().__init__()
            self.scale, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.9)

        def forward(self, samples):
            return self.dropout(self.scale * worth(samples))

    reward = Scale()
    module = PPO(Letters(), reward, optimizer=partial(Adam, lr=0.1))
    fit(module, max_epochs=2)
    assert reward.scale == 1
    assert reward.training
    assert reward.dropout.training
    assert len(module.optimizers().param_groups[0]["params"]) == len(
        list(module.policy.parameters())
    )


def test_a_config_can_name_it_all():
    """As rounds have it: a factory of loops from a policy and a reward."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loop", type=Callable[[Policy, Reward], pl.LightningModule])
    adam = {"class_path": "torch.optim.Adam"}
    given = {
        "advantage": "group_normalized",
        "shaping": {"clip": 3.0},
        "optimizer": adam,
        "kl_target": 6.0,
    }
    for settings in (given, {"advantage": "rewardlab.advantages.group_normalized"}):
        loop = {"class_path": "rewardlab.training.ppo.PPO", "init_args": settings}
        make = parser.instantiate(parser.parse_object({"loop": loop})).loop
        module = make(Letters(), VALUE)
        assert module.advantage in ("group_normalized", group_normalized)
        assert module.shaping == (Shaping(clip=3.0) if settings is given else Shaping())


def test_rounds_can_feed_it_with_mined_pairs_and_files_with_prompts(tmp_path):
    pairs = PreferencePairs(Samples(["x", "y"], ["1", "2"]), Samples(["x", "y"], ["3", "4"]))
    assert numbered(pairs.chosen.prompts).prompts == ["x", "y"]
    assert numbered(pairs.chosen.prompts).to("meta").rows.tolist() == [0, 1]
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    data = Prompts(tmp_path / "prompts.txt", batch_size=1)
    data.setup("fit")
    assert sorted((batch.prompts[0], batch.rows.item()) for batch in data.train_dataloader()) == [
        ("a cat", 0),
        ("a dog", 1),
    ]
    with pytest.raises(InputError, match="empty list"):
        Prompts([]).setup("fit")
    assert numbered(["p"]).rows.tolist() == [0]


def test_a_critic_that_the_policy_was_made_without_is_missed_at_once():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match=r"needs a critic.*value_head=True"):
        PPO(policy, VALUE, advantage="generalized")
