"""Adv-RM's rounds on tiny language models: what they leave, that they resume, and what they refuse."""

import json
import logging
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Trainer

from rewardlab import (
    PPO,
    AdvRM,
    CausalLMPolicy,
    InputError,
    LanguageReward,
    PreferencePairs,
    Samples,
)
from rewardlab.attackers import BestOfN, RLAttacker
from rewardlab.data import Preferences, load_samples
from rewardlab.evaluation import Evaluation, Readings
from rewardlab.mining import extremes
from rewardlab.provenance import fingerprint
from rewardlab.report import write_report
from rewardlab.rewards import Corrected, Debiased, Function, load_reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.novelty import Novelty
from rewardlab.rewards.relative import Relative
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds import (
    AdvRMRounds,
    AttackAndMine,
    FitReward,
    Mining,
    OnlineHardening,
    PostTrain,
    RunFolder,
    Tether,
)
from rewardlab.rounds.hardening import _best, _mean_in_deviations
from rewardlab.rounds.rehearsal import Planned, _disk, rehearse
from rewardlab.rounds.state import begin
from rewardlab.rounds.tether import tethered
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.training import DPO, SFT, Online

PROMPTS = [f"say {letter}" for letter in "abcdefgh"]
ADAM = partial(torch.optim.Adam, lr=1e-3)
BY_DPO = partial(DPO, optimizer=ADAM)
TRAINER = partial(Trainer, max_epochs=1, accelerator="cpu", enable_progress_bar=False)


def letters(samples: Samples) -> torch.Tensor:
    return torch.tensor(
        [float(sum(character.isalpha() for character in text)) for text in samples.outputs]
    )


def policy(**options) -> CausalLMPolicy:
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6, **options)


def preferences() -> Preferences:
    """Pairs of the policy's own outputs; the one with more letters is preferred."""
    one, other = (policy().generate(PROMPTS * 6, seeds=row_seeds(seed, 48)) for seed in (0, 1))
    better = (letters(one) >= letters(other)).tolist()
    chosen, rejected = (
        [
            (a, b)[first == flip]
            for a, b, first in zip(one.outputs, other.outputs, better, strict=True)
        ]
        for flip in (False, True)
    )
    pairs = PreferencePairs(Samples(one.prompts, chosen), Samples(one.prompts, rejected))
    return Preferences(pairs, held_out=8, batch_size=16)


def game(
    judge=None,
    callbacks=(),
    enough=None,
    stop_below=0.05,
    attacker=None,
    mining=None,
    attacked="first",
    loop=None,
    fitted=AdvRM,
    **options,
) -> AdvRMRounds:
    members = [
        LanguageReward(tiny_causal_lm(seed=seed), tiny_tokenizer(), pooling="mean", seed=seed)
        for seed in (1, 2)
    ]
    attacker = attacker or RLAttacker(
        partial(PPO, optimizer=ADAM, kl_weight=0.0), TRAINER, batch_size=2, ask_every=1
    )
    options = {"members": members, "rounds": 1, "prompts": PROMPTS} | options
    return AdvRMRounds(
        policy(),
        preferences=preferences(),
        attack=AttackAndMine(
            attacker,
            mining or Mining(z=0.5),
            attacked,
            references=3,
            judge=judge,
            enough=enough,
            stop_below=stop_below,
        ),
        post_train=PostTrain(
            loop or partial(PPO, optimizer=ADAM), TRAINER, candidates=2, callbacks=list(callbacks)
        ),
        fit=FitReward(fitted and partial(fitted, optimizer=ADAM), TRAINER),
        evaluation=Evaluation(16, {"letters": Function(letters)}),
        **options,
    )


def run(folder, **options) -> dict:
    play = game(**options)
    play.run(RunFolder.open(folder, {"seed": 0}, resume=True))
    return json.loads((folder / "results.json").read_text())


def test_a_round_fits_attacks_mines_and_post_trains(tmp_path):
    results = run(tmp_path / "run", held_out_prompts=["say y", "say z"])
    attacked, last = results["rounds"]["1"], results["rounds"]["2"]
    counts = attacked["attack"]["funnel"]["counts"]
    assert counts["generated"] >= counts["gated"] >= counts["disagreeing"] >= counts["kept"] > 0
    assert last["adversarial_pairs"] == counts["kept"]
    assert set(attacked["members"]) == {"0", "1"}
    assert 0 <= attacked["attack"]["yield"] <= 1
    assert {"judged", "separation", "post_train"} <= set(last)
    assert (tmp_path / "run" / "policy" / "policy.json").exists()
    assert (tmp_path / "run" / "reward" / "config.json").exists()


