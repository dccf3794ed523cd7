"""Fixtures of the kernels' tests."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch._subclasses import FakeTensorMode

from rewardlab.kernels.linear_log_prob import chunked, matmul
from rewardlab.kernels.policy_loss import walk


@pytest.fixture
def cuda_fakes() -> Iterator[None]:
    """Fakes of CUDA tensors, which need no device.

    The code's lines run, and only types and shapes come out. Torch 2.11's fake of torch.addmm takes
    out_dtype for beta and fails, where a device's own does not; it is replaced then.
    """

    def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        total.add_(matmul.product(a, b))

    with FakeTensorMode():
        try:
            half = torch.empty(1, 1, dtype=torch.bfloat16, device="cuda")
            matmul.add_product(torch.empty(1, 1, device="cuda"), half, half)
        except TypeError:
            with (
                mock.patch.object(chunked, "add_product", add_product),
                mock.patch.object(walk, "add_product", add_product),
            ):
                yield
        else:
            yield
