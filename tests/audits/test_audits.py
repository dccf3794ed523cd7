"""Audits as objects: from code and from YAML they give what the command line gives."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser

from rewardlab import cli
from rewardlab.attackers import BestOfN, RandomEdits, RLAttacker
from rewardlab.audits import AttackAudit, CurveAudit, make_attacker
from rewardlab.audits.attackers import ATTACKERS, IMAGE_PPO, TEXT_PPO
from rewardlab.audits.inputs import distinct_prompts, identity_of
from rewardlab.audits.outliers import outlier_figures
from rewardlab.commands.curve import write_page
from rewardlab.embedded.tiny_worlds import (
    PROMPTS,
    image_policy,
    text_policy,
    text_reward,
)
from rewardlab.errors import InputError
from rewardlab.policies.base import CallableGenerator
from rewardlab.rewards import (
    Brightness,
    Ensemble,
    FrozenFeatures,
    Length,
    Repetition,
    Reward,
    Weighted,
)
from rewardlab.runs.folder import RunFolder
from rewardlab.seeds import generators, normal
from rewardlab.types import Samples

WORLD = "rewardlab.embedded.tiny_worlds"
POLICY = f"{{class_path: {WORLD}.text_policy, init_args: {{train_steps: 2}}}}"
ATTACK = f"""
audit:
  class_path: rewardlab.audits.AttackAudit
  init_args:
    policy: {POLICY}
    reward: {{class_path: {WORLD}.text_reward, init_args: {{seed: 0}}}}
    witness: {{class_path: {WORLD}.text_reward, init_args: {{seed: 1}}}}
    judge: {{class_path: {WORLD}.text_reward, init_args: {{seed: 2}}}}
    prompts: [one, two, three, four]
    attacker: {{class_path: rewardlab.attackers.RandomEdits, init_args: {{n: 4}}}}
    references: 4
    n: 4
    seed: 3
"""
CURVE = f"""
audit:
  class_path: rewardlab.audits.CurveAudit
  init_args:
    policy: {POLICY}
    proxy: {{class_path: {WORLD}.text_reward, init_args: {{seed: 0}}}}
    gold: {{class_path: {WORLD}.text_reward, init_args: {{seed: 1}}}}
    prompts: [one, two, three, four]
    n_max: 4
    seed: 3
