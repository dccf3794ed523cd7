"""resize on a CUDA device: matrix products against the library's interpolation in float64, the same
bits every time.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from rewardlab.kernels.resize import hindrances, resize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"
SIZES = [
    ((37, 50), (16, 21)),
    ((16, 16), (33, 20)),
    ((1, 9), (4, 1)),
    ((512, 512), (224, 224)),
    ((1024, 768), (299, 224)),
]


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients_are_the_librarys_in_float64(sizes, mode):
    have, want = sizes
    images, upstream = drawn(2, 3, *have).requires_grad_(), drawn(2, 3, *want, seed=1)
    exact = images.detach().cpu().double().requires_grad_()
    expected = interpolate(exact, want, mode=mode, antialias=True).clamp(0, 1)
    (of_exact,) = torch.autograd.grad((expected * upstream.cpu()).sum(), exact)
    found = resize(images, want, mode=mode, backend="matrix")
    (of_images,) = torch.autograd.grad((found * upstream).sum(), images)
    assert_close(found.cpu().double(), expected.detach(), atol=5e-6, rtol=0)
    assert_close(of_images.cpu().double(), of_exact, atol=1e-5, rtol=1e-5)


def test_the_products_are_the_first_choice_and_repeat_themselves():
    images = drawn(4, 3, 512, 512).requires_grad_()
    assert next(iter(hindrances(images))) == "matrix"
    options = {
        "window": (2, -1, 200, 226),
        "fill": 0.5,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
    }
    whole = resize(images, (224, 224), **options)
    assert torch.equal(whole, resize(images, (224, 224), backend="matrix", **options))
    (gradient,) = torch.autograd.grad(whole.square().sum(), images)
    for _ in range(10):
        again = resize(images, (224, 224), **options)
        assert torch.equal(again, whole)
        assert torch.equal(torch.autograd.grad(again.square().sum(), images)[0], gradient)


def test_half_precision_and_autocast_are_resized_in_float32():
    images = drawn(2, 3, 300, 200).bfloat16()
    expected = resize(images.float(), (64, 64))
    with torch.autocast("cuda", torch.bfloat16):
        assert_close(resize(images, (64, 64)), expected, atol=1e-6, rtol=0)
