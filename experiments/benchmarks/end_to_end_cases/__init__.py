"""The parts of `experiments/benchmarks/end_to_end.py`.

`measuring` takes times and memory. `material` makes the models and the texts. The jobs are in
`loops` (training, ours and TRL's), `adapters` (DPO of an adapter on a model of 135M), `head` (a
language model's head) and `parts` (pieces of the loops, and commands). `growth` measures how cost
grows, `cases` lists the jobs, `writing` makes the table, and `history` compares with the rows that
are committed. A job imports what it needs itself, so that its process holds nothing else.
"""
