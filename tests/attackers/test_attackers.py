import os
import signal
from copy import copy
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from rewardlab.attackers import BestOfN, Guided, HighTemperature, RandomEdits, RLAttacker
from rewardlab.attackers.edits import edited_image, edited_text
from rewardlab.attackers.rl import fresh_copy
from rewardlab.attackers.sampling import with_temperature
from rewardlab.errors import InputError
from rewardlab.mining import adversarial_pairs, candidates
from rewardlab.policies import DiffusionPolicy, Policy
from rewardlab.policies.abilities import Continues, Tempered
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Function, VisionReward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.pessimism import Member
from rewardlab.rewards.relative import Relative
from rewardlab.rewards.scoring import member_scores
from rewardlab.seeds import generators, row_seeds, uniform
from rewardlab.testing import PolicyConformance, tiny_diffusion, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.ppo import PPO
from rewardlab.types import Samples, Trajectory

PROMPTS = [f"p{i}" for i in range(8)]
STEPS = 6
TRAINER = partial(Trainer, accelerator="cpu", enable_progress_bar=False)


def plain(text):
    return text.replace(" ", "")


class Letters(Policy, Continues, Tempered):
    """Up to 6 letters with blanks between, each drawn from one categorical distribution; "." ends a
    text.
    """

    alphabet = "abcz."

    def __init__(self, temperature=1.0):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.35, 0.3, 0.25, 0.02, 0.08]).log())
        self.temperature = temperature

    def with_temperature(self, temperature):
        other = copy(self)
        other.temperature = temperature
        return other

    def _drawn(self, outputs, tokens, seeds):
        noise = uniform((tokens, 5), generators(seeds)).double().clamp_min(1e-12)
        picks = (
            (self.logits.detach() / self.temperature - noise.log().neg().log()).argmax(2).tolist()
        )
        whole = [
            plain(text) + "".join(self.alphabet[i] for i in row)
            for text, row in zip(outputs, picks, strict=True)
        ]
        return [text[: text.index(".") + 1] if "." in text else text[:STEPS] for text in whole]

    def _trajectory(self, prompts, texts, facts):
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(STEPS) < lengths[:, None]
        tokens = torch.tensor(
            [[self.alphabet.index(letter) for letter in text.ljust(STEPS, ".")] for text in texts]
        )
        finished = torch.tensor([text.endswith(".") for text in texts])
        return Trajectory(
            prompts, {"tokens": tokens}, mask, {**facts, "finished": finished, "length": lengths}
        )

    def sample(self, prompts, *, seeds):
        return self._trajectory(
            prompts, self._drawn([""] * len(prompts), STEPS, seeds), {"seed": seeds}
        )

    def encode(self, samples, *, seeds):
        return self._trajectory(
            samples.prompts, [f"{plain(text)}."[:STEPS] for text in samples.outputs], samples.facts
        )

    def decode(self, trajectory):
        rows = zip(
            trajectory.tensors["tokens"].tolist(), trajectory.mask.sum(1).tolist(), strict=True
        )
        texts = [
            " ".join(self.alphabet[i] for i in row[:length]).rstrip(". ") for row, length in rows
        ]
        return Samples(trajectory.prompts, texts, trajectory.facts)

    def log_prob(self, trajectory):
        return (self.logits / self.temperature).log_softmax(0)[trajectory.tensors["tokens"]]

    def extend(self, samples, tokens, *, seeds):
        assert not samples.facts["finished"].any()
        return self.decode(
            self._trajectory(
                samples.prompts, self._drawn(samples.outputs, tokens, seeds), samples.facts
            )
        )

    def save_pretrained(self, folder):
        folder.mkdir()
        torch.save(self.state_dict(), folder / "weights")

    @classmethod
    def from_pretrained(cls, folder):
        policy = cls()
        policy.load_state_dict(torch.load(folder / "weights"))
        return policy


class TestLetters(PolicyConformance):
    def make(self):
        return Letters()


