"""What surrounds the arithmetic: gradients that come and go, autograd, closures, hooks."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from cases import OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, set_grads


def simple(case: OptimizerCase, num_params: int = 1) -> tuple[list[Parameter], Any]:
    """Parameters of ones with gradients of ones, and an optimizer of ours."""
    params = [Parameter(torch.ones(3)) for _ in range(num_params)]
    for param in params:
        param.grad = torch.ones(3)
    return params, case.ours(params, **case.arguments, **case.with_all_state)


# -------------------------------------------------------------------------------------- gradients


@each_optimizer
def test_a_parameter_without_gradient_is_skipped_and_its_step_does_not_advance(
    case, engine, generator
):
    presence = [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 0), (1, 0, 1), (1, 1, 1), (0, 0, 1)]
    start = [random_tensor((5,), torch.float32, generator) for _ in range(3)]
    runs = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        params = [Parameter(tensor.clone()) for tensor in start]
        runs.append(
            (params, optimizer_class(params, **case.arguments, **case.with_all_state, **flags))
        )
    for present in presence:
        grads = [random_tensor((5,), torch.float32, generator) if one else None for one in present]
        before = [param.detach().clone() for param in runs[0][0]]
        for params, optimizer in runs:
            set_grads(params, grads)
            optimizer.step()
        (ours, our_optimizer), (theirs, their_optimizer) = runs
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
        for one, was, param, their_param in zip(present, before, ours, theirs, strict=True):
            assert torch.equal(param, was) != bool(one)
            assert set(our_optimizer.state[param]) == set(their_optimizer.state[their_param])
            torch.testing.assert_close(
                dict(our_optimizer.state[param]),
                their_optimizer.state[their_param],
                rtol=2e-6,
                atol=2e-6,
            )


@each_optimizer
def test_a_step_without_any_gradient_does_nothing_and_creates_no_state(case, engine):
    (param,), optimizer = simple(case)
    param.grad = None
    assert optimizer.step() is None
    assert torch.equal(param, torch.ones(3))
    assert len(optimizer.state) == 0


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("set_to_none", [True, False])
@each_optimizer
def test_zero_grad_removes_or_zeroes_gradients(case, set_to_none, foreach):
    params = [Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = case.ours(params, **case.arguments, foreach=foreach)
    params[0].grad = torch.ones(3)
    optimizer.zero_grad(set_to_none=set_to_none)
    assert params[1].grad is None
    if set_to_none:
        assert params[0].grad is None
    else:
        assert torch.equal(params[0].grad, torch.zeros(3))


@each_optimizer
def test_gradients_stay_as_they_are(case, engine, generator):
    params, optimizer = simple(case, 2)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.param_groups[0]["maximize"] = True
    for _ in range(3):
        grads = [random_tensor((3,), torch.float32, generator) for _ in params]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        kept = [grad.clone() for grad in grads]
        optimizer.step()
        for param, grad, before in zip(params, grads, kept, strict=True):
            assert param.grad is grad
            assert torch.equal(grad, before)


# --------------------------------------------------------------------------------------- autograd


@each_optimizer
def test_a_step_counts_as_an_in_place_change_of_its_parameters_and_no_others(case, engine):
    (moved, skipped), optimizer = simple(case, 2)
    skipped.grad = None
    versions = moved._version, skipped._version
    optimizer.step()
    assert moved._version > versions[0]
    assert skipped._version == versions[1]


@each_optimizer
def test_autograd_refuses_to_use_a_saved_parameter_that_a_step_has_changed(case, engine):
    (param,), optimizer = simple(case)
    loss = (param * param).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_optimizer
def test_parameters_stay_leaves_that_require_grad_and_state_requires_none(case, engine):
    (param,), optimizer = simple(case)
    optimizer.step()
    assert param.is_leaf
    assert param.requires_grad
    for value in optimizer.state[param].values():
        assert not value.requires_grad


@each_optimizer
def test_a_step_works_in_inference_no_grad_and_enabled_grad_modes_alike(case, engine):
    results = []
    for mode in (torch.enable_grad, torch.no_grad):
        (param,), optimizer = simple(case)
        with mode():
            optimizer.step()
            optimizer.step()
        results.append(param.detach())
    assert torch.equal(*results)
    assert not torch.equal(results[0], torch.ones(3))


@each_optimizer
def test_an_optimizer_of_each_parameter_may_step_during_backward(case, engine):
    results = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        params = [Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([3.0, 0.5]))]
        optimizers = {
            param: optimizer_class([param], **case.arguments, **case.with_all_state, **flags)
            for param in params
        }

        def step(param, optimizers=optimizers):
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in params:
            param.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            sum((param**2).sum() for param in params).backward()
            assert all(param.grad is None for param in params)
        results.append([param.detach() for param in params])
    torch.testing.assert_close(*results, rtol=2e-6, atol=2e-6)
    assert not torch.equal(results[0][0], torch.tensor([1.0, -2.0]))


# --------------------------------------------------------------------------------------- closures


@each_optimizer
def test_a_closure_runs_once_with_gradients_enabled_and_its_loss_is_returned(case, engine):
    runs = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        param = Parameter(torch.tensor([1.0, -2.0, 3.0]))
        optimizer = optimizer_class([param], **case.arguments, **flags)
        losses = []

        def closure(param=param, optimizer=optimizer, losses=losses):
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            loss = (param**2).sum()
            loss.backward()
            losses.append(loss.item())
            return loss

        with torch.no_grad():
            returned = [optimizer.step(closure), optimizer.step(closure=closure)]
            assert not torch.is_grad_enabled()
        assert [loss.item() for loss in returned] == losses
        runs.append((losses, param.detach()))
    torch.testing.assert_close(*runs)
    assert runs[0][0][1] < runs[0][0][0]


# ------------------------------------------------------------------------------------------ hooks


@each_optimizer
def test_step_hooks_run_in_the_order_of_torch_with_its_arguments(case, engine):
    orders = []
    for optimizer_class in (case.ours, case.theirs):
        param = Parameter(torch.ones(2))
        param.grad = torch.ones(2)
        optimizer = optimizer_class([param], **case.arguments)
        order: list[Any] = []

        def log(name, order=order, param=param):
            def hook(hooked, args, kwargs):
                moved = not torch.equal(param.detach(), torch.ones(2))
                order.append((name, hooked.__class__.__name__, len(args), sorted(kwargs), moved))

            return hook

        handles = [
            optimizer.register_step_post_hook(log("post 1")),
            register_optimizer_step_post_hook(log("global post")),
            optimizer.register_step_pre_hook(log("pre 1")),
            register_optimizer_step_pre_hook(log("global pre")),
            optimizer.register_step_pre_hook(log("pre 2")),
            optimizer.register_step_post_hook(log("post 2")),
        ]
        optimizer.step()
        optimizer.step(lambda: 1.0)
        optimizer.step(closure=lambda: 1.0)
        for handle in handles:
            handle.remove()
        optimizer.step()
        orders.append(order)
    assert orders[0] == orders[1]
    assert [one[0] for one in orders[0][:6]] == [
        "global pre",
        "pre 1",
        "pre 2",
        "post 1",
        "post 2",
        "global post",
    ]
    assert len(orders[0]) == 18


@each_optimizer
def test_a_pre_hook_may_replace_the_arguments_of_the_step(case):
    (_,), optimizer = simple(case)
    optimizer.register_step_pre_hook(lambda self, args, kwargs: ((self, lambda: 42.0), {}))
    assert optimizer.step() == 42.0


@each_optimizer
def test_a_pre_hook_that_returns_nonsense_raises_the_text_of_torch(case):
    texts = []
    for optimizer_class in (case.ours, case.theirs):
        optimizer = optimizer_class([Parameter(torch.ones(1))], **case.arguments)
        optimizer.register_step_pre_hook(lambda *_: "nonsense")
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        texts.append(str(error.value).split(" must return ")[1])
    assert texts[0] == texts[1]


@each_optimizer
def test_a_pre_hook_may_change_gradients_hypers_and_groups_of_the_same_step(case):
    results = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        param, late = Parameter(torch.ones(3)), Parameter(torch.ones(2))
        param.grad, late.grad = torch.ones(3), torch.ones(2)
        optimizer = optimizer_class([param], **case.arguments, **flags)

        def hook(self, args, kwargs, late=late):
            self.param_groups[0]["lr"] = 0.3
            self.param_groups[0]["params"][0].grad.mul_(2)
            if len(self.param_groups) == 1:
                self.add_param_group({"params": [late]})

        optimizer.register_step_pre_hook(hook)
        optimizer.step()
        results.append((param.detach(), late.detach()))
    torch.testing.assert_close(*results, rtol=2e-6, atol=2e-6)
    assert not torch.equal(results[0][1], torch.ones(2))


@each_optimizer
def test_state_dict_hooks_run_in_the_order_of_torch(case, engine):
    orders = []
    for optimizer_class in (case.ours, case.theirs):
        param = Parameter(torch.ones(2))
        param.grad = torch.ones(2)
        optimizer = optimizer_class([param], **case.arguments)
        optimizer.step()
        order: list[Any] = []

        def log(name, order=order):
            def hook(hooked, *saved):
                order.append((name, hooked.__class__.__name__, [sorted(one) for one in saved]))

            return hook

        for register in (
            optimizer.register_state_dict_pre_hook,
            optimizer.register_state_dict_post_hook,
            optimizer.register_load_state_dict_pre_hook,
            optimizer.register_load_state_dict_post_hook,
        ):
            register(log(f"{register.__name__} 1"))
            register(log(f"{register.__name__} 2"))
            register(log(f"{register.__name__} first"), prepend=True)
        optimizer.load_state_dict(optimizer.state_dict())
        orders.append(order)
    assert orders[0] == orders[1]
    assert len(orders[0]) == 12


@each_optimizer
def test_hooks_may_replace_what_is_saved_and_what_is_loaded(case):
    (param,), optimizer = simple(case)
    optimizer.step()

    def save_less(self, saved):
        return {**saved, "note": "kept"}

    def load_other(self, saved):
        assert saved["note"] == "kept"
        saved["param_groups"] = [{**group, "lr": 0.25} for group in saved["param_groups"]]
        return saved

    optimizer.register_state_dict_post_hook(save_less)
    optimizer.register_load_state_dict_pre_hook(load_other)
    saved = optimizer.state_dict()
    assert saved["note"] == "kept"
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert saved["param_groups"][0]["lr"] == case.arguments["lr"]
    before = param.detach().clone()
    optimizer.step()
    assert not torch.equal(param, before)


# --------------------------------------------------------------------------------------- profiler


@each_optimizer
def test_a_profiler_sees_the_ranges_that_it_sees_of_torch(case):
    _, optimizer = simple(case)
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, acc_events=True) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = {event.name for event in profile.events()}
    assert f"Optimizer.step#{case.name}.step" in names
    assert f"Optimizer.zero_grad#{case.name}.zero_grad" in names
