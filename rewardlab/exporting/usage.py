"""Python that scores with an exported folder, for its card, and what the export does otherwise."""

from __future__ import annotations

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
PICTURE = 'picture = Image.new("RGB", (64, 48), "gray")\n'
PROCESSOR = """\
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
pixels = processor([picture])["pixel_values"]
"""
SESSION = """\
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
"""
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


def image_usage() -> str:
    """Return code that scores a picture with transformers and the folder's own code."""
    return (
        _head("torch", "AutoImageProcessor, AutoModel", PILLOW)
        + PICTURE
        + PROCESSOR
        + "model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()\n"
        + "with torch.no_grad():\n"
        + "    scores = model(pixels).logits[:, 0]\n"
        + END
    )


def text_graph_usage(kind: Kind) -> str:
    """Return code that scores a text with onnxruntime."""
    return (
        _head("onnxruntime", "AutoTokenizer")
        + TOKENIZER
        + SESSION
        + TABLES[kind]
        + "names = [table.name for table in session.get_inputs()]\n"
        + "feeds = {name: tables[name].numpy() for name in names}\n"
        + 'scores = session.run(["score"], feeds)[0]\n'
        + END
    )


def image_graph_usage() -> str:
    """Return code that scores a picture with onnxruntime."""
    return (
        _head("onnxruntime", "AutoImageProcessor", PILLOW)
        + PICTURE
        + PROCESSOR
        + SESSION
        + 'scores = session.run(["score"], {"pixel_values": pixels.numpy()})[0]\n'
        + END
    )


def _head(library: str, classes: str, pillow: str = "") -> str:
    """Return the imports, and the name of the folder."""
    return HEAD.format(library=library, classes=classes, pillow=pillow)


def text_limits(kind: Kind, offset: float, limit: int | None) -> list[str]:
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
    if limit is not None:
        limits.append(
            f"It sees {limit} tokens. Of longer rows rewardlab drops the prompt's tokens and "
            "refuses a response that is longer alone; here `truncation=True` cuts without asking."
        )
    return limits


def image_limits(library: str, resizes: bool) -> list[str]:
    """Return what whoever loads an exported reward of images has to know."""
    limits = [
        "`trust_remote_code=True` runs the Python files in this folder. Read them first.",
        "Pictures are resized on tensors, in the order of Pillow 13: what a network gets is "
        "Pillow's own result within one grey level. Other processors give other scores.",
    ]
    if library != "transformers":
        package = {"open_clip": "open_clip_torch"}.get(library, library)
        limits.append(f"The tower is built by {library}: `pip install {package}`.")
    if not resizes:
        limits.append("Pictures of another size than the tower's are refused, as in training.")
    return limits


GRAPH_LIMITS = [
    "The graph is float32, and was compared on onnxruntime's CPU provider alone; others may round "
    "otherwise.",
]
