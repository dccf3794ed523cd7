import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from rewardlab.losses import dpo_loss
from rewardlab.losses.ranking import bradley_terry_loss, centering_loss
from rewardlab.types import PreferencePairs, Samples, concatenate

DRAW = torch.Generator().manual_seed(0)
CHOSEN, REJECTED = torch.randn(2, 5, 3, generator=DRAW)
LABELS, MARGIN = torch.tensor([1.0, 0.5, 0.0, 0.8, 1.0]), torch.tensor([0.0, 0.0, 1.0, -0.5, 2.0])
WEIGHTS = torch.tensor([0.0, 1.0, 2.0, 1.0, 3.0])[:, None].expand(5, 3)
PAIRS = PreferencePairs(
    Samples(["Say hi. ", "Be short! ", "Why? "], ["Hello", "no", "so it goes, they said"]),
    Samples(["Say hi. ", "Be short! ", "Why? "], ["Go away, go", "", "off"]),
)


def test_it_is_the_likelihood_of_the_labels():
    lead = (CHOSEN - REJECTED - MARGIN[:, None]).double()
    wins = lead.sigmoid()
    expected = -(LABELS[:, None] * wins.log() + (1 - LABELS[:, None]) * (1 - wins).log())
    assert bradley_terry_loss(CHOSEN, REJECTED, LABELS, MARGIN).item() == pytest.approx(
        expected.mean().item(), rel=1e-6
    )
    weighted = (expected * WEIGHTS).sum() / WEIGHTS.sum()
    found = bradley_terry_loss(CHOSEN, REJECTED, LABELS, MARGIN, WEIGHTS)
    assert found.item() == pytest.approx(weighted.item(), rel=1e-6)


def test_plain_pairs_give_the_published_formula():
    found = bradley_terry_loss(CHOSEN, REJECTED, margin=MARGIN)
    assert torch.allclose(found, -logsigmoid(CHOSEN - REJECTED - MARGIN[:, None]).mean())
    single = bradley_terry_loss(CHOSEN[:, 0], REJECTED[:, 0])
    assert torch.allclose(single, -logsigmoid(CHOSEN[:, 0] - REJECTED[:, 0]).mean())


def test_an_offset_of_each_prompt_changes_nothing():
    offset = torch.randint(-8, 8, (5, 1), generator=DRAW).float()
    coarse = [(half * 64).round() / 64 for half in (CHOSEN, REJECTED)]  # so that the sums are exact
    assert bradley_terry_loss(*coarse, LABELS) == bradley_terry_loss(
        *(half + offset for half in coarse), LABELS
    )
    assert centering_loss(*coarse) != centering_loss(*(half + offset for half in coarse))


def test_a_tie_pulls_scores_together_and_a_flipped_label_is_a_flipped_pair():
    scores = torch.tensor([1.0, -1.0], requires_grad=True)
    bradley_terry_loss(scores[:1], scores[1:], torch.tensor([0.5])).backward()
    assert scores.grad[0] > 0 > scores.grad[1]
    same = torch.zeros(4, requires_grad=True)
    bradley_terry_loss(same, torch.zeros(4), torch.full((4,), 0.5)).backward()
    assert same.grad.abs().max() == 0
    flipped = bradley_terry_loss(CHOSEN, REJECTED, torch.zeros(5))
    assert torch.allclose(flipped, bradley_terry_loss(REJECTED, CHOSEN))


def test_rows_of_weight_zero_count_for_nothing():
    far = CHOSEN.clone()
    far[0] = 1e6
    for loss in (
        lambda half: bradley_terry_loss(half, REJECTED, weights=WEIGHTS),
        lambda half: centering_loss(half, REJECTED, WEIGHTS),
    ):
        assert loss(far) == loss(CHOSEN)
    assert bradley_terry_loss(CHOSEN, REJECTED, weights=torch.zeros(5, 3)) == 0


def test_extreme_and_half_precision_scores_stay_finite():
    far = torch.tensor([1e4, -1e4], dtype=torch.bfloat16, requires_grad=True)
    loss = bradley_terry_loss(far, -far)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1e4, rel=1e-2)
    assert far.grad.isfinite().all()


def test_equal_scores_give_log_two():
    assert bradley_terry_loss(CHOSEN, CHOSEN).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: bradley_terry_loss(CHOSEN, REJECTED[:, :1]),
        lambda: bradley_terry_loss(CHOSEN, REJECTED, labels=torch.ones(3)),
        lambda: bradley_terry_loss(CHOSEN, REJECTED, margin=torch.ones(5, 3)),
        lambda: bradley_terry_loss(CHOSEN, REJECTED, weights=torch.ones(5)),
        lambda: centering_loss(CHOSEN, REJECTED[:3]),
    ],
)
def test_shapes_are_not_broadcast_by_accident(wrong):
    with pytest.raises(ValueError, match=r"shape|one number a pair"):
        wrong()


def trl_batch(trainer):
    """The batch that a trainer of TRL makes of all pairs, in their order."""
    return trainer.data_collator([trainer.train_dataset[row] for row in range(len(PAIRS))])


def trl_options(folder):
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 3,
    }


def trl_rows(**more):
    from datasets import Dataset

    halves = {"chosen": list(PAIRS.chosen.outputs), "rejected": list(PAIRS.rejected.outputs)}
    return Dataset.from_dict({"prompt": list(PAIRS.chosen.prompts), **halves, **more})


def test_trls_reward_trainer_has_the_same_tokens_scores_and_loss(tmp_path):
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from rewardlab.rewards.formatting import token_ids
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer()).eval()
    reward.save_pretrained(tmp_path / "reward")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    margin = torch.tensor([0.0, 0.5, 2.0])
    args = RewardConfig(**trl_options(tmp_path), center_rewards_coefficient=0.01)
    trainer = RewardTrainer(
        network,
        args,
        train_dataset=trl_rows(margin=margin.tolist()),
        processing_class=reward.tokenizer,
    )
    batch = trl_batch(trainer)
    both = concatenate([PAIRS.chosen, PAIRS.rejected])
    ours, _ = token_ids(reward.tokenizer, both.prompts, both.outputs)
    rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    assert [ids[kept].tolist() for ids, kept in rows] == ours
    with torch.no_grad():
        theirs, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        chosen, rejected = reward(PAIRS.chosen), reward(PAIRS.rejected)
        ours = bradley_terry_loss(chosen, rejected, margin=margin) + 0.01 * centering_loss(
            chosen, rejected
        )
    assert torch.allclose(outputs.logits[:, 0], torch.cat([chosen, rejected]), atol=1e-5)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_trls_dpo_trainer_has_the_same_loss(tmp_path):
    from trl import DPOConfig, DPOTrainer

    from rewardlab.policies.causal_lm import CausalLMPolicy
    from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

    words = tiny_tokenizer()
    policy, reference = (CausalLMPolicy(tiny_causal_lm(seed), words).eval() for seed in (0, 1))
    args = DPOConfig(**trl_options(tmp_path), beta=0.3)
    networks = tiny_causal_lm(0), tiny_causal_lm(1)
    trainer = DPOTrainer(*networks, args, train_dataset=trl_rows(), processing_class=words)
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
        columns = []
        for each in (policy, reference):
            for half in (PAIRS.chosen, PAIRS.rejected):
                trajectory = each.encode(half, seeds=torch.arange(3))
                columns.append(each.log_prob(trajectory).where(trajectory.mask, 0).sum(1))
        ours = dpo_loss(*columns, beta=0.3).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    assert abs(ours.item() - math.log(2)) > 0.05
