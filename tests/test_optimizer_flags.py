"""torch's implementation flags are recorded and change no value; differentiable steps."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from cases import OPTIMIZERS, OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, parameters_like, random_grads, set_grads

each_flags = pytest.mark.parametrize(
    ("case", "flags"),
    [
        pytest.param(case, flags, id=f"{case}-{'+'.join(f'{k}={v}' for k, v in flags.items())}")
        for case in OPTIMIZERS
        for flags in case.flags
    ],
)


@each_flags
def test_a_flag_is_recorded_as_in_torch_and_changes_no_bit(case, flags, generator):
    start = [random_tensor(shape, torch.float32, generator) for shape in [(7,), (3, 5)]]
    results = []
    for chosen in ({}, flags):
        params = parameters_like(start)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state, **chosen)
        steps = torch.Generator().manual_seed(1)
        for _ in range(3):
            set_grads(params, random_grads(params, steps))
            optimizer.step()
        results.append(params)
    for plain, flagged, before in zip(*results, start, strict=True):
        assert torch.equal(plain, flagged)
        assert not torch.equal(plain, before)

    theirs = case.theirs(parameters_like(start), **case.arguments, **case.with_all_state, **flags)
    for key in flags:
        assert optimizer.param_groups[0][key] == theirs.param_groups[0][key]
        assert optimizer.defaults[key] == theirs.defaults[key]


@each_flags
def test_the_step_count_has_the_dtype_that_torch_gives_it(case, flags):
    def steps(optimizer_class: Any) -> list[Any]:
        param = Parameter(torch.ones(2))
        param.grad = torch.ones(2)
        chosen = {key: value for key, value in flags.items() if key != "capturable"}
        optimizer = optimizer_class([param], **case.arguments, **chosen)
        optimizer.step()
        step = optimizer.state[param].get("step")
        return [] if step is None else [step.dtype, step.shape, step.device, step.item()]

    for dtype in (torch.float32, torch.float64):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            assert steps(case.ours) == steps(case.theirs)
        finally:
            torch.set_default_dtype(before)


@each_optimizer
def test_flags_may_change_while_training(case, generator):
    start = [random_tensor((9,), torch.float32, generator)]
    results = []
    for changes in ([{}], case.flags):
        params = parameters_like(start)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        steps = torch.Generator().manual_seed(1)
        for i in range(6):
            optimizer.param_groups[0].update(changes[i % len(changes)])
            set_grads(params, random_grads(params, steps))
            optimizer.step()
        results.append(params[0])
    assert torch.equal(*results)
    assert not torch.equal(results[0], start[0])


# ----------------------------------------------------------------------------------- differentiable


def gradients_through_a_step(
    case: OptimizerCase, optimizer_class: Any, arguments: dict[str, Any]
) -> list[Tensor]:
    """A parameter after a differentiable step, and the gradients of its squares with regard to all
    that went into the step: parameter, gradient, state, lr."""
    generator = torch.Generator().manual_seed(0)

    def leaf() -> Tensor:
        return random_tensor((5,), torch.float64, generator).abs().requires_grad_()

    start, grad, *state = (leaf() for _ in range(2 + len(case.state_names)))
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    param = start.clone()
    param.grad = grad
    optimizer = optimizer_class([param], **{**arguments, "lr": lr}, differentiable=True)
    buffers = {name: one.clone() for name, one in zip(case.state_names, state, strict=True)}
    step = {"step": torch.tensor(10.0)} if case.step_is_visible else {}
    optimizer.state[param].update({**buffers, **step})
    optimizer.step()
    return [param.detach(), *torch.autograd.grad((param**2).sum(), [start, grad, *state, lr])]


@each_optimizer
def test_a_differentiable_step_has_the_gradients_of_torch(case, engine):
    for extra in ({}, {"weight_decay": 0.1}, {"maximize": True}):
        arguments = {**case.arguments, **case.with_all_state, **extra}
        ours = gradients_through_a_step(case, case.ours, arguments)
        theirs = gradients_through_a_step(case, case.theirs, arguments)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert all(gradient.abs().max() > 1e-3 for gradient in ours)


@each_optimizer
def test_a_differentiable_and_an_engine_group_in_one_optimizer_each_get_their_step(case, generator):
    start = [random_tensor((5,), torch.float32, generator) for _ in range(2)]
    runs = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        params = parameters_like(start)
        optimizer = optimizer_class(
            [{"params": params[:1], "differentiable": True}, {"params": params[1:]}],
            **case.arguments,
            **case.with_all_state,
            **flags,
        )
        steps = torch.Generator().manual_seed(1)
        for _ in range(2):
            set_grads(params, random_grads(params, steps))
            optimizer.step()
        runs.append(params)
    torch.testing.assert_close(*runs, rtol=2e-6, atol=2e-6)
    assert not any(map(torch.equal, runs[0], start))


@each_optimizer
def test_switching_differentiable_on_and_off_goes_on_with_the_same_state(case, generator):
    start = [random_tensor((5,), torch.float32, generator)]
    runs = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        params = parameters_like(start)
        optimizer = optimizer_class(params, **case.arguments, **case.with_all_state, **flags)
        steps = torch.Generator().manual_seed(1)
        for i in range(6):
            optimizer.param_groups[0]["differentiable"] = i in (1, 2, 4)
            set_grads(params, random_grads(params, steps))
            optimizer.step()
        runs.append([params[0].detach(), dict(optimizer.state[params[0]])])
    torch.testing.assert_close(*runs, rtol=2e-6, atol=2e-6)
    assert not torch.equal(runs[0][0], start[0])
