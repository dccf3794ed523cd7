"""Show samples: texts as one table, images as a grid each."""

from __future__ import annotations

from collections.abc import Sequence

from rewardlab.report.grids import grids
from rewardlab.report.markup import Block
from rewardlab.report.picture import slug
from rewardlab.report.samples import Shown
from rewardlab.report.text_table import text_table


def gallery(parts: Sequence[Shown], name: str) -> list[Block]:
    """Return text as one table, images as a grid each."""
    texts = []
    pictures = []
    for part in parts:
        if part.is_text:
            texts.append(part)
        else:
            file_name = f"{name}-{slug(part.label)}"
            pictures.append(grids([part], file_name, 1, part.about))
    return [text_table(texts), pictures]
