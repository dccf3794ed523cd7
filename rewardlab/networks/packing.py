"""Rows that share prompts as one packed table: each prompt once, its responses behind it.

Several responses to a prompt stand behind it in one line, and several prompts fill a line. A mask
lets a token see its own prompt and its own response alone, and positions begin anew behind the
prompt. So a causal network computes for each response what it would compute in a row of its own,
with little padding and no copies of keys and values, and its backward pass computes nothing anew.
The scheme is that of prefix sharing for DPO (arXiv 2410.20305) and of Preference Packing (arXiv
2602.24082).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.networks.tokens import padded
from rewardlab.types import Distinct, distinct

MOST_MASK = 2**27  # entries of a mask: a table that needs more is not packed
# What a token's attention to one other costs, over a token's products with a layer's weights, times
# the layer's width: measured on a CPU, rows of 64 to 2048 tokens, widths of 64 to 512.
ATTENTION_COST = 1 / 12
WIDTHS = (1, 2, 4, 8)  # lines of so many times the longest row are tried


class Block(NamedTuple):
    """A prompt with responses behind it.

    Attributes:
        prompt: number of the prompt among the distinct ones.
        rows: numbers of the rows whose responses they are.
        length: tokens of prompt and responses.
    """

    prompt: int
    rows: list[int]
    length: int


class Layout(NamedTuple):
    """Which blocks stand in which line.

    Attributes:
        lines: of each line its blocks, in order.
        width: tokens of the longest line.
    """

    lines: list[list[Block]]
    width: int

    def cost(self, hidden: int) -> float:
        """Return what a pass costs, in tokens whose attention is free; see `table_cost`."""
        return table_cost(len(self.lines), self.width, hidden)


class Packed(NamedTuple):
    """B rows of tokens in L lines of T columns.

    Attributes:
        ids: int64 [L, T], filled up on the right.
        positions: int64 [L, T], the position that each token has in a row of its own.
        mask: bool [L, 1, T, T], true where the token of a line's row sees that of a column.
        lines: int64 [B], the line of each row's response.
        starts: int64 [B], the column of its first token.
        lengths: int64 [B], how many tokens it has.
        before: int64 [B], the column of the prompt's last token; of the response's first where
            there is no prompt.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    lines: Tensor
    starts: Tensor
    lengths: Tensor
    before: Tensor

    def responses(self, table: Tensor) -> Tensor:
        """Return the responses' entries [B, T', ...] of a table [L, T, ...].

        T' is the longest response; behind the end of a shorter one stands what follows it.
        """
        longest = int(self.lengths.max())
        columns = torch.arange(longest, device=table.device)
        last = table.shape[1] - 1
        places = self.starts[:, None] + columns
        places = places.clamp_max(last)
        lines = self.lines[:, None]
        return table[lines, places]

    def before_responses(self, table: Tensor) -> Tensor:
        """Return the entries [B, 1, ...] of the prompts' last tokens in a table [L, T, ...]."""
        return table[self.lines, self.before][:, None]


def table_cost(lines: int, width: int, hidden: int, seen: float = 1.0) -> float:
    """Return what running a table of tokens costs, in tokens whose attention is free.

    Args:
        lines: of the table.
        width: columns.
        hidden: width of the network's states.
        seen: share of the columns that attention looks at: 1 under a mask of any form, 0.5 for a
            plain causal pass.

    Example:
        >>> table_cost(4, 96, hidden=64), table_cost(4, 96, hidden=64, seen=0.5)
        (432.0, 408.0)
    """
    return lines * width * (1 + seen * ATTENTION_COST * width / hidden)


