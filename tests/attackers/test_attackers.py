"""Attackers raise the attack reward, change nothing, and take whatever can draw."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.attackers import BestOfN, Guided, HighTemperature, RandomEdits, RLAttacker
from rewardlab.attackers.base import TrainedAttacker
from rewardlab.attackers.edits import edited_image, edited_text
from rewardlab.attackers.sampling import with_temperature
from rewardlab.errors import InputError
from rewardlab.mining import BestOf, candidates
from rewardlab.policies import CallableGenerator, DiffusionPolicy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Function, VisionReward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.member import Member
from rewardlab.rewards.relative import Relative
from rewardlab.seeds import row_seeds
from rewardlab.testing import PolicyConformance, tiny_diffusion, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.ppo import PPO
from rewardlab.types import Samples

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
PROMPTS = LETTERS.PROMPTS
STEPS = LETTERS.STEPS
TRAINER = LETTERS.TRAINER
count = LETTERS.count
plain = LETTERS.plain
world = LETTERS.world


class TestLetters(PolicyConformance):
    def make(self):
        return Letters()


ATTACKERS = {
    "best_of_n": BestOfN(n=16),
    "high_temperature": HighTemperature(temperature=3.0, n=16),
    "guided": Guided(candidates=8, tokens=2, segments=3),
    "random_edits": RandomEdits(rate=0.5, n=16),
    "rl": RLAttacker(
        LETTERS.LOOP,
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
    parts = (policy, attack.target, attack.witness, attack)
    prints = [fingerprint(part) for part in parts]
    state = torch.get_rng_state()
    found = ATTACKERS[name](policy, attack, PROMPTS, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert [fingerprint(part) for part in parts] == prints
    assert attack(found).mean() > attack(references).mean() + 2
    assert set(found.prompts) == set(PROMPTS)
    torch.testing.assert_close(found.facts["attack"], attack(found))
    torch.testing.assert_close(found.facts["target"], attack.target(found))
    torch.testing.assert_close(found.facts["witness"], attack.witness(found))
    again = ATTACKERS[name](policy, attack, PROMPTS, 7)
    assert again.outputs == found.outputs
    assert ATTACKERS[name](policy, attack, PROMPTS, 8).outputs != found.outputs


def test_attackers_that_only_draw_take_any_generator():
    generator = CallableGenerator(lambda prompts, seeds: [f"{text} a" for text in prompts])
    for attacker in (BestOfN(n=4), RandomEdits(0.5, ["duplicate"], n=4)):
        samples = attacker(generator, count(a=1), PROMPTS, 0)
        assert len(samples) == len(PROMPTS)
        assert (samples.facts["attack"] >= 1).all()


def test_attackers_that_need_more_say_so():
    best = BestOf(Letters(), count(a=1), 2)
    shout = CallableGenerator(lambda prompts, seeds: list(prompts))
    for generator, attacker, message in (
        (best, RandomEdits(0.5), "RandomEdits measures the length .* which a BestOf lacks"),
        (best, Guided(), "`extend`, which a BestOf lacks"),
        (best, HighTemperature(), "a BestOf has none"),
        (best, RLAttacker(PPO), "A BestOf cannot be trained"),
        (shout, RLAttacker(PPO), "this CallableGenerator has nothing to train"),
    ):
        with pytest.raises(InputError, match=message):
            attacker(generator, count(a=1), PROMPTS, 0)


def test_an_attacker_that_trains_says_so():
    assert isinstance(RLAttacker(PPO), TrainedAttacker)
    assert RLAttacker(PPO).folder is RLAttacker(PPO).until is None
    assert not isinstance(BestOfN(), TrainedAttacker)


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
    cool = policy.generate(["p"] * 300, seeds=row_seeds(0, 300)).outputs
    warm = hot.generate(["p"] * 300, seeds=row_seeds(0, 300)).outputs
    assert "".join(warm).count("z") > 3 * "".join(cool).count("z")
    with pytest.raises(InputError, match="above 0"):
        with_temperature(policy, 0.0)


def test_guided_decoding_in_pieces_goes_beyond_the_best_of_as_many_whole_texts():
    reward = count(a=1)
    whole = Guided(candidates=8, tokens=STEPS, segments=1)(Letters(), reward, PROMPTS, 0)
    pieces = Guided(candidates=8, tokens=1, segments=STEPS)(Letters(), reward, PROMPTS, 0)
    assert whole.facts["attack"].mean() + 1 < pieces.facts["attack"].mean()
    letters = torch.tensor([len(plain(text)) for text in pieces.outputs])
    assert torch.equal(pieces.facts["length"], letters + pieces.facts["finished"])


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
    """Of eight bytes about 20 % are letters; the best of four at each turn has more of them."""
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=8)
    prompts = list("abcdefgh")

    def letter_count(samples):
        return torch.tensor([float(sum(map(str.isalpha, text))) for text in samples.outputs])

    found = Guided(candidates=4, tokens=2, segments=4)(policy, Function(letter_count), prompts, 0)
    assert len(found) == 8
    plain_samples = policy.generate(prompts, seeds=row_seeds(0, 8))
    assert letter_count(found).mean() > letter_count(plain_samples).mean() + 0.5
