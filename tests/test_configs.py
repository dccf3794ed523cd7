"""Every YAML in configs/ parses and instantiates, in the company that it is made for; none is missed."""

from itertools import product
from pathlib import Path

import pytest

from rewardlab.commands.fit import TrainingCLI
from rewardlab.commands.rounds import build
from rewardlab.rewards.tower_files import save_tower
from rewardlab.testing import tiny_tower

ROOT = Path(__file__).parents[1]
FILES = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.y*ml")}
COMPOSED = [
    ("gan_rm/digits.yaml", "gan_rm/digits_best_of_n.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_sft.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_refl.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml", "gan_rm/digits_guard.yaml"),
]
MODALITIES = ("image", "text")
MATRIX = {  # test_modalities.py composes and runs each of them
    *(f"matrix/{game}_{modality}.yaml" for game, modality in product(("gan_rm", "adv_rm"), MODALITIES)),
    *(f"matrix/{modality}_{loop}.yaml" for modality, loop in product(MODALITIES, ("best_of_n", "sft", "dpo", "ppo"))),
}
TEXT = {"adv_rm/topics.yaml", "adv_rm/topics_novelty.yaml"}
FITS = [("gan_rm/fit.yaml", f"trainer/{where}.yaml") for where in ("cpu", "gpu_bf16", "multi_node")]
HERE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
RUN = "--rounds.init_args."
QUICK = [f"{RUN}{part}.init_args.train_steps=1" for part in ("policy", "reward", "evaluation.judges.accuracy")]


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    """Configs name paths from the repository's root; what they train is kept in a folder of these tests."""
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(ROOT)


def words(files, out):
    return [word for file in files for word in ("--config", f"configs/{file}")] + ["--out", str(out)]


def built(files, out, *flags):
    return build([*words(files, out), *QUICK, *flags])


def test_no_config_is_missed():
    assert {file for files in [*COMPOSED, *FITS] for file in files} | MATRIX | TEXT == FILES
    assert len(FILES) == 24


@pytest.mark.parametrize("files", COMPOSED[:-1], ids=lambda files: "+".join(Path(file).stem for file in files))
def test_configs_that_belong_together_instantiate(files, tmp_path):
    found = built(files, tmp_path / "run")
    assert found.config["rounds"]["class_path"] == "rewardlab.rounds.GANRM"
    assert not (tmp_path / "run").exists()


def test_an_overlay_keeps_what_it_does_not_name_and_flags_come_last(tmp_path):
    """The guard's file sets `stop` alone: the average's decay and the guard's steps are those of digits_dpo.yaml."""
    flags = [f"{RUN}post_train.loop.init_args.beta=100", "--experiment.seed=3"]
    found = built(COMPOSED[-1], tmp_path / "run", *flags)  # which is not built above
    how = found.rounds.post_train
    average, guard = how.callbacks
    assert (average.decay, guard.every_n_steps, guard.stop) == (0.95, 10, True)
    assert how.loop(found.rounds.policy, found.rounds.reward).beta == 100
    assert (found.rounds.seed, found.rounds.bootstrap.pool, how.candidates) == (3, 1000, 10)
    assert found.config["rounds"]["init_args"]["fit"]["loop"]["init_args"]["seed"] == 3


def test_the_text_world_instantiates(tmp_path):
    """With a base policy of one step, its pairs and prompts."""
    quick = [f"{RUN}{part}.init_args.train_steps=1" for part in ("policy", "preferences")] + [
        f"{RUN}preferences.init_args.n=64"
    ]
    found = build([*words(sorted(TEXT), tmp_path / "run"), *quick, "--experiment.seed=3"])
    game = found.rounds
    assert (len(game.members), len(game.prompts), game.rounds, game.seed) == (2, 64, 0, 3)
    assert (game.novelty_weight, game.novelty.frozen) == (1.0, True)
    assert (game.attack.judge, list(game.evaluation.judges)) == ("gold", ["gold"])
    loop = game.post_train.loop(game.policy, game.members[0])
    assert (loop.kl_weight, loop.seed) == (0, 3)


@pytest.mark.parametrize("files", FITS, ids=lambda files: Path(files[1]).stem)
def test_a_fit_instantiates_with_each_trainer(files, tmp_path):
    """On whatever is here instead of their GPUs, and with a tiny tower."""
    save_tower(tiny_tower(), tmp_path / "tower")
    given = [f"--experiment.tower_path=local-dir:{tmp_path / 'tower'}", f"--experiment.data_path={tmp_path}"]
    found = TrainingCLI("fit", [*words(files, tmp_path / "run"), *given, *HERE])
    assert (found.trainer.max_epochs, found.model.reward.projection.heads, found.datamodule.held_out) == (50, 8, 0.2)
    assert found.trainer.precision == ("32-true" if "cpu" in files[1] else "bf16-mixed")
    assert found.datamodule.targets == str(tmp_path)
    assert not (tmp_path / "run").exists()
