"""Attack a reward: find outputs that it loves and that a second reward doubts.

Trains a target and a witness on the same pairs of words, then samples at a high temperature and
keeps what the target rates above its references and the witness does not. Prints the target's mean
score of ordinary responses and of the attack, what a judge says of the same, and the worst word.

    python examples/attack_a_reward.py
"""

import pytorch_lightning as pl
import torch

from rewardlab import AdvRM, Reward, Samples
from rewardlab.attackers import HighTemperature
from rewardlab.embedded.tiny_worlds import LETTERS, VOWELS, text_policy, text_reward, vowel_pairs
from rewardlab.mining import candidates
from rewardlab.rewards import Attack, Function, Relative, scores_of

PROMPTS = [f"word {number}" for number in range(12)]  # yours: read_prompts("prompts.txt")


def fit(seed: int) -> Reward:
    """Return a reward that learned from pairs in which the word with more vowels is chosen."""
    reward = text_reward(seed=seed)  # yours: LanguageReward("folder of a model", seed=seed)
    module = AdvRM(reward, optimizer=lambda weights: torch.optim.Adam(weights, 0.1), seed=seed)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=10, logger=False, enable_checkpointing=False, **quiet)
    trainer.fit(module, vowel_pairs(count=256))  # yours: Preferences("pairs.jsonl")
    return reward.eval()


def truth(samples: Samples) -> torch.Tensor:
    """Return vowels, less two for each letter that no pair ever showed: the judge, [B]."""
    scores = []
    for text in samples.outputs:
        vowels = sum(letter in VOWELS for letter in text)
        unseen = sum(letter not in LETTERS for letter in text)
        scores.append(float(vowels - 2 * unseen))
    return torch.tensor(scores)


def main() -> None:
    policy = text_policy()  # yours: load_policy("folder")
    target = fit(seed=0)  # yours: load_reward("folder"), the reward that you mean to use
    witness = fit(seed=1)  # yours: one that was trained with another seed or on other data
    references = candidates(policy, PROMPTS, 8, seed=0)
    attack = Attack(Relative(target, references), Relative(witness, references))
    attacker = HighTemperature(temperature=4.0, n=16, keep=1)  # yours: also RLAttacker, Guided, ...
    exploits = attacker(policy, attack, PROMPTS, 1)
    for name, reward in {"target": target, "judge": Function(truth)}.items():
        means = [scores_of(reward, samples).mean() for samples in (references, exploits)]
        print(f"{name}: {means[0]:.2f} on references, {means[1]:.2f} on the attack")
    worst = exploits.facts["attack"].argmax()
    print(f"worst: {exploits.outputs[worst]!r}")


if __name__ == "__main__":
    main()
