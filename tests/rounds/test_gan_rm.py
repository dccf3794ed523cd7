"""GAN-RM's rounds: every stage stands once made, a killed run ends as if it had not been, and
judges stay outside.
"""

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer
from safetensors.torch import load_file

from rewardlab import DiffusionPolicy, TargetSamples, VisionReward
from rewardlab.data import load_samples
from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation, Guard
from rewardlab.mining import RankBootstrap
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, Function, load_reward
from rewardlab.rounds import FitReward, GANRMRounds, PostTrain, RunFolder, post_training
from rewardlab.rounds import stages as stages_module
from rewardlab.rounds import state as state_module
from rewardlab.storage import atomic
from rewardlab.testing import tiny_diffusion, tiny_tower
from rewardlab.training import DPO, EMA, GANRM, SFT, Online, ReFL, Replay
from rewardlab.types import Samples

ADAM = partial(torch.optim.Adam, lr=0.003)
SHORT = partial(Trainer, accelerator="cpu", max_epochs=2, enable_progress_bar=False)
STEPS = partial(Trainer, accelerator="cpu", max_steps=4, max_epochs=-1, enable_progress_bar=False)
FIT = FitReward(partial(GANRM, folds=2, optimizer=ADAM), SHORT)
GUARDS = [EMA(0.5), Guard(every_n_steps=2, samples=8, stop=False)]
BY_SFT = PostTrain(
    partial(SFT, optimizer=ADAM),
    STEPS,
    candidates=3,
    groups=6,
    batch_size=4,
    callbacks=GUARDS,
    checkpoint_every=2,
)


def targets():
    pixels = 0.7 + 0.3 * torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return TargetSamples(Samples([""] * 20, pixels), held_out=6, channels=1, batch_size=16)


def game(**changes):
    """A tiny generator and discriminator, the same every time."""
    return GANRMRounds(
        **{
            "policy": DiffusionPolicy(
                tiny_diffusion(classes=0), sampler=Sampler(steps=2), prompt_dropout=0.5
            ),
            "reward": VisionReward(tiny_tower(image_size=8), heads=2, width=8, dropout=0.3),
            "targets": targets(),
            "prompts": [""],
            "fit": FIT,
            "post_train": BY_SFT,
            "evaluation": Evaluation(samples=12, judges={"ink": Brightness()}),
        }
        | changes
    )


@pytest.fixture(autouse=True, scope="module")
def quick_disk():
    """Nothing here is about a power cut, so nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_flush", lambda path: None)
        yield


@pytest.fixture
def made(monkeypatch):
    """The names of the stages that were made, not found, in order."""
    names, stage = [], RunFolder.stage
    monkeypatch.setattr(
        RunFolder,
        "stage",
        lambda self, name, key, make: stage(
            self, name, key, lambda folder: names.append(name) or make(folder)
        ),
    )
    return names


def run(folder, *, resume=False, config=None, stages=None, **changes):
    """Run a game in `folder`; whatever the global random state is, it must not matter."""
    torch.manual_seed(len(str(folder)) + resume)
    opened = RunFolder.open(folder, config or {"game": 1}, resume=resume, stages_root=stages)
    game(**changes).run(opened)
    return opened


def figures(folder):
    return json.loads((folder / "results.json").read_text())


def stage(folder, name):
    (found,) = [
        path
        for path in (folder / "stages").iterdir()
        if path.name.startswith(f"{name}-") and path.is_dir()
    ]
    return found


TWO_ROUNDS = {"rounds": 2, "bootstrap": RankBootstrap(pool=10, count=3)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two rounds, each with a bootstrap, SFT, an average of weights and a guard, that
    nothing stopped.
    """
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder, **TWO_ROUNDS)
    return folder


def in_the_loop(loop):
    """Two rounds whose discriminator goes on learning while the policy climbs it."""
    online = Online(pairing="any", rows=8, optimizer=ADAM, replay=Replay(capacity=16))
    post_train = PostTrain(loop, STEPS, batch_size=4, callbacks=[online], groups=4)
    return {"post_train": post_train, "rounds": 2}


