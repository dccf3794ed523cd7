"""The parts of `experiments/benchmarks/kernels.py`.

`measuring` times providers, and `writing` makes rows and files of their figures. `others` are what
ours are compared with. The cases of a head (T1 to T9) are `forward`, `policy` and `gradients`, with
its operands in `head_data`, what is timed in `head_calls` and exact values in `head_errors`. The
other cases are `diffusion` (T10), `advantages` (T11) and `images` (T13).
"""
