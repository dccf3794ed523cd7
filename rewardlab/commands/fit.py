"""`rewardlab fit|validate|test|predict`: LightningCLI in subclass mode, in a run folder."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities.model_helpers import is_overridden

from rewardlab.commands.extremes import keep_extremes
from rewardlab.commands.pages import write_page
from rewardlab.commands.parsing import (
    Parser,
    instantiate,
    make_parser,
    out_folder,
    parse,
    prepare,
    resolved,
)
from rewardlab.commands.rehearsal import table
from rewardlab.commands.unsaved import announce_unsaved
from rewardlab.errors import InputError
from rewardlab.networks.shards import is_spread
from rewardlab.rounds.rehearsal import Line, size_of
from rewardlab.runs.exporting import export
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.layout import LAST_CHECKPOINT, POLICY_FOLDER, REWARD_FOLDER
from rewardlab.training.base import Trained
from rewardlab.training.checkpoints import UNREADABLE, LastCheckpoint, checkpoint_to_resume
from rewardlab.training.resumable import Resumable
from rewardlab.training.steps import CountedSteps
from rewardlab.training.strategies import check_processes
from rewardlab.training.trainer_options import check_options
from rewardlab.training.trainers import Interruptible, make_trainer

log = logging.getLogger("rewardlab")
# The hooks of a module, one of which a verb runs; and what else a user may have meant.
_HOOKS = {
    "validate": ["validation_step"],
    "test": ["test_step"],
    "predict": ["predict_step", "forward"],
}
_INSTEAD = {
    "validate": "A policy's outputs are judged by `rewardlab rounds` and `rewardlab curve`",
    "test": (
        "For its figures on held-out data use `rewardlab validate`, for how a reward fails "
        "`rewardlab attack`, to judge what a policy draws `rewardlab rounds`"
    ),
    "predict": (
        "To score samples or draw them use load_reward and load_policy in Python, to judge them "
        "`rewardlab attack` or `rewardlab rounds`"
    ),
}
# Parts of a module that are exported once they were trained, and their folders.
EXPORTED = {"policy": POLICY_FOLDER, "reward": REWARD_FOLDER}
# Options of the Trainer for `--dry-run`.
ONE_BATCH = {"fast_dev_run": 1, "logger": False, "enable_checkpointing": False, "callbacks": []}
# Arguments of the Trainer's verbs that other flags give.
_OBJECTS = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}


def run(verb: str, argv: Sequence[str]) -> int:
    """Parse, build everything, and only then touch the run folder and start."""
    cli = TrainingCLI(verb, argv)
    _check_hook(verb, cli.model)
    check_processes(cli.trainer)
    if verb == "fit":
        _check_trainer(cli.model, cli.trainer)
    options = {key: cli.config.get(key) for key in cli.verb_keys}
    options["weights_only"] = True
    if cli.config.dry_run:
        return _rehearse(cli)
    writes = bool(cli.out) and first_process()  # other processes are launched with the same argv
    folder = _open_folder(cli) if writes else None
    if cli.config.resume and not options["ckpt_path"] and cli.out:
        options["ckpt_path"] = furthest(cli.out / "checkpoints")
        _say_what_is_left(cli, options["ckpt_path"])
    attempt = nullcontext() if folder is None else folder.attempt(["rewardlab", verb, *argv])
    with attempt:
        _train(cli, folder, options)
    if folder is not None and verb == "fit" and cli.config.report:
        write_page(folder.path)
    return 0


def _say_what_is_left(cli: TrainingCLI, checkpoint: str | None) -> None:
    """Log at which step a fit goes on, and where it ends."""
    step = 0
    if checkpoint is not None:
        step = torch.load(checkpoint, weights_only=True, mmap=True)["global_step"]
    start = "it begins anew, without a checkpoint" if checkpoint is None else f"step {step} stands"
    end = ""
    if cli.trainer.max_steps is not None and cli.trainer.max_steps >= 0:
        end = f"; {max(cli.trainer.max_steps - step, 0)} of {cli.trainer.max_steps} steps are left"
    elif cli.trainer.max_epochs is not None and cli.trainer.max_epochs >= 0:
        end = f"; it ends after epoch {cli.trainer.max_epochs}"
    log.info("Going on in %s: %s%s.", cli.out, start, end)


def _rehearse(cli: TrainingCLI) -> int:
    """Run the verb on one batch, say how large the model is, and write nothing."""
    getattr(cli.trainer, cli.verb)(cli.model, datamodule=cli.datamodule)
    if not first_process():
        return 0
    lines = []
    for name, part in cli.model.named_children():
        if name != "reference":
            lines.append(Line(name, f"{type(part).__name__}, {size_of(part)}"))
    print(table([*lines, Line(cli.verb, "one batch went through")]))
    print(f"Nothing was written. The run's folder will be {cli.out}.")
    return 0


def _train(cli: TrainingCLI, folder: RunFolder | None, options: dict[str, Any]) -> None:
    """Run the verb, and export what a fit has trained."""
    if cli.verb == "fit" and folder is not None:
        for name, part in trained_parts(cli.model).items():
            announce_unsaved(part, name)
    try:
        getattr(cli.trainer, cli.verb)(cli.model, datamodule=cli.datamodule, **options)
    except InputError:
        if folder is not None:
            folder.abandon()
        raise
    if cli.out and cli.verb == "fit" and isinstance(cli.model, Trained):
        cli.model.gather_trained(keep=first_process())
    if cli.out and first_process():
        print(cli.out)
        if cli.verb == "fit":
            _export_and_print(cli, cli.out)


def _open_folder(cli: TrainingCLI) -> RunFolder:
    """Make the run folder, or go on in it."""
    assert cli.out is not None
    folder = RunFolder.open(cli.out, resolved(cli.parser, cli.config), cli.config.resume)
    folder.path.joinpath("checkpoints").mkdir(exist_ok=True)
    return folder


def _export_and_print(cli: TrainingCLI, out: Path) -> None:
    for folder in export_trained(cli.model, out):
        print(f"The trained {folder.name}, as the other commands take it: {folder}")
        if folder.name == REWARD_FOLDER:
            keep_extremes(cli.model.reward, cli.datamodule, out)


def _check_hook(verb: str, module: LightningModule) -> None:
    """Refuse a module that has nothing for this verb to run."""
    hooks = _HOOKS.get(verb, [])
    if hooks and not any(is_overridden(hook, module) for hook in hooks):
        name = type(module).__name__
        raise InputError(
            f"`rewardlab {verb}` runs a module's {hooks[0]}, and {name} has none. {_INSTEAD[verb]}."
        )


def _check_trainer(module: LightningModule, trainer: Trainer) -> None:
    """Refuse options of the Trainer that a loop of ours cannot follow."""
    if isinstance(module, Trained):
        options = {
            "gradient_clip_val": trainer.gradient_clip_val,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "precision": trainer.precision,
        }
        check_options(type(module).__name__, module.instead_of_trainer, options)


def _check_checkpoint(location: Any, weights_only: Any) -> None:
    """Refuse a checkpoint that is not a local file of tensors and numbers.

    Raises:
        InputError: if it is to be fetched, does not exist, or would have to be unpickled.
    """
    if weights_only is False:
        raise InputError(
            "--weights_only=false would unpickle the checkpoint, which runs whatever code it holds."
            " Leave it out: rewardlab's checkpoints hold tensors and numbers."
        )
    if not location or location in ("best", "last", "hpc"):
        return
    if "://" in str(location) or re.fullmatch("registry(:.*)?", str(location), re.IGNORECASE):
        raise InputError(
            f"--ckpt_path {location} would be fetched and loaded unseen. Download it, look where it"
            " comes from, and give the local file."
        )
    path = Path(location)
    if not path.exists():
        raise InputError(
            f"--ckpt_path {location} does not exist. Give a file such as "
            "RUN/checkpoints/last.ckpt of a fit."
        )
    if path.is_file():
        _check_no_code(path)


def _check_no_code(path: Path) -> None:
    """Refuse a checkpoint that cannot be loaded, or only by unpickling objects."""
    try:
        torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except UNREADABLE as error:
        reason = str(error).partition(". ")[0].splitlines()[0]
        raise InputError(
            f"--ckpt_path {path} cannot be loaded as tensors and numbers ({reason}). It is cut, no "
            "checkpoint, or holds other objects, whose code would run when they are unpickled. "
            "Give a checkpoint of a fit, such as RUN/checkpoints/last.ckpt."
        ) from None


def export_trained(module: LightningModule, out: Path) -> list[Path]:
    """Write a module's trained policy and reward where other commands take them.

    Returns:
        The folders, `out`/policy and `out`/reward, of the parts that were trained and can be saved.
    """
    trained = {out / name: part for name, part in trained_parts(module).items()}
    if any(_is_spread(part) for part in trained.values()):
        log.warning(
            "Its weights are spread over processes, so nothing is exported; the checkpoints hold "
            "them."
        )
        return []
    for folder in trained:
        shutil.rmtree(folder, ignore_errors=True)  # of a fit that was resumed once it had ended
    return [folder for folder, part in trained.items() if export(part.eval(), folder)]


def trained_parts(module: LightningModule) -> dict[str, Any]:
    """Return what a module trains and a fit exports, by the names of the folders."""
    parts = {}
    for name, part in module.named_children():
        if name in EXPORTED and _is_trained(part):
            parts[EXPORTED[name]] = part
    return parts


def _is_trained(part: Any) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _is_spread(part: Any) -> bool:
    return any(is_spread(weight) for weight in part.parameters())


def first_process() -> bool:
    """Return whether this is the process that writes: alone, or rank 0 of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def furthest(folder: Path) -> str | None:
    """Return the checkpoint that is furthest on and can be loaded, or None where there is none.

    Raises:
        InputError: if there are some, and none can be loaded.
    """
    checkpoint = checkpoint_to_resume(folder)
    if checkpoint is None and any(folder.glob("*.ckpt")):
        raise InputError(
            f"None of the checkpoints in {folder} can be loaded; expected those of a fit. A full "
            "disk or a crash may have cut them. Restore one, or remove them to begin anew."
        )
    return None if checkpoint is None else str(checkpoint)