def test_the_discriminator_learns_in_the_loop_and_stands_when_the_run_is_read_again(tmp_path, made):
    changes = in_the_loop(partial(ReFL, optimizer=ADAM))
    run(tmp_path / "run", **changes)
    first = figures(tmp_path / "run")
    assert "online_lead" in first["rounds"]["1"]["post_train"]
    fitted = load_file(stage(tmp_path / "run", "2-reward") / "state.safetensors")
    trained = load_file(stage(tmp_path / "run", "2-post-train") / "correction.safetensors")
    assert not torch.equal(fitted["projection.weight"], trained["correction.projection.weight"])
    reward = load_reward(tmp_path / "run" / "reward")
    assert torch.equal(reward.projection.weight, trained["correction.projection.weight"])
    made.clear()
    shutil.rmtree(tmp_path / "run" / "reward")
    run(tmp_path / "run", resume=True, **changes)
    assert not made, "all stages stand"
    assert figures(tmp_path / "run") == first
    again = load_reward(tmp_path / "run" / "reward")
    assert torch.equal(again.projection.weight, reward.projection.weight)


def test_a_loop_that_draws_nothing_cannot_train_the_discriminator(tmp_path):
    changes = in_the_loop(partial(SFT, optimizer=ADAM))
    with pytest.raises(InputError, match="a SFT draws nothing"):
        run(tmp_path / "run", **changes)


class TestTheWholeRun:
    def test_every_stage_stands(self, whole):
        parts = [
            "negatives",
            "reward",
            "pool",
            "pool-scores",
            "bootstrapped-reward",
            "candidates",
            "pairs",
            "monitor",
            "post-train",
            "samples",
            "scores",
        ]
        expected = {"0-targets", "0-samples"} | {
            f"{number}-{part}" for number in (1, 2) for part in parts
        }
        assert {
            path.name.rpartition("-")[0] for path in (whole / "stages").iterdir() if path.is_dir()
        } == expected
        assert set(game(**TWO_ROUNDS).plan()) == {
            name for name in expected if not name.endswith("monitor")
        }
        assert not list((whole / ".scratch").iterdir()), "checkpoints go when their stage stands"

    def test_every_figure_is_in_the_results(self, whole):
        results = figures(whole)
        assert set(results) == {"targets", "rounds"}
        assert set(results["rounds"]) == {"0", "1", "2"}
        assert set(results["rounds"]["0"]) == {"judged"}
        for number in ("1", "2"):
            found = results["rounds"][number]
            assert set(found) == {"reward", "candidates", "post_train", "judged", "separation"}
            assert set(found["reward"]) == {"first", "bootstrapped"}
            assert {"val/auc", "val/ranking", "val/calibration_error", "meaning", "epochs"} <= set(
                found["reward"]["first"]
            )
            assert set(found["candidates"]) == {"all", "best", "worst"}
            assert (
                found["candidates"]["worst"]["mean"]
                < found["candidates"]["all"]["mean"]
                < found["candidates"]["best"]["mean"]
            )
            assert found["post_train"]["steps"] == 4
            assert "loss" in found["post_train"]
            assert found["post_train"]["guard_stopped_at"] == [None]
            assert set(found["separation"]) == {
                f"score_{side}" for side in ("targets", "before", "after")
            } | {
                "auc_before",
                "auc_after",
            }
            assert set(found["judged"]) == {"ink"}

    def test_the_meaning_of_each_fit_is_told(self, whole):
        first, second = (
            figures(whole)["rounds"]["1"]["reward"][name]["meaning"]
            for name in ("first", "bootstrapped")
        )
        assert first.startswith("log density ratio")
        assert second == "score: 6 samples had pseudo-labels by rank"

    def test_each_round_trains_the_policy_of_the_one_before_on_new_negatives(self, whole):
        states = [
            load_file(stage(whole, f"{number}-post-train") / "state.safetensors")
            for number in (1, 2)
        ]
        assert any(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
        drawn = [
            load_samples(stage(whole, f"{number}-negatives") / "samples").outputs
            for number in (1, 2)
        ]
        assert not torch.equal(*drawn)

    def test_the_guard_logged_beside_the_loss(self, whole):
        header = (stage(whole, "1-post-train") / "metrics.csv").read_text().splitlines()[0]
        assert {"guard/score", "guard/distance", "guard/classifier", "guard/disagreement"} <= set(
            header.split(",")
        )

    def test_policy_and_reward_are_left_where_people_look(self, whole):
        reward = VisionReward.from_pretrained(whole / "reward")
        assert reward.meaning.startswith("score")
        assert DiffusionPolicy.from_pretrained(whole / "policy").sampler.steps == 2

    def test_a_second_run_makes_nothing_and_ends_alike(self, whole, made):
        before = (whole / "results.json").read_bytes()
        run(whole, resume=True, **TWO_ROUNDS)
        assert made == []
        assert (whole / "results.json").read_bytes() == before

    def test_a_second_run_scores_neither_candidates_nor_pool_again(self, whole, monkeypatch):
        def refuse(*args):
            raise AssertionError("what a stage keeps was scored again")

        monkeypatch.setattr(post_training, "judged", refuse)
        monkeypatch.setattr(state_module, "scores_of", refuse)
        run(whole, resume=True, **TWO_ROUNDS)

    def test_pairs_of_version_0_1_kept_no_scores_and_are_scored(self, whole, tmp_path):
        copy = shutil.copytree(whole, tmp_path / "run")
        for name in ("1-pairs", "2-pairs"):
            (stage(copy, name) / "scores.safetensors").unlink()
            (stage(copy, name) / "checksums.json").unlink()
        run(copy, resume=True, **TWO_ROUNDS)
        assert figures(copy) == figures(whole)

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("1-reward", "figures.json"),
            ("1-post-train", "state.safetensors"),
            ("2-pool-scores", "scores.safetensors"),
            ("2-negatives", "samples/000001.png"),
        ],
    )
    def test_a_stage_with_a_flipped_bit_is_made_anew(
        self, whole, tmp_path, made, caplog, name, file
    ):
        copy = shutil.copytree(whole, tmp_path / "run")
        path = stage(copy, name) / file
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        title = stage(copy, name).name
        run(copy, resume=True, **TWO_ROUNDS)
        assert made == [name]
        assert f"{title} is damaged ({file} is not as it was written)" in caplog.text
        assert (copy / "stages" / f"{title}.damaged" / file).read_bytes() != content
        assert (copy / "stages" / title / file).read_bytes() == content
        assert figures(copy) == figures(whole), "to the last bit"

    @pytest.mark.parametrize("file", ["figures.json", "state.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", None])
    def test_a_damaged_stage_without_checksums_is_never_used(self, whole, tmp_path, file, content):
        """Stages of version 0.1: what can be told is made anew, the rest is one sentence."""
        copy = shutil.copytree(stage(whole, "1-reward"), tmp_path / "1-reward")
        (copy / "checksums.json").unlink()
        (copy / file).unlink()
        if content is not None:
            (copy / file).write_bytes(content)
        with pytest.raises(InputError, match=f"1-reward is damaged: its {file} is missing, or not"):
            stages_module.load_stage(copy, game().reward)

    def test_another_config_in_its_folder_is_refused(self, whole):
        with pytest.raises(
            InputError, match="belongs to another config: game is 1 there and 2 here"
        ):
            run(whole, resume=True, config={"game": 2})


