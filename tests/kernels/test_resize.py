"""resize against the library's interpolation, against PIL, and as a linear map with its exact
transpose.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.kernels.resize import hindrances, resize
from rewardlab.kernels.resize.matrices import weights

SIZES = [
    ((37, 50), (16, 21)),
    ((16, 16), (33, 20)),
    ((1, 9), (4, 1)),
    ((12, 12), (12, 7)),
    ((96, 64), (5, 64)),
]
OP = torch.ops.rewardlab.resize
WINDOWS = [(0, 0, 6, 7), (2, 1, 3, 4), (-2, -3, 10, 12), (3, -1, 9, 5), (-1, 2, 3, 3)]


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_backend_is_the_librarys_antialiased_interpolation(sizes, mode):
    have, want = sizes
    images = drawn(2, 3, *have)
    exact = interpolate(images.double(), want, mode=mode, antialias=True).clamp(0, 1)
    for backend in ("matrix", "torch", "reference"):
        found = resize(images, want, mode=mode, backend=backend)
        assert found.dtype == torch.float32
        assert_close(found.double(), exact, atol=2e-6, rtol=0)
        assert_close(
            resize(images.double(), want, mode=mode, backend=backend), exact, atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("backend", ["matrix", "torch"])
def test_photographs_sizes_are_the_librarys(backend):
    images = drawn(1, 3, 300, 512)
    exact = interpolate(images.double(), (131, 224), mode="bicubic", antialias=True).clamp(0, 1)
    assert_close(resize(images, (131, 224), backend=backend).double(), exact, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("mode", "of_pil"),
    [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)],
)
@pytest.mark.parametrize("backend", ["matrix", "torch"])
def test_it_is_pils_within_a_thousandth(backend, mode, of_pil):
    image = drawn(64, 48)
    expected = np.asarray(Image.fromarray(image.numpy(), mode=None).resize((20, 27), of_pil))
    found = resize(image[None, None], (27, 20), mode=mode, backend=backend)[0, 0]
    assert_close(found, torch.from_numpy(expected.copy()).clamp(0, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("backend", ["matrix", "torch", "reference"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_window_is_cut_and_what_is_beyond_is_filled_before_normalisation(window, backend):
    images, (top, left, height, width) = drawn(2, 3, 13, 11), window
    mean, std = torch.tensor([0.1, 0.2, 0.3]), [0.5, 0.6, 0.7]
    found = resize(images, (6, 7), window=window, fill=0.25, mean=mean, std=std, backend=backend)
    whole = pad(resize(images, (6, 7)), (20, 20, 20, 20), value=0.25)
    cut = whole[:, :, 20 + top : 20 + top + height, 20 + left : 20 + left + width]
    assert_close(
        found, (cut - mean[:, None, None]) / torch.tensor(std)[:, None, None], atol=5e-6, rtol=0
    )


def test_half_precision_and_strided_images_are_resized_in_float32():
    images = drawn(3, 40, 30)[:, :, :, None].permute(0, 3, 2, 1).bfloat16()
    for backend in ("matrix", "torch"):
        found = resize(images, (7, 9), backend=backend)
        assert found.dtype == torch.float32
        assert_close(found, resize(images.float().contiguous(), (7, 9)), atol=2e-6, rtol=0)
    assert resize(drawn(0, 3, 8, 8), (4, 4), backend="matrix").shape == (0, 3, 4, 4)


def test_one_colour_stays_and_an_image_of_the_size_is_itself():
    images = drawn(1, 3, 1, 1).expand(1, 3, 30, 20)
    assert_close(
        resize(images, (11, 33), backend="matrix"), images[:, :, :1, :1].expand(1, 3, 11, 33)
    )
    images = drawn(1, 3, 9, 8)
    assert torch.equal(resize(images, (9, 8), backend="matrix"), images)
    assert torch.equal(resize(images, (9, 8), backend="torch"), images)


@pytest.mark.parametrize("backend", ["matrix", "reference"])
def test_the_gradient_is_the_exact_transpose(backend):
    images, upstream = drawn(1, 2, 9, 11).requires_grad_(), drawn(1, 2, 4, 5, seed=1)
    (found,) = torch.autograd.grad(
        (resize(images, (4, 5), backend=backend) * upstream).sum(), images
    )
    down, across = (
        weights(n, k, (0, k), "bicubic", torch.float64, torch.device("cpu"))
        for n, k in ((9, 4), (11, 5))
    )
    assert_close(found.double(), down.T @ upstream.double() @ across, atol=1e-6, rtol=0)
    (library,) = torch.autograd.grad(
        (resize(images, (4, 5), backend="torch") * upstream).sum(), images
    )
    assert_close(found, library, atol=2e-6, rtol=0)
    again = torch.autograd.grad((resize(images, (4, 5), backend=backend) * upstream).sum(), images)[
        0
    ]
    assert torch.equal(again, found)


def test_gradcheck_in_both_directions():
    options = ([6, 5], [4, 9], [1, 0, 4, 8], "bicubic", False)
    images, back = (
        drawn(1, 2, 6, 5).double().requires_grad_(),
        drawn(1, 2, 3, 8).double().requires_grad_(),
    )
    for inputs, transposed in ((images, False), (back, True)):
        assert torch.autograd.gradcheck(lambda x, t=transposed: OP(x, *options, t), inputs)
        assert torch.autograd.gradgradcheck(lambda x, t=transposed: OP(x, *options, t), inputs)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck looks at its own
def test_it_is_an_operation_as_torch_wants_it():
    options = ([6, 5], [4, 9], [1, 0, 4, 8], "bicubic", False)
    torch.library.opcheck(OP, (drawn(2, 3, 6, 5).requires_grad_(), *options, False))
    torch.library.opcheck(OP, (drawn(2, 3, 3, 8).requires_grad_(), *options, True))


@pytest.mark.parametrize("backend", ["matrix", "torch", None])
def test_it_compiles_without_a_graph_break(backend):
    def loss(images):
        return (
            resize(
                images * 0.9, (6, 5), window=(-1, 0, 7, 4), mean=[0.5], std=[0.5], backend=backend
            )
            .square()
            .sum()
        )

    dynamic = backend == "matrix"  # the library's interpolation has no gradient of symbolic sizes
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape in ((2, 3, 12, 9), (4, 3, 20, 11)):
        images = drawn(*shape).requires_grad_()
        (found,) = torch.autograd.grad(compiled(images), images)
        assert_close(found, torch.autograd.grad(loss(images), images)[0], atol=1e-5, rtol=1e-5)


def test_autocast_leaves_it_in_float32():
    images = drawn(2, 3, 12, 9)
    expected = resize(images, (6, 5), backend="matrix")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize(images, (6, 5), backend="matrix"), expected)
        assert (
            OP(images.bfloat16(), [12, 9], [6, 5], [0, 0, 6, 5], "bicubic", False, False).dtype
            == torch.float32
        )


def test_what_does_not_fit_is_refused():
    images = drawn(1, 3, 8, 8)
    for arguments, match in (
        ((images[0], (4, 4)), r"images \[B, C, H, W\].* got torch.float32 \[3, 8, 8\]"),
        ((images, (0, 4)), r"size .* got \(0, 4\)"),
    ):
        with pytest.raises(InputError, match=match):
            resize(*arguments)
    with pytest.raises(InputError, match="bicubic and bilinear; got 'area'"):
        resize(images, (4, 4), mode="area")
    for window in ((4, 0, 2, 2), (0, 0, 0, 4), (-3, 0, 3, 4)):
        with pytest.raises(InputError, match="that meets the image"):
            resize(images, (4, 4), window=window)
    with pytest.raises(InputError, match="got 2 for 3"):
        resize(images, (4, 4), mean=[0.5, 0.5])
    with pytest.raises(InputError, match="no such backend"):
        resize(images, (4, 4), backend="triton")


def test_the_products_are_first_on_cuda_only():
    assert next(iter(hindrances(drawn(1, 3, 8, 8)))) == "torch"
    assert next(iter(hindrances(SimpleNamespace(is_cuda=True)))) == "matrix"
