"""Write a reward of your own, and let a policy be filtered by it.

Prints the share of vowels in a language model's words as it writes them, and in the best of eight
by the reward. A reward is one method: samples in, one number each out, higher is better.

    python examples/write_a_reward.py
"""

import torch

from rewardlab import Reward, Samples
from rewardlab.embedded.tiny_worlds import PROMPTS, text_policy
from rewardlab.mining import BestOf
from rewardlab.seeds import row_seeds

VOWELS = "aeiou"


class Vowels(Reward):
    """The share of vowels among a text's letters, in [0, 1]."""

    def forward(self, samples: Samples) -> torch.Tensor:
        """Return one score a text, float32 [B]."""
        # Yours: whatever you can compute of a prompt and its output, a tensor [B].
        shares = []
        for text in samples.outputs:
            vowels = sum(text.count(vowel) for vowel in VOWELS)
            shares.append(vowels / max(len(text), 1))
        return torch.tensor(shares)


def main() -> None:
    reward = Vowels()
    policy = text_policy()  # yours: load_policy("folder"), or any model of transformers
    prompts = PROMPTS * 8  # yours: read_prompts("prompts.txt")
    seeds = row_seeds(0, len(prompts))
    plain = policy.generate(prompts, seeds=seeds)
    best = BestOf(policy, reward, n=8).generate(prompts, seeds=seeds)
    print(f"as written:    {reward(plain).mean():.2f}  {plain.outputs[0]}")
    print(f"best of eight: {reward(best).mean():.2f}  {best.outputs[0]}")


if __name__ == "__main__":
    main()