class TrainingCLI(LightningCLI):
    """One verb of the Trainer with its own flags.

    `experiment.seed` seeds everything, and `experiment.out` is the run folder.
    """

    def __init__(self, verb: str, argv: Sequence[str]) -> None:
        self.verb = verb
        self.argv = argv
        super().__init__(
            save_config_callback=None,
            seed_everything_default=False,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            run=False,
            args=list(argv),
        )

    parser: Parser

    def init_parser(self, **kwargs: Any) -> Parser:
        return make_parser()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        prepare(parser)
        parser.link_arguments("experiment.seed", "seed_everything")
        self.verb_keys = parser.add_method_arguments(Trainer, self.verb, skip=_OBJECTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(parser, Parser)
        assert isinstance(args, list)
        self.config = parse(parser, args)

    def before_instantiate_classes(self) -> None:
        _check_checkpoint(self.config.get("ckpt_path"), self.config.get("weights_only"))
        needs_folder = self.verb == "fit" or self.config.experiment.out
        self.out = out_folder(self.config, self.argv) if needs_folder else None
        if self.out and first_process() and not self.config.dry_run:
            RunFolder.check(self.out, resolved(self.parser, self.config), self.config.resume)

    def instantiate_classes(self) -> None:
        self.config_init = instantiate(self.parser, self.config)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the config's Trainer, with a run's logger and callbacks added."""
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        if self.config.dry_run:
            return make_trainer(Trainer, **{**config, **ONE_BATCH})
        loggers = [logger for logger in _as_list(config["logger"]) if isinstance(logger, Logger)]
        if self.out:
            loggers.insert(0, CSVLogger(str(self.out), name="", version=""))
        config["logger"] = loggers or False
        callbacks = [callback for callback in _as_list(config["callbacks"]) if callback]
        if self.verb == "fit":
            callbacks += self._callbacks_of_a_fit(config["enable_checkpointing"], callbacks)
        else:
            config["enable_checkpointing"] = config["enable_checkpointing"] or False
        config["callbacks"] = callbacks
        return make_trainer(Trainer, **config)

    def _callbacks_of_a_fit(self, enable_checkpointing: Any, callbacks: list[Any]) -> list[Any]:
        """Return what makes a fit resumable, and its checkpoints unless the config has its own."""
        added: list[Any] = [Resumable(), CountedSteps()]
        has_own = any(isinstance(callback, Checkpoint) for callback in callbacks)
        if enable_checkpointing is False or self.out is None:
            return added
        folder = self.out / "checkpoints"
        if not has_own:
            added.append(ModelCheckpoint(folder))
        last = folder / LAST_CHECKPOINT
        return [*added, LastCheckpoint(last, epochs=True), Interruptible(last)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
