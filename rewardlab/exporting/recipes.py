"""How texts become the tokens of an exported reward: by what transformers' tokenizers can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, NamedTuple

from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens
from rewardlab.networks.text_format import JOINED
from rewardlab.rewards import ClassifierReward, LanguageReward
from rewardlab.types import Samples

Kind = Literal["chat", "text", "pair"]
PAIRS = (
    ("What is 12345678?", "It's 90."),
    ("hello", " a cat"),
    ("Name a color.", "Blue, of\ncourse.\n\n* or *green*"),
    ("12", "3"),
    ("12", ""),
    ("déjà vu", "日本語 \t HELLO"),
)


class Recipe(NamedTuple):
    """A tokenizer that is written beside a network, and how it is called.

    Attributes:
        kind: "chat" by `apply_chat_template` of a user's and an assistant's message; "text" of
            prompt and response, joined, and the end token; "pair" of prompt and response.
        tokenizer: of transformers.
    """

    kind: Kind
    tokenizer: Any

    def tables(self, samples: Samples) -> Any:
        """Return the token tables of samples, as whoever loads the folder makes them."""
        prompts = [str(prompt) for prompt in samples.prompts]
        responses = list(samples.outputs)
        if self.kind == "pair":
            return self.tokenizer(prompts, responses, padding=True, return_tensors="pt")
        if self.kind == "chat":
            conversations = as_conversations(samples)
            return self.tokenizer.apply_chat_template(
                conversations, padding=True, return_tensors="pt", return_dict=True
            )
        end = self.tokenizer.eos_token or ""
        texts = [
            prompt + response + end for prompt, response in zip(prompts, responses, strict=True)
        ]
        return self.tokenizer(texts, padding=True, return_tensors="pt")


def as_conversations(samples: Samples) -> list[list[dict[str, str]]]:
    """Return each prompt and its response as messages of a user and of the assistant."""
    conversations = []
    for prompt, response in zip(samples.prompts, samples.outputs, strict=True):
        user = {"role": "user", "content": str(prompt)}
        conversations.append([user, {"role": "assistant", "content": str(response)}])
    return conversations


def probes(reward: LanguageReward | ClassifierReward) -> Samples:
    """Return short samples that a reward takes whole, on which an export is compared with it.

    Raises:
        InputError: if it takes none of them.
    """
    limit = limit_of(reward)
    fitting = []
    for pair in PAIRS:
        if limit is None or _length(reward, *pair) <= limit:
            fitting.append(pair)
    if not fitting:
        raise InputError(
            f"This {type(reward).__name__} takes none of {len(PAIRS)} short texts, so its export "
            "cannot be compared with it. Is its context very short?"
        )
    return Samples([prompt for prompt, _ in fitting], [response for _, response in fitting])


def limit_of(reward: LanguageReward | ClassifierReward) -> int | None:
    """Return how many tokens of a row a reward sees; None where nothing limits them."""
    return reward.limit if isinstance(reward, LanguageReward) else reward.max_length


def _length(reward: LanguageReward | ClassifierReward, prompt: str, response: str) -> int:
    """Return how many tokens a row has before it is cut."""
    if isinstance(reward, LanguageReward):
        return reward.token_counts(Samples([prompt], [response])).rows[0]
    return len(reward.tokenizer(prompt, response, verbose=False)["input_ids"])


def recipe_of(reward: LanguageReward | ClassifierReward, samples: Samples) -> Recipe:
    """Return the recipe by which transformers alone gives a reward's tokens.

    Of a reward with a chat template that is its template, with its date, its options and what ends
    a response written into it. Texts without a template get one that joins them, if it gives the
    same tokens.

    Args:
        reward: whose tokens are wanted.
        samples: on which they are compared.

    Raises:
        InputError: if no recipe gives the same tokens.
    """
    if isinstance(reward, ClassifierReward):
        tokenizer = deepcopy(reward.tokenizer)
        tokenizer.model_max_length = reward.max_length or tokenizer.model_max_length
        return Recipe("pair", tokenizer)
    expected = reward.token_rows(samples).ids
    recipes = [Recipe("chat", _prepared(reward, exported_template(reward.texts)))]
    if not reward.texts.chats:
        recipes.append(Recipe("text", _prepared(reward, None)))
    differences = []
    for recipe in recipes:
        rows = _rows(recipe, samples)
        if rows == expected:
            return recipe
        differences.append(_first_difference(rows, expected, samples))
    raise InputError(
        "transformers' tokenizer alone does not make the tokens that this reward scores: for "
        f"{differences[0]}. An export would score other texts. Let `rewardlab export --to "
        "openrlhf` write a function, which loads the reward itself."
    )


def exported_template(texts: TextTokens) -> str:
    """Return a chat template that alone writes what a reward's format writes.

    Args:
        texts: the reward's.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> template = exported_template(TextTokens(tokenizer))
        >>> messages = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
        >>> tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        '1+1=2<|end|>'
    """
    template = texts.template
    if template is None:
        frame = texts.marks.frame
        before = _literal(texts.tokenizer, frame.before)
        after = _literal(texts.tokenizer, frame.after)
        closed = "{% if not add_generation_prompt %}" + after + "{% endif %}" if after else ""
        template = before + JOINED + closed
    settings = ""
    for name, value in texts.form.options.items():
        settings += "{% set " + name + " = " + _jinja(value) + " %}"
    if not texts.ends_rows:
        template = _with_end(template)
    return settings + ("{{ '' }}" if settings else "") + template


def _with_end(template: str) -> str:
    """Return a template that puts the end token behind a finished text, once."""
    whole = "{% set whole_text %}{{ '' }}" + template + "{% endset %}"
    is_ended = "add_generation_prompt or not eos_token or whole_text.endswith(eos_token)"
    return whole + "{{ whole_text if " + is_ended + " else whole_text + eos_token }}"


def _literal(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return Jinja that writes tokens, an empty text for none."""
    if not ids:
        return ""
    text = "".join(tokenizer.convert_ids_to_tokens(list(ids)))
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


def _jinja(value: Any) -> str:
    """Return a plain value as a Jinja literal."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _prepared(reward: LanguageReward, template: str | None) -> Any:
    """Return a copy of a reward's tokenizer with the template, the limit and what pads."""
    tokenizer = deepcopy(reward.tokenizer)
    tokenizer.chat_template = template
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "left"
    if reward.limit is not None:
        tokenizer.model_max_length = reward.limit
    if reward.pad is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(reward.pad)
    return tokenizer


def _rows(recipe: Recipe, samples: Samples) -> list[list[int]]:
    """Return the tokens of each sample alone, without padding."""
    rows = []
    for index in range(len(samples)):
        tables = recipe.tables(samples[index : index + 1])
        rows.append(tables["input_ids"][0].tolist())
    return rows


def _first_difference(
    rows: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], samples: Samples
) -> str:
    """Return a phrase on the first sample whose tokens differ."""
    for index, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        if row != wanted:
            pair = (samples.prompts[index], samples.outputs[index])
            return (
                f"the prompt and response {pair} it makes {row[-8:]} at the end, not {wanted[-8:]}"
            )
    return "no probe"
