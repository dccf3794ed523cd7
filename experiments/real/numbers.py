"""In which precision the two large text networks compute here."""

from __future__ import annotations

from typing import Literal

import torch


def number_format() -> Literal["float32", "bfloat16"]:
    """Return "bfloat16" where the processor multiplies such numbers itself, else "float32".

    They take a third of the time there. Where they are emulated they take longer.
    """
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