class Killed(BaseException):
    pass


def killed():
    raise Killed


def kill_at(monkeypatch, where, count, action=killed):
    """Let the `count`-th call of a method or function fail, or do something else first, once."""
    owner, name = where
    called, original = [], getattr(owner, name)

    def call(*args, **kwargs):
        called.append(1)
        if len(called) == count:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


ONE_ROUND = {"rounds": 1, "bootstrap": TWO_ROUNDS["bootstrap"]}


class TestKilled:
    @pytest.mark.parametrize(
        ("where", "count"),
        [
            ((SFT, "training_step"), 4),  # there is a checkpoint after the second step
            (
                (GANRM, "training_step"),
                9,
            ),  # in the second fit's second epoch: four steps before, three an epoch
        ],
        ids=["post-training", "fitting"],
    )
    def test_it_ends_as_if_it_had_not_been(self, whole, tmp_path, monkeypatch, made, where, count):
        with monkeypatch.context() as patch:
            kill_at(patch, where, count)
            with pytest.raises(Killed):
                run(tmp_path / "run", **ONE_ROUND)
        stood = {
            name for name in made if any((tmp_path / "run" / "stages").glob(f"{name}-????????"))
        }
        del made[:]
        run(tmp_path / "run", resume=True, **ONE_ROUND)
        assert "1-reward" in stood
        assert not stood & set(made), "no finished stage is made again"
        expected = figures(whole)
        del expected["rounds"]["2"]
        assert figures(tmp_path / "run") == expected, "to the last bit"

    def test_in_the_instant_before_the_result_stands_it_ends_with_the_same_weights(
        self, tmp_path, monkeypatch, whole
    ):
        """Lightning then has nothing left to train: neither average nor last step's figures come by
        themselves.
        """
        with monkeypatch.context() as patch:
            kill_at(patch, (stages_module, "save_stage"), 4)  # after two fits and the monitor's
            with pytest.raises(Killed):
                run(tmp_path / "run", **ONE_ROUND)
        run(tmp_path / "run", resume=True, **ONE_ROUND)
        found, expected = (
            stage(folder, "1-post-train") / "state.safetensors"
            for folder in (tmp_path / "run", whole)
        )
        assert found.read_bytes() == expected.read_bytes()


