"""Adv-RM's rounds with conversations as prompts and pairs, on a tiny model with a chat template."""

import json
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer

from rewardlab import CausalLMPolicy, LanguageReward, PreferencePairs, Samples
from rewardlab.attackers import BestOfN, RLAttacker
from rewardlab.conversations import Conversation, Message
from rewardlab.data import Preferences, load_samples
from rewardlab.evaluation import Evaluation
from rewardlab.report import write_report
from rewardlab.rewards import Function
from rewardlab.rounds import AdvRMRounds, AttackAndMine, FitReward, Mining, PostTrain, RunFolder
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.training import DPO, PPO, SFT, AdvRM

ADAM = partial(torch.optim.Adam, lr=1e-3)
TRAINER = partial(Trainer, max_epochs=1, accelerator="cpu", enable_progress_bar=False)


def talk(number):
    turns = [("system", "Be <i>brief</i>."), ("user", "hi"), ("assistant", "hello")]
    turns.append(("user", f"say {number}"))
    return Conversation(tuple(Message(role, content) for role, content in turns))


TALKS = [talk(number) for number in range(6)]


def written(folder):
    """Pairs in a file of messages, as people bring them: 24, four of a conversation."""
    rows = []
    for number, prompt in enumerate(TALKS * 4):
        turns = [vars(message) for message in prompt.messages]
        chosen = [{"role": "assistant", "content": "a" * (1 + number // 6)}]
        rejected = [{"role": "assistant", "content": "z" * (1 + number // 6)}]
        rows.append({"prompt": turns, "chosen": chosen, "rejected": rejected})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def game(pairs, loop, attacker):
    tokenizer = tiny_tokenizer(chat=True)
    members = [
        LanguageReward(tiny_causal_lm(seed, context=256), tokenizer, pooling="mean", seed=seed)
        for seed in (1, 2)
    ]
    policy = CausalLMPolicy(tiny_causal_lm(context=256), tokenizer, max_new_tokens=4)
    return AdvRMRounds(
        policy,
        members,
        Preferences(pairs, held_out=4),
        attack=AttackAndMine(attacker, Mining(z=0.0), references=3, stop_below=0),
        post_train=PostTrain(partial(loop, optimizer=ADAM), TRAINER, candidates=2),
        fit=FitReward(partial(AdvRM, optimizer=ADAM), TRAINER),
        evaluation=Evaluation(6, {"length": Function(lengths)}),
        rounds=1,
    )


def lengths(samples: Samples) -> torch.Tensor:
    return torch.tensor([float(len(text)) for text in samples.outputs])


@pytest.mark.parametrize(
    ("loop", "attacker"),
    [
        (DPO, BestOfN(n=4)),
        (SFT, BestOfN(n=4)),
        (PPO, RLAttacker(partial(PPO, optimizer=ADAM, kl_weight=0.0), TRAINER, batch_size=2)),
    ],
)
def test_rounds_of_conversations_end_to_end(tmp_path, loop, attacker):
    pairs = written(tmp_path)
    run = RunFolder.open(tmp_path / "run", {"seed": 0})
    game(pairs, loop, attacker).run(run)
    results = json.loads((run.path / "results.json").read_text())
    assert set(results["rounds"]) == {"0", "1", "2"}
    assert results["rounds"]["2"]["adversarial_pairs"] > 0
    for folder in run.stages.glob("*-????????"):
        for samples in folder.glob("samples"):
            assert set(load_samples(samples).prompts) <= set(TALKS)
        for half in folder.glob("pairs/*"):
            assert set(load_samples(half).prompts) <= set(TALKS)
    page = write_report([run.path]).read_text()
    assert "Be &lt;i&gt;brief&lt;/i&gt;." in page
    assert "Message(" not in page
    del run
    names = {path.name for path in (tmp_path / "run" / "stages").glob("*-????????")}
    game(pairs, loop, attacker).run(RunFolder.open(tmp_path / "run", {"seed": 0}, resume=True))
    again = {path.name for path in (tmp_path / "run" / "stages").glob("*-????????")}
    assert again == names, "a conversation names the same stages when the run goes on"
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results


def test_rewards_and_policy_see_the_template_in_rounds(tmp_path):
    """Tokens of a pair's row and of a drawn one are those of apply_chat_template."""
    play = game(written(tmp_path), DPO, BestOfN(n=4))
    tokenizer = play.policy.tokenizer
    train = play.preferences.split("train")
    assert isinstance(train, PreferencePairs)
    for half in (train.chosen, train.rejected):
        for prompt, response in zip(half.prompts, half.outputs, strict=True):
            turns = [vars(message) for message in prompt.messages]
            asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            assert play.policy.texts.prompt_ids([prompt])[0] == tokenizer(asked).input_ids
            turns.append({"role": "assistant", "content": response})
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            counts = play.members[0].token_counts(Samples([prompt], [response]))
            assert counts.rows == [len(tokenizer(text).input_ids) + 1]
