"""On a device, too, our optimizers take the place of torch's, with all that surrounds a step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from places import CPU, Place, assert_same_bits, everything_of, give_grads, parameters_on

import fusedlr
from cases import DTYPE, OptimizerCase, each_optimizer, random_tensor, variants_of

SHAPES = [(40,), (7, 5), (), (1025,)]


@pytest.fixture(autouse=True)
def _at_the_place(place):
    with place.chosen():
        yield


def train(
    optimizer_class: Any,
    place: Place,
    dtype: torch.dtype,
    arguments: dict[str, Any],
    steps: int = 6,
) -> tuple[Any, list[torch.nn.Parameter]]:
    chance = torch.Generator().manual_seed(0)
    params = parameters_on(place.device, [random_tensor(one, dtype, chance) for one in SHAPES])
    optimizer = optimizer_class(params, **arguments)
    for _ in range(steps):
        give_grads(params, [random_tensor(one, dtype, chance) for one in SHAPES])
        optimizer.step()
    return optimizer, params


@pytest.mark.parametrize("flags", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_optimizer
def test_the_numbers_are_those_of_torch(case, dtype, flags, place):
    tolerance = 10 * DTYPE[dtype].tolerance
    for variant in variants_of(case):
        arguments = variant.exact_arguments
        _, ours = train(case.ours, place, dtype, arguments)
        _, theirs = train(case.theirs, place, dtype, {**arguments, **flags})
        _, start = train(case.ours, place, dtype, arguments, steps=0)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        assert (ours[0] - start[0]).abs().mean() > 100 * tolerance


@each_optimizer
def test_flags_of_torchs_implementations_change_nothing(case, place):
    plain = everything_of(train(case.ours, place, torch.float32, case.arguments)[0])
    for flags in case.flags:
        optimizer, _ = train(case.ours, place, torch.float32, {**case.arguments, **flags})
        assert_same_bits(everything_of(optimizer), plain)


def scaled(case: OptimizerCase, optimizer_class: Any, place: Place, **flags: Any) -> Any:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3).to(place.device)
    optimizer = optimizer_class(model.parameters(), **case.arguments, **flags)
    scaler = torch.amp.GradScaler(place.device.type, init_scale=2.0**127, growth_interval=2)
    scales = []
    for _ in range(10):
        inputs = torch.randn(8, 6).to(place.device)
        optimizer.zero_grad()
        scaler.scale(100 * model(inputs).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales, [param.detach() for param in model.parameters()]


@each_optimizer
def test_a_scaler_skips_the_steps_that_it_skips_of_torch(case, place):
    scales, ours = scaled(case, case.ours, place)
    their_scales, theirs = scaled(case, case.theirs, place, foreach=False, fused=False)
    assert scales == their_scales
    assert any(after < before for before, after in itertools.pairwise(scales))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@each_optimizer
def test_a_closure_and_an_optimizer_of_each_parameter(case, place):
    results = []
    for per_parameter in (False, True):
        params = parameters_on(place.device, [torch.tensor([1.0, -2.0]), torch.tensor([3.0])])
        sets = [[param] for param in params] if per_parameter else [params]
        optimizers = [case.ours(of_set, **case.arguments) for of_set in sets]
        for _ in range(4):
            for param in params:
                param.grad = None
            sum(param.square().sum() for param in params).backward()
            losses = [one.step(lambda: torch.tensor(2.5)) for one in optimizers]
            assert [loss.item() for loss in losses] == [2.5] * len(optimizers)
        results.append(params)
    assert_same_bits(*results)
    assert not torch.equal(results[0][1].detach().cpu(), torch.tensor([3.0]))


@each_optimizer
def test_parameters_of_the_host_and_of_the_device_in_one_optimizer(case, place):
    chance = torch.Generator().manual_seed(0)
    tensors = [random_tensor((33,), torch.float32, chance) for _ in range(4)]
    grads = [[random_tensor((33,), torch.float32, chance) for _ in tensors] for _ in range(4)]
    lr = fusedlr.schedules.linear(0.1, 0.02, steps=4)

    def run(devices: list[Any]) -> Any:
        placed = zip(tensors, devices, strict=True)
        params = [parameters_on(device, [one])[0] for one, device in placed]
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": lr}]
        optimizer = case.ours(groups, **{**case.arguments, **case.with_all_state})
        for of_step in grads:
            give_grads(params, of_step)
            optimizer.step()
        return everything_of(optimizer)

    mixed = run([CPU.device, place.device, place.device, CPU.device])
    assert_same_bits(mixed, run(4 * [CPU.device]))
    assert not torch.equal(mixed[0], tensors[0])


@each_optimizer
def test_a_model_that_is_moved_after_the_optimizer_was_built(case, place):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    start = model.weight.detach().clone()
    expected = torch.nn.Linear(4, 2)
    expected.load_state_dict(model.state_dict())
    optimizers = [case.ours(one.parameters(), **case.arguments) for one in (model, expected)]
    for step in range(4):
        if step == 2:
            model.to(place.device)
            if case.state_names and place.device.type != "cpu":
                for state in optimizers[0].state.values():
                    state.update({k: v.to(place.device) for k, v in state.items() if v.dim()})
        for one, optimizer in zip((model, expected), optimizers, strict=True):
            give_grads(list(one.parameters()), [torch.ones(2, 4), torch.ones(2)])
            optimizer.step()
    assert_same_bits(list(model.parameters()), list(expected.parameters()))
    assert not torch.equal(expected.weight, start)
