"""AdamW with moments in bfloat16: its steps beside torch's, its rounding, its bytes, a resume."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import AdamW

from rewardlab.errors import InputError
from rewardlab.training import PPO, BFloat16AdamW, Resumable
from rewardlab.training.bfloat16_adamw import round_at_random

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
COUNT = 4096


def walk(kind, drift, steps=400):
    """Train weights by gradients of six orders of magnitude, which shrink halfway."""
    generator = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(COUNT, generator=generator))
    scale = 10 ** (6 * torch.rand(COUNT, generator=generator) - 4)
    optimizer = kind([weight], lr=1e-3)
    points = [weight.detach().clone()]
    for step in range(steps):
        shrunk = 1.0 if step < steps // 2 else 0.1
        noise = torch.randn(COUNT, generator=generator)
        weight.grad = shrunk * scale * (drift + noise)
        optimizer.step()
        points.append(weight.detach().clone())
    return torch.stack(points), optimizer.state[weight]


@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_its_steps_are_those_of_float32_within_stated_bounds(drift):
    expected, exact = walk(AdamW, drift)
    points, state = walk(BFloat16AdamW, drift)
    steps = expected.diff(dim=0)
    length = steps.abs().sum(0)
    assert ((points[-1] - expected[-1]).abs() / length).max() < 0.03
    difference = points.diff(dim=0) - steps
    assert difference.norm() < 0.015 * steps.norm()
    assert difference[-50:].norm() < 0.03 * steps[-50:].norm()
    assert points.diff(dim=0).norm().item() == pytest.approx(steps.norm().item(), rel=1e-3)
    ratio = state["exp_avg_sq"].float() / exact["exp_avg_sq"]
    assert abs(ratio.mean() - 1) < 0.004
    assert ratio.std() < 0.06


def test_the_second_moment_falls_where_rounding_to_the_nearest_would_hold_it():
    square = torch.rand(COUNT).add(1).bfloat16()
    assert torch.equal((square.float() * 0.999).bfloat16(), square)
    weight = nn.Parameter(torch.zeros(COUNT))
    optimizer = BFloat16AdamW([weight])
    weight.grad = square.float().sqrt()
    optimizer.step()
    before = optimizer.state[weight]["exp_avg_sq"].float()
    weight.grad = torch.zeros(COUNT)
    for _ in range(300):
        optimizer.step()
    after = optimizer.state[weight]["exp_avg_sq"].float()
    assert (after.mean() / before.mean()).item() == pytest.approx(0.999**300, rel=0.005)


def test_rounding_is_exact_in_expectation_and_keeps_what_is_no_number():
    generator = torch.Generator().manual_seed(3)
    exact = torch.randn(50, generator=generator)
    total = torch.zeros(50)
    rounded = torch.empty(50, dtype=torch.bfloat16)
    for _ in range(2000):
        round_at_random(exact.clone(), rounded, generator)
        unit = 2.0 ** (exact.abs().log2().floor() - 7)
        assert ((rounded.float() - exact).abs() < unit).all()
        total += rounded.float()
    assert ((total / 2000 - exact).abs() < 5 * unit / 2 / 2000**0.5).all()
    bits = torch.tensor([0x7FFFFFFF, 0x7F800000, -0x800000, 0], dtype=torch.int32)
    odd = torch.empty(4, dtype=torch.bfloat16)
    round_at_random(bits.view(torch.float32), odd, generator)
    torch.testing.assert_close(
        odd.float(), torch.tensor([torch.nan, torch.inf, -torch.inf, 0]), equal_nan=True
    )


def test_its_state_has_half_the_bytes():
    sizes = {}
    for kind in (AdamW, BFloat16AdamW):
        layer = nn.Linear(30, 20)
        optimizer = kind(layer.parameters())
        layer(torch.ones(1, 30)).sum().backward()
        optimizer.step()
        sizes[kind] = sum(
            value.nbytes
            for state in optimizer.state.values()
            for value in state.values()
            if value.dim()
        )
    assert sizes[AdamW] == 8 * (30 * 20 + 20)
    assert sizes[BFloat16AdamW] == 4 * (30 * 20 + 20)


def test_large_and_transposed_weights_take_the_steps_of_small_ones(monkeypatch):
    results = []
    for chunk, gradient in ((2**20, torch.ones(60, 40)), (7 * 4, torch.ones(40, 60).T)):
        monkeypatch.setattr("rewardlab.training.bfloat16_adamw.CHUNK", chunk)
        weight = nn.Parameter(torch.linspace(-1, 1, 2400).view(60, 40))
        optimizer = BFloat16AdamW([weight], lr=0.1)
        for step in range(3):
            weight.grad = gradient * (step + 1)
            optimizer.step()
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-3)


def test_a_resumed_run_is_the_straight_one_to_the_bit(tmp_path):
    def keep(folder):
        return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)

    def loop():
        optimizer = BFloat16AdamW
        return PPO(LETTERS.Letters(), LETTERS.VALUE, kl_weight=0.01, optimizer=optimizer)

    straight = loop()
    LETTERS.fit(straight, callbacks=[keep(tmp_path), Resumable()], max_steps=6, max_epochs=-1)
    resumed = loop()
    path = tmp_path / "step=3.ckpt"
    trainer = LETTERS.fit(
        resumed,
        callbacks=[keep(tmp_path), Resumable()],
        ckpt_path=path,
        max_steps=6,
        max_epochs=-1,
    )
    assert torch.equal(LETTERS.weights(resumed), LETTERS.weights(straight))
    states = trainer.optimizers[0].state.values()
    assert {state["exp_avg"].dtype for state in states} == {torch.bfloat16}


def test_weights_that_are_spread_over_processes_take_their_own_part():
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    weights = [nn.Parameter(torch.ones(6))]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])
        weights.append(nn.Parameter(distribute_tensor(torch.ones(6), mesh, [Shard(0)])))
        for weight in weights:
            optimizer = BFloat16AdamW([weight], lr=0.1)
            weight.grad = weight.detach() * 3
            optimizer.step()
        assert torch.equal(weights[1].detach().full_tensor(), weights[0].detach())
    finally:
        dist.destroy_process_group()


def test_what_it_cannot_train_is_refused():
    with pytest.raises(InputError, match=r"betas in \[0, 1\).*betas=\(1.0, 0.9\)"):
        BFloat16AdamW([nn.Parameter(torch.ones(1))], betas=(1.0, 0.9))
    with pytest.raises(InputError, match=r"one of shape \[2\] is in torch.bfloat16"):
        BFloat16AdamW([nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])
