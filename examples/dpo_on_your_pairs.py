"""Train a policy on preference pairs with DPO, without a reward.

Prints how often the policy prefers the right half of held-out pairs, against what it was before,
and how many vowels its words have before and after: in these pairs the word with more vowels is
chosen. The trained policy is written to the folder dpo_policy.

    python examples/dpo_on_your_pairs.py
"""

import pytorch_lightning as pl
import torch

from rewardlab import DPO
from rewardlab.embedded.tiny_worlds import text_policy, vowel_pairs
from rewardlab.seeds import row_seeds

PROMPTS = ["one", "two", "three", "four"] * 16


def vowels(policy: torch.nn.Module) -> float:
    """Return the mean number of vowels in the policy's words."""
    words = policy.generate(PROMPTS, seeds=row_seeds(0, len(PROMPTS))).outputs
    return sum(word.count("a") + word.count("e") for word in words) / len(words)


def main() -> None:
    policy = text_policy()  # yours: CausalLMPolicy("folder of a model that was fine-tuned")
    data = vowel_pairs()  # yours: Preferences("pairs.jsonl"), lines of prompt, chosen, rejected
    before = vowels(policy)
    # Yours: a learning rate near 1e-6, and beta=0.1.
    module = DPO(policy, beta=0.5, optimizer=lambda weights: torch.optim.Adam(weights, 3e-3))
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",  # yours: "auto"
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    print(f"held-out accuracy {trainer.callback_metrics['val/accuracy']:.2f}")
    print(f"vowels in a word of eight letters: {before:.2f} before, {vowels(policy):.2f} after")
    policy.save_pretrained("dpo_policy")


if __name__ == "__main__":
    main()
