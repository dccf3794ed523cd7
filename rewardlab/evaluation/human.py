"""People as judges: a blind A/B page that needs no server, and its answers read back with
intervals.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from rewardlab.endpoints.wire import picture_uri
from rewardlab.errors import InputError
from rewardlab.evaluation.intervals import wilson
from rewardlab.provenance import fingerprint
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.metadata import read_text
from rewardlab.types import PreferencePairs

QUESTION = "Which output answers the prompt better?"
CHOICES = ("left", "right", "tie")
LABELS = ("Left is better", "Right is better", "No difference")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { margin: 0 auto; padding: 1rem 1rem 6rem; max-width: 70rem; font: 16px/1.5 system-ui, sans-serif; }
fieldset { margin: 1.5rem 0; border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.sides > div { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; min-width: 0; }
img { display: block; width: 100%; height: auto; }
img.small { image-rendering: pixelated; }
label { display: inline-block; padding: .5rem 1rem .2rem 0; cursor: pointer; }
footer { position: fixed; inset: auto 0 0; padding: .7rem 1rem; background: Canvas; border-top: 1px solid var(--line); }
button { font: inherit; padding: .3rem 1rem; }
@media (max-width: 34rem) { .sides { grid-template-columns: 1fr; } }
"""

_SCRIPT = """
const form = document.forms[0], page = document.body.dataset.page, all = Number(document.body.dataset.items);
let saved = true;
const answers = () => Object.fromEntries(new FormData(form));
form.onchange = () => { saved = false; count.textContent = Object.keys(answers()).length + " of " + all + " answered"; };
save.onclick = () => {
  const text = JSON.stringify({ page, answers: answers() }, null, 1), link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "answers-" + page + ".json";
  link.click();
  saved = true;
};
onbeforeunload = (event) => { if (!saved) event.preventDefault(); };
"""


def write_page(
    page: str | Path,
    key: str | Path,
    pairs: PreferencePairs,
    *,
    seed: int,
    names: tuple[str, str] = ("chosen", "rejected"),
    question: str = QUESTION,
) -> None:
    """Write a self-contained A/B page of pairs, and its key: which output stands on which side.

    The page tells neither names nor facts. Items are in random order, and each of the two is on the
    left in half of them, so that a judge who always prefers one side gives a win rate of one half.
    Texts and pictures are inside the page; it loads nothing, and hands the answers back as a file
    by its one button. Give judges the page only.

    Args:
        page: the .html file.
        key: the .json file; keep it away from the judges.
        pairs: what is compared; two sets of Samples to the same prompts as PreferencePairs(first,
            second).
        seed: of the orders. Whoever knows it and the outputs can work out the key.
        names: of the two sides of `pairs`, for the key.
        question: that judges are asked.

    Raises:
        InputError: if there are no pairs, the two names are equal, or a file exists, which may have
            been handed out.

    Example:
        >>> from rewardlab.types import Samples
        >>> folder = getfixture("tmp_path")
        >>> pairs = PreferencePairs(Samples(["hi"] * 2, ["hello", "hey"]), Samples(["hi"] * 2, ["go away", "no"]))
        >>> write_page(folder / "page.html", folder / "key.json", pairs, seed=7)
        >>> "chosen" in (folder / "page.html").read_text(), "chosen" in (folder / "key.json").read_text()
        (False, True)
    """
    page = Path(page)
    key = Path(key)
    if not len(pairs) or names[0] == names[1]:
        raise InputError(
            f"An A/B page needs pairs and two names for their sides; got {len(pairs)} pairs and {names}."
        )
    there = [str(file) for file in (page, key) if file.exists()]
    if there:
        raise InputError(
            f"{' and '.join(there)} exists already; answers to it would be lost. Write another page and key."
        )
    rows = row_seeds(derive(seed, "items"), len(pairs)).argsort().tolist()
    first_left = (row_seeds(derive(seed, "sides"), len(pairs)).argsort() % 2 == 0).tolist()
    outputs = [
        [_shown(half.outputs[row]) for half in (pairs.chosen, pairs.rejected)] for row in rows
    ]
    sides = [both if left else both[::-1] for both, left in zip(outputs, first_left, strict=True)]
    prompts = [pairs.chosen.prompts[row] for row in rows]
    name = fingerprint(
        [question, [[prompt, *both] for prompt, both in zip(prompts, sides, strict=True)]]
    )
    items = [
        {"row": row, "left": names[0 if left else 1], "right": names[1 if left else 0]}
        for row, left in zip(rows, first_left, strict=True)
    ]
    key.write_text(
        json.dumps({"page": name, "names": list(names), "items": items}, indent=1) + "\n",
        encoding="utf-8",
    )
    page.write_bytes(_document(name, question, prompts, sides).encode("utf-8", "replace"))


