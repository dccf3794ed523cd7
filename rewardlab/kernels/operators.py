"""How the kernels become operators of torch: opaque to the compiler, with fakes, autograd and
autocast of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function the body of the operator `rewardlab::<name>` on every device, and return the
    operator.

    This is `torch.library.custom_op` without its wrapper, whose first call imports torch._dynamo,
    for those too who never compile. Results may share no memory with operands, which
    `torch.library.opcheck` looks after.

    Args:
        name: of the operator.
        schema: its arguments and results, as in "(Tensor x, float y) -> Tensor".
    """

    def define(body: Callable[..., Any]) -> Any:
        full = f"rewardlab::{name}"
        torch.library.define(full, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(full, "default", body)
        return getattr(torch.ops.rewardlab, name).default

    return define
