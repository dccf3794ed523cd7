"""The HTML of an A/B page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.endpoints.wire import picture_uri

CHOICES = ("left", "right", "tie")
LABELS = ("Left is better", "Right is better", "No difference")
SMALL = 64  # pixels, up to which an image is shown with sharp pixels

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { margin: 0 auto; padding: 1rem 1rem 6rem; max-width: 70rem; \
font: 16px/1.5 system-ui, sans-serif; }
fieldset { margin: 1.5rem 0; border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.sides > div { border: 1px solid var(--line); border-radius: 8px; \
padding: .6rem .8rem; min-width: 0; }
img { display: block; width: 100%; height: auto; }
img.small { image-rendering: pixelated; }
label { display: inline-block; padding: .5rem 1rem .2rem 0; cursor: pointer; }
footer { position: fixed; inset: auto 0 0; padding: .7rem 1rem; background: Canvas; \
border-top: 1px solid var(--line); }
button { font: inherit; padding: .3rem 1rem; }
@media (max-width: 34rem) { .sides { grid-template-columns: 1fr; } }
"""

_SCRIPT = """
const form = document.forms[0], page = document.body.dataset.page, \
all = Number(document.body.dataset.items);
let saved = true;
const answers = () => Object.fromEntries(new FormData(form));
form.onchange = () => { saved = false; \
count.textContent = Object.keys(answers()).length + " of " + all + " answered"; };
save.onclick = () => {
  const text = JSON.stringify({ page, answers: answers() }, null, 1), \
link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "answers-" + page + ".json";
  link.click();
  saved = true;
};
onbeforeunload = (event) => { if (!saved) event.preventDefault(); };
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{question}</title>
<style>{style}</style>
</head>
<body data-page="{digest}" data-items="{count}">
<h1>{question}</h1>
<p>Answer what you can, in any order, then save the answers and send the file back.</p>
<form autocomplete="off">
{items}
</form>
<footer><button id="save" type="button">Save answers</button> \
<span id="count" role="status">0 of {count} answered</span></footer>
<script>{script}</script>
</body>
</html>
"""


class Item(NamedTuple):
    """A pair on the page.

    Attributes:
        row: row of the pair.
        prompt: its prompt, a text or a conversation.
        left: name of the output on the left side.
        right: name of the output on the right side.
        left_html: the output on the left side.
        right_html: the output on the right side.
    """

    row: int
    prompt: Prompt
    left: str
    right: str
    left_html: str
    right_html: str

    def key(self) -> dict[str, Any]:
        """Return what the key says of the item."""
        return {"row": self.row, "left": self.left, "right": self.right}

    def content(self) -> list[str]:
        """Return what judges see of the item."""
        return [str(self.prompt), self.left_html, self.right_html]


def document(digest: str, question: str, items: Sequence[Item]) -> str:
    """Return the whole page."""
    fieldsets = [_fieldset(number, item) for number, item in enumerate(items)]
    return _PAGE.format(
        question=escape(question),
        style=_STYLE,
        digest=digest,
        count=len(items),
        items="\n".join(fieldsets),
        script=_SCRIPT,
    )


def _fieldset(number: int, item: Item) -> str:
    """Return one item of the page."""
    prompt = prompt_html(item.prompt)
    left = f"<div><small>Left</small>{item.left_html}</div>"
    right = f"<div><small>Right</small>{item.right_html}</div>"
    buttons = [
        f'<label><input type="radio" name="{number}" value="{choice}"> {label}</label>'
        for choice, label in zip(CHOICES, LABELS, strict=True)
    ]
    return (
        f"<fieldset><legend>{number + 1}</legend>{prompt}"
        f'<div class="sides">{left}{right}</div>{"".join(buttons)}</fieldset>'
    )


def prompt_html(prompt: Prompt) -> str:
    """Return a prompt as HTML: a text, or the turns of a conversation below each other.

    Example:
        >>> from rewardlab.conversations import Conversation, Message
        >>> prompt_html(Conversation((Message("user", "a < b?"),)))
        '<p class="text"><b>user</b><br>a &lt; b?</p>'
    """
    if isinstance(prompt, str):
        return f'<p class="text">{escape(prompt)}</p>' if prompt.strip() else ""
    turns = ""
    for message in prompt.messages:
        turns += f'<p class="text"><b>{escape(message.role)}</b><br>{escape(message.content)}</p>'
    return turns


def output_html(output: str | Tensor) -> str:
    """Return an output as HTML."""
    if isinstance(output, Tensor):
        size = ' class="small"' if max(output.shape[-2:]) <= SMALL else ""
        return f'<img{size} alt="" src="{picture_uri(output)}">'
    if not output.strip():
        return "<em>(nothing)</em>"
    return f'<div class="text">{escape(output)}</div>'
