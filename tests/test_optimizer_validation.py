"""A step checks everything before it changes anything, and says what is wrong and where."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from cases import OptimizerCase, each_optimizer, random_tensor
from lockstep import random_grads, set_grads

SHAPE = (2, 3)


def sparse_gradient(param: Parameter) -> None:
    param.grad = torch.ones(SHAPE).to_sparse()


def gradient_of_another_shape(param: Parameter) -> None:
    param.grad.data = torch.ones(3, 2)


def transposed_parameter(param: Parameter) -> None:
    param.data = torch.ones(3, 2)


def gradient_that_lost_its_elements(param: Parameter) -> None:
    param.grad.resize_(0)


def real_gradient_of_a_complex_parameter(param: Parameter) -> None:
    param.data = param.data.to(torch.complex64)


def integer_gradient(param: Parameter) -> None:
    if hasattr(param, "grad_dtype"):
        param.grad_dtype = None
    param.grad.data = torch.ones(SHAPE, dtype=torch.int32)


# What is wrong, and a part of the text that says so.
BAD: dict[Callable[[Parameter], None], str] = {
    sparse_gradient: "sparse gradients",
    gradient_of_another_shape: r"shape \[3, 2\]",
    transposed_parameter: r"shape \[2, 3\].*\[3, 2\]",
    gradient_that_lost_its_elements: r"shape \[0\]",
    real_gradient_of_a_complex_parameter: "dtype",
    integer_gradient: "dtype Int",
}

each_fault = pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)


def optimizer_of_two_groups(case: OptimizerCase, generator: torch.Generator) -> Any:
    groups = [
        {"params": [Parameter(random_tensor(SHAPE, torch.float32, generator)) for _ in range(3)]}
        for _ in range(2)
    ]
    return case.ours(groups, **case.arguments, **case.with_all_state)


def give_grads(optimizer: Any, generator: torch.Generator) -> None:
    for group in optimizer.param_groups:
        set_grads(group["params"], random_grads(group["params"], generator))


def everything(optimizer: Any) -> list[Tensor]:
    """Copies of all that a step could change."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state = [value for entries in optimizer.state.values() for value in entries.values()]
    return [tensor.detach().clone() for tensor in (*params, *state, optimizer.lr)]


@pytest.mark.parametrize("steps_before", [0, 1])
@each_fault
@each_optimizer
def test_a_bad_gradient_is_named_by_group_and_index_and_nothing_has_moved(
    case, spoil, steps_before, generator
):
    optimizer = optimizer_of_two_groups(case, generator)
    for _ in range(steps_before):
        give_grads(optimizer, generator)
        optimizer.step()
    give_grads(optimizer, generator)
    bad = optimizer.param_groups[1]["params"][2]
    spoil(bad)
    before = everything(optimizer)

    for _ in range(2):
        with pytest.raises(RuntimeError, match=BAD[spoil]) as error:
            optimizer.step()
        assert "param_groups[1]['params'][2]" in str(error.value)
        after = everything(optimizer)
        assert len(after) == len(before)
        assert all(map(torch.equal, after, before))


@each_fault
@each_optimizer
def test_training_goes_on_once_the_bad_gradient_is_gone(case, spoil, generator):
    optimizer = optimizer_of_two_groups(case, generator)
    give_grads(optimizer, generator)
    bad = optimizer.param_groups[0]["params"][1]
    good = bad.detach().clone()
    spoil(bad)
    with pytest.raises(RuntimeError, match=BAD[spoil]):
        optimizer.step()
    bad.grad = None
    bad.data = good
    give_grads(optimizer, generator)
    before = everything(optimizer)
    optimizer.step()
    for group in optimizer.param_groups:
        for param in group["params"]:
            assert not any(torch.equal(param, one) for one in before)


@each_optimizer
def test_a_sparse_gradient_raises_the_text_of_torch(case):
    param = Parameter(torch.ones(SHAPE))
    sparse_gradient(param)
    texts = []
    for optimizer_class in (case.theirs, case.ours):
        optimizer = optimizer_class([param], **case.arguments, fused=True)
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        texts.append(str(error.value))
    assert texts[1].startswith(texts[0])
    assert torch.equal(param, torch.ones(SHAPE))


@each_optimizer
def test_an_embedding_with_sparse_gradients_is_refused(case):
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = case.ours(embedding.parameters(), **case.arguments)
    embedding(torch.tensor([1, 3])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients.*param_groups\[0\]\['params'\]\[0\]"):
        optimizer.step()


@pytest.mark.parametrize(
    "replacement",
    [
        torch.ones(3, 2),
        torch.ones(()),
        torch.ones(SHAPE, dtype=torch.int64),
        torch.ones(SHAPE).to_sparse(),
    ],
    ids=["shape", "0-dim", "integers", "sparse"],
)
@each_optimizer
def test_state_that_does_not_fit_is_named_by_group_and_index_and_nothing_has_moved(
    case, replacement, generator
):
    optimizer = optimizer_of_two_groups(case, generator)
    give_grads(optimizer, generator)
    optimizer.step()
    param = optimizer.param_groups[1]["params"][0]
    good = optimizer.state[param][case.state_names[0]]
    optimizer.state[param][case.state_names[0]] = replacement
    params = [param for group in optimizer.param_groups for param in group["params"]]
    before = [one.detach().clone() for one in params]
    with pytest.raises(RuntimeError, match=r"param_groups\[1\]\['params'\]\[0\]"):
        optimizer.step()
    assert all(map(torch.equal, params, before))

    optimizer.state[param][case.state_names[0]] = good
    optimizer.step()
    assert not any(map(torch.equal, params, before))


@each_optimizer
def test_fused_is_refused_at_the_first_step_for_dtypes_that_torch_refuses(case):
    texts = []
    for optimizer_class in (case.theirs, case.ours):
        param = Parameter(torch.ones(2, dtype=torch.complex64))
        param.grad = torch.ones_like(param)
        optimizer = optimizer_class([param], **case.arguments, fused=True)
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        texts.append(str(error.value))
        assert torch.equal(param, torch.ones_like(param))
    assert texts[0] == texts[1]


@each_optimizer
def test_a_group_that_has_lost_a_hyper_is_named(case, generator):
    optimizer = optimizer_of_two_groups(case, generator)
    give_grads(optimizer, generator)
    before = everything(optimizer)
    del optimizer.param_groups[1]["weight_decay"]
    with pytest.raises(KeyError, match=r"param_groups\[1\].*weight_decay"):
        optimizer.step()
    assert all(map(torch.equal, everything(optimizer), before))


@each_optimizer
def test_an_error_in_the_closure_moves_nothing(case, generator):
    optimizer = optimizer_of_two_groups(case, generator)
    give_grads(optimizer, generator)
    before = everything(optimizer)

    def failing() -> float:
        raise ArithmeticError("the loss is gone")

    with pytest.raises(ArithmeticError, match="the loss is gone"):
        optimizer.step(failing)
    assert all(map(torch.equal, everything(optimizer), before))
