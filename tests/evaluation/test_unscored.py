"""Judges that leave outputs out: figures are of what they score, and say how many they did not."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardlab.commands import score
from rewardlab.errors import InputError
from rewardlab.evaluation import EndpointJudge, Evaluation, Rubric
from rewardlab.evaluation.attack_success import score_pair
from rewardlab.evaluation.finishing import finish_curve
from rewardlab.evaluation.judges import win_rate
from rewardlab.evaluation.monitors import MonitoredPolicy, readings_of
from rewardlab.policies import CallableGenerator
from rewardlab.rewards import Ensemble, Gated, Length, Repetition, scores_of
from rewardlab.rewards.scoring import judged
from rewardlab.types import PreferencePairs

HERE = Path(__file__).parent
JUDGES = SimpleNamespace(**runpy.run_path(str(HERE / "test_judges.py")))
REFUSING = SimpleNamespace(**runpy.run_path(str(HERE.with_name("refusing.py"))))
Refusing = REFUSING.Refusing
SAMPLES = REFUSING.texts("one two", "refuse", "one", "a refuse")


def test_a_judges_mean_is_over_what_it_scores():
    evaluation = Evaluation(judges={"words": Refusing(), "length": Length()})
    figures = evaluation.judge(SAMPLES, SAMPLES)
    assert figures["words"]["mean"] == 1.5
    assert figures["words"]["unscored"] == 2
    assert "unscored" not in figures["length"]
    with pytest.raises(InputError, match="None of 1 outputs is scored"):
        evaluation.judge(SAMPLES[[1]], SAMPLES[[1]])


def test_a_win_rate_is_of_the_pairs_of_which_both_sides_are_scored():
    chosen = REFUSING.texts("one two", "refuse", "one two three")
    pairs = PreferencePairs(chosen, REFUSING.texts("one", "one", "a refuse"))
    figures = win_rate(Refusing(), pairs)
    assert figures["win_rate"] == 1.0
    assert figures["count"] == 1
    assert figures["unscored"] == 2
    with pytest.raises(InputError, match="both sides of none of 2 pairs"):
        win_rate(Refusing(), pairs[[1, 2]])


def test_scores_of_an_attack_are_paired_where_both_are_there():
    scores = score_pair(SAMPLES, Length(), Refusing())
    assert scores.target.tolist() == scores.gold.tolist() == [2.0, 1.0]
    assert len(scores.prompts) == 2


def speaker():
    return CallableGenerator(lambda prompts, seeds: (list(SAMPLES.outputs) * 2)[: len(prompts)])


def test_curves_and_monitors_are_over_what_is_scored():
    rows = finish_curve(
        lambda tau: speaker(), {"words": Refusing()}, ["hi"], taus=(0.0,), samples=4
    )
    assert rows[0]["words"] == 1.5
    reward = Ensemble([Refusing(), Repetition()])
    monitored = MonitoredPolicy(reward, ["hi"])
    readings = readings_of(speaker(), monitored, samples=4, seed=0)
    assert readings.scores.tolist() == [1.0, 0.5]
    assert readings.monitors["disagreement"].value == pytest.approx((2 + 1) / 2**0.5 / 2)


def refuses(messages):
    """A model that will not rate a text with the mark."""
    return "I cannot help." if "refuse" in messages[0]["content"] else "Score: 7"


def test_what_a_chat_model_does_not_rate_is_not_scored_with_its_reply():
    with JUDGES.endpoint(refuses) as (url, _):
        result = judged(EndpointJudge(url, "a", most_unscored=0.5), SAMPLES)
        assert result.scored.tolist() == [True, False, True, False]
        assert "its last reply was 'I cannot help.'" in result.reasons[1]
        with pytest.raises(InputError, match=r"sample 1 .*I cannot help"):
            scores_of(EndpointJudge(url, "a"), SAMPLES)


def test_a_rubric_leaves_out_what_it_has_no_answer_for():
    def answers(messages):
        return "Never." if "a refuse" in messages[0]["content"] else "Answer: 1"

    with JUDGES.endpoint(answers) as (url, _):
        rubric = Rubric([EndpointJudge(url, "a")], ["It is polite."], most_unscored=0.5)
        result = judged(Gated(Length(), gate=rubric), SAMPLES)
        assert result.scored.tolist() == [True, True, True, False]
        assert result.reasons[3].startswith("Rubric: a was asked 3 times")
        with pytest.raises(InputError, match="Rubric did not score sample 3"):
            rubric.members(SAMPLES)


def table_of(flags, text, monkeypatch, tmp_path, capsys):
    """What `rewardlab score` prints of a text file by the refusing reward."""
    monkeypatch.setattr(score, "open_reward", lambda *_: Refusing())
    (tmp_path / "texts.txt").write_text(text)
    (tmp_path / "reward").mkdir()
    assert score.run("score", [str(tmp_path / "reward"), str(tmp_path / "texts.txt"), *flags]) == 0
    return capsys.readouterr()


def test_rows_say_null_and_why(monkeypatch, tmp_path, capsys):
    text = "one two\nrefuse\none\n"
    out = tmp_path / "rows.jsonl"
    printed = table_of(["--out", str(out), "--sort", "best"], text, monkeypatch, tmp_path, capsys)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["score"] for row in rows] == [2.0, 1.0, None]
    assert [row["reason"] for row in rows] == [None, None, "Refusing: it says refuse"]
    assert "3 rows, 2 scores, mean 1.5; 1 not scored" in printed.out


def test_a_csv_has_an_empty_cell(monkeypatch, tmp_path, capsys):
    printed = table_of([], "one\nrefuse\n", monkeypatch, tmp_path, capsys)
    lines = printed.out.splitlines()
    assert lines[0] == "row,score,reason,prompt,output"
    assert lines[2] == "1,,Refusing: it says refuse,,refuse"