def read_answers(
    page_key: str | Path, answers: str | Path, confidence: float = 0.95
) -> dict[str, Any]:
    """Return the win rate of the first of the key's names, ties one half, with Wilson's interval
    over answered items.

    Args:
        page_key: the key's file.
        answers: the file that the page handed out.
        confidence: of the intervals.

    Returns:
        "names"; "win_rate", "low", "high"; "wins", "losses", "ties", "unanswered"; "left": the
        share of decided answers for the left side with its interval, and "biased", whether that
        leaves out one half. As sides are balanced a bias pulls the win rate towards one half, not
        to one of the names. "rows": the win (1, 0, 0.5) by the pair's row.

    Raises:
        InputError: if the answers are another page's, broken, or none.
    """
    key = _load(page_key, ("page", "names", "items"))
    given = _load(answers, ("page", "answers"))
    if given["page"] != key["page"]:
        raise InputError(
            f"{answers} answers page {given['page']}, but {page_key} is the key of page {key['page']}."
        )
    chosen = _checked(given["answers"], len(key["items"]), answers)
    wins = {}
    for number, choice in chosen.items():
        item = key["items"][number]
        wins[item["row"]] = 0.5 if choice == "tie" else float(item[choice] == key["names"][0])
    rate = wilson(sum(wins.values()) / len(wins), len(wins), confidence)
    sides = [choice == "left" for choice in chosen.values() if choice != "tie"]
    values = list(wins.values())
    return {
        "names": key["names"],
        "win_rate": rate.value,
        "low": rate.low,
        "high": rate.high,
        "wins": values.count(1.0),
        "losses": values.count(0.0),
        "ties": values.count(0.5),
        "unanswered": len(key["items"]) - len(wins),
        "left": _side(sides, confidence),
        "rows": dict(sorted(wins.items())),
    }


def _side(sides: list[bool], confidence: float) -> dict[str, Any] | None:
    """Return the share of answers for the left side and whether its interval leaves out one half;
    None if all are ties.
    """
    if not sides:
        return None
    rate = wilson(sum(sides) / len(sides), len(sides), confidence)
    return {
        "share": rate.value,
        "low": rate.low,
        "high": rate.high,
        "biased": not rate.low <= 0.5 <= rate.high,
    }


def _load(path: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(read_text(Path(path)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON ({error.msg} in line {error.lineno}). Download it again."
        ) from None
    if not isinstance(content, dict) or any(name not in content for name in names):
        raise InputError(
            f"{path} should be an object with {', '.join(names)}. Are key and answers exchanged?"
        )
    return content


def _checked(answers: Any, items: int, path: str | Path) -> dict[int, str]:
    """Return the choices by item number."""
    if not isinstance(answers, dict) or not answers:
        raise InputError(f"{path} holds no answers. Was it saved before anything was chosen?")
    numbers = {str(number): number for number in range(items)}
    wrong = next(
        (item for item, choice in answers.items() if item not in numbers or choice not in CHOICES),
        None,
    )
    if wrong is not None:
        raise InputError(
            f"{path} answers item {wrong!r} with {answers[wrong]!r}; items are 0 to {items - 1}, answers {', '.join(CHOICES)}."
        )
    return {numbers[item]: choice for item, choice in answers.items()}


def _shown(output: Any) -> str:
    """Return an output as HTML."""
    if isinstance(output, Tensor):
        size = ' class="small"' if max(output.shape[-2:]) <= 64 else ""
        return f'<img{size} alt="" src="{picture_uri(output)}">'
    return f'<div class="text">{escape(output)}</div>' if output.strip() else "<em>(nothing)</em>"


def _document(name: str, question: str, prompts: list[str], sides: list[list[str]]) -> str:
    items = [_item(i, question, *parts) for i, parts in enumerate(zip(prompts, sides, strict=True))]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(question)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f'<body data-page="{name}" data-items="{len(items)}">\n<h1>{escape(question)}</h1>\n'
        '<p>Answer what you can, in any order, then save the answers and send the file back.</p>\n<form autocomplete="off">\n'
        + "\n".join(items)
        + '\n</form>\n<footer><button id="save" type="button">Save answers</button> '
        f'<span id="count" role="status">0 of {len(items)} answered</span></footer>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _item(number: int, question: str, prompt: str, sides: list[str]) -> str:
    asked = f'<p class="text">{escape(prompt)}</p>' if prompt.strip() else ""
    shown = "".join(
        f"<div><small>{side}</small>{output}</div>"
        for side, output in zip(("Left", "Right"), sides, strict=True)
    )
    choices = "".join(
        f'<label><input type="radio" name="{number}" value="{choice}"> {label}</label>'
        for choice, label in zip(CHOICES, LABELS, strict=True)
    )
    return f'<fieldset><legend>{number + 1}</legend>{asked}<div class="sides">{shown}</div>{choices}</fieldset>'
