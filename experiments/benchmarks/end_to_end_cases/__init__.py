"""The parts of `experiments/benchmarks/end_to_end.py`.

`measuring` takes times and memory. `material` makes the model and the texts. The jobs are in
`loops` (training, ours and TRL's), `head` (a language model's head) and `parts` (pieces of the
loops, and commands). `growth` measures how cost grows, `cases` lists the jobs, and `writing` makes
the table. A job imports what it needs itself, so that its process holds nothing else.
"""