class TestInterrupted:
    @pytest.mark.parametrize(
        ("loop", "count", "number"),
        [
            (SFT, 2, signal.SIGINT),
            (SFT, 3, signal.SIGTERM),
            (GANRM, 2, signal.SIGINT),
            (GANRM, 1, signal.SIGINT),
            (GANRM, 1, signal.SIGHUP),
            (GANRM, 4, signal.SIGINT),
            (GANRM, 4, signal.SIGTERM),
        ],
        ids=[
            "post-training",
            "post-training, SIGTERM",
            "epoch's last",
            "epoch's first",
            "epoch's first, SIGHUP",
            "fit's last",
            "fit's last, SIGTERM",
        ],
    )
    def test_a_signal_keeps_the_step_and_the_run_ends_as_if_it_had_not_been(
        self, whole, tmp_path, monkeypatch, loop, count, number
    ):
        rare = replace(BY_SFT, checkpoint_every=500)
        with monkeypatch.context() as patch:
            kill_at(patch, (loop, "training_step"), count, lambda: os.kill(os.getpid(), number))
            before = signal.getsignal(number)
            with pytest.raises(SystemExit) as ended:
                run(tmp_path / "run", post_train=rare, **ONE_ROUND)
            assert signal.getsignal(number) is before
        if number == signal.SIGINT:
            assert isinstance(ended.value.__context__, KeyboardInterrupt)
        else:
            assert ended.value.code == 128 + number
        (last,) = (tmp_path / "run" / ".scratch").glob("*/last.ckpt")
        assert torch.load(last, weights_only=True)["global_step"] == count
        run(tmp_path / "run", resume=True, post_train=rare, **ONE_ROUND)
        expected = figures(whole)
        del expected["rounds"]["2"]
        assert figures(tmp_path / "run") == expected, "to the last bit"


class TestCheckpointsByTheClock:
    @pytest.mark.parametrize("part", ["fit", "post_train"])
    def test_a_checkpoint_after_each_step_changes_no_figure_no_weight_and_no_row(
        self, whole, tmp_path, part
    ):
        often = replace({"fit": FIT, "post_train": BY_SFT}[part], checkpoint_minutes=0.0)
        run(tmp_path / "run", **{part: often}, **ONE_ROUND)
        expected = figures(whole)
        del expected["rounds"]["2"]
        assert figures(tmp_path / "run") == expected
        for name in ("1-reward", "1-bootstrapped-reward", "1-post-train"):
            for file in ("state.safetensors", "metrics.csv"):
                made = stage(tmp_path / "run", name) / file
                assert made.read_bytes() == (stage(whole, name) / file).read_bytes()

    def test_no_stage_depends_on_it(self, whole, made):
        often = {
            "fit": replace(FIT, checkpoint_minutes=9.0),
            "post_train": replace(BY_SFT, checkpoint_minutes=9.0),
        }
        run(whole, resume=True, **often, **TWO_ROUNDS)
        assert made == []

    def test_nor_does_a_config_with_or_without_it(self, whole, tmp_path):
        config = {"rounds": {"init_args": {"post_train": {"candidates": 3}}}}
        settings = []
        for minutes in ({}, {"checkpoint_minutes": 9.0}):
            named = {**config["rounds"]["init_args"]["post_train"], **minutes}
            changed = {"rounds": {"init_args": {"post_train": named}}}
            opened = RunFolder.open(tmp_path / "run", changed, resume=True)
            (tmp_path / "run" / "config.yaml").write_text(json.dumps(opened.config | changed))
            settings.append(state_module.settings_of(opened, game(), "post_train"))
            del opened
        assert settings[0] == settings[1] == config["rounds"]["init_args"]