def test_a_page_is_written_from_the_folder_of_a_real_run(tmp_path):
    run(tmp_path / "run")
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How the reward sees them" in page
    assert "candidates" not in page, "PPO draws none, so none are missing"


def online(**options) -> OnlineHardening:
    correction = LanguageReward(tiny_causal_lm(seed=3), tiny_tokenizer(), pooling="mean")
    return OnlineHardening(correction, best_of=2, online=Online(rows=8, optimizer=ADAM), **options)


@pytest.mark.parametrize("use", ["target", "ensemble"])
def test_a_correction_learns_while_the_policy_is_trained(tmp_path, use):
    results = run(tmp_path / "run", online=online(), rounds=0, use=use)
    trained = results["rounds"]["1"]["post_train"]
    assert {"online_loss", "online_lead", "online_rows"} <= trained.keys()
    assert trained["online_rows"] == 4 * len(PROMPTS)
    reward = load_reward(tmp_path / "run" / "reward")
    assert isinstance(reward, Corrected)
    assert reward.correction.head.abs().sum() > 0, "it began at 0"
    costs = json.loads((tmp_path / "run" / "timing.json").read_text())["cost"]["generations"]
    assert costs["all"] - costs["plain"] == 2 * len(PROMPTS)
    again = run(tmp_path / "run", online=online(), rounds=0, use=use)
    assert again == results
    samples = Samples(PROMPTS, ["a b"] * len(PROMPTS))
    shutil.rmtree(tmp_path / "run" / "reward")
    assert run(tmp_path / "run", online=online(), rounds=0, use=use) == results
    assert torch.equal(load_reward(tmp_path / "run" / "reward")(samples), reward(samples))


def test_a_correction_comes_on_top_of_rounds_of_attack_and_a_tether(tmp_path):
    frozen = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), pooling="mean", frozen=True)
    results = run(tmp_path / "run", online=online(), tether=Tether(frozen), rounds=1)
    assert "attack" in results["rounds"]["1"]
    assert "online_lead" in results["rounds"]["2"]["post_train"]


def test_the_plan_names_the_scores_of_anchors_that_are_made(tmp_path):
    options = {"online": online(), "use": partial(Debiased, share=1.0), "rounds": 0}
    planned = {name for name in game(**options).plan() if "anchor" in name}
    run(tmp_path / "run", **options)
    made = {path.name[:-9] for path in (tmp_path / "run" / "stages").glob("*anchor*-????????")}
    assert planned == made == {"1-anchors", "1-anchor-scores-0"}


def test_the_anchors_are_the_best_of_each_prompt_by_members_in_their_deviations():
    pool = Samples(["a"] * 2 + ["b"] * 2, ["1", "2", "3", "4"])
    columns = [torch.tensor([0.0, 1.0, 9.0, 8.0]), torch.tensor([300.0, 0.0, 0.0, 100.0])]
    scores = _mean_in_deviations(columns, 2)
    expected = torch.zeros(4)
    for column in columns:
        centered = column.view(2, 2) - column.view(2, 2).mean(1, keepdim=True)
        expected += centered.flatten() / centered.square().mean().sqrt() / 2
    torch.testing.assert_close(scores, expected)
    assert _best(pool, scores, 2).outputs == ["1", "3"]


def test_a_game_without_prompts_or_with_fewer_than_no_rounds_is_refused():
    with pytest.raises(InputError, match="AdvRMRounds samples from prompts and got none"):
        game(prompts=[])
    with pytest.raises(InputError, match="rounds of at least 0; got -1"):
        game(rounds=-1)


