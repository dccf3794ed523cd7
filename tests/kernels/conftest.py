"""Fixtures of the kernels' tests."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch._subclasses import FakeTensorMode

from rewardlab.kernels.linear_log_prob import chunked


@pytest.fixture
def cuda_fakes() -> Iterator[None]:
    """Fakes of CUDA tensors, which need no device: the code's lines run, and only types and shapes
    come out.

    Torch 2.11's fake of torch.addmm takes out_dtype for beta and fails, where a device's own does
    not; it is replaced then.
    """
    with FakeTensorMode():
        try:
            half = torch.empty(1, 1, dtype=torch.bfloat16, device="cuda")
            chunked.add_product(torch.empty(1, 1, device="cuda"), half, half)
        except TypeError:
            with mock.patch.object(
                chunked, "add_product", lambda total, a, b: total.add_(chunked.product(a, b))
            ):
                yield
        else:
            yield
