"""People as judges: a blind A/B page that needs no server, and its answers with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.evaluation.human_page import CHOICES, Item, document, output_html
from rewardlab.evaluation.intervals import wilson
from rewardlab.provenance import fingerprint
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.metadata import read_text
from rewardlab.types import PreferencePairs

QUESTION = "Which output answers the prompt better?"


def write_page(
    page: str | Path,
    key: str | Path,
    pairs: PreferencePairs,
    *,
    seed: int,
    names: tuple[str, str] = ("chosen", "rejected"),
    question: str = QUESTION,
) -> None:
    """Write a self-contained A/B page of pairs, and its key: the output on each side.

    The page tells neither names nor facts. Items are in random order, and each of the two outputs
    is on the left in half of them, so that a judge who always prefers one side gives a win rate of
    one half. Texts and pictures are inside the page; it loads nothing, and its one button saves the
    answers as a file. Give judges the page only.

    Args:
        page: the .html file.
        key: the .json file; keep it away from the judges.
        pairs: outputs that are compared. Two sets of Samples to the same prompts are compared as
            PreferencePairs(first, second).
        seed: seed of the orders. Whoever knows it and the outputs can work out the key.
        names: names of the two sides of `pairs`, for the key.
        question: question that judges are asked.

    Raises:
        InputError: if there are no pairs, the two names are equal, or a file exists, which may have
            been handed out.

    Example:
        >>> from rewardlab.types import Samples
        >>> folder = getfixture("tmp_path")
        >>> chosen = Samples(["hi"] * 2, ["hello", "hey"])
        >>> rejected = Samples(["hi"] * 2, ["go away", "no"])
        >>> pairs = PreferencePairs(chosen, rejected)
        >>> write_page(folder / "page.html", folder / "key.json", pairs, seed=7)
        >>> "chosen" in (folder / "page.html").read_text()
        False
        >>> "chosen" in (folder / "key.json").read_text()
        True
    """
    page = Path(page)
    key = Path(key)
    if not len(pairs) or names[0] == names[1]:
        raise InputError(
            "An A/B page needs pairs and two names for their sides; "
            f"got {len(pairs)} pairs and {names}."
        )
    _check_new([page, key])
    items = _items(pairs, names, seed)
    digest = fingerprint([question, [item.content() for item in items]])
    content = {
        "page": digest,
        "names": list(names),
        "items": [item.key() for item in items],
    }
    key.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page.write_bytes(document(digest, question, items).encode("utf-8", "replace"))


def _check_new(files: list[Path]) -> None:
    existing = [str(file) for file in files if file.exists()]
    if existing:
        raise InputError(
            f"{' and '.join(existing)} exists already; answers to it would be lost. Write another "
            "page and key."
        )


def _items(pairs: PreferencePairs, names: tuple[str, str], seed: int) -> list[Item]:
    """Return the pairs in random order, each of the two names on the left in half of them."""
    rows = row_seeds(derive(seed, "items"), len(pairs)).argsort()
    sides = row_seeds(derive(seed, "sides"), len(pairs)).argsort()
    items = []
    for row, side in zip(rows.tolist(), sides.tolist(), strict=True):
        item = Item(
            row=row,
            prompt=pairs.chosen.prompts[row],
            left=names[0],
            right=names[1],
            left_html=output_html(pairs.chosen.outputs[row]),
            right_html=output_html(pairs.rejected.outputs[row]),
        )
        items.append(item if side % 2 == 0 else _turned(item))
    return items


def _turned(item: Item) -> Item:
    """Return the item with its sides exchanged."""
    return item._replace(
        left=item.right,
        right=item.left,
        left_html=item.right_html,
        right_html=item.left_html,
    )


def read_answers(
    page_key: str | Path, answers: str | Path, confidence: float = 0.95
) -> dict[str, Any]:
    """Return the win rate of the first of the key's names, ties one half.

    The intervals are Wilson's over answered items.

    Args:
        page_key: the key's file.
        answers: the file that the page saved.
        confidence: level of the intervals.

    Returns:
        "names"; "win_rate", "low", "high"; "wins", "losses", "ties", "unanswered"; "left": the
        share of decided answers for the left side with its interval, and "biased", whether that
        leaves out one half. As sides are balanced, a bias pulls the win rate towards one half, not
        to one of the names. "rows": the win (1, 0, 0.5) by the pair's row.

    Raises:
        InputError: if the answers are another page's, broken, or none.
    """
    key = _load(page_key, ("page", "names", "items"))
    _check_key(key, page_key)
    content = _load(answers, ("page", "answers"))
    if content["page"] != key["page"]:
        raise InputError(
            f"{answers} answers page {str(content['page'])[:80]}, but {page_key} is the key of "
            f"page {str(key['page'])[:80]}."
        )
    choices = _checked(content["answers"], len(key["items"]), answers)
    wins = _wins(choices, key)
    values = list(wins.values())
    rate = wilson(sum(values) / len(values), len(values), confidence)
    return {
        "names": key["names"],
        "win_rate": rate.value,
        "low": rate.low,
        "high": rate.high,
        "wins": values.count(1.0),
        "losses": values.count(0.0),
        "ties": values.count(0.5),
        "unanswered": len(key["items"]) - len(values),
        "left": _left_share(choices, confidence),
        "rows": dict(sorted(wins.items())),
    }


def _wins(choices: dict[int, str], key: dict[str, Any]) -> dict[int, float]:
    """Return the win of the first of the key's names, by the pair's row."""
    wins = {}
    for number, choice in choices.items():
        item = key["items"][number]
        win = 0.5
        if choice != "tie":
            win = float(item[choice] == key["names"][0])
        wins[item["row"]] = win
    return wins


def _left_share(choices: dict[int, str], confidence: float) -> dict[str, Any] | None:
    """Return the share of answers for the left side; None if all are ties."""
    decided = [choice for choice in choices.values() if choice != "tie"]
    if not decided:
        return None
    rate = wilson(decided.count("left") / len(decided), len(decided), confidence)
    return {
        "share": rate.value,
        "low": rate.low,
        "high": rate.high,
        "biased": not rate.low <= 0.5 <= rate.high,
    }


def _load(path: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON object of a file, which has to have all names."""
    text = read_text(Path(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(";")[0]
        raise InputError(f"{path} is not JSON ({reason}). Download it again.") from None
    if not isinstance(content, dict) or not content.keys() >= set(names):
        raise InputError(
            f"{path} should be an object with {', '.join(names)}. Are key and answers exchanged?"
        )
    return content


def _check_key(key: dict[str, Any], path: str | Path) -> None:
    """Refuse a key that is not what `write_page` wrote."""
    names = key["names"]
    items = key["items"]
    if not isinstance(names, list) or len(names) != 2 or not isinstance(items, list):
        raise InputError(f"{path} is no key of an A/B page. Is it edited?")
    for number, item in enumerate(items):
        is_item = isinstance(item, dict) and isinstance(item.get("row"), int)
        if not is_item or [item.get("left"), item.get("right")] not in (names, names[::-1]):
            raise InputError(
                f"{path}: item {number} should have a row, and {names} on its two sides; got "
                f"{str(item)[:80]}. Is it edited?"
            )


def _checked(answers: Any, count: int, path: str | Path) -> dict[int, str]:
    """Return the choices by item number."""
    if not isinstance(answers, dict) or not answers:
        raise InputError(f"{path} holds no answers. Was it saved before anything was chosen?")
    numbers = {str(number): number for number in range(count)}
    choices = {}
    for item, choice in answers.items():
        if item not in numbers or choice not in CHOICES:
            raise InputError(
                f"{path} answers item {item!r:.40} with {choice!r:.40}; items are 0 to "
                f"{count - 1}, answers {', '.join(CHOICES)}."
            )
        choices[numbers[item]] = choice
    return choices
