"""Every YAML in configs/ parses and instantiates, in the company that it is made for; none is
missed.
"""

import json
import shlex
from itertools import chain, product
from pathlib import Path

import pytest
import timm
import torch
import yaml

from rewardlab.commands import PAGES
from rewardlab.commands.fit import TrainingCLI
from rewardlab.commands.rounds import build
from rewardlab.data import save_samples
from rewardlab.embedded import tiny_worlds, topics
from rewardlab.rewards import Weighted
from rewardlab.rewards.tower_files import save_tower
from rewardlab.rewards.towers import Tower
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.types import Samples

ROOT = Path(__file__).parents[1]
FILES = {
    path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.y*ml")
}
COMPOSED = [
    ("gan_rm/digits.yaml", "gan_rm/digits_best_of_n.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_sft.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_refl.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml", "gan_rm/digits_flow.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_refl.yaml", "gan_rm/digits_norms.yaml"),
    ("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml", "gan_rm/digits_guard.yaml"),
]
MODALITIES = ("image", "text")
MATRIX = {  # test_modalities.py composes and runs each of them
    *(
        f"matrix/{game}_{modality}.yaml"
        for game, modality in product(("gan_rm", "adv_rm"), MODALITIES)
    ),
    *(
        f"matrix/{modality}_{loop}.yaml"
        for modality, loop in product(MODALITIES, ("best_of_n", "sft", "dpo", "ppo"))
    ),
    "matrix/image_velocity.yaml",
    "matrix/gan_rm_video.yaml",
    "matrix/gan_rm_wan.yaml",
    *(f"matrix/wan_{loop}.yaml" for loop in ("best_of_n", "sft", "dpo", "ppo")),
    *(f"matrix/video_{loop}.yaml" for loop in ("best_of_n", "sft", "dpo", "ppo", "refl")),
}
TEXT = {"adv_rm/topics.yaml", "adv_rm/topics_novelty.yaml"}
STUDY = {
    "adv_rm/anchor.yaml",
    "adv_rm/anchored.yaml",
    "adv_rm/restart.yaml",
    "adv_rm/study.yaml",
    "adv_rm/study_guard.yaml",
    "gan_rm/digits_finished.yaml",
    "gan_rm/digits_menu.yaml",
    "gan_rm/digits_monitors.yaml",
    "adv_rm/study_paper.yaml",
    "adv_rm/study_pairs.yaml",
}
TRAINERS = ("cpu", "gpu_bf16", "multi_node", "torchrun", "slurm", "fsdp2")
FITS = [("gan_rm/fit.yaml", f"trainer/{where}.yaml") for where in TRAINERS]
MEMORY = {f"memory/{name}.yaml" for name in ("sd15", "sdxl", "sd35", "flux", "qwen_image", "wan")}
SWEEPS = {f"sweeps/{name}.yaml" for name in ("adv_rm_search", "adv_rm_topics", "gan_rm_digits")}
MENU = sorted(file for file in FILES if file.startswith("menu/"))
APART = ("menu/independent_witness.yaml", "menu/off_policy.yaml")  # in a test of their own
BUDGET = "data/token_budget.yaml"
OWN = {"gan_rm/own.yaml", "adv_rm/own.yaml", "adv_rm/fit_reward.yaml", "adv_rm/fit_dpo.yaml"}
HERE = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.num_nodes=1",
    "--trainer.strategy=auto",
]
RUN = "--rounds.init_args."
QUICK = [
    f"{RUN}{part}.init_args.train_steps=1"
    for part in ("policy", "reward", "evaluation.judges.accuracy")
]


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    """Configs name paths from the repository's root; what they train is kept in a folder of these
    tests.
    """
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(ROOT)


def words(files, out):
    return [word for file in files for word in ("--config", f"configs/{file}")] + [
        "--out",
        str(out),
    ]


def built(files, out, *flags):
    return build([*words(files, out), *QUICK, *flags])


def test_no_config_is_missed():
    composed = {file for files in [*COMPOSED, *FITS] for file in files} | {"gan_rm/panel.yaml"}
    # STUDY: test_hardening_study.py, test_menu_study.py, test_guard_study.py; MEMORY: test_memory_configs.py
    # SWEEPS: test_cli_sweep.py
    assert composed | MATRIX | TEXT | OWN | STUDY | MEMORY | SWEEPS | {BUDGET} | set(MENU) == FILES
    assert len(FILES - set(MENU)) >= 46


