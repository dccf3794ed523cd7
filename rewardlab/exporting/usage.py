"""What a card says of use: code that scores with the folder, and what differs from the reward."""

from __future__ import annotations

from typing import NamedTuple

from rewardlab.exporting.prompt_tokens import PromptTokens
from rewardlab.exporting.recipes import Kind

HEAD = """\
import {library}
{pillow}from transformers import {classes}

folder = "."  # this folder
"""
PILLOW = "from PIL import Image\n"
TABLES: dict[Kind, str] = {
    "chat": """\
conversation = [{"role": "user", "content": "12"}, {"role": "assistant", "content": "3"}]
tables = tokenizer.apply_chat_template(
    [conversation], padding=True, return_tensors="pt", return_dict=True
)
""",
    "text": """\
text = "12" + "3" + tokenizer.eos_token  # a prompt, its response, and the end
tables = tokenizer([text], padding=True, return_tensors="pt")
""",
    "pair": """\
tables = tokenizer(["12"], ["3"], padding=True, return_tensors="pt")  # prompts, responses
""",
}
TOKENIZER = "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
CONVERSATION = (
    'conversation = [{"role": "user", "content": "12"}, {"role": "assistant", "content": "3"}]\n'
)
OWN_TABLES = """\
sys.path.insert(0, folder)
from tables_text_reward import tables as tables_of  # a file in this folder

"""
PICTURE = 'picture = Image.new("RGB", (64, 48), "gray")\n'
PROCESSOR = """\
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
tables = {"pixel_values": processor([picture])["pixel_values"]}
"""
OPEN_CLIP_PROMPT = """\
from open_clip.tokenizer import SimpleTokenizer

tables["input_ids"] = SimpleTokenizer(context_length={context})(["a cat"])
"""
PROMPT = """\
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
tables["input_ids"] = tokenizer(
    ["a cat"], padding="max_length", truncation=True, max_length={context}, return_tensors="pt"
)["input_ids"]
"""
SESSION = """\
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
"""
RUN = """\
names = [table.name for table in session.get_inputs()]
feeds = {name: tables[name].numpy() for name in names}
scores = session.run(["score"], feeds)[0]
"""
MEMBERS = "# output.members: a column a member\n"
GRAPH_MEMBERS = '# session.run(["members"], feeds)[0]: a column a member\n'
END = "print(scores.tolist())\n"


def text_usage(kind: Kind, offset: float) -> str:
    """Return code that scores a text with transformers alone."""
    added = f" + {offset!r}" if offset else ""
    return (
        _head("torch", "AutoModelForSequenceClassification, AutoTokenizer")
        + TOKENIZER
        + "model = AutoModelForSequenceClassification.from_pretrained(folder).eval()\n"
        + TABLES[kind]
        + "with torch.no_grad():\n"
        + f"    scores = model(**tables).logits[:, 0]{added}\n"
        + END
    )


def pooled_usage(members: bool) -> str:
    """Return code that scores a text with transformers and the folder's own code."""
    return (
        _head("torch", "AutoModelForSequenceClassification, AutoTokenizer")
        + "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)\n"
        + "model = AutoModelForSequenceClassification.from_pretrained(\n"
        + "    folder, trust_remote_code=True\n).eval()\n"
        + CONVERSATION
        + "tables = model.tables(tokenizer, [conversation])\n"
        + _called_model(members)
    )


def image_usage(prompts: PromptTokens | None, members: bool) -> str:
    """Return code that scores a picture with transformers and the folder's own code."""
    return (
        _head("torch", "AutoImageProcessor, AutoModel", PILLOW)
        + PICTURE
        + PROCESSOR
        + _prompt(prompts)
        + "model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()\n"
        + _called_model(members)
    )


def _called_model(members: bool) -> str:
    return (
        "with torch.no_grad():\n"
        + "    output = model(**tables)\n"
        + "scores = output.logits[:, 0]\n"
        + (MEMBERS if members else "")
        + END
    )


def _prompt(prompts: PromptTokens | None) -> str:
    """Return code that tokenizes a prompt, where the reward sees one."""
    if prompts is None:
        return ""
    code = OPEN_CLIP_PROMPT if prompts.library == "open_clip" else PROMPT
    return code.replace("{context}", str(prompts.context))


def text_graph_usage(kind: Kind, averages: bool = False, members: bool = False) -> str:
    """Return code that scores a text with onnxruntime.

    Args:
        kind: how texts become tokens.
        averages: whether the graph takes a mask of the response, which the folder's code makes.
        members: whether it gives members too.
    """
    head = _head("onnxruntime", "AutoTokenizer")
    rows = TABLES[kind]
    if averages:
        head = "import sys\n\n" + head + OWN_TABLES
        rows = CONVERSATION + "tables = tables_of(tokenizer, [conversation])\n"
    return head + TOKENIZER + SESSION + rows + RUN + (GRAPH_MEMBERS if members else "") + END


def image_graph_usage(prompts: PromptTokens | None, members: bool) -> str:
    """Return code that scores a picture with onnxruntime."""
    return (
        _head("onnxruntime", "AutoImageProcessor", PILLOW)
        + PICTURE
        + PROCESSOR
        + _prompt(prompts)
        + SESSION
        + RUN
        + (GRAPH_MEMBERS if members else "")
        + END
    )


