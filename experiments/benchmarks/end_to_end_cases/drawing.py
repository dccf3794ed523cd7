"""Responses of lengths with a long tail, drawn by our policy and by transformers' `generate`."""

from __future__ import annotations

from typing import Any

from end_to_end_cases.material import (
    LONGEST,
    PROMPT,
    ROWS,
    SAMPLES,
    network,
    tailed,
    texts,
    tokenizer,
)
from end_to_end_cases.measuring import Figures, measured

COUNT = ROWS * SAMPLES


def drawing_ours() -> Figures:
    """Measure a rollout whose rows end at lengths of their own."""
    import torch

    from rewardlab import CausalLMPolicy

    policy = CausalLMPolicy(network(), tokenizer(), max_new_tokens=LONGEST)
    prompts = policy.texts.prompt_ids(texts(COUNT, PROMPT, 0))
    sampler = policy._sampler(0, 1.0)  # lengths are an argument of it alone
    lengths = tailed(COUNT, 4)

    def job() -> None:
        sampler.draw(prompts, torch.arange(COUNT), lengths)

    with torch.no_grad():
        return measured(job)


def drawing_transformers() -> Figures:
    """Measure `generate`, whose criterion ends rows at the same lengths."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Ends(StoppingCriteria):
        """End each row at a length of its own."""

        def __init__(self, lengths: list[int]) -> None:
            self.lengths = torch.tensor(lengths) + PROMPT

        def __call__(self, ids: Any, scores: Any, **options: Any) -> Any:
            return ids.shape[1] >= self.lengths

    model = network().eval()
    batch = tokenizer()(texts(COUNT, PROMPT, 0), return_tensors="pt")
    criteria = StoppingCriteriaList([Ends(tailed(COUNT, 4))])

    def job() -> None:
        model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            top_k=0,
            max_new_tokens=LONGEST,
            stopping_criteria=criteria,
        )

    with torch.no_grad():
        return measured(job)