@pytest.mark.parametrize(
    "files", COMPOSED[:-1], ids=lambda files: "+".join(Path(file).stem for file in files)
)
def test_configs_that_belong_together_instantiate(files, tmp_path):
    found = built(files, tmp_path / "run")
    assert found.config["rounds"]["class_path"] == "rewardlab.rounds.GANRMRounds"
    assert not (tmp_path / "run").exists()


def test_an_overlay_keeps_what_it_does_not_name_and_flags_come_last(tmp_path):
    """The guard's file sets `stop` alone: the average's decay and the guard's steps are those of
    digits_dpo.yaml.
    """
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
    found = build([*words(sorted(TEXT), tmp_path / "run"), *TEXT_QUICK, "--experiment.seed=3"])
    game = found.rounds
    assert (len(game.members), len(game.prompts), game.rounds, game.seed) == (2, 64, 0, 3)
    assert (game.tether.weight, game.tether.novelty.frozen) == (1.0, True)
    assert (game.attack.judge, list(game.evaluation.judges)) == ("gold", ["gold"])
    loop = game.post_train.loop(game.policy, game.members[0])
    assert (loop.kl_weight, loop.seed) == (0, 3)


TEXT_QUICK = [
    f"{RUN}policy.init_args.train_steps=1",
    f"{RUN}preferences.init_args.train_steps=1",
    f"{RUN}preferences.init_args.n=64",
]


@pytest.fixture
def quick_topics(tmp_path_factory, monkeypatch):
    """The world of topics with base networks of one step, in a cache of its own."""
    train = topics.train_base
    monkeypatch.setattr(
        topics, "train_base", lambda folder, train_steps, **options: train(folder, 1, **options)
    )
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path_factory.getbasetemp() / "quick-cache"))


def test_hardening_in_the_loop_lies_over_the_text_world(quick_topics, tmp_path):
    files = ["adv_rm/topics.yaml", "menu/online.yaml"]
    game = build([*words(files, tmp_path / "run"), *TEXT_QUICK]).rounds
    hardening = game.online
    assert (game.rounds, game.use, hardening.best_of) == (0, "ensemble", 8)
    optimizer = hardening.online.make_optimizer(hardening.correction.parameters())
    assert (hardening.online.rows, optimizer.param_groups[0]["lr"]) == (48, 0.002)


def test_importance_weights_of_stale_outputs_are_reached_by_config(quick_topics, tmp_path):
    files = ["adv_rm/topics.yaml", "menu/online_weighted.yaml"]
    online = build([*words(files, tmp_path / "run"), *TEXT_QUICK]).rounds.online.online
    importance = online.buffer.replay.importance
    assert (importance.ratio, importance.quantile) == ("whole", 0.95)
    assert (online.buffer.replay.recent, online.rows) == (4, 48)


def printed(text, command):
    """The commands of a page or a config's comment, each as words; a backslash ends a line that
    goes on.
    """
    lines = text.replace("\n#", "\n").replace("\\\n", " ").splitlines()
    lines = [line.strip("# ") for line in lines if "[--" not in line]  # which is usage
    return [
        shlex.split(line, comments=True)[2:]
        for line in lines
        if line.startswith(f"rewardlab {command} --config ")
    ]


def menu():
    """Return the fragments of the menu that go together: of one base, loop and advantage.

    The base is the rounds' config that their comments lay them over.
    """
    groups = {}
    for file in MENU:
        text = (ROOT / "configs" / file).read_text()
        [command] = printed(text, "rounds")
        assert command[-2:] == ["--config", f"configs/{file}"]
        loop = yaml.safe_load(text)["rounds"]["init_args"].get("post_train", {}).get("loop", {})
        how = (loop.get("class_path"), loop.get("init_args", {}).get("advantage"))
        groups.setdefault((command[1], *how), []).append(file)
    return groups


@pytest.mark.parametrize(
    "files",
    [
        *([file for file in files if file not in APART] for files in menu().values()),
        *(pytest.param([file], marks=pytest.mark.nightly) for file in MENU),
    ],
    ids=lambda files: "+".join(Path(file).stem for file in files)[:80],
)
def test_the_menu_is_laid_over_the_rounds_that_its_comments_name(files, quick_topics, tmp_path):
    """All fragments that go together at once, and nightly each by itself."""
    [base] = {base for (base, *_), others in menu().items() if set(files) <= set(others)}
    quick = TEXT_QUICK if base == "configs/adv_rm/topics.yaml" else QUICK
    rounds = build(["--config", base, *words(files, tmp_path / "run"), *quick]).rounds
    reward = Weighted([rounds.fitted()[0]], [1.0])
    module = rounds.post_train.build(rounds.policy, reward, rounds.policy)
    assert module.policy is rounds.policy


