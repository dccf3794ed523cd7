"""What `rewardlab advise` says of written run folders: by figures alone, beyond their noise."""

import json
import math
import random
from pathlib import Path

import pytest
import yaml

from rewardlab import cli
from rewardlab.commands.advise import figures_of
from rewardlab.errors import InputError
from rewardlab.report.advice import ALREADY, NOTHING, advise
from rewardlab.report.run_figures import Setting
from rewardlab.report.symptoms import MEASURES, SYMPTOMS
from rewardlab.runs.read import read_runs

ROUNDS_FLAG = "--rounds.init_args.post_train.loop.init_args."
CONFIGS = Path(__file__).parents[2] / "configs" / "matrix"
COUNT = 24


def line(first, last, noise=0.0, seed=0):
    """Return readings along a line, with noise."""
    draws = random.Random(seed)
    values = []
    for number in range(COUNT):
        at = number / (COUNT - 1)
        values.append(first + (last - first) * at + draws.gauss(0, noise))
    return values


def exponential(first, last):
    return [math.exp(value) for value in line(math.log(first), math.log(last))]


def metrics(columns):
    """Return metrics.csv of columns, a row every ten steps."""
    rows = [",".join([*columns, "step"])]
    for number in range(max(map(len, columns.values()))):
        cells = [str(values[number]) if number < len(values) else "" for values in columns.values()]
        rows.append(",".join([*cells, str(10 * number)]))
    return "\n".join(rows) + "\n"


def write_fit(path, columns, loop="PPO", **arguments):
    """Write a run folder as `rewardlab fit` does."""
    path.mkdir()
    model = {"class_path": f"rewardlab.training.{loop}", "init_args": arguments}
    callbacks = [{"class_path": "rewardlab.evaluation.Readings", "init_args": JUDGED}]
    config = {"model": model, "trainer": {"callbacks": callbacks}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "run.json").write_text("{}")
    if columns is not None:
        (path / "metrics.csv").write_text(metrics(columns))
    return path


JUDGED = {"judges": {"gold": {"class_path": "some.Gold"}}}


def write_rounds(path, columns, loop="PPO", game="AdvRMRounds", judged=None, **arguments):
    """Write a run folder as `rewardlab rounds` does."""
    stage = path / "stages" / "1-post-train-00000000"
    stage.mkdir(parents=True)
    (stage / "metrics.csv").write_text(metrics(columns))
    callbacks = [{"class_path": "rewardlab.evaluation.Readings", "init_args": JUDGED}]
    loop = {"class_path": f"rewardlab.training.{loop}", "init_args": arguments}
    post_train = {"loop": loop, "callbacks": callbacks}
    rounds = {"class_path": f"rewardlab.rounds.{game}", "init_args": {"post_train": post_train}}
    (path / "config.yaml").write_text(yaml.safe_dump({"rounds": rounds}))
    figures = {"judged": judged or {"gold": {"mean": 0.5}}, "post_train": {"loss": 0.1}}
    results = {"rounds": {"0": {"judged": figures["judged"]}, "1": figures}}
    (path / "results.json").write_text(json.dumps(results))
    (path / "run.json").write_text("{}")
    (path / "timing.json").write_text(json.dumps({"1-post-train-00000000": {}}))
    return path


def counsel(*paths):
    return advise([figures_of(run) for run in read_runs(paths)])


def test_a_kl_that_grows_is_answered_by_a_weight_with_its_figures(tmp_path):
    run = write_rounds(tmp_path / "plain", {"reading/kl": line(0, 40, 0.3)}, kl_weight=0.0)
    [advice] = counsel(run).advices
    assert advice.lay_over == (f"{ROUNDS_FLAG}kl_weight=0.25",)
    assert advice.evidence[0].startswith("plain: reading/kl ")
    assert "quarter of 24 readings up to step 230; noise of a reading ±" in advice.evidence[0]
    assert advice.strength == pytest.approx(3.5, abs=0.1)  # 40 x 20.5/23 over 10
    assert "hardening.md" in advice.basis


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_a_run_with_a_kl_weight_is_told_twice_that(tmp_path, weight):
    run = write_fit(tmp_path / "a", {"kl": line(0, 40)}, kl_weight=weight)
    [advice] = counsel(run).advices
    assert advice.lay_over == (f"--model.init_args.kl_weight={2 * weight:g}",)


def test_noise_is_no_symptom(tmp_path):
    """A length that ends 40 % above its start within its own noise is not called grown."""
    values = line(1, 1, 0.6, seed=3)
    values[-6:] = [1.4 * value for value in values[:6]]
    noisy = write_rounds(tmp_path / "noisy", {"length": values})
    assert counsel(noisy).advices == ()
    clear = write_rounds(tmp_path / "clear", {"length": line(1, 2, 0.05)})
    [advice] = counsel(clear).advices
    assert advice.lay_over == ("--config configs/menu/length_calibration.yaml",)