def test_a_game_without_prompts_or_rounds_is_refused():
    with pytest.raises(InputError, match="GANRMRounds samples from prompts and got none"):
        game(prompts=[])
    with pytest.raises(InputError, match="rounds of at least 1; got -1"):
        game(rounds=-1)


class TestSharedStages:
    def test_other_settings_reuse_what_does_not_depend_on_them(self, whole, tmp_path, made):
        store = shutil.copytree(whole / "stages", tmp_path / "stages")
        longer = PostTrain(
            BY_SFT.loop, partial(STEPS, max_steps=5), 3, 6, 4, GUARDS, checkpoint_every=2
        )
        run(tmp_path / "a", stages=store, post_train=longer, **ONE_ROUND)
        assert made == ["1-post-train", "1-samples", "1-scores"]
        del made[:]
        judges = {"dark": Function(dark), "ink": Brightness()}
        run(
            tmp_path / "b",
            stages=store,
            evaluation=Evaluation(samples=12, judges=judges),
            **ONE_ROUND,
        )
        assert made == [], "another judge trains and draws nothing anew"
        assert set(figures(tmp_path / "b")["rounds"]["1"]["judged"]) == {"dark", "ink"}
        run(tmp_path / "c", stages=store, evaluation=Evaluation(samples=14), **ONE_ROUND)
        assert made == ["0-samples", "1-samples", "1-scores"]


def dark(samples):
    return -samples.outputs.mean((1, 2, 3))


@pytest.fixture(
    scope="module", params=["cold start, fresh negatives", "warm start, frozen negatives"]
)
def filtered(request, tmp_path_factory):
    """Two rounds of filtering: whether warm, the folder, the reward's weights before each fit, and
    the data of each.
    """
    warm, folder = request.param.startswith("warm"), tmp_path_factory.mktemp("filtered") / "run"
    starts, data, against = [], [], TargetSamples.against

    def loop(reward):
        starts.append(reward.projection.weight.detach().clone())
        return GANRM(reward, optimizer=ADAM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TargetSamples,
            "against",
            lambda *args, **kwargs: data.append(against(*args, **kwargs)) or data[-1],
        )
        how = FitReward(loop, SHORT, warm_start=warm)
        run(
            folder,
            rounds=2,
            post_train=PostTrain(candidates=2),
            fit=how,
            refresh_negatives=not warm,
        )
    return warm, folder, starts, data


class TestFiltering:
    def test_each_rounds_filter_keeps_its_own_reward(self, filtered):
        _, folder, _, _ = filtered
        last, first = (
            folder / "policy" / part / "model.safetensors" for part in ("reward", "policy/reward")
        )
        for number, weights in ((1, first), (2, last)):
            kept, saved = (
                load_file(stage(folder, f"{number}-reward") / "state.safetensors"),
                load_file(weights),
            )
            assert torch.equal(kept["projection.weight"], saved["projection.weight"])
        assert last.read_bytes() != first.read_bytes()

    def test_frozen_negatives_are_drawn_once_fresh_ones_in_each_round(self, filtered):
        warm, folder, _, data = filtered
        found = sorted(path.name[:11] for path in (folder / "stages").glob("?-negatives-????????"))
        assert found == (["1-negatives"] if warm else ["1-negatives", "2-negatives"])
        assert torch.equal(data[0].negatives.outputs, data[1].negatives.outputs) == warm

    def test_a_fit_starts_from_the_first_weights_or_the_last(self, filtered):
        warm, folder, starts, _ = filtered
        after_first = load_file(stage(folder, "1-reward") / "state.safetensors")[
            "projection.weight"
        ]
        assert torch.equal(starts[1], after_first if warm else starts[0])
        assert not torch.equal(starts[0], after_first)

    def test_the_target_samples_and_their_split_stay(self, filtered):
        assert len(filtered[3]) == 2
        for part in ("train", "held_out"):
            expected = targets().target_samples(part).outputs
            assert all(
                torch.equal(data.target_samples(part).outputs, expected) for data in filtered[3]
            )

    def test_there_are_no_pairs_and_no_training(self, filtered):
        assert not [
            path
            for path in (filtered[1] / "stages").glob("?-*")
            if "pairs" in path.name or "post" in path.name
        ]


