"""`rewardlab generate`: draw outputs of a policy into a folder of samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm

from rewardlab.commands.flags import FlagParser, add_device_flags, check_numbers
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.sources import check_prompts, open_policy
from rewardlab.conversations import Prompt
from rewardlab.data import read_prompts
from rewardlab.errors import InputError
from rewardlab.mining.candidates import repeated
from rewardlab.policies import Generator
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage import save_samples
from rewardlab.storage.samples import VideoForm
from rewardlab.storage.videos import RATE
from rewardlab.types import Samples, concatenate

VIDEO_FORMS = get_args(VideoForm)


def run(command: str, argv: Sequence[str]) -> int:
    """Read the prompts, draw, and write the folder whole or not at all."""
    flags = parse(argv)
    set_up_logs()
    prompts = read_prompts(flags.prompts) if flags.prompts else [""]
    policy = open_policy(flags)
    if flags.prompts:
        check_prompts(policy, prompts, flags.prompts)
    samples = draw(policy, prompts, flags.n, flags.seed, flags.batch_size)
    save_samples(flags.out, samples, flags.video, flags.rate)
    print(f"{flags.out}\nTo score them: rewardlab score REWARD {flags.out}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them, or if --out exists.
    """
    parser = FlagParser(prog="rewardlab generate", allow_abbrev=False)
    add = parser.add_argument
    add("policy", metavar="POLICY", help="folder of a policy, a causal model or a pipeline")
    add("prompts", metavar="PROMPTS", nargs="?", help="one a line, or .jsonl; none for '' alone")
    add("--out", required=True, help="a new folder of samples")
    add("--n", type=int, default=1, help="outputs of each prompt")
    add("--seed", type=int, default=0)
    add("--max-length", type=int, help="most tokens of a response; the policy's own by default")
    add("--batch-size", type=int, default=64, help="outputs drawn at once")
    add("--video", choices=VIDEO_FORMS, default="frames", help="what each video becomes")
    add("--rate", type=int, default=RATE, help="frames a second of video files")
    add_device_flags(parser)
    flags = parser.parse_args(argv)
    check_numbers(flags, n=1, rate=1)
    if Path(flags.out).exists():
        raise InputError(f"{flags.out} exists and is never overwritten. Give another --out.")
    return flags


def draw(
    policy: Generator, prompts: Sequence[Prompt], n: int, seed: int, batch_size: int
) -> Samples:
    """Return n outputs of each prompt, a prompt's together, as `mining.candidates` draws them.

    What is drawn does not depend on the batch: every row has a seed of its own.
    """
    rows = repeated(prompts, n)
    seeds = row_seeds(derive(seed, "candidates"), len(rows))
    parts = []
    with tqdm(total=len(rows), desc="drawing", unit=" samples", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            end = start + batch_size
            part = policy.generate(rows[start:end], seeds=seeds[start:end])
            parts.append(part.to("cpu"))
            bar.update(len(part))
    drawn: Samples = concatenate(parts)
    return drawn.with_facts(group=torch.arange(len(prompts)).repeat_interleave(n))