def _head(library: str, classes: str, pillow: str = "") -> str:
    """Return the imports, and the name of the folder."""
    return HEAD.format(library=library, classes=classes, pillow=pillow)


class Context(NamedTuple):
    """How much a reward sees of a text.

    Attributes:
        tokens: most of a row; None where nothing limits them.
        sentences: on that, and on what becomes of longer texts.
    """

    tokens: int | None
    sentences: str


NO_LIMIT = Context(
    None, "Nothing limits a row's tokens: neither the reward nor the network's config does."
)
PAIR_CUTS = {
    "prompt": "rewardlab cuts the end of a prompt that is too long, and refuses a response that "
    'does not fit (`truncation="only_first"`).',
    "pair": "rewardlab cuts the ends of the longer text (`truncation=True`).",
    "nothing": "rewardlab refuses longer pairs.",
}
UNCHECKED = (
    "given more, it fails or gives a number that means nothing. The tokenizer knows the limit "
    "(`model_max_length`), and without `truncation` it says that a row is too long and leaves it so"
)


def text_context(tokens: int | None, cuts_itself: bool, form: str) -> Context:
    """Return how much the export of a LanguageReward sees.

    Args:
        tokens: most of a row.
        cuts_itself: whether code in the folder makes the tables.
        form: "transformers" or "onnx".
    """
    if tokens is None:
        return NO_LIMIT
    sees = (
        f"It sees {tokens} tokens: prompt, response and the marks around them together. rewardlab "
        "drops a longer row's first tokens, which are the prompt's, and refuses a response that is "
        "longer alone."
    )
    if cuts_itself:
        return Context(tokens, f"{sees} So does the code in this folder.")
    return Context(
        tokens,
        f"{sees} The {_part(form)} checks nothing: {UNCHECKED}. With `truncation=True` it drops "
        "the row's first tokens too, without a word where the response loses some.",
    )


def pair_context(tokens: int | None, cut: str, form: str) -> Context:
    """Return how much the export of a published classifier sees.

    Args:
        tokens: most of a pair.
        cut: of the reward, what becomes of longer pairs.
        form: "transformers" or "onnx".
    """
    if tokens is None:
        return NO_LIMIT
    return Context(
        tokens,
        f"It sees {tokens} tokens: prompt, response and marks together. {PAIR_CUTS[cut]} The "
        f"{_part(form)} checks nothing: {UNCHECKED}.",
    )


def _part(form: str) -> str:
    return "graph" if form == "onnx" else "network"


def prompt_context(prompts: PromptTokens | None) -> Context | None:
    """Return how much an export sees of a picture's prompt; None if nothing."""
    if prompts is None:
        return None
    return Context(
        prompts.context,
        f"It sees {prompts.context} tokens of a prompt, marks included. The end of a longer prompt "
        "is cut, as in rewardlab, which says so.",
    )


def text_limits(kind: Kind, offset: float) -> list[str]:
    """Return what the export of a reward of texts does otherwise than the reward."""
    limits = []
    if offset:
        limits.append(
            f"The logit lacks a constant, for which this class has no place: score = logit + "
            f"{offset!r} (`reward_offset` in config.json). Order, differences and the "
            "probabilities of pairs are the same without it."
        )
    if kind == "pair":
        limits.append("It takes a prompt and a response as two texts; a conversation has no form.")
    else:
        limits.append(
            "A special token that a text spells becomes that token; rewardlab reads it as text."
        )
        limits.append(
            "Every response counts as finished; rewardlab ends none that was cut off at a length "
            "limit."
        )
    return limits


CODE_LIMIT = "`trust_remote_code=True` runs the Python files in this folder. Read them first."


def pooled_limits() -> list[str]:
    """Return what whoever loads an exported reward of texts with code of its own has to know."""
    return [
        CODE_LIMIT,
        "No class of transformers scores as it does (a mean over the response's tokens, or several "
        "networks), so servers that know transformers' own classes alone do not take it.",
        *text_limits("chat", 0.0),
    ]


def image_limits(libraries: set[str], resizes: bool) -> list[str]:
    """Return what whoever loads an exported reward of images has to know."""
    limits = [
        CODE_LIMIT,
        "Pictures are resized on tensors, in the order of Pillow 13: what a network gets is "
        "Pillow's own result within one grey level. Other processors give other scores.",
    ]
    for library in sorted(libraries - {"transformers"}):
        package = {"open_clip": "open_clip_torch"}.get(library, library)
        limits.append(f"A part of it is built by {library}: `pip install {package}`.")
    if not resizes:
        limits.append("Pictures of another size than the tower's are refused, as in training.")
    return limits


GRAPH_LIMITS = [
    "The graph is float32, and was compared on onnxruntime's CPU provider alone; others may round "
    "otherwise.",
]
TOLERANT_LIMIT = (
    "In rewardlab it stood in a Tolerant, which leaves samples out that cannot be scored. The "
    "export is what that wraps: there they fail, or get a number that means nothing."
)