"""


def from_yaml(text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((AttackAudit, CurveAudit), "audit")
    return parser.instantiate(parser.parse_string(text)).audit


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The models of the YAML texts in folders, as the command line takes them."""
    text_policy(train_steps=2).save_pretrained(tmp_path / "policy")
    for seed in range(3):
        text_reward(seed=seed).save_pretrained(tmp_path / f"reward-{seed}")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(run):
    """The exploits of a run without their provenance, which names folders or weights."""
    rows = [json.loads(line) for line in (run / "exploits.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "provenance"} for row in rows]


def test_an_attack_from_yaml_gives_the_figures_of_the_command(place):
    audit = from_yaml(ATTACK)
    assert isinstance(audit, AttackAudit)
    result = audit.run(RunFolder.open(place / "object", {"seed": 3}))
    argv = ["attack", "--policy", "policy", "--prompts", "prompts.txt", "--seed", "3"]
    argv += ["--reward", "reward-0", "--witness", "reward-1", "--judge", "reward-2"]
    argv += ["--attacker", "random_edits", "--n", "4", "--references", "4", "--out", "command"]
    assert cli.main(argv) == 0
    figures = json.loads((place / "command" / "results.json").read_text())
    assert json.loads((place / "object" / "results.json").read_text()) == figures
    assert result.figures["verdict"] == figures["verdict"]
    assert result.exploits
    assert rows_of(place / "object") == rows_of(place / "command")
    inputs = json.loads((place / "object" / "run.json").read_text())["inputs"]
    assert result.exploits[0]["provenance"]["reward"] == inputs["reward"]


def test_a_curve_from_yaml_gives_the_figures_of_the_command(place):
    audit = from_yaml(CURVE)
    assert isinstance(audit, CurveAudit)
    audit.run(RunFolder.open(place / "object", {"seed": 3}))
    argv = ["curve", "--policy", "policy", "--prompts", "prompts.txt", "--seed", "3"]
    argv += ["--proxy", "reward-0", "--gold", "reward-1", "--n-max", "4", "--out", "command"]
    assert cli.main(argv) == 0
    for name in ("results.json", "curve.csv"):
        assert (place / "object" / name).read_text() == (place / "command" / name).read_text()


def attack(temperature=1.0, **options):
    policy = text_policy(train_steps=1).with_temperature(temperature)
    options = {"references": 3, "n": 2, **options}
    return AttackAudit(policy, text_reward(seed=0), text_reward(seed=1), PROMPTS, **options)


def test_stages_are_made_once_and_depend_on_what_was_audited(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {"seed": 0})
    first = attack().run(folder)
    stages = sorted(path.name for path in folder.stages.glob("attack-*"))
    made = {path: path.stat().st_mtime_ns for path in folder.stages.rglob("*.json*")}
    again = attack().run(folder)
    assert again.figures == first.figures
    assert made == {path: path.stat().st_mtime_ns for path in made}
    for other in (attack(temperature=2.0), attack(seed=1), attack(attacker=RandomEdits())):
        other.run(folder)
        more = sorted(path.name for path in folder.stages.glob("attack-*"))
        assert len(more) == len(stages) + 1
        stages = more


def test_an_identity_takes_the_place_of_weights(tmp_path):
    """As the command does: folders are named by their files, and further names add to the keys."""
    names = dict.fromkeys(("policy", "reward", "witness", "judge", "attacker"), "named")
    result = attack(identity=names).run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    assert result.made_by == {**names, "seed": 0}
    lengths = {**names, "max_length": 4}
    attack(identity=lengths).run(RunFolder.open(tmp_path / "run", {"seed": 0}, resume=True))
    assert len(list((tmp_path / "run" / "stages").glob("references-*"))) == 2


def test_what_names_a_part_are_its_weights_and_settings():
    policy = text_policy(train_steps=1)
    name = identity_of(policy)
    assert name["settings"][""]["temperature"] == 1.0
    assert identity_of(policy.train()) == name
    policy.micro_batch = 2
    assert identity_of(policy) == name
    assert identity_of(policy.with_temperature(2.0)) != name
    assert identity_of(text_policy(train_steps=2)) != name
    assert identity_of(Repetition(1)) != identity_of(Repetition(2))
    assert identity_of(None) is None


def test_any_generator_can_be_attacked(tmp_path):
    def texts(prompts, seeds):
        counts = (seeds % 7).tolist()
        return ["of " * (1 + count) + text for text, count in zip(prompts, counts, strict=True)]

    audit = AttackAudit(CallableGenerator(texts), Length(), Repetition(1), PROMPTS, n=4)
    result = audit.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    assert result.figures["prompts"] == len(PROMPTS)


def test_attackers_have_the_names_of_the_command_and_suit_the_policy():
    texts = text_policy(train_steps=1)
    images = image_policy(train_steps=1)
    for name in ATTACKERS:
        assert callable(make_attacker(name, texts, n=3, accelerator="cpu"))
    assert make_attacker("best_of_n", texts, n=3) == BestOfN(3)
    for policy, settings in ((texts, TEXT_PPO), (images, IMAGE_PPO)):
        attacker = make_attacker("rl", policy, n=3, steps=7, lr=0.1, accelerator="cpu")
        assert isinstance(attacker, RLAttacker)
        assert (attacker.per_prompt, attacker.collect) == (3, "fresh")
        loop = attacker.loop(policy, Length())
        assert (loop.clip, loop.kl_weight) == settings
        assert attacker.trainer().max_steps == 7
    with pytest.raises(InputError, match="no attacker 'luck'"):
        make_attacker("luck", texts)


def test_an_adversary_that_trains_keeps_its_checkpoints_in_the_run(tmp_path):
    """It is a floor of fresh samples that counts, since the adversary's outputs are not chosen."""
    policy = text_policy(train_steps=1)
    attacker = make_attacker("rl", policy, n=2, steps=1, accelerator="cpu")
    rewards = (text_reward(seed=0), text_reward(seed=1))
    audit = AttackAudit(policy, *rewards, PROMPTS, attacker=attacker, references=2, n=2)
    result = audit.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    assert "for fresh samples it is" in result.figures["verdict"]["sentence"]
    assert attacker.folder is None
    assert (tmp_path / "run" / ".scratch").is_dir()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(attack, references=1), "at least 2 references and 1 fresh sample .* got ref"),
        (partial(attack, n=0), "references=3 and n=0"),
        (lambda: AttackAudit(text_policy(1), *[Length()] * 2, PROMPTS), "are one object"),
        (lambda: AttackAudit(text_policy(1), Length(), Repetition(), []), "from prompts and got"),
        (lambda: CurveAudit(text_policy(1), Length(), Repetition(), ["a"], n_max=3), "n_max=3 and"),
        (
            lambda: CurveAudit(text_policy(1), Length(), Repetition(), ["a"], samples=5),
            "n_max=64 and samples=5",
        ),
    ],
)
def test_what_makes_no_audit_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_prompts_count_once(tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\na\n")
    assert distinct_prompts(tmp_path / "prompts.txt") == ["a", "b"]
    assert distinct_prompts(["b", "a", "b"]) == ["b", "a"]


def test_a_reward_without_a_scale_is_named(tmp_path):
    policy = CallableGenerator(lambda prompts, seeds: [f"{seed} a" for seed in seeds.tolist()])
    audit = CurveAudit(policy, text_reward(), Length(), PROMPTS, n_max=4)
    with pytest.raises(InputError, match="--gold: The references of each prompt score alike"):
        audit.run(RunFolder.open(tmp_path / "run", {"seed": 0}))


def test_images_are_named_from_the_run_also_where_stages_are_shared(tmp_path):
    dark = Weighted([Brightness()], [-1.0])
    options = {"judge": dark, "references": 3, "n": 4}
    audit = AttackAudit(image_policy(train_steps=1), Brightness(), dark, PROMPTS, **options)
    folder = RunFolder.open(tmp_path / "run", {"seed": 0}, stages_root=tmp_path / "stages")
    exploits = audit.run(folder).exploits
    assert exploits
    assert all((tmp_path / "run" / row["output"]).is_file() for row in exploits)


def test_weights_are_not_changed(tmp_path):
    audit = attack()
    before = [tensor.clone() for tensor in audit.policy.state_dict().values()]
    audit.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    after = audit.policy.state_dict().values()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_curve_says_how_large_an_n_to_take(tmp_path):
    """By gold, with an interval; and by members, where the proxy has several."""
    policy = text_policy(train_steps=1)
    members = Ensemble([Length(), text_reward()])
    for name, proxy in (("one", Length()), ("several", members)):
        folder = RunFolder.open(tmp_path / name, {"seed": 0})
        audit = CurveAudit(policy, proxy, Length(), PROMPTS, n_max=8, samples=20)
        result = audit.run(folder)
        figures = result.figures["n"]
        assert figures["chosen"]["n"] == 8 or name == "several"
        assert figures["chosen"]["low"] <= figures["chosen"]["n"] <= figures["chosen"]["high"]
        assert ("familiar" in figures) == (name == "several")
        poisson = result.figures["poisson"]
        assert [row["n"] for row in poisson["curve"]] == [1, 2, 4, 8]
        assert poisson["chosen"]["n"] == 8 or name == "several"
        write_page(folder, result)
        page = (tmp_path / name / "curve.html").read_text()
        assert "How large an n" in page
        assert "of best of Poisson, at a mean of" in page
        assert ("members agree" in page) == (name == "several")


class Far(Reward, FrozenFeatures):
    """The brightness of an output: the farther from grey, the higher, in one feature."""

    def features(self, samples):
        return samples.outputs.flatten(1)

    def forward(self, samples):
        return (self.features(samples) - 0.5).square().sum(1)


def drawn(prompts, seeds):
    noise = normal((1, 2, 2), generators(seeds))
    return (0.5 + 0.1 * noise).clamp(0, 1)


def test_outliers_are_counted_by_prompt_at_a_level_that_the_references_allow():
    """What lies far out is told without a reward that judges, and of fresh samples 1 % or so."""
    noise = torch.randn(900, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    references = Samples([""] * 400, noise[:400])
    sides = {"fresh": Samples(["a", "b"] * 200, noise[400:800])}
    sides["attack"] = Samples(["a", "b", "b", "b"], noise[800:804] + torch.tensor(5.0))
    found = outlier_figures(Far(), references, sides, seed=0)
    assert (found["level"], found["references"]) == (0.01, 400)
    assert found["fresh"]["value"] < 0.04
    assert (found["attack"]["value"], found["attack"]["count"]) == (1.0, 2), "units are prompts"
    for count in (40, 49, 98, 170):
        few = outlier_figures(Far(), references[:count], sides, seed=0)
        assert few["level"] == pytest.approx(1 / (1 + round(count / 2)))
        assert few["attack"]["value"] == 1.0


def test_a_proxy_of_one_member_says_how_large_an_n_by_its_features(tmp_path):
    """Of a proxy that likes what lies far out in its features, the best of n soon does so."""
    audit = CurveAudit(CallableGenerator(drawn), Far(), Brightness(), PROMPTS, n_max=8, samples=64)
    folder = RunFolder.open(tmp_path / "run", {"seed": 0})
    result = audit.run(folder)
    familiar = result.figures["n"]["familiar"]
    assert familiar["by"] == "features"
    assert familiar["leaves"] <= 8
    assert familiar["shares"]["8"] > 0.2
    write_page(folder, result)
    assert "in the proxy&#x27;s features" in (tmp_path / "run" / "curve.html").read_text()