def layout(rows: Sequence[Sequence[int]], starts: Sequence[int], hidden: int) -> Layout:
    """Return the cheapest lines for rows of tokens, of those that first fit finds.

    A prompt whose responses do not fit into one line begins several.

    Args:
        rows: B rows of ids, a prompt and a response each.
        starts: where in each row the response starts.
        hidden: width of the network's states.

    Example:
        >>> layout([[5, 6, 7], [5, 6, 8, 9]], starts=[2, 2], hidden=64).width
        5
    """
    prompts = _prompts(rows, starts)
    longest = max(map(len, rows))
    layouts = []
    for factor in WIDTHS:
        blocks = _blocks(rows, starts, prompts, factor * longest)
        layouts.append(_first_fit(blocks, factor * longest))
    return min(layouts, key=lambda lines: lines.cost(hidden))


def cheaper(rows: Sequence[Sequence[int]], starts: Sequence[int], hidden: int) -> Layout | None:
    """Return the lines to pack rows into, or None where running them whole costs no more.

    Args:
        rows: B rows of ids, a prompt and a response each.
        starts: where in each row the response starts.
        hidden: width of the network's states.

    Example:
        >>> cheaper([[5, 6, 7], [5, 8]], starts=[1, 1], hidden=64).width
        4
        >>> cheaper([[5, 6, 7], [8, 6, 7]], starts=[1, 1], hidden=64) is None
        True
    """
    lines = layout(rows, starts, hidden)
    mask_entries = len(lines.lines) * lines.width**2
    if mask_entries > MOST_MASK:
        return None
    longest = max(map(len, rows))
    whole = table_cost(len(rows), longest, hidden, seen=0.5)
    return lines if lines.cost(hidden) < whole else None


def packed(
    rows: Sequence[Sequence[int]],
    starts: Sequence[int],
    lines: Layout,
    pad: int = 0,
    device: torch.device | str = "cpu",
) -> Packed:
    """Return rows of ids in the lines of a layout.

    Args:
        rows: B rows of ids, a prompt and a response each.
        starts: where in each row the response starts.
        lines: of `layout`.
        pad: the id that fills up.
        device: where the tables are to lie.

    Example:
        >>> rows, starts = [[5, 6, 7], [5, 6, 8, 9]], [2, 2]
        >>> both = packed(rows, starts, layout(rows, starts, hidden=64))
        >>> both.ids.tolist(), both.positions.tolist(), both.starts.tolist()
        ([[5, 6, 7, 8, 9]], [[0, 1, 2, 2, 3]], [2, 3])
        >>> both.mask[0, 0, 3].tolist()  # the token 8 sees its prompt and itself
        [True, True, False, True, False]
    """
    table = _Table(len(rows))
    for blocks in lines.lines:
        table.add_line(blocks, rows, starts)
    ids = padded(table.ids, pad, device=device).ids
    positions = padded(table.positions, device=device).ids
    mask = _mask(table.blocks, table.owners).to(device)
    columns = [table.lines, table.starts, table.lengths, table.before]
    return Packed(ids, positions, mask, *torch.tensor(columns, device=device))


