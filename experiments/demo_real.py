"""Both halves of rewardlab on pretrained networks of other people.

Faces: GAN-RM on an ImageNet tower wants smiles of a pretrained generator; every way of using the
reward, judged by an expression net, a second tower and a face detector. Text: a reward fitted to
preferences, with length as the named bias.

Run by `make demo-real`; the weights come by `make models`. Figures, tables and pictures go to
runs/demo-real.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from real import story
from rewardlab.errors import InputError


def main() -> int:
    """Run the halves that are asked for, and print their tables."""
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        if options.only != "text":
            summary = story.run_faces(options.out, options.seeds, options.ways)
            print(f"\n{story.table(summary['mean'])}\n\nThe picture: {options.out / 'smiles.png'}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Done in {time.monotonic() - start:.0f} s.")
    return 0


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
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
