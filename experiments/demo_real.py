"""Both halves of rewardlab on pretrained networks of other people.

Faces: GAN-RM on an ImageNet tower wants smiles of a pretrained generator; every way of using the
reward, judged by an expression net, a second tower and a face detector. Text: a reward fitted to
preferences, with length as the named bias, used in best of n and in RLHF of a small language model,
without and with three remedies.

Run by `make demo-real`; the weights come by `make models`. Figures, tables and pictures go to
runs/demo-real.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from jobs import WORKERS
from real import story, texts
from real.sentences import smollm2
from rewardlab.errors import InputError
from rewardlab.policies import from_llama2c

QUESTION = "What is the capital of France?"
BEGINNING = "Once upon a time"


def main() -> int:
    """Run the halves that are asked for, and print their tables."""
    options = parser().parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        if options.only != "text":
            summary = story.run_faces(options.out, options.seeds, options.ways, options.jobs)
            print(f"\n{story.table(summary['mean'])}\n\nThe picture: {options.out / 'smiles.png'}")
        if options.only != "faces":
            files = texts.Files(options.pairs, options.human, *(options.llama2c or ()))
            on_smollm2 = options.backbone == "smollm2"
            seed = options.seeds[0]
            content = texts.run_text(options.out, files, options.count, seed, on_smollm2)
            print(f"\n{texts.tables(content)}\n\n{content['world']}")
            print(f"The picture: {options.out / 'hunger.png'}")
            tell_stories(options.llama2c)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Done in {time.monotonic() - start:.0f} s.")
    return 0


def tell_stories(files: list[Path] | None) -> None:
    """Print what the language models say: SmolLM2 and, where its files are given, a llama2.c model.

    Args:
        files: weights and tokenizer; None without them.
    """
    policies = {"SmolLM2-135M-Instruct": (smollm2(max_new_tokens=24, top_k=1), QUESTION)}
    if files is not None:
        policies[files[0].name] = (from_llama2c(*files, max_new_tokens=60, top_k=1), BEGINNING)
    else:
        print("No --llama2c given, so no small story teller speaks.")
    for name, (policy, prompt) in policies.items():
        samples = policy.generate([prompt], seeds=torch.tensor([0]))
        print(f"\n{name}: {prompt} → {samples.outputs[0]}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo-real"))
    parser.add_argument("--only", choices=["faces", "text"], help="one of the halves")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--ways", nargs="+", choices=story.WAYS, default=list(story.WAYS), help="some of the ways"
    )
    parser.add_argument("--jobs", type=int, default=WORKERS, help="runs of faces at once")
    parser.add_argument("--pairs", type=Path, help="preference pairs to fit, see read_preferences")
    parser.add_argument("--human", type=Path, help="people's choices as JSON, of PandaLM's form")
    parser.add_argument("--count", type=int, default=300, help="pairs to fit; half as many to read")
    parser.add_argument(
        "--llama2c",
        type=Path,
        nargs=2,
        metavar=("WEIGHTS", "TOKENIZER"),
        help="the two files of a llama2.c model, which is the policy then",
    )
    parser.add_argument(
        "--backbone",
        choices=["minilm", "smollm2"],
        default="minilm",
        help="smollm2 fits a reward on SmolLM2 too, beside the one on MiniLM; it takes minutes",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
