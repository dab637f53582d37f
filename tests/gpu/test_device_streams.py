"""Steps are right on any stream of any CUDA device, beside others, and without waiting."""

from __future__ import annotations

import pytest
import torch
from places import assert_same_bits, everything_of
from torch.nn import Parameter

import fusedlr
from cases import each_optimizer

pytestmark = pytest.mark.gpu

SIZE = 1 << 22


def new_run(case, device, seed):
    chance = torch.Generator(device).manual_seed(seed)
    param = Parameter(torch.randn(SIZE, device=device, generator=chance))
    optimizer = case.ours([param], **case.arguments, **case.with_all_state)
    scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    return param, optimizer, scheduler, chance


def train(run, steps=10):
    """Gradients are new tensors in each step, and freed right after it."""
    param, optimizer, scheduler, chance = run
    for _ in range(steps):
        param.grad = torch.randn(SIZE, device=param.device, generator=chance)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


@each_optimizer
def test_a_training_on_a_stream_of_its_own_gives_the_same_bits(case):
    expected, ours = new_run(case, "cuda", 0), new_run(case, "cuda", 0)
    train(expected)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        train(ours)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same_bits(everything_of(ours[1]), everything_of(expected[1]))


@each_optimizer
def test_two_trainings_on_two_streams_do_not_disturb_each_other(case):
    expected = [new_run(case, "cuda", seed) for seed in (0, 1)]
    for run in expected:
        train(run)
    ours = [new_run(case, "cuda", seed) for seed in (0, 1)]
    streams = [torch.cuda.Stream() for _ in ours]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(10):
        for run, stream in zip(ours, streams, strict=True):
            with torch.cuda.stream(stream):
                train(run, 1)
    for stream in streams:
        torch.cuda.current_stream().wait_stream(stream)
    for run, other in zip(ours, expected, strict=True):
        assert_same_bits(everything_of(run[1]), everything_of(other[1]))


@each_optimizer
def test_the_stream_may_change_between_steps(case):
    expected, ours = new_run(case, "cuda", 0), new_run(case, "cuda", 0)
    train(expected, 6)
    for _ in range(6):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            train(ours, 1)
        torch.cuda.current_stream().wait_stream(stream)
    assert_same_bits(everything_of(ours[1]), everything_of(expected[1]))


@each_optimizer
def test_the_parameters_of_all_devices_in_one_optimizer(case):
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    starts = [torch.linspace(-1.0, 1.0, 1001) + index for index in range(len(devices))]

    def run(places):
        params = [Parameter(one.to(where)) for one, where in zip(starts, places, strict=True)]
        groups = [{"params": [param], "lr": 0.1 / (1 + i)} for i, param in enumerate(params)]
        optimizer = case.ours(groups, **case.with_all_state)
        scheduler = fusedlr.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for step in range(5):
            for param in params:
                param.grad = torch.full_like(param, 0.1 * (1 + step))
            optimizer.step()
            scheduler.step()
        return everything_of(optimizer)

    assert_same_bits(run(devices), run(len(devices) * ["cpu"]))


@each_optimizer
def test_the_current_device_need_not_be_that_of_the_parameters(case):
    """And a step leaves it as it was."""
    last = torch.cuda.device_count() - 1
    expected, ours = new_run(case, "cuda:0", 0), new_run(case, "cuda:0", 0)
    train(expected, 3)
    with torch.cuda.device(last):
        train(ours, 3)
        assert torch.cuda.current_device() == last
    assert_same_bits(everything_of(ours[1]), everything_of(expected[1]))


def test_what_looks_for_waiting_finds_it():
    """The fixture of these tests must be able to fail."""
    param = Parameter(torch.ones(3, device="cuda"))
    optimizer = fusedlr.SGD([param], lr=0.1)
    param.grad = torch.ones_like(param)
    optimizer.register_step_pre_hook(lambda *_: param.sum().item())
    with pytest.raises(RuntimeError, match="synchroniz"):
        optimizer.step()
    torch.cuda.synchronize()