def test_the_judge_the_readings_and_the_cost_are_reported(tmp_path):
    readings = Readings({"letters": Function(letters)}, samples=4, every_n_steps=1, window=1)
    results = run(tmp_path / "run", judge="letters", callbacks=[readings])
    precision = results["rounds"]["1"]["attack"]["funnel"]["precision"]
    assert all(0 <= share <= 1 for share in precision.values())
    trained = results["rounds"]["2"]["post_train"]
    assert trained["stability"]["letters"]["window"] == 1
    assert trained["generations"] == 4 * len(PROMPTS)
    timing = json.loads((tmp_path / "run" / "timing.json").read_text())
    costs = timing["cost"]
    assert costs["steps"] == trained["steps"]
    hardening = 3 * len(PROMPTS) + 4 * len(PROMPTS)  # references, and the attack's own outputs
    assert costs["generations"]["all"] == hardening + trained["generations"]
    assert costs["generations"]["plain"] == trained["generations"]
    stages = [path.name for path in (tmp_path / "run" / "stages").iterdir()]
    assert not [name for name in stages if "candidates" in name or "pairs" in name]
    assert costs["seconds"]["ratio"] > 1


def test_an_attack_ends_once_enough_pairs_pass_and_its_scores_are_not_taken_again(tmp_path):
    whole = run(tmp_path / "whole")["rounds"]["1"]["attack"]
    enough = whole["funnel"]["counts"]["per_prompt"] // 2
    results = run(tmp_path / "part", enough=enough)
    part = results["rounds"]["1"]["attack"]["funnel"]["counts"]
    assert part["generated"] < whole["funnel"]["counts"]["generated"]
    assert part["per_prompt"] >= enough
    assert results["rounds"]["2"]["adversarial_pairs"] == part["kept"] > 0

    def unscored(policy, reward, prompts, seed):
        return policy.generate(prompts, seeds=row_seeds(seed, len(prompts)))

    counts = run(tmp_path / "own", attacker=unscored)["rounds"]["1"]["attack"]["funnel"]["counts"]
    assert counts["generated"] == len(PROMPTS), "an attacker that gives no scores is scored"


@pytest.mark.parametrize(("held_out", "attacks"), [([], 2), (["say y", "say z"], 1)])
def test_the_yield_on_held_out_prompts_ends_the_rounds_also_where_enough_was_found(
    tmp_path, held_out, attacks
):
    """No yield reaches 1.5. Without such prompts, an attack that ended early has no yield to be
    judged by.
    """
    results = run(tmp_path / "run", enough=2, stop_below=1.5, held_out_prompts=held_out, rounds=2)
    assert sum("attack" in entry for entry in results["rounds"].values()) == attacks


def test_the_first_outputs_are_drawn_where_the_trainers_will_train(tmp_path, monkeypatch):
    places = []
    play = game(rounds=0)
    monkeypatch.setattr(type(play.policy), "to", lambda self, device: places.append(device))
    with pytest.raises(AttributeError, match="make"):  # of the folder that there is not
        begin(
            SimpleNamespace(record=lambda facts: None, config={}),
            play,
            play.members,
            Samples(["a", "b"], ["c", "d"]),
            [],
        )
    assert places == [torch.device("cpu")]


def test_only_the_members_that_are_used_are_fitted_at_the_end(tmp_path):
    for use, expected in (("target", {"0"}), ("ensemble", {"0", "1"})):
        results = run(tmp_path / use, use=use)["rounds"]
        assert set(results["1"]["members"]) == {"0", "1"}
        assert set(results["2"]["members"]) == expected


def test_novelty_is_taken_off_the_reward_in_its_own_deviations(tmp_path):
    """The policy is trained on (score - mean) / deviation within prompts, less λ deviations of the
    distance.
    """
    features = LanguageReward(tiny_causal_lm(seed=3), tiny_tokenizer(), pooling="mean", frozen=True)
    plain = game(rounds=0)
    tether = Tether(features, weight=2.0)
    references = plain.policy.generate(PROMPTS * 4, seeds=row_seeds(5, 32))
    others = plain.policy.generate(PROMPTS, seeds=row_seeds(6, 8))
    member = plain.members[0]
    raised = tethered(member, tether, references)
    alone = tethered(member, Tether(features, 2.0, reward_weight=0.0), references)
    scores = member(references).view(4, 8)  # a prompt a column
    deviation = ((scores - scores.mean(0)).square().sum() / (32 - 8)).sqrt()
    expected = (member(others) - scores.mean()) / deviation + 2 * Novelty(
        features.eval(), references
    )(others)
    torch.testing.assert_close(raised(others), expected)
    distance = 2 * Novelty(features.eval(), references)(others)
    torch.testing.assert_close(alone(others), distance)
    results = run(tmp_path / "run", rounds=0, tether=tether)
    assert results["rounds"]["1"]["post_train"]["steps"] > 0


