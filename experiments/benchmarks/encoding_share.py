"""Encoding in an epoch of a diffusion policy of real size, in counted FLOPs.

    python experiments/benchmarks/encoding_share.py sd15

The networks of configs/memory/NAME.yaml run on shapes alone, so it takes minutes and no weights. Printed are the FLOPs of
one picture: of encoding it, of the step that trains an adapter on it, of the reference's pass; and how much less an epoch
costs where latents are kept. Text encoders are left out: they are small in Stable Diffusion and Stable Diffusion XL.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from rewardlab.networks import shells
from rewardlab.planning import diffusion
from rewardlab.planning.architecture import Architecture
from rewardlab.planning.work import Work

TERA = 1e12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["sd15"], help="of configs/memory")
    for name in parser.parse_args().names:
        print(_line(name), flush=True)


def _line(name: str) -> str:
    """Return the FLOPs of one picture and what keeping latents spares."""
    config = yaml.safe_load(Path(f"configs/memory/{name}.yaml").read_text(encoding="utf-8"))
    pipeline = config["experiment"]["policy_path"]
    settings = dict(config["model"]["init_args"]["policy"]["init_args"])
    settings.update(pipeline=pipeline, resources=None, gradient_checkpointing=False)
    policy = diffusion._shell_policy(Architecture.of(pipeline), settings)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shells.as_fake(policy, mode)
    alone = Work(loop="SFT", rows=1, has_reference=False)
    compared = Work(loop="DPO", rows=1, has_reference=True)
    encoding = _flops(mode, diffusion._Stages(policy, mode, alone)._encode)
    step = _flops(mode, diffusion._Stages(policy, mode, alone)._train)
    both = _flops(mode, diffusion._Stages(policy, mode, compared)._train)
    return (
        f"{name}: encoding {encoding / TERA:.2f} TFLOP a picture, step {step / TERA:.2f}, reference "
        f"{(both - step) / TERA:.2f}; an epoch costs {(encoding + step) / step:.2f} times less for "
        f"SFT and {(encoding + both) / both:.2f} times less for DPO"
    )


def _flops(mode: Any, run: Callable[[int], None]) -> int:
    with mode, FlopCounterMode(display=False) as counter:
        run(1)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
