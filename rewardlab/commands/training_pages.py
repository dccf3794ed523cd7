"""The pages of the commands that train, which share their flags."""

_TRAINING = """\
rewardlab {verb}: {what}

  rewardlab {verb} --config run.yaml [--config more.yaml] [--out RUN] [--resume] [--KEY=VALUE ...]

  --config FILE       YAML with model:, data:, trainer: and experiment:; later files and flags
                      override earlier ones
  --out RUN           {out}
  --resume            go on in a RUN that the same config made
  --dry-run           send one batch through, print sizes, write nothing
  --report=false      write no report.html at the end of a fit
  --ckpt_path FILE    checkpoint to start from: a local file of tensors
  --experiment.KEY=V  a value that other keys take as ${{experiment.KEY}}: policy_path, reward_path,
                      tower_path, data_path, prompts_path, out, seed
  --model.help CLASS  what a class takes; --help-all lists every flag

Examples:
  {examples}"""

_OUT = """\
run folder: config.yaml, run.json, metrics.csv, checkpoints/, and what was
                      trained as policy/ or reward/. Default: runs/ and the last config's name"""
_NO_OUT = "run folder: config.yaml, run.json, metrics.csv. Without it nothing is written"

_FIT_EXAMPLES = """\
rewardlab fit --config configs/gan_rm/fit.yaml --experiment.tower_path local-dir:tower \\
    --experiment.data_path targets --data.negatives generated --out runs/reward
  rewardlab fit --config configs/adv_rm/fit_reward.yaml --config configs/trainer/cpu.yaml \\
    --experiment.reward_path model --experiment.data_path pairs.jsonl --out runs/rm \\
    --model.init_args.optimizer.init_args.lr=1e-4 --trainer.max_steps=200
  rewardlab fit --model.help rewardlab.training.GANRM"""

_VALIDATE_EXAMPLES = """\
rewardlab validate --config runs/reward/config.yaml \\
    --ckpt_path=runs/reward/checkpoints/last.ckpt
  rewardlab validate --config runs/reward/config.yaml \\
    --ckpt_path=runs/reward/checkpoints/last.ckpt --out runs/again"""

_TEST_EXAMPLES = """\
rewardlab test --config yours.yaml --ckpt_path=runs/yours/checkpoints/last.ckpt"""

_PREDICT_EXAMPLES = """\
rewardlab predict --config yours.yaml --ckpt_path=runs/yours/checkpoints/last.ckpt"""

TRAINING_PAGES = {
    "fit": _TRAINING.format(
        verb="fit",
        what="train one module.",
        out=_OUT,
        examples=_FIT_EXAMPLES,
    ),
    "validate": _TRAINING.format(
        verb="validate",
        what="run a module's validation loop and print its metrics.",
        out=_NO_OUT,
        examples=_VALIDATE_EXAMPLES,
    ),
    "test": _TRAINING.format(
        verb="test",
        what=(
            "run a module's test loop and print its metrics.\n"
            "rewardlab's own modules have none; yours may."
        ),
        out=_NO_OUT,
        examples=_TEST_EXAMPLES,
    ),
    "predict": _TRAINING.format(
        verb="predict",
        what="run a module's prediction loop. rewardlab's own modules have none; yours may.",
        out=_NO_OUT,
        examples=_PREDICT_EXAMPLES,
    ),
}
