"""Fits of every loop, run by one process or by two that share each batch; no test by itself.

`python joint_runs.py FOLDER [FROM]` trains each loop for two passes over the data and writes what
came out to FOLDER/NAME.pt, the checkpoint after the first batch of the second pass to
FOLDER/NAME.ckpt, and what some loops trained as a folder to FOLDER/NAME. With FROM, another run's
folder, it goes on from the checkpoints there. Started by torchrun, each process takes its share of
every batch. With STRATEGY=sharded in the environment several processes spread the weights over
them (FSDP2). LOOPS names the loops; all by default.
"""

import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.optim import SGD

from rewardlab.data import PairsData, Preferences, SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.data.targets import TargetSamples
from rewardlab.evaluation import Guard
from rewardlab.evaluation.monitors import MonitoredPolicy
from rewardlab.networks.shards import whole
from rewardlab.policies import CausalLMPolicy, DiffusionPolicy, Sampler
from rewardlab.policies.abilities import TextGenerator
from rewardlab.policies.causal_lm_folder import write_model
from rewardlab.rewards import (
    Brightness,
    Corrected,
    Function,
    LanguageReward,
    Tolerant,
    VisionReward,
)
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.training import (
    DPO,
    EMA,
    GANRM,
    PPO,
    SFT,
    AdvRM,
    DrawBy,
    GradientRegularization,
    Online,
    ReferenceReset,
    ReFL,
    VelocityMatching,
)
from rewardlab.training.checkpoints import save_last
from rewardlab.training.resumable import Resumable
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

WORDS = ["b", "so long a text", "c", "another of some length", "de", "fg hi", "a", "the last one"]
PROMPTS = ["a", "cat", "b", "dog"] * 2
ROWS = 4  # of all processes together, a batch
EPOCHS = 2


def language_policy(**options):
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=5, **options)


def image_policy():
    return DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))


def count_letters(samples):
    """How many different letters a text has."""
    return torch.tensor([float(len(set(text))) for text in samples.outputs])


def letters():
    return Function(count_letters)


def texts():
    return Samples(PROMPTS, WORDS)


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Samples([""] * 8, torch.rand(8, 1, 8, 8, generator=generator))


def text_pairs():
    labels = torch.tensor([1.0, 0.5, 1.0, 0.8, 1.0, 1.0, 0.5, 1.0])
    weights = torch.tensor([1.0, 3.0, 1.0, 0.5, 2.0, 1.0, 0.1, 1.0])
    facts = {"label": labels, "weight": weights}
    return PreferencePairs(Samples(PROMPTS, WORDS, facts), Samples(PROMPTS, WORDS[::-1]))


def towers_data(size):
    noise = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    light = Samples([""] * 12, 0.5 * noise[:12] + 0.5)
    dark = Samples([""] * 12, 0.5 * noise[12:])
    return TargetSamples(light, dark, held_out=4, batch_size=size)


def sft(size):
    return SFT(language_policy(), optimizer=sgd(0.1)), SamplesData(texts(), batch_size=size)


def sft_images(size):
    return SFT(image_policy(), optimizer=sgd(0.5)), SamplesData(images(), batch_size=size)


def dpo(size):
    loop = DPO(language_policy(), beta=0.5, sft_weight=0.1, optimizer=sgd(0.02))
    return loop, PairsData(text_pairs(), batch_size=size)


def dpo_images(size):
    loop = DPO(image_policy(), beta=10.0, norm_guard=0.1, optimizer=sgd(0.1))
    return loop, PairsData(PreferencePairs(images(0), images(1)), batch_size=size)


def dpo_lora(size):
    loop = DPO(language_policy(lora_rank=2), beta=0.5, optimizer=sgd(0.1))
    return loop, PairsData(text_pairs(), batch_size=size)


def gan_rm(size):
    reward = VisionReward(tiny_tower(), width=16, heads=3)
    return GANRM(reward, folds=2, optimizer=sgd(0.5)), towers_data(size)


def tuned_tower(size):
    """The blocks of a tower train too, and the backward pass computes their activations anew."""
    options = {"unlocked_groups": 3, "gradient_checkpointing": True}
    reward = VisionReward(tiny_tower(), width=16, heads=3, **options)
    return GANRM(reward, optimizer=sgd(0.05)), towers_data(size)


