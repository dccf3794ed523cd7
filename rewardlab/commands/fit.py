"""`rewardlab fit|validate|test|predict`: LightningCLI in subclass mode, writing into a run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities.model_helpers import is_overridden

from rewardlab.commands.parsing import (
    instantiate,
    make_parser,
    out_folder,
    parse,
    prepare,
    resolved,
)
from rewardlab.errors import InputError
from rewardlab.runs.exporting import export
from rewardlab.runs.folder import RunFolder
from rewardlab.training.resumable import Resumable
from rewardlab.training.trainers import make_trainer

log = logging.getLogger("rewardlab")
_HOOKS = {
    "validate": ["validation_step"],
    "test": ["test_step"],
    "predict": ["predict_step", "forward"],
}
_INSTEAD = {
    "validate": "A policy's outputs are judged by `rewardlab rounds` and `rewardlab curve`",
    "test": "For its figures on held-out data use `rewardlab validate`, for how a reward fails `rewardlab attack`, to judge "
    "what a policy draws `rewardlab rounds`",
    "predict": "To score samples or draw them use load_reward and load_policy in Python, to judge them `rewardlab attack` or "
    "`rewardlab rounds`",
}
_GIVEN = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}


def run(verb: str, words: Sequence[str]) -> int:
    """Parse, build everything, and only then touch the run folder and start."""
    cli = TrainingCLI(verb, words)
    _check_hook(verb, cli.model)
    chosen = {key: cli.config.get(key) for key in cli.verb_keys}
    folder = None
    if cli.out and first_process():  # the others are launched by it with the same words
        folder = RunFolder.open(cli.out, resolved(cli.parser, cli.config), cli.config.resume)
        folder.path.joinpath("checkpoints").mkdir(exist_ok=True)
    if cli.config.resume and not chosen["ckpt_path"] and cli.out:
        chosen["ckpt_path"] = newest(cli.out / "checkpoints")
    try:
        getattr(cli.trainer, verb)(cli.model, datamodule=cli.datamodule, **chosen)
    except InputError:
        if folder is not None:
            folder.abandon()
        raise
    if cli.out and first_process():
        print(cli.out)
        for made in export_trained(cli.trainer, cli.model, cli.out) if verb == "fit" else []:
            print(f"The trained {made.name}, as the other commands take it: {made}")
    return 0


def _check_hook(verb: str, module: LightningModule) -> None:
    hooks = _HOOKS.get(verb, [])
    if hooks and not any(is_overridden(hook, module) for hook in hooks):
        name = type(module).__name__
        raise InputError(
            f"`rewardlab {verb}` runs a module's {hooks[0]}, and {name} has none. {_INSTEAD[verb]}."
        )


def _check_checkpoint(place: Any) -> None:
    elsewhere = str(place).startswith("registry") or "://" in str(place)
    if (
        place
        and place not in ("best", "last", "hpc")
        and not elsewhere
        and not Path(place).exists()
    ):
        raise InputError(
            f"--ckpt_path {place} does not exist. Give a file such as RUN/checkpoints/last.ckpt of a fit."
        )


def export_trained(trainer: Trainer, module: LightningModule, out: Path) -> list[Path]:
    """Write the trained policy and reward of a module, if it has such, where other commands take
    them; return the folders.
    """
    parts = {name: part for name, part in module.named_children() if name in ("policy", "reward")}
    trained = {
        out / name: part
        for name, part in parts.items()
        if any(each.requires_grad for each in part.parameters())
    }
    if trained and trainer.strategy.restore_checkpoint_after_setup:
        log.warning(
            "Its weights are spread over processes, so nothing is exported; the checkpoints hold them."
        )
        return []
    for target in trained:
        shutil.rmtree(target, ignore_errors=True)  # of a fit that was resumed once it had ended
    return [target for target, part in trained.items() if export(part.eval(), target)]


def first_process() -> bool:
    """Return whether this is the process that writes; alone, or rank 0 of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def newest(folder: Path) -> str | None:
    """Return the checkpoint that was written last, or None."""
    found = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    return str(found[-1]) if found else None


class TrainingCLI(LightningCLI):
    """One verb of the Trainer with its own flags; `experiment.seed` seeds, `experiment.out` is the
    run folder.
    """

    def __init__(self, verb: str, words: Sequence[str]) -> None:
        self.verb = verb
        self.words = words
        super().__init__(
            save_config_callback=None,
            seed_everything_default=False,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            run=False,
            args=list(words),
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return make_parser()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        prepare(parser)
        parser.link_arguments("experiment.seed", "seed_everything")
        self.verb_keys = parser.add_method_arguments(Trainer, self.verb, skip=_GIVEN)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        self.config = parse(parser, args)

    def before_instantiate_classes(self) -> None:
        _check_checkpoint(self.config.get("ckpt_path"))
        wanted = self.verb == "fit" or self.config.experiment.out
        self.out = out_folder(self.config, self.words) if wanted else None
        if self.out and first_process():
            RunFolder.check(self.out, resolved(self.parser, self.config), self.config.resume)

    def instantiate_classes(self) -> None:
        self.config_init = instantiate(self.parser, self.config)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        loggers = config["logger"] if isinstance(config["logger"], list) else [config["logger"]]
        loggers = [logger for logger in loggers if isinstance(logger, Logger)]
        if self.out:
            loggers.insert(0, CSVLogger(str(self.out), name="", version=""))
        callbacks = (
            config["callbacks"] if isinstance(config["callbacks"], list) else [config["callbacks"]]
        )
        callbacks = [callback for callback in callbacks if callback]
        if self.verb == "fit":
            callbacks.append(Resumable())
            if config["enable_checkpointing"] is not False and not any(
                isinstance(c, Checkpoint) for c in callbacks
            ):
                callbacks.append(
                    ModelCheckpoint(self.out and self.out / "checkpoints", save_last=True)
                )
        else:
            config["enable_checkpointing"] = config["enable_checkpointing"] or False
        return make_trainer(
            Trainer, **{**config, "logger": loggers or False, "callbacks": callbacks}
        )