def test_prompts_default_to_those_of_the_pairs_in_training():
    play = game(prompts=None)
    assert play.prompts == list(dict.fromkeys(play.preferences.split("train").chosen.prompts))


def test_a_killed_run_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    calls = []
    original = PostTrain.__call__

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(PostTrain, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    assert run(tmp_path / "killed") == whole


def test_a_resumed_run_scores_neither_references_nor_what_an_attack_found_again(
    tmp_path, monkeypatch
):
    options = {"judge": "letters", "held_out_prompts": ["say y", "say z"]}
    whole = run(tmp_path / "run", **options)
    for name in ("attacking.judged", "state.scores_of", "post_training.judged"):
        monkeypatch.setattr(f"rewardlab.rounds.{name}", lambda *_: 1 / 0)
    monkeypatch.setattr("rewardlab.rewards.relative.judged_by", lambda *_: 1 / 0)
    assert run(tmp_path / "run", **options) == whole


@pytest.mark.parametrize("where", ["fit", "post_train", "attack.attacker"])
def test_trainers_of_several_processes_are_refused(tmp_path, where):
    several = partial(Trainer, accelerator="cpu", devices=2, max_epochs=1)
    play = game()
    part = play
    for name in where.split("."):
        part = getattr(part, name)
    part.trainer = several
    with pytest.raises(InputError, match=f"`{where}` would start 2 processes"):
        play.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    assert not list((tmp_path / "run" / "stages").glob("*-????????"))


def test_a_rehearsal_goes_through_every_stage_and_writes_nothing_else(tmp_path):
    lines = {line.name: line.text for line in rehearse(game(rounds=2), tmp_path)}
    assert {"prompts", "policy", "reward", "reward 1", "disk"} <= lines.keys()
    assert {"1-member-1", "1-attack", "2-post-train", "2-scores"} <= lines.keys()
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_what_is_drawn_once_counts_once_on_disk(tmp_path):
    """A rehearsal's 4 references stand for 8, once, and its 8 samples for 16 in each of 3 rounds."""
    for name, size in {"0-references-aaaaaaaa": 2**30, "1-samples-bbbbbbbb": 2**29}.items():
        (tmp_path / name).mkdir()
        with (tmp_path / name / "rows").open("wb") as file:
            file.truncate(size)  # no byte of which is written
    planned = Planned(3, {"references": 8, "samples": 16})
    [line] = _disk(SimpleNamespace(stages=tmp_path), planned)
    assert line.text.startswith("about 5.00 GiB of stages")


def test_a_rehearsal_says_how_long_prompts_and_pairs_are(tmp_path):
    play = game(prompts=["a", "abcd", "ab"])
    train = play.preferences.split("train")
    texts = [*train.chosen.outputs, *train.rejected.outputs]
    prompts = [*train.chosen.prompts, *train.rejected.prompts]
    rows = [len((prompt + text).encode()) for prompt, text in zip(prompts, texts, strict=True)]
    lines = {line.name: line.text for line in rehearse(play, tmp_path)}
    assert lines["prompts"].endswith(
        "the longest has 4 tokens, with 6 of a response 10 of the 64 of its context"
    )
    expected = f"the longest has {max(rows) + 1} tokens of the 64 of its context"
    assert lines["training rows"] == f"{len(train)}; {expected}"


@pytest.mark.parametrize("times", [1, 100])
def test_a_rehearsal_goes_on_where_its_few_rows_score_alike(tmp_path, monkeypatch, times):
    calls = []

    def alike(samples, scores, k):
        calls.append(len(samples))
        zeros = scores * 0 if len(calls) <= times else scores
        return extremes(samples, zeros, k)

    monkeypatch.setattr("rewardlab.rounds.post_training.extremes", alike)
    lines = {line.name: line.text for line in rehearse(game(rounds=1, loop=BY_DPO), tmp_path)}
    assert calls[1] > calls[0]
    assert ("scores" in lines) == (times > 1)
    assert ("2-scores" in lines) == (times == 1)
    assert "2-candidates" in lines


def test_the_plan_names_the_stages_that_are_made_and_resuming_says_what_is_left(tmp_path, caplog):
    assert "2-candidates" not in game(rounds=1).plan()
    options = {"rounds": 1, "loop": BY_DPO}
    planned = game(**options).plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewardlab.rounds.post_training.candidates", _raise_read_error)
        with pytest.raises(ReadError):
            run(tmp_path / "run", **options)
    caplog.set_level("INFO", "rewardlab")
    logging.getLogger("rewardlab").addHandler(caplog.handler)
    opened = RunFolder.open(tmp_path / "run", {"seed": 0}, resume=True, plan=planned)
    logging.getLogger("rewardlab").removeHandler(caplog.handler)
    left = "2-pairs, 2-post-train, 2-samples, 2-scores"
    assert f"1 is made anew or from a checkpoint (2-candidates); 4 are left ({left})" in caplog.text
    game(**options).run(opened)
    names = {path.name.rpartition("-")[0] for path in opened.stages.glob("*-????????")}
    assert set(planned) <= names
    assert names - set(planned) <= {"1-reference-scores"}


def _raise_read_error(*args):
    raise ReadError


def test_held_out_counts_of_pairs_are_in_diagnostics(tmp_path, caplog):
    caplog.set_level("INFO", "rewardlab")
    opened = RunFolder.open(tmp_path / "run", {})
    with opened.attempt(["rewardlab", "rounds"]):
        game(rounds=1).run(opened)
    said = json.loads((tmp_path / "run" / "diagnostics.json").read_text())
    counts = [entry["figures"]["pairs"] for entry in said if "pairs" in entry["figures"]]
    data = preferences()
    train, held_out = len(data.split("train")), len(data.split("held_out"))
    assert {"train": train, "held_out": held_out, "adversarial": 0} in counts
    assert all(count["held_out"] == held_out for count in counts)


def test_no_rounds_is_the_baseline(tmp_path):
    results = run(tmp_path / "run", rounds=0)
    assert list(results["rounds"]) == ["0", "1"]
    assert results["rounds"]["1"]["adversarial_pairs"] == 0
    assert not list((tmp_path / "run" / "stages").glob("*references*")), "plain RLHF draws none"
    cost = json.loads((tmp_path / "run" / "timing.json").read_text())["cost"]
    assert cost["seconds"]["ratio"] == cost["generations"]["ratio"] == 1


def test_a_finished_reward_is_climbed_as_it_is(tmp_path):
    finished = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), seed=7).eval()
    before = fingerprint(finished)
    results = run(tmp_path / "run", members=[finished], rounds=0, fitted=None)
    assert fingerprint(finished) == before
    assert not list((tmp_path / "run" / "stages").glob("*member*"))
    assert results["rounds"]["1"]["post_train"]["steps"] > 0