def adv_rm(size):
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=3)
    weights = {"centering": 0.1, "batch_sum_weight": 0.05}
    loop = AdvRM(reward, optimizer=sgd(0.03), **weights)
    return loop, Preferences(text_pairs(), held_out=2, batch_size=size)


def ppo(size, reward=None, **options):
    settings = {"kl_weight": 0.1, "optimizer": sgd(0.3), "samples_per_prompt": 3}
    reward = letters() if reward is None else reward
    return PPO(language_policy(), reward, **settings | options), Prompts(PROMPTS, size)


def rloo(size):
    return ppo(size, micro_batch=2, epochs=2)


def grpo(size):
    return ppo(size, advantage="group_normalized", kl="k3")


def whole_batch(scores):
    """Advantages that one prompt's samples do not decide."""
    return scores - scores.mean()


def count_some_letters(samples):
    """The same, with no score for texts of few letters."""
    counts = count_letters(samples)
    return counts.masked_fill(counts < 3, torch.nan)


def unscored(size):
    return ppo(size, Tolerant(Function(count_some_letters), most_unscored=1.0), kl="k3")


def unscored_images(size):
    """Images of some brightness are not scored, more of them in one process than in the other."""
    reward = Tolerant(Function(bright_ones), most_unscored=1.0)
    loop = VelocityMatching(image_policy(), reward, "ram", samples_per_prompt=3, optimizer=sgd(0.1))
    return loop, Prompts([""] * 8, size)


def bright_ones(samples):
    brightness = samples.outputs.flatten(1).mean(1)
    return brightness.masked_fill(brightness < 0.45, torch.nan)


def unscored_prompts(size):
    """Nothing of two prompts is scored, so that a process may have nothing to learn from."""
    return ppo(size, Tolerant(Function(count_letters_of_some), most_unscored=1.0))


def count_letters_of_some(samples):
    missing = torch.tensor([prompt in ("a", "b") for prompt in samples.prompts])
    return count_letters(samples).masked_fill(missing, torch.nan)


def drawn_elsewhere(size):
    loop, data = ppo(size)
    loop.policy = language_policy(lora_rank=2)
    loop.reference = loop.policy.reference()
    return loop, data


class OfTheWeights(TextGenerator):
    """Draws what the policy's weights say, after they went over as a model in a folder."""

    def draw(self, policy, prompts, seeds, limits, terms):
        with TemporaryDirectory() as folder:
            write_model(policy, Path(folder))
            copy = CausalLMPolicy(folder, policy.tokenizer, max_new_tokens=max(limits))
        tokens = copy._sampler(0, 1.0).draw(prompts, seeds, limits)
        return [response.tokens for response in tokens]


def guarded(size):
    """Its guard stops it after the fourth step, and brings the weights after the first back."""
    settings = {"samples_per_prompt": 3, "optimizer": sgd(0.1)}
    return VelocityMatching(image_policy(), Brightness(), "ram", **settings), Prompts(
        [""] * 8, size
    )


def darkness(samples):
    return -samples.outputs.flatten(1).mean(1)


def checkpointed(size):
    policy = language_policy(gradient_checkpointing=True)
    return SFT(policy, optimizer=sgd(0.1)), SamplesData(texts(), batch_size=size)


def own_advantage(size):
    return ppo(size, advantage=whole_batch, entropy_weight=0.05)


def regularized(size):
    return ppo(size, gradient_regularization=GradientRegularization(0.1))


def ppo_images(size):
    settings = {"kl_weight": 1e-3, "clip": 1e-2, "optimizer": sgd(0.05)}
    return PPO(image_policy(), Brightness(), epochs=2, **settings), Prompts([""] * 8, size)


def nft(size):
    loop = VelocityMatching(image_policy(), Brightness(), samples_per_prompt=3, optimizer=sgd(0.1))
    return loop, Prompts([""] * 8, size)


def ram(size):
    policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3, size=8))
    loop = VelocityMatching(
        policy, Brightness(), form="ram", samples_per_prompt=3, optimizer=sgd(0.1)
    )
    return loop, Prompts([""] * 8, size)


def refl(size):
    loop = ReFL(image_policy(), Brightness(), sft_weight=0.1, optimizer=sgd(0.1))
    return loop, SamplesData(images(), batch_size=size)


