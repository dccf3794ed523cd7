"""Judge two policies with a judge that nothing was trained on.

Draws 256 images of a generator and of its best of four by a reward that sees the left half only, on
the same prompts and seeds. Prints the mean of each by a judge that sees the whole image, with its
95 % interval, and whether the intervals are apart.

    python examples/judge_two_policies.py
"""

import torch

from rewardlab import Samples
from rewardlab.embedded.tiny_worlds import PROMPTS, image_policy, squares
from rewardlab.evaluation import Evaluation
from rewardlab.mining import BestOf
from rewardlab.rewards import Brightness, Function


def left_half(samples: Samples) -> torch.Tensor:
    """Return the mean brightness of each image's left half, [B]."""
    return samples.outputs[..., :4].mean((1, 2, 3))


def main() -> None:
    first = image_policy()  # yours: load_policy("before")
    second = BestOf(first, Function(left_half), n=4)  # yours: load_policy("after")
    # Yours: rewards that no training used: a classifier, a load_reward("gold"), an EndpointJudge.
    evaluation = Evaluation(samples=256, judges={"brightness": Brightness()})
    real = squares(64, 0.5, 0.9, seed=0)  # yours: held-out targets, which a judge's distance needs
    intervals = []
    for name, policy in {"generator": first, "best of four": second}.items():
        samples = evaluation.draw(policy, PROMPTS)  # yours: read_prompts("prompts.txt")
        figure = evaluation.judge(samples, real)["brightness"]
        intervals.append((figure["low"], figure["high"]))
        print(f"{name}: {figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]")
    apart = intervals[0][1] < intervals[1][0] or intervals[1][1] < intervals[0][0]
    print("the intervals are apart" if apart else "too close to tell: judge more samples")


if __name__ == "__main__":
    main()