def test_an_attack_changes_neither_target_nor_policy(tmp_path):
    play = game()
    before = [fingerprint(module) for module in (*play.members, play.policy)]
    references = play.policy.generate(PROMPTS * 3, seeds=row_seeds(5, 24))
    attack = Attack(*(Relative(member, references) for member in play.members))
    found = play.attack.attacker(play.policy, attack, PROMPTS, 0)
    assert len(found) > 0
    assert [fingerprint(module) for module in (*play.members, play.policy)] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": []}, "at least 2 members"),
        ({"members": [], "rounds": 0}, "at least 1 members"),
        ({"fitted": None}, "refits its members after each attack"),
        ({"held_out_prompts": ["say a", "say q"]}, "1 of the held-out prompts"),
        (
            {"attacker": BestOfN(), "enough": 5},
            "enough=5 ends the training of .* BestOfN does not train",
        ),
        ({"judge": "gold"}, r"'gold' is none of the evaluation's judges, \['letters'\]"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        game(**options)


def test_each_member_is_attacked_in_turn_and_late_random_pairs_of_both_are_mined(tmp_path):
    mining = Mining(z=0.5, cap=3, pick="random", after=0.5)
    results = run(tmp_path / "run", mining=mining, attacked="each")
    first, second = (results["rounds"]["1"][name] for name in ("attack", "attack-1"))
    whole = run(tmp_path / "whole")["rounds"]["1"]["attack"]
    counts = [entry["funnel"]["counts"] for entry in (first, second)]
    assert counts[0]["generated"] == whole["funnel"]["counts"]["generated"] // 2
    assert results["rounds"]["2"]["adversarial_pairs"] == sum(min(3, c["kept"]) for c in counts)
    stages = [path.name for path in (tmp_path / "run" / "stages").iterdir()]
    assert len([name for name in stages if name.startswith("1-attack")]) == 2


class ReadError(Exception):
    """Raised instead of training, with what the loop was given."""


@pytest.mark.parametrize("loop", [SFT, DPO, PPO])
def test_a_loop_is_given_what_it_learns_from_and_nothing_else_is_drawn(tmp_path, monkeypatch, loop):
    def read(self, module, examples, *rest):
        raise ReadError(examples)

    monkeypatch.setattr(PostTrain, "__call__", read)
    play = game(rounds=0)
    play.post_train.loop = partial(loop, optimizer=ADAM)
    with pytest.raises(ReadError) as caught:
        play.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    examples = caught.value.args[0]
    stages = " ".join(path.name for path in (tmp_path / "run" / "stages").iterdir())
    assert ("1-candidates" in stages) == ("1-pairs" in stages) == (loop is not PPO)
    if loop is PPO:
        assert (list(examples.prompts), examples.rows.tolist()) == (PROMPTS, list(range(8)))
    else:
        best = examples if loop is SFT else examples.chosen
        pool = load_samples(next((tmp_path / "run" / "stages").glob("1-candidates-*")) / "samples")
        pairs = extremes(pool, scores_of(play.members[0], pool), 2)
        assert list(best.outputs) == list(pairs.chosen.outputs)
        assert isinstance(examples, PreferencePairs) == (loop is DPO)


def test_a_given_witness_takes_the_place_of_the_other_members(tmp_path):
    play = game()
    play.attack.witness = Function(letters)
    play.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    found = load_samples(next((tmp_path / "run" / "stages").glob("1-attack-*")) / "samples")
    by_prompt = {}
    for prompt, output, witness in zip(
        found.prompts, found.outputs, found.facts["witness"].tolist(), strict=True
    ):
        by_prompt.setdefault(prompt, set()).add((sum(map(str.isalpha, output)), witness))
    for pairs in by_prompt.values():
        ordered = sorted(pairs)
        assert [witness for _, witness in ordered] == sorted(witness for _, witness in ordered)


def test_late_mining_needs_an_attacker_that_records_steps(tmp_path):
    with pytest.raises(InputError, match=r"after=0.5 .* records each output's step"):
        run(tmp_path / "run", attacker=BestOfN(n=2), mining=Mining(after=0.5))
    with pytest.raises(InputError, match="0 <= after < 1; got 1"):
        Mining(after=1.0)


def test_a_run_of_another_form_is_refused_with_a_sentence(tmp_path):
    folder = tmp_path / "run"
    config = {"rounds": {"class_path": "rewardlab.rounds.AdvRMRounds"}}
    RunFolder.open(folder, config)
    facts = json.loads((folder / "run.json").read_text())
    del facts["form"]
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="named stages in another way"):
        RunFolder.check(folder, config, resume=True)


def test_earlier_names_of_the_rounds_still_import_with_a_warning():
    with pytest.warns(DeprecationWarning, match="GANRMRounds since rewardlab 0.2"):
        from rewardlab.rounds import GANRM
    assert GANRM.__name__ == "GANRMRounds"


def test_what_is_raised_may_be_made_of_the_ensemble_and_the_first_policy_s_references(tmp_path):
    results = run(tmp_path / "run", rounds=0, use=partial(Debiased, share=1.0))["rounds"]
    assert set(results["1"]["members"]) == {"0", "1"}
    saved = load_reward(tmp_path / "run" / "reward")
    assert isinstance(saved, Debiased)
    assert len(saved.reward.rewards) == 2
    [folder] = (tmp_path / "run" / "stages").glob("0-references-*[0-9a-f]")
    references = load_samples(folder / "samples")
    again = Debiased(saved.reward, references, share=1.0)
    torch.testing.assert_close(again(references), saved(references))
