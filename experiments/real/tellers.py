"""The fast policy of the text half: a small language model that has learned to end.

It is the user's llama2.c model or, without one, the small model of the embedded world. Such a model
goes on until it is cut off, so that length would be no choice of its own. It is fine-tuned once, on
its own texts cut after a few words, and then ends where they were cut.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning import Trainer

from real.files import sha256_of
from rewardlab import CausalLMPolicy
from rewardlab.data import SamplesData
from rewardlab.embedded import topics
from rewardlab.embedded.cache import cached
from rewardlab.policies import from_llama2c
from rewardlab.seeds import derive, generators, row_seeds
from rewardlab.training import SFT
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

BEGINNINGS = [
    "Once upon a time, there was a little girl named Lily.",
    "One day, a boy named Tim went to the park.",
    "Once upon a time, there was a big dog.",
    "One day, a cat saw a bird in a tree.",
    "There was a small house near the sea.",
    "Tom and his mom went to the store.",
    "Once upon a time, a bear was very hungry.",
    "Lucy had a red ball.",
]
TEMPERATURE = 0.8  # part of the policy
TAUGHT = 256  # texts that teach the model to end
EPOCHS = 4
_SENTENCE_END = re.compile(r"[.!?][\"']?$")


class Lesson(NamedTuple):
    """How a model learns to end.

    Attributes:
        tokens: most tokens of a text.
        fewest: least number of words after which a text is cut, at the end of its sentence.
        most: the largest such number.
        learning_rate: of the fine-tuning.
    """

    tokens: int
    fewest: int
    most: int
    learning_rate: float


STORIES = Lesson(tokens=128, fewest=6, most=23, learning_rate=0.0005)
TOPICS = Lesson(tokens=48, fewest=3, most=11, learning_rate=0.002)  # its context has 64 tokens


def taught(weights: Path | None, tokenizer: Path | None) -> Path:
    """Return the folder of the fast policy, which has learned to end; it is trained once.

    Args:
        weights: the llama2.c model's file; None takes the embedded world's model.
        tokenizer: the file of its tokenizer.
    """
    settings = {"texts": TAUGHT, "epochs": EPOCHS, "temperature": TEMPERATURE}
    settings |= {"prompts": teller_prompts(weights), **lesson_of(weights)._asdict()}
    for name, file in {"weights": weights, "tokenizer": tokenizer}.items():
        settings[name] = None if file is None else sha256_of(file)
    teach = partial(_teach, weights=weights, tokenizer=tokenizer)
    return cached("real-teller", settings, ("torch", "rewardlab"), teach) / "policy"


def teller(folder: str | Path) -> CausalLMPolicy:
    """Return the policy that `taught` wrote."""
    return CausalLMPolicy.from_pretrained(folder)


def teller_prompts(weights: Path | None) -> list[str]:
    """Return the prompts that go with the policy: beginnings of stories, or of help topics."""
    return BEGINNINGS if weights is not None else topics.prompts("train", 8)


def lesson_of(weights: Path | None) -> Lesson:
    """Return how the policy learns to end."""
    return TOPICS if weights is None else STORIES


def cut(text: str, words: int) -> str:
    """Return the beginning of a text, up to the end of the sentence that has the word.

    Without such an end it is cut after the word.

    Args:
        text: the text.
        words: number of the word, from 1.

    Example:
        >>> cut("The dog ran. It was happy. It", 4), cut("The dog ran and ran", 4)
        ('The dog ran. It was happy.', 'The dog ran and')
    """
    pieces = re.findall(r"\s*\S+", text)
    for number, piece in enumerate(pieces, 1):
        if number >= words and _SENTENCE_END.search(piece):
            return "".join(pieces[:number])
    return "".join(pieces[:words])


def _untaught(weights: Path | None, tokenizer: Path | None) -> CausalLMPolicy:
    if weights is None or tokenizer is None:
        return topics.base_policy(max_new_tokens=TOPICS.tokens)
    model = from_llama2c(weights, tokenizer)
    return CausalLMPolicy(model.network, model.tokenizer, max_new_tokens=STORIES.tokens)


def _teach(folder: Path, weights: Path | None, tokenizer: Path | None) -> None:
    """Fine-tune the model on its own texts, each cut after another number of words."""
    policy = _untaught(weights, tokenizer)
    policy.temperature = TEMPERATURE
    prompts = teller_prompts(weights)
    rows = [prompts[row % len(prompts)] for row in range(TAUGHT)]
    seeds = row_seeds(derive(0, "taught to end"), TAUGHT)
    drawn = policy.generate(rows, seeds=seeds)
    lesson = lesson_of(weights)
    texts = []
    for text, generator in zip(drawn.outputs, generators(seeds), strict=True):
        words = torch.randint(lesson.fewest, lesson.most + 1, (1,), generator=generator)
        texts.append(cut(str(text), int(words)))
    data = SamplesData(Samples(rows, texts), batch_size=32)
    optimizer = partial(torch.optim.AdamW, lr=lesson.learning_rate)
    trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", **SILENT)
    trainer.fit(SFT(policy, optimizer=optimizer), data)
    policy.save_pretrained(folder / "policy")