def monitored(values, error):
    return {"guard/disagreement": values, "guard_error/disagreement": [error] * len(values)}


def test_a_disagreement_that_came_and_went_is_told_with_its_step(tmp_path):
    """Members that part on the way to an exploit agree on it once all of them are fooled."""
    values = [0.4, 0.35, 0.36, 0.36, 0.45, 0.5, 0.33, 0.33, 0.33, 0.33]
    run = write_rounds(tmp_path / "a", monitored(values, 0.02))
    [advice] = counsel(run).advices
    assert advice.lay_over == ("--config configs/menu/soft_minimum.yaml",)
    assert advice.evidence == (
        "a: guard/disagreement 0.350 → 0.500 at step 50, 5.3 standard errors above its lowest "
        "reading before",
    )
    calm = write_rounds(tmp_path / "b", monitored(values, 0.04))
    assert counsel(calm).advices == ()


def test_members_that_go_along_with_a_rising_score_are_to_be_of_another_backbone(tmp_path):
    """Not where one of them gave an alarm, nor where the score stayed."""

    def heard(name, disagreement, score):
        columns = monitored(disagreement, 0.02)
        count = len(disagreement)
        columns |= {"score": [score * place / count for place in range(count)]}
        columns |= {"score_std": [1.0] * count}
        run = write_rounds(tmp_path / name, columns)
        return {advice.lay_over: advice for advice in counsel(run).advices}

    files = ("independent_members", "independent_witness")
    other = tuple(f"--config configs/menu/{name}.yaml" for name in files)
    calm = [0.35, 0.36] * 6
    found = heard("calm", calm, 8)[other]
    assert found.evidence[0].startswith("calm: score rose by ")
    assert found.evidence[0].endswith("and guard/disagreement, 0.353 → 0.357, gave no alarm")
    assert found.strength > 1
    assert other not in heard("alarm", [*calm[:-2], 0.6, 0.6], 8)
    assert other not in heard("level", calm, 1)


def test_nothing_is_an_answer(tmp_path, capsys):
    columns = {"reading/kl": line(0, 3), "length": line(30, 31), "entropy": line(3, 2.8)}
    run = write_rounds(tmp_path / "calm", columns)
    assert cli.main(["advise", str(run)]) == 0
    heard = capsys.readouterr().out
    assert NOTHING in heard
    assert "guard/disagreement: " in heard
    assert "configs/menu/monitors.yaml" in heard
    assert "reading/kl" not in heard


def test_the_strongest_comes_first_and_seeds_are_taken_together(tmp_path):
    strong = {"reading/kl": line(0, 15), "entropy": exponential(3, 0.1)}
    weak = {"reading/kl": line(0, 20), "entropy": line(3, 3.1)}
    paths = [write_rounds(tmp_path / "one", strong), write_rounds(tmp_path / "two", weak)]
    alone = counsel(paths[0]).advices
    both = counsel(*paths).advices
    assert alone[0].advice.startswith("Keep the policy varied")
    assert [len(advice.evidence) for advice in both] == [1, 2]
    assert both[0].strength == pytest.approx(alone[0].strength / 2)


def test_what_helped_in_the_study_comes_before_what_is_louder_and_what_hurt_last(tmp_path, capsys):
    columns = {"reading/kl": line(0, 12), "score": line(0, 90), "score_std": line(1, 1)}
    columns |= monitored(line(0.1, 0.9), 0.02) | {"length": exponential(9, 90)}
    run = write_rounds(tmp_path / "a", columns)
    advices = counsel(run).advices
    effects = [0 if advice.measured is None else advice.measured.effect for advice in advices]
    assert (effects[0], effects[-1]) == (1, -1)
    assert effects == sorted(effects, reverse=True)
    assert advices[0].strength < advices[1].strength
    assert cli.main(["advise", str(run)]) == 0
    heard = capsys.readouterr().out
    assert "Measured: on the help topics (kl0.25, 10 seeds) gold fell in 0 runs and stood" in heard
    assert heard.index("it helped") < heard.index("it hurt")


def garble(columns, results):
    """Return a run with other judges' columns and figures."""
    changed = columns | {"reading/gold": ["garbage"] * COUNT, "reading/gold_std": line(9, -9)}
    return changed, {"gold": results, "accuracy": {"mean": "nan"}}


@pytest.mark.parametrize("write", [write_rounds, write_fit])
def test_no_judge_is_read(tmp_path, write):
    columns = {"reading/kl": line(0, 40), "length": line(20, 40), "reading/gold": line(1, 2)}
    changed, judged = garble(columns, [None, "garbage"])
    one = write(tmp_path / "run", columns)
    told = counsel(one)
    (tmp_path / "other").mkdir()
    more = {"judged": judged} if write is write_rounds else {}
    other = write(tmp_path / "other" / "run", changed, **more)
    assert told == counsel(other)
    assert len(told.advices) == 2