def test_callbacks_of_the_menu_stand_behind_those_of_the_config(tmp_path):
    files = ["matrix/adv_rm_text.yaml", "matrix/text_ppo.yaml", "menu/reference_reset.yaml"]
    callback = f"{RUN}post_train.callbacks"
    first = tmp_path / "first.yaml"
    first.write_text(
        "rounds: {init_args: {post_train: {callbacks: [{class_path: rewardlab.training.EMA}]}}}"
    )
    names = words(files[:2], tmp_path / "run")
    names += ["--config", str(first), "--config", f"configs/{files[2]}"]
    game = build([*names, f"{callback}.init_args.kl=2"]).rounds
    average, reset = game.post_train.callbacks
    assert (average.decay, reset.every_n_steps, reset.kl) == (0.999, 50, 2.0)


def test_the_menus_fits_and_members_are_what_they_name(quick_topics, tmp_path):
    """And what they do not name stays."""
    names = ("batch_sum", "chi_po", "grm", "independent_members", "independent_witness")
    files = [f"menu/{name}.yaml" for name in (*names, "off_policy", "quantile")]
    witness = f"{RUN}attack.witness.init_args."
    quick = [f"{witness}pairs=64", f"{witness}train_steps=1", f"{witness}epochs=1"]
    game = build([*words(["adv_rm/topics.yaml", *files], tmp_path / "run"), *TEXT_QUICK, *quick])
    game = game.rounds
    loop = game.post_train.loop(game.policy, game.members[0])
    assert (loop.link, loop.reward_range) == ("mixed-chi2", 10)
    fit = game.fit.loop(game.members[0], seed=1)
    assert (fit.likelihood_weight, fit.batch_sum_weight) == (0.01, 0.001)
    assert fit.optimizer.keywords["lr"] == 0.001
    attack = game.attack
    assert (attack.mining.quantile, attack.mining.cap, attack.references) == (0.975, 100, 2)
    assert attack.witness_scale == "quantile"
    assert (game.reweight.repeats, game.reweight.normalize) == (1, "length")
    backbones = [member.backbone for member in (*game.members, attack.witness)]
    kinds = [type(backbone).__name__ for backbone in backbones]
    assert kinds == ["LlamaModel", "GPT2Model", "GPT2Model"]


