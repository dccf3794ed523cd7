"""What a fit on pairs of texts would see: doubles, contradictions, marks, leaks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import eq
from typing import Any, NamedTuple

from rewardlab.conversations import Conversation, Prompt
from rewardlab.data.pair_keys import pair_keys
from rewardlab.data.splits import prompt_key
from rewardlab.types import PreferencePairs

# Special tokens and marks of chat templates, as people's files spell them.
MARKS = re.compile(
    r"<\|[\w▁ -]{2,40}\|>|<｜[^｜<>]{1,40}｜>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|</?s>|<(?:bos|eos|pad|unk)>"
)
_MOST_MARKS = 3  # that are named


class Texts(NamedTuple):
    """Prompts, and responses to them, by what they are compared by.

    Attributes:
        prompts: keys of the prompts.
        responses: keys of the responses, without empty ones.
    """

    prompts: set[str]
    responses: set[str]


def pair_counts(pairs: PreferencePairs) -> dict[str, Any]:
    """Return how many pairs of texts there are of each kind that a fit may stumble on.

    Prompts and responses are compared by `prompt_key`, so without spaces' number and case, but for
    "duplicated", which is to the letter.

    Returns:
        "pairs"; "conversations", whose prompt has several messages; "with_system", a system's
        message; "prompts", how many there are; "several", prompts with more than one pair; "most",
        pairs of one prompt; "empty_prompt", "empty_chosen", "empty_rejected"; "nearly_identical",
        halves that differ in spaces and case alone; "duplicated", pairs that stand earlier already;
        "contradicting", pairs that stand the other way round too; "tied", whose label is 0.5, and
        "turned", whose label is below it.

    Example:
        >>> from rewardlab.types import Samples
        >>> halves = Samples(["hi", "Hi "], ["a", "b"]), Samples(["hi", "Hi "], ["b", "a"])
        >>> counts = pair_counts(PreferencePairs(*halves))
        >>> counts["prompts"], counts["contradicting"], counts["duplicated"]
        (1, 2, 0)
    """
    texts = _compared(pairs)
    of_prompt = Counter(texts.prompts)
    labels = texts.labels
    return {
        "pairs": len(pairs),
        **_conversations(pairs.chosen.prompts),
        "prompts": len(of_prompt),
        "several": sum(count > 1 for count in of_prompt.values()),
        "most": max(of_prompt.values(), default=0),
        "empty_prompt": texts.prompts.count(""),
        "empty_chosen": texts.chosen.count(""),
        "empty_rejected": texts.rejected.count(""),
        "nearly_identical": sum(map(eq, texts.chosen, texts.rejected)),
        "duplicated": len(pairs) - len(set(pair_keys(pairs))),
        "contradicting": _contradicting(texts),
        "tied": labels.count(0.5),
        "turned": sum(label < 0.5 for label in labels),
    }


class _Compared(NamedTuple):
    """What B pairs are compared by: keys of their texts, and their labels."""

    prompts: list[str]
    chosen: list[str]
    rejected: list[str]
    labels: list[float]


def _compared(pairs: PreferencePairs) -> _Compared:
    labels = [1.0] * len(pairs)
    if "label" in pairs.chosen.facts:
        labels = pairs.chosen.facts["label"].tolist()
    prompts = list(map(prompt_key, pairs.chosen.prompts))
    chosen = list(map(prompt_key, pairs.chosen.outputs))
    return _Compared(prompts, chosen, list(map(prompt_key, pairs.rejected.outputs)), labels)


def _conversations(prompts: Sequence[Prompt]) -> dict[str, int]:
    talks = 0
    with_system = 0
    for prompt in prompts:
        if isinstance(prompt, Conversation):
            talks += 1
            with_system += prompt.messages[0].role == "system"
    return {"conversations": talks, "with_system": with_system}


def _contradicting(texts: _Compared) -> int:
    """Return how many pairs stand the other way round too; ties contradict nothing."""
    directions: Counter[tuple[str, str, str]] = Counter()
    for prompt, better, worse, label in zip(*texts, strict=True):
        if label == 0.5 or better == worse:
            continue
        halves = (better, worse) if label > 0.5 else (worse, better)
        directions[(prompt, *halves)] += 1
    total = 0
    for (prompt, better, worse), count in directions.items():
        if (prompt, worse, better) in directions:
            total += count
    return total


def marks_in(texts: Iterable[str], special: Sequence[str] = ()) -> dict[str, Any]:
    """Return how many texts hold special tokens or marks of chat templates.

    Args:
        texts: prompts or responses.
        special: special tokens of the model's own tokenizer, beside those of `MARKS`.

    Returns:
        "texts", their number, and "marks", the three most frequent, with how many texts hold each.

    Example:
        >>> marks_in(["hi<|im_end|>", "a < b", "[INST] hi"])
        {'texts': 2, 'marks': {'<|im_end|>': 1, '[INST]': 1}}
    """
    spelled = "|".join(re.escape(token) for token in special if token.strip())
    pattern = re.compile(f"{MARKS.pattern}|{spelled}") if spelled else MARKS
    holding = 0
    marks: Counter[str] = Counter()
    for text in texts:
        names = set(pattern.findall(text))
        holding += bool(names)
        marks.update(sorted(names))
    return {"texts": holding, "marks": dict(marks.most_common(_MOST_MARKS))}


def plain_texts(prompts: Iterable[Prompt]) -> list[str]:
    """Return each prompt as one text; the messages of a conversation are joined.

    Example:
        >>> plain_texts(["hi"])
        ['hi']
    """
    texts = []
    for prompt in prompts:
        if isinstance(prompt, Conversation):
            texts.append("\n".join(message.content for message in prompt.messages))
        else:
            texts.append(prompt)
    return texts


def texts_of(prompts: Iterable[Prompt], responses: Iterable[str]) -> Texts:
    """Return what prompts and responses are compared by, without empty ones.

    Of a conversation the last message counts too, so that a question is found again behind another
    system's message.
    """
    asked = set()
    for prompt in prompts:
        asked.add(prompt_key(prompt))
        if isinstance(prompt, Conversation):
            asked.add(prompt_key(prompt.messages[-1].content))
    answered = {prompt_key(response) for response in responses}
    return Texts(asked - {""}, answered - {""})


def leak(pairs: PreferencePairs, others: Texts) -> dict[str, int]:
    """Return how many pairs have a prompt, or a response, that other texts have.

    Returns:
        "pairs" with a shared prompt; "prompts", how many these are; "responses", pairs of which a
        response is shared.

    Example:
        >>> from rewardlab.types import Samples
        >>> pairs = PreferencePairs(Samples(["Hi"], ["a"]), Samples(["Hi"], ["b"]))
        >>> leak(pairs, texts_of(["hi "], ["b"]))
        {'pairs': 1, 'prompts': 1, 'responses': 1}
    """
    prompts = set()
    count = 0
    responses = 0
    halves = zip(pairs.chosen.prompts, pairs.chosen.outputs, pairs.rejected.outputs, strict=True)
    for prompt, chosen, rejected in halves:
        shared = texts_of([prompt], [chosen, rejected])
        if shared.prompts & others.prompts:
            count += 1
            prompts.add(prompt_key(prompt))
        responses += bool(shared.responses & others.responses)
    return {"pairs": count, "prompts": len(prompts), "responses": responses}


def split_leak(train: PreferencePairs, held_out: PreferencePairs) -> dict[str, int]:
    """Return what held-out pairs share with those that are trained on, as `leak` does.

    Prompts are compared as a whole, as the split has them.
    """
    prompts = {prompt_key(prompt) for prompt in train.chosen.prompts} - {""}
    responses = texts_of([], [*train.chosen.outputs, *train.rejected.outputs]).responses
    asked = [prompt_key(prompt) for prompt in held_out.chosen.prompts]
    shared = leak(held_out, Texts(set(), responses))
    return {
        "pairs": sum(key in prompts for key in asked),
        "prompts": len(prompts.intersection(asked)),
        "responses": shared["responses"],
    }