class Count(torch.nn.Module):
    """How often letters stand in a text, each times a weight."""

    def __init__(self, **weights):
        super().__init__()
        self.weights = torch.nn.ParameterDict(
            {name: torch.tensor(float(value)) for name, value in weights.items()}
        )

    def forward(self, samples):
        return torch.tensor(
            [
                sum(w.item() * text.count(name) for name, w in self.weights.items())
                for text in samples.outputs
            ]
        )


def count(**weights):
    return Function(Count(**weights))


def world(**options):
    """The target likes "z" beside "a", the witness sees through "z"."""
    references = candidates(Letters(), PROMPTS, 8, seed=100)
    target, witness = (Relative(count(a=1, z=z), references) for z in (1.5, -1.5))
    return Attack(target, witness, **options), references


ATTACKERS = {
    "best_of_n": BestOfN(n=16),
    "high_temperature": HighTemperature(temperature=3.0, n=16),
    "guided": Guided(candidates=8, tokens=2, segments=3),
    "random_edits": RandomEdits(rate=0.5, n=16),
    "rl": RLAttacker(
        partial(
            PPO, samples_per_prompt=8, kl_weight=0.0, optimizer=partial(torch.optim.Adam, lr=0.3)
        ),
        partial(TRAINER, max_steps=25),
        batch_size=8,
        collect="fresh",
        per_prompt=2,
    ),
}


