"""Exchange: our rewards inside of other trainers, and their reward functions and data inside ours.

A module a trainer: `trl`, `openrlhf`, `verl` and `flow_factory`. None of them imports the trainer.
"""