class Note:
    """What happened, in order: when a judge looked, and in which mode and against what reference a
    policy was trained.
    """

    def __init__(self):
        self.events, self.references = [], []

    def judge(self, samples):
        self.events.append("judge")
        return samples.outputs.mean((1, 2, 3))

    def fit(self, reward):
        self.events.append("fit" if reward.training else "fit in eval mode")
        return GANRM(reward, optimizer=ADAM)

    def train(self, policy, reward):
        note = self

        class Noted(DPO):
            def on_train_start(self):
                note.events.append("train" if self.policy.training else "train in eval mode")
                note.references.append([p.clone() for p in self.reference.parameters()])

        return Noted(policy, reward, beta=100.0, optimizer=ADAM)


@pytest.fixture(params=["round", "run"], scope="module")
def noted(request, tmp_path_factory):
    note, folder = Note(), tmp_path_factory.mktemp(request.param) / "run"
    how = PostTrain(note.train, partial(STEPS, max_steps=2), 3, 6, 4, reference=request.param)
    judges = {"judge": Function(note.judge)}
    run(
        folder,
        rounds=2,
        post_train=how,
        fit=FitReward(note.fit, SHORT),
        evaluation=Evaluation(12, judges),
    )
    return request.param, note, folder


class TestPreferences:
    def test_judges_look_before_the_first_round_and_after_each_never_between(self, noted):
        """Twice before: at the targets, and at the generator as it comes."""
        _, note, _ = noted
        assert note.events == ["judge", "judge", "fit", "train", "judge", "fit", "train", "judge"]

    def test_the_reference_is_the_rounds_or_the_runs_first_policy(self, noted):
        kind, note, _ = noted
        first, second = note.references
        initial = list(DiffusionPolicy(tiny_diffusion(classes=0)).parameters())
        assert all(torch.equal(a, b) for a, b in zip(first, initial, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(second, initial, strict=True)) == (
            kind == "run"
        )

    def test_its_figures_are_kept(self, noted):
        found = figures(noted[2])["rounds"]["2"]["post_train"]
        assert {"loss", "accuracy", "margin", "chosen", "rejected", "steps"} <= set(found)


class TestRefused:
    def test_fewer_than_two_candidates_before_anything_is_trained(self):
        with pytest.raises(InputError, match="two candidates of a prompt; got k=1"):
            PostTrain(SFT, candidates=1)
        assert PostTrain(candidates=1).loop is None

    def test_candidates_that_all_tie(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            VisionReward, "members", lambda self, samples: torch.zeros(len(samples), 2)
        )
        with pytest.raises(InputError, match=r"all 3 candidates of every prompt alike.*val/auc"):
            run(tmp_path / "run")

    def test_a_policy_that_diverged_leaves_the_last_rounds(self, tmp_path):
        wild = PostTrain(partial(SFT, optimizer=partial(torch.optim.SGD, lr=1e38)), STEPS, 3, 6, 4)
        with pytest.raises(
            InputError, match=r"weights are NaN or infinite .* The last round's policy stands"
        ):
            run(tmp_path / "run", post_train=wild)
        assert not [
            path for path in (tmp_path / "run" / "stages").glob("*post-train*") if path.is_dir()
        ]

    def test_a_reward_that_breaks_keeps_its_last_good_checkpoint(self, tmp_path):
        class Breaks(GANRM):
            def training_step(self, batch, batch_idx):
                if self.current_epoch == 1:
                    batch.inputs.fill_(torch.nan)
                return super().training_step(batch, batch_idx)

        with pytest.raises(InputError, match="GANRM's loss is nan"):
            run(tmp_path / "run", fit=FitReward(Breaks, SHORT))
        (scratch,) = (tmp_path / "run" / ".scratch").iterdir()
        for name in ("best", "last"):
            state = torch.load(scratch / f"{name}.ckpt", weights_only=True)["state_dict"]
            assert all(tensor.isfinite().all() for tensor in state.values())