def run_packed(network: Any, rows: Packed) -> Tensor:
    """Return the last hidden states [L, T, D] of a packed table.

    Args:
        network: of transformers, without its head, for which `packable.packs` holds.
        rows: of `packed`.
    """
    output = network(
        input_ids=rows.ids,
        attention_mask=_in_form(network, rows.mask),
        position_ids=rows.positions,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return states


def _in_form(network: Any, mask: Tensor) -> Tensor:
    """Return the mask as the network's attention takes it: to select by, or to add."""
    if network.config._attn_implementation == "sdpa":
        return mask
    hidden = torch.finfo(network.dtype).min
    added = torch.zeros(mask.shape, dtype=network.dtype, device=mask.device)
    return added.masked_fill(~mask, hidden)


class _Table:
    """A packed table while lines are put into it.

    Attributes:
        ids, positions: of each line, a number a token.
        blocks: of each line, the number of each token's block.
        owners: of each line, the row whose response a token belongs to; -1 for a prompt's.
        lines, starts, lengths, before: of each row; see `Packed`.
    """

    def __init__(self, count: int) -> None:
        self.ids: list[list[int]] = []
        self.positions: list[list[int]] = []
        self.blocks: list[list[int]] = []
        self.owners: list[list[int]] = []
        self.lines = [0] * count
        self.starts = [0] * count
        self.lengths = [0] * count
        self.before = [0] * count

    def add_line(
        self, blocks: Sequence[Block], rows: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> None:
        """Put blocks into a line of their own."""
        for column in (self.ids, self.positions, self.blocks, self.owners):
            column.append([])
        for number, block in enumerate(blocks):
            first = block.rows[0]
            prompt = rows[first][: starts[first]]
            self._put(prompt, 0, number, -1)
            before = len(self.ids[-1]) - 1
            for row in block.rows:
                response = rows[row][starts[row] :]
                self.lines[row] = len(self.ids) - 1
                self.starts[row] = len(self.ids[-1])
                self.lengths[row] = len(response)
                self.before[row] = before if prompt else self.starts[row]
                self._put(response, starts[row], number, row)

    def _put(self, ids: Sequence[int], position: int, block: int, owner: int) -> None:
        """Put tokens behind what the last line holds."""
        self.ids[-1].extend(ids)
        self.positions[-1].extend(range(position, position + len(ids)))
        self.blocks[-1].extend([block] * len(ids))
        self.owners[-1].extend([owner] * len(ids))


def _prompts(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Distinct[tuple[int, ...]]:
    """Return the distinct prompts among rows."""
    prompts = []
    for ids, start in zip(rows, starts, strict=True):
        prompts.append(tuple(ids[:start]))
    return distinct(prompts)


def _blocks(
    rows: Sequence[Sequence[int]],
    starts: Sequence[int],
    prompts: Distinct[tuple[int, ...]],
    room: int,
) -> list[Block]:
    """Return each prompt with its responses, in several blocks where one has no room for all."""
    open_blocks: dict[int, Block] = {}
    blocks = []
    for row, prompt in enumerate(prompts.places):
        length = len(rows[row]) - starts[row]
        block = open_blocks.get(prompt)
        if block is None or block.length + length > room:
            if block is not None:
                blocks.append(block)
            block = Block(prompt, [], starts[row])
        block.rows.append(row)
        open_blocks[prompt] = block._replace(length=block.length + length)
    return blocks + list(open_blocks.values())


def _first_fit(blocks: Sequence[Block], room: int) -> Layout:
    """Return blocks in lines with so much room, the longest first."""
    lines: list[list[Block]] = []
    lengths: list[int] = []
    for block in sorted(blocks, key=lambda block: -block.length):
        line = _line_with_room(lengths, room - block.length)
        if line == len(lines):
            lines.append([])
            lengths.append(0)
        lines[line].append(block)
        lengths[line] += block.length
    return Layout(lines, max(lengths))


def _line_with_room(lengths: Sequence[int], most: int) -> int:
    """Return the first line that holds no more tokens than `most`, or the number of a new one."""
    for line, length in enumerate(lengths):
        if length <= most:
            return line
    return len(lengths)


def _mask(block_lines: list[list[int]], owner_lines: list[list[int]]) -> Tensor:
    """Return which token sees which, bool [L, 1, T, T]; what fills up sees itself."""
    blocks = padded(block_lines, -1).ids
    owners = padded(owner_lines, -2).ids
    width = blocks.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool).tril()
    same_block = _equal_pairs(blocks)
    same_owner = _equal_pairs(owners)
    is_prompt = owners == -1
    is_prompt = is_prompt[:, None, :]
    seen = seen & same_block
    seen = seen & (same_owner | is_prompt)
    return seen[:, None]


def _equal_pairs(numbers: Tensor) -> Tensor:
    """Return where two entries of a line are equal, bool [L, T, T], from [L, T]."""
    rows = numbers[:, :, None]
    columns = numbers[:, None, :]
    return rows == columns
