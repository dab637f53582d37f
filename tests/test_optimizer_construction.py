"""An optimizer is built as torch's is: arguments, groups, errors, and how it prints."""

import inspect
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusedlr
from cases import OPTIMIZERS, each_optimizer, each_variant


def outcome(call: Callable[[], Any]) -> tuple[type | None, str, list[str]]:
    """The type and text of what `call` raises, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:
            return type(error), str(error), [str(one.message) for one in caught]
    return None, "", [str(one.message) for one in caught]


def two_params() -> list[Parameter]:
    return [Parameter(torch.ones(2)), Parameter(torch.ones(3))]


def non_leaf() -> Tensor:
    return torch.ones(2, requires_grad=True) * 2


def retaining_non_leaf() -> Tensor:
    param = non_leaf()
    param.retain_grad()
    return param


SHARED = Parameter(torch.ones(2))

# What is given as `params`; each entry makes it afresh.
PARAMS: dict[str, Callable[[], Any]] = {
    "list": two_params,
    "tuple": lambda: tuple(two_params()),
    "generator": lambda: iter(two_params()),
    "named": lambda: [("a", Parameter(torch.ones(1))), ("b", Parameter(torch.ones(2)))],
    "dicts": lambda: [{"params": two_params(), "lr": 0.5}, {"params": two_params()}],
    "named dicts": lambda: [{"params": [("a", Parameter(torch.ones(1)))]}],
    "single tensor in a dict": lambda: [{"params": Parameter(torch.ones(2))}],
    "generator in a dict": lambda: [{"params": iter(two_params())}],
    "empty group": lambda: [{"params": []}, {"params": two_params()}],
    "unknown key": lambda: [{"params": two_params(), "nickname": "head"}],
    "plain tensors": lambda: [torch.ones(2)],
    "retained non-leaf": lambda: [retaining_non_leaf()],
    "duplicate in a group": lambda: [SHARED, SHARED],
    # What torch refuses:
    "tensor": lambda: Parameter(torch.ones(2)),
    "nothing": list,
    "set": lambda: [{"params": set(two_params())}],
    "number": lambda: [1.0],
    "string": lambda: ["weight"],
    "none": lambda: None,
    "non-leaf": lambda: [non_leaf()],
    "some named": lambda: [("a", Parameter(torch.ones(1))), Parameter(torch.ones(2))],
    "some groups named": lambda: [
        {"params": [("a", Parameter(torch.ones(1)))]},
        {"params": two_params()},
    ],
    "shared by groups": lambda: [{"params": [SHARED]}, {"params": [SHARED]}],
    "dict without params": lambda: [{"lr": 0.1}],
    "dict and tensor": lambda: [{"params": two_params()}, Parameter(torch.ones(2))],
}


def invalid_arguments() -> list[Any]:
    return [
        pytest.param(case, arguments, id=f"{case}-{arguments}")
        for case in OPTIMIZERS
        for arguments in case.invalid
    ]


@each_optimizer
def test_the_signature_is_that_of_torch_and_one_keyword(case):
    ours = inspect.signature(case.ours)
    *shared, backend = ours.parameters.values()
    assert ours.replace(parameters=shared) == inspect.signature(case.theirs)
    assert (backend.name, backend.kind, backend.default) == ("backend", backend.KEYWORD_ONLY, None)


@each_optimizer
def test_it_is_an_optimizer_of_torch_of_the_same_name(case):
    assert issubclass(case.ours, case.theirs)
    assert issubclass(case.ours, torch.optim.Optimizer)
    assert issubclass(case.ours, fusedlr.FusedOptimizer)
    assert case.ours.__name__ == case.theirs.__name__
    assert getattr(fusedlr.optim, case.name) is case.ours


@pytest.mark.parametrize(("case", "arguments"), invalid_arguments())
def test_an_invalid_argument_raises_what_torch_raises(case, arguments):
    def build(optimizer: Any) -> tuple[type | None, str, list[str]]:
        return outcome(lambda: optimizer(two_params(), **deepcopy(arguments)))

    error, text, _ = build(case.theirs)
    assert error is not None
    ours = build(case.ours)
    # Python names the class in the text of an unexpected argument.
    assert (ours[0], ours[1].replace("fusedlr.", "")) == (error, text)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@each_optimizer
def test_params_are_taken_refused_and_warned_of_as_in_torch(case, params):
    theirs = outcome(lambda: case.theirs(params(), **case.arguments))
    ours = outcome(lambda: case.ours(params(), **case.arguments))
    assert ours == theirs


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@each_optimizer
def test_add_param_group_takes_refuses_and_warns_as_torch_does(case, params):
    for names in (False, True):

        def add(optimizer_class: Any, names: bool = names) -> Any:
            first = Parameter(torch.ones(1))
            optimizer = optimizer_class([("first", first)] if names else [first], **case.arguments)
            given = params()
            groups = given if isinstance(given, list) else [given]
            result = outcome(
                lambda: [
                    optimizer.add_param_group(
                        group if isinstance(group, (dict, float, str)) else {"params": given}
                    )
                    for group in groups
                ]
            )
            return result, len(optimizer.param_groups), list(optimizer.param_groups[-1])

        assert add(case.ours) == add(case.theirs)


@each_optimizer
def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was(case):
    params = two_params()
    optimizer = case.ours(params, **case.arguments)
    for bad in ({"params": params}, {"params": [torch.ones(2)], "lr": "fast"}):
        with pytest.raises((ValueError, TypeError)):
            optimizer.add_param_group(bad)
    assert len(optimizer.param_groups) == len(optimizer.lr) == 1
    params[0].grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(params[0], torch.ones(2))


@each_variant
def test_groups_have_the_keys_values_and_order_of_torch(variant):
    case = variant.case
    groups = [{"params": [Parameter(torch.ones(1))]}, {"params": [Parameter(torch.ones(1))]}]
    ours, theirs = (
        optimizer(deepcopy(groups), **variant.arguments) for optimizer in (case.ours, case.theirs)
    )
    for our_group, their_group in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert list(our_group) == list(their_group)
        assert str(list(our_group.items())[1:]) == str(list(their_group.items())[1:])
        assert len(our_group) == len(their_group)
        assert [type(value) for value in our_group.values()] == [
            type(value) for value in their_group.values()
        ]
    assert ours.defaults == theirs.defaults


@each_variant
def test_it_prints_as_the_optimizer_of_torch(variant):
    ours, theirs = (
        optimizer(
            [{"params": two_params()}, {"params": two_params(), "lr": 0.125}], **variant.arguments
        )
        for optimizer in (variant.case.ours, variant.case.theirs)
    )
    assert repr(ours) == repr(theirs)


@each_optimizer
def test_positional_arguments_are_those_of_torch(case):
    positional = [
        parameter.default
        for parameter in inspect.signature(case.theirs).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ][1:]
    ours, theirs = case.ours(two_params(), *positional), case.theirs(two_params(), *positional)
    assert repr(ours) == repr(theirs)


@each_optimizer
def test_parameter_names_are_kept(case):
    model = torch.nn.Linear(2, 3)
    optimizer = case.ours(model.named_parameters(), **case.arguments)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@each_optimizer
def test_a_parameter_that_is_listed_twice_is_updated_twice_as_in_torch(case):
    results = []
    for optimizer_class in (case.ours, case.theirs):
        param, other = Parameter(torch.ones(3)), Parameter(torch.ones(2))
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = optimizer_class(
                [param, other, param], **case.arguments, **case.with_all_state, foreach=False
            )
        for _ in range(3):
            param.grad, other.grad = param.detach().clone(), other.detach().clone()
            optimizer.step()
        results.append((param, other, optimizer.state[param]))
    ours, theirs = results
    torch.testing.assert_close(ours[:2], theirs[:2])
    for name, value in theirs[2].items():
        torch.testing.assert_close(ours[2][name], value)
    assert not torch.equal(ours[0][:2], ours[1])


@each_optimizer
def test_the_default_device_is_not_where_an_optimizer_of_cpu_parameters_keeps_its_numbers(case):
    results = []
    for device in ("cpu", "meta"):
        param, late = (Parameter(torch.ones(3, device="cpu")) for _ in range(2))
        param.grad, late.grad = (torch.ones(3, device="cpu") for _ in range(2))
        with torch.device(device):
            optimizer = case.ours([param], **case.arguments, **case.with_all_state)
            optimizer.step()
            optimizer.add_param_group({"params": [late]})
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step()
        assert optimizer.lr.device.type == "cpu"
        results.append((param.detach(), late.detach()))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert not torch.equal(results[0][0], torch.ones(3))


@each_optimizer
def test_subclasses_may_bring_their_own_step_and_name(case):
    class Clipped(case.ours):
        def step(self, closure=None):
            for group in self.param_groups:
                torch.nn.utils.clip_grad_value_(group["params"], 0.5)
            return super().step(closure)

    param, expected = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    param.grad, expected.grad = torch.full((2,), 9.0), torch.full((2,), 0.5)
    optimizer, reference = (
        Clipped([param], **case.arguments),
        case.ours([expected], **case.arguments),
    )
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step()
    reference.step()
    assert torch.equal(param, expected)
    assert not torch.equal(param, torch.ones(2))
    assert repr(optimizer).startswith("Clipped (")
    assert "post" in calls
