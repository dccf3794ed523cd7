# %% [markdown]
# # Break a reward, and mend it
# Words of the letters a to h; of two words the one with more vowels is preferred. The truth adds
# what no pair ever says: any other letter is bad. Nothing is trained with the truth. All of it runs
# on one processor in less than a minute.

# %%
import logging
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch

from rewardlab.attackers import HighTemperature
from rewardlab.embedded import tiny_worlds
from rewardlab.evaluation import best_of_n_curve
from rewardlab.evaluation.attack_success import attack_success, score_pair
from rewardlab.mining import adversarial_pairs, candidates
from rewardlab.rewards import Attack, Function, Relative, scores_of
from rewardlab.training import AdvRM

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
quiet |= {"enable_progress_bar": False, "enable_model_summary": False}


def truth(samples):
    """Return vowels, less two for each letter that no pair ever showed, [B]."""
    scores = []
    for text in samples.outputs:
        vowels = sum(letter in tiny_worlds.VOWELS for letter in text)
        unseen = sum(letter not in tiny_worlds.LETTERS for letter in text)
        scores.append(float(vowels - 2 * unseen))
    return torch.tensor(scores)


# %% [markdown]
# ## Two rewards from the same pairs
# The target is the reward that you mean to use; the witness learned from the same pairs with
# another seed. Yours: `LanguageReward` on your model, `Preferences("pairs.jsonl")`.

# %%
policy = tiny_worlds.text_policy()
clean = tiny_worlds.vowel_pairs(count=256, held_out=64)
prompts = [f"word {number}" for number in range(24)]
judge = Function(truth)


def fit(seed, data):
    """Return a reward that learned from `data`, and its accuracy on held-out pairs."""
    reward = tiny_worlds.text_reward(seed=seed)
    module = AdvRM(reward, optimizer=lambda weights: torch.optim.Adam(weights, 0.1), seed=seed)
    trainer = pl.Trainer(max_epochs=20, **quiet)
    trainer.fit(module, data)
    return reward.eval(), float(trainer.callback_metrics["val/accuracy"])


target, accuracy = fit(0, clean)
witness, other_accuracy = fit(1, clean)
print(f"accuracy on held-out pairs: target {accuracy:.2f}, witness {other_accuracy:.2f}")

# %% [markdown]
# ## Attack
# The attacker samples at a high temperature and keeps what the target rates above the policy's own
# responses and the witness doubts.

# %%
references = candidates(policy, prompts, 8, seed=0)


def attacked(reward, seed):
    """Return what an attack on `reward` finds."""
    attack = Attack(Relative(reward, references), Relative(witness, references))
    return HighTemperature(temperature=4.0, n=16, keep=4)(policy, attack, prompts, seed)


def success(reward, found):
    """Return how often reward and truth part, of fresh samples, best of n and the attack."""
    base = score_pair(references, reward, judge)
    rates = attack_success(score_pair(found, reward, judge), base)
    return [part.standard.value for part in (rates.fresh, rates.best_of_n, rates.attack)]


found = attacked(target, 1)
before = success(target, found)
print("five of what it found:", found.outputs[:5])
figure, axis = plt.subplots(figsize=(5, 3))
for name, samples in {"the policy's own": references, "the attack's": found}.items():
    axis.scatter(scores_of(target, samples), truth(samples), s=8, alpha=0.5, label=name)
axis.set_xlabel("target")
axis.set_ylabel("truth")
axis.legend()
figure.tight_layout()

# %% [markdown]
# ## Mine, fit again, attack afresh
# What passes the gate and parts the two rewards becomes the rejected half of a pair. The truth takes
# no part: it tells afterwards, in the funnel's last column, how often the pairs are right.

# %%
sides = []
for samples in (found, references):
    for reward in (target, witness):
        sides.append(scores_of(reward, samples))
pairs, funnel = adversarial_pairs(
    found,
    *sides[:2],
    references,
    *sides[2:],
    chosen="best",
    per_prompt=4,
    judge_scores=(truth(found), truth(references)),
)
print(funnel)
hardened, accuracy = fit(0, clean.extended(pairs))
print(f"accuracy on held-out pairs: {accuracy:.2f}")
after = success(hardened, attacked(hardened, 2))

# %%
figure, axis = plt.subplots(figsize=(5, 2.5))
for shift, (name, rates) in enumerate({"before": before, "after": after}.items()):
    places = [place + 0.35 * shift for place in range(3)]
    axis.bar(places, rates, 0.35, label=name)
    print(f"{name:7s} fresh {rates[0]:.2f}, best of n {rates[1]:.2f}, attack {rates[2]:.2f}")
axis.set_xticks([0.17, 1.17, 2.17], ["fresh samples", "best of n", "attack"])
axis.set_ylabel("success")
axis.legend()
figure.tight_layout()

# %% [markdown]
# ## How far can each be trusted?
# Climb by best of n and look at the truth. A policy of a high temperature draws what the first one
# never does.

# %%
wild = candidates(policy.with_temperature(2.0), prompts, 64, seed=3)
gold = truth(wild).view(len(prompts), 64)
figure, axis = plt.subplots(figsize=(5, 2.5))
for name, reward in {"target": target, "hardened": hardened}.items():
    proxy = scores_of(reward, wild).view(len(prompts), 64)
    curve = best_of_n_curve(proxy, gold, [1, 2, 4, 8, 16, 32])
    heights = [row["gold"] for row in curve]
    axis.plot([row["n"] for row in curve], heights, marker="o", label=name)
    print(f"{name:8s} truth at n = 1: {heights[0]:.2f}, at n = 32: {heights[-1]:.2f}")
axis.set_xscale("log", base=2)
axis.set_xlabel("n")
axis.set_ylabel("truth")
axis.legend()
figure.tight_layout()

# %% [markdown]
# ## Next
# One seed and one round, so do not read more into it than the direction. `rewardlab attack` does the
# first half on any saved reward, `rewardlab rounds --config configs/adv_rm/own.yaml` all of it on
# your model and pairs.
