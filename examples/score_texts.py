"""Score texts with two rewards, and put the best first.

Prints a line a text: what a judge of English says of it (the log-probability of its words, less
what repeats), what a rule says (minus the share of word pairs that repeat), and the text.

    python examples/score_texts.py
"""

from rewardlab import Samples
from rewardlab.embedded.topics import Gold
from rewardlab.rewards import Repetition, scores_of

PROMPT = "When the statement"
RESPONSES = [
    " is executed, the expression is evaluated",
    " is executed executed executed executed",
    " *** ??? ===",
]


def main() -> None:
    # Yours: load_reward("folder"), which a fit wrote, or any saved sequence classifier.
    rewards = {"english": Gold(), "repetition": Repetition()}
    # Yours: read_prompts("prompts.txt") and a response to each; or load_samples("folder").
    samples = Samples([PROMPT] * len(RESPONSES), RESPONSES)
    columns = {}
    for name, reward in rewards.items():
        columns[name] = scores_of(reward, samples)  # [B]
    print(*rewards, "text", sep="\t")
    for row in columns["english"].argsort(descending=True).tolist():
        scores = [f"{column[row]:.2f}" for column in columns.values()]
        print(*scores, samples.outputs[row], sep="\t")


if __name__ == "__main__":
    main()
