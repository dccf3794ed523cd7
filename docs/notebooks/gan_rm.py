# %% [markdown]
# # A reward from pictures of what you want
# 300 **bold** digits are wanted, and the generator makes thin ones. No picture has a label. All of
# it runs on one processor in less than a minute; the digits come with scikit-learn.

# %%
import logging
import warnings
from functools import partial

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch

from rewardlab.data import SamplesData, TargetSamples
from rewardlab.embedded import digits
from rewardlab.mining import BestOf, best_and_worst
from rewardlab.rewards import scores_of
from rewardlab.seeds import row_seeds
from rewardlab.training import GANRM, SFT

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
quiet |= {"enable_progress_bar": False, "enable_model_summary": False}


def show(rows):
    """Draw the first ten pictures of each of several samples, a row each."""
    figure, axes = plt.subplots(len(rows), 10, figsize=(8, 0.9 * len(rows)), squeeze=False)
    for line, (name, samples) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, fontsize=8, loc="left")
        for axis, picture in zip(line, samples.outputs, strict=False):
            axis.imshow(1 - picture[0], cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.tight_layout()


# %% [markdown]
# ## What is wanted, and what is drawn
# Yours: a folder of pictures, and `load_policy("a diffusers folder")`. The generator is trained for
# 600 steps only, so that it is there in seconds, and draws rough digits. So what the reward learns
# is to tell clean digits from rough ones too; in `make demo` the generator is trained for 2,500.

# %%
policy = digits.base_policy(train_steps=600)
wanted = digits.digits("targets")
prompts = list(digits.WORDS) * 12
drawn = policy.generate(prompts, seeds=row_seeds(0, len(prompts)))
show({"wanted": wanted, "drawn": drawn})

# %% [markdown]
# ## Fit the reward
# Heads on a frozen tower learn to tell the wanted pictures from what the generator makes now. Read
# two figures together: `val/auc`, whether the two can be told apart, and `val/ranking`, whether the
# heads agree on which *drawn* pictures are better.

# %%
reward = digits.tower_reward()
data = TargetSamples(wanted, policy=policy, held_out=60, channels=1)
adam = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1)
trainer = pl.Trainer(max_epochs=40, **quiet)
trainer.fit(GANRM(reward, optimizer=adam, label_smoothing=0.05), data)
for name in ("val/auc", "val/ranking"):
    print(f"{name} {float(trainer.callback_metrics[name]):.2f}")

# %%
figure, axis = plt.subplots(figsize=(5, 2.5))
for name, samples in {"drawn": drawn, "wanted": wanted}.items():
    axis.hist(scores_of(reward, samples).numpy(), bins=20, alpha=0.6, density=True, label=name)
axis.set_xlabel("reward")
axis.legend()
figure.tight_layout()

# %% [markdown]
# ## Use it: the best of eight, and a generator that learned from them
# The judge is a classifier that nothing here is trained with: it says whether a digit still reads
# as its prompt, of the wanted ones too. Ink is the mean darkness; the reward was never told of it.

# %%
best = BestOf(policy, reward, n=8).generate(prompts, seeds=row_seeds(1, len(prompts)))
pairs = best_and_worst(policy, reward, list(digits.WORDS) * 20, k=8, seed=2)
sft = SFT(policy, optimizer=partial(torch.optim.AdamW, lr=1e-4))
pl.Trainer(max_steps=120, max_epochs=-1, **quiet).fit(sft, SamplesData(pairs.chosen, batch_size=64))
tuned = policy.generate(prompts, seeds=row_seeds(3, len(prompts)))

# %%
judge = digits.DigitJudge()
rows = {"wanted": wanted, "drawn": drawn, "best of 8": best, "after SFT": tuned}
print("             reward   ink  readable")
for name, samples in rows.items():
    score = scores_of(reward, samples).mean()
    readable = scores_of(judge, samples).mean()
    print(f"{name:12s} {score:6.2f} {samples.outputs.mean():5.3f} {readable:9.2f}")
show(rows)

# %% [markdown]
# ## Next
# `rewardlab rounds --config configs/gan_rm/digits.yaml --config configs/gan_rm/digits_sft.yaml --out
# runs/sft` does the same with a guard, intervals and a page, resumable; `configs/gan_rm/own.yaml` is
# for your pictures.