def online(size):
    correction = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    reward = Corrected(letters(), correction, weight=2.0)
    return PPO(language_policy(), reward, optimizer=sgd(0.3)), Prompts(PROMPTS, size)


def sgd(rate):
    return partial(SGD, lr=rate, momentum=0.5)


LOOPS = {
    "sft": sft,
    "sft_images": sft_images,
    "dpo": dpo,
    "dpo_images": dpo_images,
    "dpo_lora": dpo_lora,
    "gan_rm": gan_rm,
    "tuned_tower": tuned_tower,
    "adv_rm": adv_rm,
    "rloo": rloo,
    "grpo": grpo,
    "own_advantage": own_advantage,
    "unscored": unscored,
    "unscored_images": unscored_images,
    "unscored_prompts": unscored_prompts,
    "checkpointed": checkpointed,
    "drawn_elsewhere": drawn_elsewhere,
    "guarded": guarded,
    "regularized": regularized,
    "averaged": grpo,
    "reset": grpo,
    "ppo_images": ppo_images,
    "nft": nft,
    "ram": ram,
    "refl": refl,
    "online": online,
}

EXPORTED = {"sft", "dpo_lora", "gan_rm", "adv_rm", "nft", "averaged"}


class SaveOnce(pl.Callback):
    """Write a checkpoint at the start of one batch of the second pass."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            save_last(trainer, self.file)


def callbacks_of(name, folder):
    callbacks = [Resumable(), SaveOnce(folder / f"{name}.ckpt")]
    if name == "online":
        wanted = Samples(PROMPTS[:4], ["hello", "good day", "well", "now"])
        callbacks.append(Online(wanted, rows=8, optimizer=sgd(0.1)))
    if name == "averaged":
        callbacks.append(EMA(0.5))
    if name == "reset":
        callbacks.append(ReferenceReset(every_n_steps=2))
    if name == "drawn_elsewhere":
        callbacks.append(DrawBy(OfTheWeights()))
    if name == "guarded":
        guard = Guard(1, samples=8, tolerance=0.5, patience=3, watch=["classifier"])
        guard.observe(MonitoredPolicy(Brightness(), [""] * 8, classifier=Function(darkness)))
        callbacks.append(guard)
    return callbacks


def trained_weights(module):
    parts = [module]
    if isinstance(module.reward, Corrected):
        parts.append(module.reward)
    weights = []
    for part in parts:
        for weight in part.parameters():
            if weight.requires_grad:
                weights.append(whole(weight.detach()).flatten())
    return torch.cat(weights)


def strategy_for(count):
    if count > 1 and os.environ.get("STRATEGY") == "sharded":
        return ModelParallelStrategy(count, 1, save_distributed_checkpoint=False)
    return "ddp" if count > 1 else "auto"


def run(name, folder, checkpoint, count):
    pl.seed_everything(0, verbose=False)
    module, data = LOOPS[name](ROWS // count)
    before = trained_weights(module)
    strategy = strategy_for(count)
    options = {"accelerator": "cpu", "devices": count, "strategy": strategy, "max_epochs": EPOCHS}
    trainer = pl.Trainer(
        callbacks=callbacks_of(name, folder), log_every_n_steps=1, **options, **SILENT
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    after = trained_weights(module)  # which all processes gather
    result = {"before": before, "after": after, "steps": trainer.global_step}
    result["figures"] = {key: float(value) for key, value in trainer.callback_metrics.items()}
    result["blocks"] = {part: len(spread.blocks) for part, spread in module._spread.items()}
    if trainer.global_rank == count - 1:  # what the last process has
        torch.save(result, folder / f"{name}.pt")
    module.gather_trained(keep=trainer.is_global_zero)
    if trainer.is_global_zero:
        assert trained_weights(module).equal(after), name
        if name in EXPORTED:
            export(module, folder / name)


def export(module, folder):
    part = module.policy if module.policy is not None else module.reward
    part.eval().save_pretrained(folder)


def main(folder, source=None):
    names = os.environ["LOOPS"].split() if "LOOPS" in os.environ else LOOPS
    for name in names:
        checkpoint = None if source is None else Path(source) / f"{name}.ckpt"
        run(name, Path(folder), checkpoint, int(os.environ.get("WORLD_SIZE", "1")))


if __name__ == "__main__":
    main(*sys.argv[1:])
