"""How the kernels become operators of torch.

An operator is opaque to the compiler, and has fakes, autograd and autocast of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes a function the body of the operator `rewardlab::<name>`.

    The body runs on every device; the decorated name is the operator. This is
    `torch.library.custom_op` without its wrapper, whose first call imports torch._dynamo, for those
    too who never compile. Results may share no memory with operands; `torch.library.opcheck`
    verifies that.

    Args:
        name: name of the operator.
        schema: its arguments and results, as in "(Tensor x, float y) -> Tensor".
    """

    def define(body: Callable[..., Any]) -> Any:
        full_name = f"rewardlab::{name}"
        torch.library.define(full_name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(full_name, "default", body)
        return getattr(torch.ops.rewardlab, name).default

    return define