def test_a_judge_with_a_monitors_name_is_not_read_either(tmp_path):
    columns = {"score": line(0, 1), "reading/norm_ratio": line(1, 2)}
    run = write_fit(tmp_path / "a", columns, loop="SFT")
    text = (run / "config.yaml").read_text()
    assert len(counsel(run).advices) == 1
    (run / "config.yaml").write_text(text.replace("gold:", "norm_ratio:"))
    assert counsel(run).advices == ()


CASES = [
    ("PPO", {"score": line(0, 4), "score_std": line(1, 1)}, "--config configs/menu/par.yaml"),
    ("PPO", {"length": line(20, 40)}, "--config configs/menu/length_calibration.yaml"),
    ("PPO", {"clip_fraction": line(0, 0.6)}, f"{ROUNDS_FLAG}optimizer.init_args.lr=0.0001"),
    ("PPO", {"score_std": exponential(1, 0.1)}, "--config configs/menu/diversity.yaml"),
    ("PPO", {"online_lead": line(0, 9)}, "--rounds.init_args.online.weight=4"),
    ("PPO", {"reading/outliers": line(0, 0.15)}, "--config configs/adv_rm/topics_novelty.yaml"),
    ("DPO", {"chosen": line(0, -9)}, "--config configs/menu/chi_po.yaml"),
    ("DPO", {"norm_ratio": line(1, 1.3)}, f"{ROUNDS_FLAG}norm_guard=10"),
    ("DPO", {"guard/distance": exponential(0.01, 0.1)}, f"{ROUNDS_FLAG}beta=1000"),
    (
        "ReFL",
        {"guard/classifier": line(0, 4), "guard_error/classifier": line(0.1, 0.1)},
        "--config configs/menu/guard_stop.yaml",
    ),
]


@pytest.mark.parametrize(("loop", "columns", "flag"), CASES)
def test_each_symptom_has_its_answer(tmp_path, loop, columns, flag):
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.0002}}
    run = write_rounds(tmp_path / "a", columns, loop=loop, optimizer=optimizer)
    [advice] = counsel(run).advices
    assert advice.lay_over == (flag,)


def test_what_the_command_has_is_not_advised_again(tmp_path):
    columns = {"score": line(0, 4), "score_std": line(1, 1)}
    run = write_rounds(tmp_path / "a", columns)
    facts = {
        "command": ["rewardlab", "rounds", "--config=a.yaml", "--config", "x/configs/menu/par.yaml"]
    }
    (run / "run.json").write_text(json.dumps(facts))
    [advice] = counsel(run).advices
    assert advice.lay_over == ()
    assert advice.meaning.endswith(f"{ALREADY} --config configs/menu/par.yaml")
    other = write_rounds(tmp_path / "b", columns)
    [both] = counsel(run, other).advices
    assert both.lay_over == ("--config configs/menu/par.yaml",), "the second has it not"


def change_config(run, **arguments):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rounds"]["init_args"] |= arguments
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_correction_is_told_twice_the_weight_that_it_has(tmp_path):
    run = write_rounds(tmp_path / "a", {"online_lead": line(0, 9)})
    change_config(run, online={"weight": 8.0})
    [advice] = counsel(run).advices
    assert advice.lay_over == ("--rounds.init_args.online.weight=16",)


@pytest.mark.parametrize("stops", [True, False])
def test_a_run_with_a_guard_that_stops_is_told_smaller_steps(tmp_path, stops):
    columns = {"guard/classifier": line(0, 4), "guard_error/classifier": line(0.1, 0.1)}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.0002}}
    run = write_rounds(tmp_path / "a", columns, loop="ReFL", optimizer=optimizer)
    config = yaml.safe_load((run / "config.yaml").read_text())
    guard = {"class_path": "rewardlab.evaluation.Guard", "init_args": {"stop": stops}}
    config["rounds"]["init_args"]["post_train"]["callbacks"] = [guard]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    [advice] = counsel(run).advices
    slower = f"{ROUNDS_FLAG}optimizer.init_args.lr=0.0001"
    assert advice.lay_over == (slower if stops else "--config configs/menu/guard_stop.yaml",)


def test_many_outliers_are_answered_by_the_tether_and_then_by_the_bottleneck(tmp_path):
    run = write_rounds(tmp_path / "a", {"reading/outliers": line(0, 1)})
    tether, bottleneck = counsel(run).advices
    assert tether.lay_over == ("--config configs/adv_rm/topics_novelty.yaml",)
    assert bottleneck.lay_over == ("--config configs/menu/bottleneck.yaml",)
    assert bottleneck.strength == tether.strength / 2
    fit = write_fit(tmp_path / "b", {"reading/outliers": line(0, 1)})
    lay_over = [flag for advice in counsel(fit).advices for flag in advice.lay_over]
    assert not [flag for flag in lay_over if "bottleneck" in flag]