@pytest.mark.parametrize("files", FITS, ids=lambda files: Path(files[1]).stem)
def test_a_fit_instantiates_with_each_trainer(files, tmp_path):
    """On whatever is here instead of their GPUs, and with a tiny tower."""
    save_tower(tiny_tower(), tmp_path / "tower")
    given = [
        f"--experiment.tower_path=local-dir:{tmp_path / 'tower'}",
        f"--experiment.data_path={tmp_path}",
    ]
    found = TrainingCLI("fit", [*words(files, tmp_path / "run"), *given, *HERE])
    assert (
        found.trainer.max_epochs,
        found.model.reward.projection.heads,
        found.datamodule.held_out,
    ) == (50, 8, 0.2)
    is_full = Path(files[1]).stem in ("cpu", "torchrun")
    assert found.trainer.precision == ("32-true" if is_full else "bf16-mixed")
    assert found.datamodule.targets == str(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_panel_of_two_families_instantiates(tmp_path):
    save_tower(tiny_tower(), tmp_path / "tower")
    Tower(timm.create_model("test_vit", pretrained=False)).save(tmp_path / "dino")
    config = (ROOT / "configs" / "gan_rm" / "panel.yaml").read_text()
    file = tmp_path / "panel.yaml"
    file.write_text(config.replace("local-dir:dino", f"local-dir:{tmp_path / 'dino'}"))
    given = [
        f"--experiment.tower_path=local-dir:{tmp_path / 'tower'}",
        f"--experiment.data_path={tmp_path}",
    ]
    found = TrainingCLI(
        "fit", ["--config", str(file), "--out", str(tmp_path / "run"), *given, *HERE]
    )
    first, second = found.model.reward.rewards
    assert (first.tower.width, second.tower.width, first.projection.heads) == (32, 64, 4)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with what own.yaml, the fits and the help pages name: models, pictures, pairs,
    prompts and the configs.
    """
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    tiny_diffusion(classes=0, channels=3).save_pretrained("pipeline")
    tiny_causal_lm().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    save_tower(tiny_tower(), "tower")
    for name in ("targets", "generated"):
        save_samples(name, Samples([""] * 10, torch.rand(10, 3, 8, 8)))
    pairs = [{"prompt": f"word {i}", "chosen": "yes", "rejected": "no"} for i in range(20)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    Path("prompts.txt").write_text("word 30\nword 31\n")
    return tmp_path


def test_own_data_takes_the_place_of_the_paths_of_experiment(world):
    """Each path is given under another name than the config's, so that a dead key would show."""
    for name in ("pipeline", "model", "tower", "targets", "pairs.jsonl", "prompts.txt"):
        (world / name).rename(world / f"my-{name}")
    given = [
        "--experiment.tower_path=local-dir:my-tower",
        "--experiment.prompts_path=my-prompts.txt",
    ]
    pictures = build(
        [*words(["gan_rm/own.yaml"], "run"), *given, *_paths("my-pipeline", "my-targets")]
    ).rounds
    assert (pictures.targets.targets, pictures.prompts) == ("my-targets", ["word 30", "word 31"])
    texts = build(
        [
            *words(["adv_rm/own.yaml"], "run"),
            given[1],
            *_paths("my-model", "my-pairs.jsonl"),
            "--experiment.seed=3",
        ]
    )
    game = texts.rounds
    assert (game.preferences.pairs, game.prompts, game.seed) == (
        "my-pairs.jsonl",
        ["word 30", "word 31"],
        3,
    )
    assert [member.options["seed"] for member in game.members] == [1, 2]
    assert (
        game.members[0].backbone.config.name_or_path == "my-model"
    )  # reward_path is policy_path unless it is given
    for part, file in (("reward", "fit_reward"), ("policy", "fit_dpo")):
        paths = [f"--experiment.{part}_path=my-model", "--experiment.data_path=my-pairs.jsonl"]
        found = TrainingCLI("fit", [*words([f"adv_rm/{file}.yaml"], "run"), *paths, *HERE])
        assert (found.datamodule.pairs, getattr(found.model, part).training) == (
            "my-pairs.jsonl",
            True,
        )


def test_a_token_budget_lies_over_the_fits_of_pairs(world):
    """As its comment prints it, and with another number on the command line."""
    text = (ROOT / "configs" / BUDGET).read_text().replace("MODEL", "model")
    [given] = printed(text, "fit")
    for flags, budget in (([], 8192), (["--data.init_args.tokens_per_batch=512"], 512)):
        data = TrainingCLI("fit", [*given, *flags, *HERE]).datamodule
        assert (data.tokens_per_batch, data.batch_size, data.pairs) == (budget, 16, "pairs.jsonl")


@pytest.mark.parametrize(
    ("file", "loop"),
    [("gan_rm", loop) for loop in ("DPO", "PPO", "ReFL")]
    + [("adv_rm", loop) for loop in ("DPO", "SFT")],
)
def test_another_loop_takes_the_place_of_an_own_config_s(world, file, loop):
    """The loop is handed its policy and its reward, so neither becomes a key of its config."""
    key = f"{RUN}post_train.loop"
    policy, data = {"gan_rm": ("pipeline", "targets"), "adv_rm": ("model", "pairs.jsonl")}[file]
    built = build(
        [
            *words([f"{file}/own.yaml"], "run"),
            *_paths(policy, data),
            f"{key}=rewardlab.training.{loop}",
        ]
    )
    assert type(_loop_of(built.rounds)).__name__ == loop


def _loop_of(rounds):
    reward = tiny_worlds.text_reward()
    return rounds.post_train.loop(rounds.policy, reward)


def _paths(policy, data):
    return [f"--experiment.policy_path={policy}", f"--experiment.data_path={data}"]


def test_commands_build_as_they_are_printed(world):
    """Those of the help pages, of the README and of configs for own data: each builds, and none is
    missed.
    """
    own = "".join(
        (ROOT / "configs" / file).read_text() for file in sorted(OWN | {"gan_rm/fit.yaml"})
    )
    own = own.replace("PIPELINE", "pipeline").replace("TOWER", "tower").replace("MODEL", "model")
    pages = (PAGES["fit"] + PAGES["rounds"], (ROOT / "README.md").read_text(), own)
    fits, rounds = ([printed(page, command) for page in pages] for command in ("fit", "rounds"))
    assert [len(found) for found in fits + rounds] == [2, 1, 3, 3, 1, 2]
    for given in chain(*fits):
        assert TrainingCLI("fit", [*given, *HERE]).model is not None
    for given in chain(*rounds):
        assert (
            build([*given, *(QUICK if "digits.yaml" in " ".join(given) else [])]).rounds.policy
            is not None
        )
