"""Contracts with the installed TRL: its trainers get the scores that we give."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab import as_samples
from rewardlab.exchange.trl import preference_dataset, prompt_dataset, reward_func
from rewardlab.losses import dpo_loss
from rewardlab.rewards import LanguageReward, Tolerant, member_scores, scores_of
from rewardlab.rewards.functions import Function
from rewardlab.rewards.scoring import judged
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import PreferencePairs, Samples

TRL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_trl.py")))
PAIRS = PreferencePairs(
    Samples(["Say hi.", "2+2=", "Bye"], ["Hello", "4", "See you"]),
    Samples(["Say hi.", "2+2=", "Bye"], ["Go", "five", ""]),
)


class Recorder:
    """A reward function that keeps what TRL passes, and scores nothing."""

    __name__ = "recorder"

    def __init__(self):
        self.batches = []

    def __call__(self, prompts, completions, completion_ids, **columns):
        texts = completions
        if not isinstance(completions[0], str):
            texts = [messages[0]["content"] for messages in completions]
        samples = as_samples(prompts, texts)
        self.batches.append((samples, completion_ids, columns))
        return [None] * len(prompts)


def our_reward(chat):
    reward = LanguageReward(tiny_causal_lm(seed=1), tiny_tokenizer(chat=chat), heads=2)
    return reward.train()  # scoring is in eval mode whatever it was left in


def prompt_rows(chat):
    return prompt_dataset(TRL.PROMPTS, conversational=chat, answer=[0, 1, 2, 3])


@pytest.mark.parametrize(
    ("kind", "chat"),
    [
        ("GRPO", False),
        ("RLOO", True),
        pytest.param("GRPO", True, marks=pytest.mark.nightly),
        pytest.param("RLOO", False, marks=pytest.mark.nightly),
    ],
)
def test_a_policy_is_trained_by_the_scores_that_we_give(tmp_path, kind, chat):
    reward = our_reward(chat)
    recorder = Recorder()
    functions = [reward_func(reward, name="ours", batch_size=3), recorder]
    trainer = TRL.rolled_out(kind, tmp_path, functions, prompt_rows(chat))
    steps = [row for row in trainer.state.log_history if "rewards/ours/mean" in row]
    assert len(steps) == len(recorder.batches) == 2
    for step, (samples, completion_ids, columns) in zip(steps, recorder.batches, strict=True):
        scores = scores_of(reward, samples)
        assert scores.unique().numel() > 1, "equal scores would prove nothing"
        assert step["rewards/ours/mean"] == pytest.approx(scores.mean().item(), rel=1e-5)
        assert step["rewards/ours/std"] == pytest.approx(scores.std().item(), rel=1e-4)
        assert step["reward"] == pytest.approx(scores.mean().item(), rel=1e-5)
        disagreement = member_scores(reward, samples).std(1).mean().item()
        assert step["ours/disagreement"] == pytest.approx(disagreement, rel=1e-5)
        assert step["ours/unscored"] == 0
        assert all(len(ids) <= 6 for ids in completion_ids)
        assert set(columns["answer"]) <= {0, 1, 2, 3}
    assert reward.training


def refusing(samples):
    """Score the number of bytes; a text with an odd number of them is not scored."""
    counts = [len(text.encode()) for text in samples.outputs]
    return torch.tensor([float("nan") if count % 2 else float(count) for count in counts])


def test_what_is_not_scored_is_left_out_of_means(tmp_path):
    reward = Tolerant(Function(refusing), most_unscored=1.0)
    recorder = Recorder()
    functions = [reward_func(reward, name="bytes"), recorder]
    trainer = TRL.rolled_out("GRPO", tmp_path, functions, prompt_rows(False), steps=4)
    steps = [row for row in trainer.state.log_history if "bytes/unscored" in row]
    shares = []
    for step, (samples, _, _) in zip(steps, recorder.batches, strict=True):
        result = judged(reward, samples)
        shares.append(step["bytes/unscored"])
        assert step["bytes/unscored"] == (~result.scored).float().mean().item()
        if result.scored.any():
            assert step["reward"] == pytest.approx(result.scores.nanmean().item())
    assert any(0 < share < 1 for share in shares), shares


@pytest.mark.parametrize("chat", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_dpo_learns_from_our_pairs_what_we_would(tmp_path, chat):
    from trl import DPOConfig, DPOTrainer

    from rewardlab.policies.causal_lm import CausalLMPolicy

    words = tiny_tokenizer()
    words.chat_template = TRL.TURNS if chat else None
    networks = [tiny_causal_lm(0), tiny_causal_lm(1)]
    dataset = preference_dataset(PAIRS, conversational=chat)
    config = DPOConfig(**TRL.options(tmp_path), beta=0.3)
    trainer = DPOTrainer(*networks, config, train_dataset=dataset, processing_class=words)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(len(PAIRS))])
    policies = [CausalLMPolicy(tiny_causal_lm(seed), words).eval() for seed in (0, 1)]
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
        columns = [
            log_probs(policy, half)
            for policy in policies
            for half in (PAIRS.chosen, PAIRS.rejected)
        ]
    assert dpo_loss(*columns, beta=0.3).mean().item() == pytest.approx(theirs.item(), rel=1e-4)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def log_probs(policy, half):
    trajectory = policy.encode(half, seeds=torch.arange(len(half)))
    return policy.log_prob(trajectory).where(trajectory.mask, 0).sum(1)