def test_what_a_fit_cannot_lay_over_is_not_advised(tmp_path):
    run = write_fit(tmp_path / "a", {"score": line(0, 9), "score_std": line(1, 1)})
    [advice] = counsel(run).advices
    assert advice.lay_over == ("--model.init_args.shaping.par=1.0",)


def test_nats_of_pictures_are_not_taken_for_nats_of_texts(tmp_path):
    columns = {"reading/kl": line(0, 900), "norm_ratio": line(1, 1.001)}
    assert counsel(write_rounds(tmp_path / "a", columns, loop="DPO")).advices == ()


def test_what_gives_targets_away_is_read_from_the_diagnostics(tmp_path):
    run = write_rounds(tmp_path / "a", {"score": line(0, 1)}, game="GANRMRounds")
    aucs = {"autoencoder": 1.0, "colour": 0.6}
    entries = [{"stage": "1-reward", "figures": {"auc": aucs, "chance": 0.7}}, {"figures": None}]
    (run / "diagnostics.json").write_text(json.dumps(entries))
    [advice] = counsel(run).advices
    assert advice.lay_over == ("--rounds.init_args.targets.init_args.reconstruct=true",)
    assert advice.evidence == ("a: autoencoder alone tells targets from samples, AUC 1.00",)


def test_all_symptoms_say_where_their_threshold_is_from():
    setting = Setting("rounds", "PPO", "AdvRMRounds", {}, ())
    page = (CONFIGS.parents[1] / "docs" / "guide" / "advise.md").read_text()
    for symptom in SYMPTOMS:
        assert f"`{symptom.columns[0]}`" in page
        for config in " ".join(symptom.remedy(setting)).split():
            assert not config.startswith("configs/") or (CONFIGS.parents[1] / config).is_file()
        assert symptom.measure in MEASURES
        assert symptom.basis.startswith(("a rule of thumb", "docs/studies/"))


@pytest.mark.parametrize("kind", ["attack", "curve"])
def test_a_folder_of_another_command_is_refused(tmp_path, kind):
    run = tmp_path / "a"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({kind: {}}))
    with pytest.raises(InputError, match=f"`rewardlab {kind}`, which trains no policy"):
        counsel(run)


def test_a_run_without_steps_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no steps of a policy's training"):
        counsel(write_fit(tmp_path / "none", None))
    with pytest.raises(InputError, match="has no steps"):
        counsel(write_fit(tmp_path / "reward", {"val/auc": line(0.5, 1)}, loop="GANRM"))
    with pytest.raises(InputError, match="has 3 of the 4 readings"):
        counsel(write_fit(tmp_path / "short", {"kl": [0.0, 9.0, 20.0]}))


def test_no_run_folder_is_refused(tmp_path, capsys):
    assert cli.main(["advise", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


MONITORED = """
rounds:
  init_args:
    rounds: 0
    use: ensemble
    fit:
      trainer:
        init_args: {max_epochs: 1}
    evaluation: {samples: 32}
    post_train:
      loop:
        init_args: {samples_per_prompt: 2}
      trainer:
        init_args: {max_steps: 42}
      callbacks:
        - class_path: rewardlab.evaluation.Guard
          init_args: {every_n_steps: 7, samples: 32, stop: false, watch: [disagreement]}
"""


def test_advice_on_a_run_of_a_tiny_policy(tmp_path, capsys):
    """Its logs are read as the commands write them."""
    (tmp_path / "monitored.yaml").write_text(MONITORED)
    files = [CONFIGS / "adv_rm_text.yaml", CONFIGS / "text_ppo.yaml", tmp_path / "monitored.yaml"]
    words = [f"--config={file}" for file in files]
    folder = tmp_path / "run"
    assert cli.main(["rounds", *words, f"--out={folder}", "--report=false"]) == 0
    capsys.readouterr()
    [figures] = [figures_of(run) for run in read_runs([folder])]
    assert figures.setting.flag == ROUNDS_FLAG
    assert {"score", "kl", "entropy", "guard/disagreement"} <= set(figures.changes)
    assert figures.changes["guard/disagreement"].readings == 7
    assert cli.main(["advise", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("run: PPO, up to ")
    flags: set[str] = set()
    for symptom in SYMPTOMS:
        if symptom.outputs == "texts" and symptom.columns != ("online_lead",):
            flags.update(flag for flag in symptom.remedy(figures.setting) if "=" in flag)
    assert flags == {f"{ROUNDS_FLAG}kl_weight=0.25"}
