"""The parts of `experiments/benchmarks/kernels.py`.

`measuring` times providers, `writing` makes rows and files of what was found, `others` are what
ours are compared with. The cases are `heads` (T1 to T9), with its operands in `head_data`, what is
timed in `head_calls` and exact values in `head_errors`; `diffusion` (T10); `advantages` (T11); and
`images` (T13).
"""