@pytest.mark.parametrize("name", ATTACKERS)
def test_every_attacker_raises_the_attack_reward_and_changes_nothing(name):
    attack, references = world()
    policy = Letters()
    prints = [fingerprint(thing) for thing in (policy, attack.target, attack.witness, attack)]
    state = torch.get_rng_state()
    found = ATTACKERS[name](policy, attack, PROMPTS, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert [
        fingerprint(thing) for thing in (policy, attack.target, attack.witness, attack)
    ] == prints
    assert attack(found).mean() > attack(references).mean() + 2
    assert set(found.prompts) == set(PROMPTS)
    torch.testing.assert_close(found.facts["attack"], attack(found))
    torch.testing.assert_close(found.facts["target"], attack.target(found))
    torch.testing.assert_close(found.facts["witness"], attack.witness(found))
    again = ATTACKERS[name](policy, attack, PROMPTS, 7)
    assert again.outputs == found.outputs
    assert ATTACKERS[name](policy, attack, PROMPTS, 8).outputs != found.outputs


def test_the_trained_adversary_finds_what_both_halves_of_the_attack_ask_for():
    """Below the gate the penalty rules, so it first learns "a"; from there "z" is worth 3 and "a"
    nothing.
    """
    attack, references = world()
    policy = Letters()
    before, after = attack(references), ATTACKERS["rl"](policy, attack, PROMPTS, 0)
    assert (
        (attack.target(after) > 0).float().mean()
        > 0.9
        > (attack.target(references) > 0).float().mean()
    )
    assert attack(after).mean() > before.mean() + 12
    assert sum(text.count("z") for text in after.outputs) > 4 * len(after)


def test_logged_samples_are_all_that_was_scored_and_make_pairs():
    attack, references = world()
    attacker = RLAttacker(ATTACKERS["rl"].loop, partial(TRAINER, max_steps=25), batch_size=8)
    found = attacker(Letters(), attack, PROMPTS, 0)
    assert len(found) == 25 * 8 * 8
    assert found.facts["step"].unique().tolist() == list(range(25))
    assert {"seed", "length", "finished", "attack", "target", "witness"} <= set(found.facts)
    scores = [member_scores(reward, references)[:, 0] for reward in (attack.target, attack.witness)]
    gold = count(a=1)
    judge = tuple(gold(samples) for samples in (found, references))
    facts = (found.facts["target"], found.facts["witness"])
    pairs, funnel = adversarial_pairs(
        found, *facts, references, *scores, chosen="best", judge_scores=judge
    )
    assert len(pairs) == 8
    assert all("z" in text for text in pairs.rejected.outputs)
    assert funnel.precision["kept"] > 0.9 > 0.8 > funnel.precision["generated"]


def test_a_limit_keeps_the_latest():
    attack, _ = world()
    whole, part = (
        RLAttacker(ATTACKERS["rl"].loop, partial(TRAINER, max_steps=4), batch_size=8, limit=limit)(
            Letters(), attack, PROMPTS, 0
        )
        for limit in (None, 100)
    )
    assert len(part) == 100
    assert part.outputs == whole.outputs[-100:]


def test_a_killed_attack_goes_on_from_its_checkpoint(tmp_path):
    attack, _ = world()

    def run(folder, steps):
        attacker = RLAttacker(
            ATTACKERS["rl"].loop,
            partial(TRAINER, max_steps=steps),
            4,
            folder=folder,
            checkpoint_every=1,
        )
        return attacker(Letters(), attack, PROMPTS, 0)

    whole = run(tmp_path / "whole", 4)
    part = run(tmp_path / "part", 3)
    assert len(part) < len(whole)
    resumed = run(tmp_path / "part", 4)
    assert resumed.outputs == whole.outputs
    for name, column in whole.facts.items():
        assert torch.equal(resumed.facts[name], column)


def test_ctrl_c_in_an_attack_keeps_the_step(tmp_path, monkeypatch):
    attack, _ = world()

    def run(folder):
        return RLAttacker(ATTACKERS["rl"].loop, partial(TRAINER, max_steps=4), 4, folder=folder)(
            Letters(), attack, PROMPTS, 0
        )

    whole, step, calls = run(tmp_path / "whole"), PPO.training_step, []

    def pressed(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "training_step", pressed)
        with pytest.raises(SystemExit):
            run(tmp_path / "part")
    assert len(calls) == 2
    assert run(tmp_path / "part").outputs == whole.outputs


@pytest.mark.parametrize("kept", [False, True])
def test_the_trainers_own_callbacks_stay(tmp_path, kept):
    attack, _ = world()
    seen = []

    class Probe(Callback):
        def on_train_batch_end(self, *_):
            seen.append(1)

    trainer = partial(TRAINER, max_steps=2, callbacks=[Probe()])
    attacker = RLAttacker(
        ATTACKERS["rl"].loop,
        trainer,
        4,
        folder=tmp_path if kept else None,
        until=lambda found: False,
    )
    attacker(Letters(), attack, PROMPTS, 0)
    assert len(seen) == 2


def test_an_adversary_that_found_enough_stops_also_after_a_kill(tmp_path):
    attack, _ = world()
    asked = []

    def run(folder, steps, enough=0):
        def until(found):
            asked.append(len(found))
            return len(found) >= enough

        trainer = partial(TRAINER, max_steps=steps)
        options = {
            "folder": folder,
            "checkpoint_every": 1,
            "until": until if enough else None,
            "ask_every": 2,
        }
        return RLAttacker(ATTACKERS["rl"].loop, trainer, 4, **options)(
            Letters(), attack, PROMPTS, 0
        )

    whole = run(None, 12)
    step = len(whole) // 12
    stopped = run(tmp_path / "once", 12, enough=5 * step)
    assert asked == [2 * step, 4 * step, 6 * step]
    assert stopped.outputs == whole.outputs[: 6 * step]
    assert run(None, 12, enough=5 * step).outputs == stopped.outputs
    run(tmp_path / "killed", 3, enough=5 * step)
    assert run(tmp_path / "killed", 12, enough=5 * step).outputs == stopped.outputs


class Idle(LightningModule):
    """A loop that does not use its reward."""

    def __init__(self, policy, reward, seed=0):
        super().__init__()
        self.policy = policy

    def training_step(self, batch, batch_idx):
        return self.policy.log_prob(self.policy.sample(batch.prompts, seeds=batch.rows)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.policy.parameters(), lr=0.0)


def test_a_loop_that_scores_nothing_and_a_frozen_policy_are_refused():
    attack, _ = world()
    with pytest.raises(InputError, match="scored nothing"):
        RLAttacker(Idle, partial(TRAINER, max_epochs=1))(Letters(), attack, PROMPTS, 0)
    with pytest.raises(InputError, match="nothing to train"):
        fresh_copy(Letters().reference())


def test_an_adversary_and_its_target_share_a_frozen_backbone_and_the_target_stays():
    network, tokenizer = tiny_causal_lm(), tiny_tokenizer()
    members = LanguageReward(network, tokenizer, heads=2, frozen=True)
    policy = CausalLMPolicy(network, tokenizer, max_new_tokens=4, lora_rank=2)
    own = {id(weight) for weight in members.parameters() if not weight.requires_grad}
    adversary = fresh_copy(policy)
    assert own
    assert own <= {id(weight) for weight in adversary.parameters()}
    references = candidates(policy, PROMPTS[:4], 4, seed=1)
    relative = Relative(members, references)
    attack = Attack(
        Member(relative, 0),
        Member(relative, 1),
        threshold=0.0,
        max_length=4,
        unfinished_penalty=5.0,
    )
    scores = attack(references)
    prints = [fingerprint(thing) for thing in (members, policy)]
    loop = partial(PPO, kl_weight=0.0, optimizer=partial(torch.optim.Adam, lr=0.05))
    found = RLAttacker(loop, partial(TRAINER, max_steps=3), batch_size=4)(
        policy, attack, PROMPTS[:4], 0
    )
    assert [fingerprint(thing) for thing in (members, policy)] == prints
    torch.testing.assert_close(attack(references), scores, atol=0, rtol=0)
    assert len(found) == 3 * 4 * 4


def test_the_same_attackers_serve_images():
    policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
    members = VisionReward(tiny_tower(), heads=2, width=8)
    references = candidates(policy, [""] * 4, 4, seed=1)
    relative = Relative(members, references)
    attack = Attack(Member(relative, 0), Member(relative, 1), threshold=0.0)
    prints = [fingerprint(thing) for thing in (members, policy)]
    rl = RLAttacker(
        partial(PPO, clip=1e-4, kl_weight=0.0),
        partial(TRAINER, max_steps=2),
        batch_size=2,
        limit=10,
    )
    for attacker in (BestOfN(4), RandomEdits(0.3, n=2), rl):
        found = attacker(policy, attack, [""] * 4, 0)
        assert isinstance(found.outputs, torch.Tensor)
        assert {"attack", "target", "witness"} <= set(found.facts)
    assert len(found) == 10
    assert [fingerprint(thing) for thing in (members, policy)] == prints
    for attacker in (HighTemperature(), Guided()):
        with pytest.raises(InputError, match="DiffusionPolicy"):
            attacker(policy, attack, [""], 0)


def test_best_of_n_keeps_the_highest_first():
    attack, _ = world()
    everything = BestOfN(6, keep=None)(Letters(), attack, PROMPTS, 3)
    kept = BestOfN(6, keep=2)(Letters(), attack, PROMPTS, 3)
    by_hand = everything.facts["attack"].view(8, 6).sort(1, descending=True).values[:, :2]
    torch.testing.assert_close(kept.facts["attack"].view(8, 2), by_hand)
    assert len(everything) == 48


def test_a_temperature_is_another_view_of_the_same_weights():
    policy = Letters()
    hot = with_temperature(policy, 5.0)
    assert policy.temperature == 1.0
    assert hot.logits is policy.logits
    drawn = [
        policy.generate(["p"] * 300, seeds=row_seeds(0, 300)).outputs for policy in (policy, hot)
    ]
    cool, warm = (sum(text.count("z") for text in texts) for texts in drawn)
    assert warm > 3 * cool
    with pytest.raises(InputError, match="above 0"):
        with_temperature(policy, 0.0)


def test_guided_decoding_in_pieces_goes_beyond_the_best_of_as_many_whole_texts():
    reward = count(a=1)
    whole = Guided(candidates=8, tokens=STEPS, segments=1)(Letters(), reward, PROMPTS, 0)
    pieces = Guided(candidates=8, tokens=1, segments=STEPS)(Letters(), reward, PROMPTS, 0)
    assert whole.facts["attack"].mean() + 1 < pieces.facts["attack"].mean()
    lengths = [
        len(plain(text)) + done
        for text, done in zip(pieces.outputs, pieces.facts["finished"].tolist(), strict=True)
    ]
    assert pieces.facts["length"].tolist() == lengths


def test_guided_judges_beginnings_as_if_they_ended_and_whole_texts_as_they_are():
    attack = Attack(count(a=1), count(a=-1), threshold=0.0, unfinished_penalty=50.0)
    found = Guided(candidates=8, tokens=2, segments=2)(Letters(), attack, PROMPTS, 0)
    assert count(a=1)(found).mean() > 3
    finished = found.facts["finished"]
    assert not finished.all()
    assert (found.facts["attack"][~finished] == -50).all()


def test_edits_of_words():
    text = " ".join(f"w{i}" for i in range(1000))
    for kind, expected in (("drop", 900), ("duplicate", 1100), ("swap", 1000)):
        words = edited_text(text, 0.1, [kind], torch.Generator().manual_seed(0)).split(" ")
        assert abs(len(words) - expected) < 40
        assert set(words) <= set(text.split(" "))
    assert edited_text("a\nb  c ", 0.0, ["drop"], torch.Generator()) == "a\nb  c "
    assert edited_text("", 1.0, ["swap"], torch.Generator()) == ""


def test_edits_of_images_and_videos():
    video = torch.full((2, 3, 8, 8), 0.5)
    noisy = edited_image(video, 0.05, ["noise"], torch.Generator().manual_seed(0))
    assert abs((noisy - video).std().item() - 0.05) < 0.01
    patched = edited_image(video, 0.25, ["patch"], torch.Generator().manual_seed(0)) != video
    assert int(patched.sum()) == 2 * 3 * 16
    assert torch.equal(edited_image(video, 0.0, ["patch"], torch.Generator()), video)
    assert (video == 0.5).all()


def test_edits_are_each_rows_own_and_lengths_are_measured_anew():
    samples = Samples(["p"] * 3, ["a b", "c d", "e f"])
    assert (
        RandomEdits(0.7).edit(samples, 1).outputs[:2]
        == RandomEdits(0.7).edit(samples[:2], 1).outputs
    )
    attack, _ = world()
    found = RandomEdits(1.0, ["drop"])(Letters(), attack, PROMPTS, 0)
    assert found.outputs == [""] * 8
    assert found.facts["length"].tolist() == [1] * 8


def test_settings_that_make_no_sense_are_refused():
    for make in (BestOfN, HighTemperature, RandomEdits):
        with pytest.raises(InputError, match="n=2 and keep=3"):
            make(n=2, keep=3)
    with pytest.raises(InputError, match="rate from 0 to 1"):
        RandomEdits(1.5)
    with pytest.raises(InputError, match="at least 1"):
        Guided(tokens=0)
    for kinds in (["noise"], []):
        with pytest.raises(InputError, match="drop, duplicate, swap"):
            RandomEdits(0.5, kinds).edit(Samples(["p"], ["a"]), 0)


def test_guided_decoding_extends_a_language_model():
    """Of eight bytes about 20 % are letters; the best of four at each of four turns has more of
    them on average.
    """
    policy, prompts = (
        CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=8),
        list("abcdefgh"),
    )
    letters = Function(
        lambda samples: torch.tensor(
            [float(sum(map(str.isalpha, text))) for text in samples.outputs]
        )
    )
    found = Guided(candidates=4, tokens=2, segments=4)(policy, letters, prompts, 0)
    assert len(found) == 8
    assert (
        letters(found).mean()
        > letters(policy.generate(prompts, seeds=row_seeds(0, 8))).mean() + 0.5
    )
