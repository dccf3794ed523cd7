"""The count of a training's optimizer steps, as the run's log file tells it."""

from types import SimpleNamespace

import pytest

from rewardlab import progress
from rewardlab.training.steps import CountedSteps


def sentence(is_automatic: bool, max_steps: int) -> str:
    trainer = SimpleNamespace(
        global_step=0,
        max_steps=max_steps,
        max_epochs=2,
        num_training_batches=5,
        accumulate_grad_batches=2,
    )
    module = SimpleNamespace(automatic_optimization=is_automatic)
    counted = CountedSteps()
    counted.on_train_start(trainer, module)
    try:
        return progress.current() or ""
    finally:
        counted.on_train_end(trainer, module)


@pytest.mark.parametrize(
    ("is_automatic", "max_steps", "said"),
    [
        (True, -1, "training, steps 0 of 6"),
        (False, -1, "training, steps 0"),
        (False, 7, "training, steps 0 of 7"),
    ],
)
def test_a_total_is_told_only_where_it_is_known(is_automatic, max_steps, said):
    """PPO calls its optimizer several times a batch, so its epochs bound no number of steps."""
    assert sentence(is_automatic, max_steps) == said
    assert progress.current() is None
