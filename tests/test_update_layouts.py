"""A step is right for parameters, gradients and state of any layout, and writes nowhere else."""

import pytest
import torch
from torch.nn import Parameter

from cases import (
    DTYPE,
    DTYPES,
    LAYOUT_SHAPE,
    LAYOUTS,
    Guarded,
    LayoutCase,
    OptimizerCase,
    Variant,
    each_optimizer,
    random_tensor,
)
from lockstep import Lockstep, parameters_like, set_grads

CONTIGUOUS = LAYOUTS[0]
STEPS = 2

each_param_layout = pytest.mark.parametrize("param_layout", LAYOUTS, ids=str)
each_grad_layout = pytest.mark.parametrize("grad_layout", LAYOUTS, ids=lambda row: f"grad_{row}")
each_state_layout = pytest.mark.parametrize("state_layout", LAYOUTS, ids=lambda row: f"state_{row}")


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def values(request):
    """Values of a parameter and of its gradients."""
    generator = torch.Generator().manual_seed(0)
    return [random_tensor(LAYOUT_SHAPE, request.param.dtype, generator) for _ in range(1 + STEPS)]


def new_optimizer(case: OptimizerCase, param: Parameter) -> torch.optim.Optimizer:
    return case.ours([param], **case.arguments, **case.with_all_state, weight_decay=0.1)


def contiguous_result(case: OptimizerCase, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """The parameter and its state after training where everything is contiguous."""
    (param,) = parameters_like(values[:1])
    optimizer = new_optimizer(case, param)
    for grad in values[1:]:
        set_grads([param], [grad])
        optimizer.step()
    return [param.detach(), *(optimizer.state[param][name] for name in case.state_names)]


def place_state(
    optimizer: torch.optim.Optimizer, param: Parameter, case: OptimizerCase, layout: LayoutCase
) -> list[Guarded]:
    """Moves the state of a parameter into guarded buffers of this layout."""
    guarded = []
    for name in case.state_names:
        guarded.append(Guarded(optimizer.state[param][name], layout))
        optimizer.state[param][name] = guarded[-1].view
    return guarded


@each_optimizer
def test_the_contiguous_result_that_layouts_are_compared_with_is_as_accurate_as_torch(case, values):
    variant = Variant(case, "", {**case.with_all_state, "weight_decay": 0.1})
    dtype = DTYPE[values[0].dtype]
    run = Lockstep(variant, values[:1], dtype.exact)
    for grad in values[1:]:
        run.step([grad])
    run.assert_as_accurate_as_torch(floor=STEPS * dtype.eps)
    run.assert_moved(by=2 * dtype.tolerance)
    assert torch.equal(run.ours[0], contiguous_result(case, values)[0])


@each_grad_layout
@each_param_layout
@each_optimizer
def test_any_layouts_of_parameter_and_gradient_give_the_bits_of_contiguous_ones(
    case, param_layout, grad_layout, values
):
    placed = Guarded(values[0], param_layout)
    param = Parameter(placed.view)
    assert param.stride() == placed.view.stride()
    optimizer = new_optimizer(case, param)
    for grad in values[1:]:
        placed_grad = Guarded(grad, grad_layout)
        param.grad = placed_grad.view
        optimizer.step()
        assert torch.equal(param.grad, grad)
        assert placed_grad.is_intact()

    result = [param.detach(), *(optimizer.state[param][name] for name in case.state_names)]
    for ours, expected in zip(result, contiguous_result(case, values), strict=True):
        assert torch.equal(ours, expected)
    assert param.data_ptr() == placed.view.data_ptr()
    assert placed.is_intact()


@each_state_layout
@each_param_layout
@each_optimizer
def test_state_of_any_layout_gives_the_bits_of_contiguous_state(
    case, param_layout, state_layout, values
):
    placed = Guarded(values[0], param_layout)
    param = Parameter(placed.view)
    optimizer = new_optimizer(case, param)
    set_grads([param], values[1:2])
    optimizer.step()
    guarded = place_state(optimizer, param, case, state_layout)
    for grad in values[2:]:
        set_grads([param], [grad])
        optimizer.step()

    result = [param.detach(), *(one.view for one in guarded)]
    for ours, expected in zip(result, contiguous_result(case, values), strict=True):
        assert torch.equal(ours, expected)
    assert placed.is_intact()
    assert all(one.is_intact() for one in guarded)


@each_param_layout
@each_optimizer
def test_expanded_gradients_are_read_and_left_alone(case, param_layout, values):
    grads = [
        values[1][:, :1].expand(LAYOUT_SHAPE),
        values[2][:1, :, :1, :1].expand(LAYOUT_SHAPE),
    ]
    expected = contiguous_result(case, [values[0], *(grad.contiguous() for grad in grads)])
    placed = Guarded(values[0], param_layout)
    param = Parameter(placed.view)
    optimizer = new_optimizer(case, param)
    for grad in grads:
        before = grad.clone()
        param.grad = grad
        assert 0 in param.grad.stride()
        optimizer.step()
        assert torch.equal(param.grad, before)
    assert torch.equal(param, expected[0])
    assert placed.is_intact()


@pytest.mark.parametrize(
    "view", [torch.conj, torch._neg_view, lambda grad: torch._neg_view(grad.conj())]
)
@pytest.mark.parametrize("dtype", [row for row in DTYPES if row.dtype.is_complex], ids=str)
@each_optimizer
def test_gradients_that_are_conjugated_or_negated_views_are_read_as_what_they_mean(
    case, dtype, view, generator
):
    start, *grads = (random_tensor(LAYOUT_SHAPE, dtype.dtype, generator) for _ in range(3))
    lazy = [view(grad) for grad in grads]
    plain = [grad.resolve_conj().resolve_neg() for grad in lazy]
    assert all(grad.is_conj() or grad.is_neg() for grad in lazy)
    param = Parameter(start.clone())
    optimizer = new_optimizer(case, param)
    for grad, stored in zip(lazy, grads, strict=True):
        before = stored.clone()
        param.grad = grad
        assert param.grad.is_conj() == grad.is_conj()
        optimizer.step()
        assert torch.equal(stored, before)
    assert torch.equal(param, contiguous_result(case, [start, *plain])[0])


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1, 1), (1, 5, 1), (5, 1, 3, 1), (2, 1, 1, 4)], ids=str
)
@each_optimizer
def test_strides_of_dimensions_of_size_one_do_not_matter(case, shape, generator):
    start, *grads = (random_tensor(shape, torch.float32, generator) for _ in range(3))
    odd = [
        grad.as_strided(
            shape, [1000 if n == 1 else s for n, s in zip(shape, grad.stride(), strict=True)]
        )
        for grad in grads
    ]
    param = Parameter(start.clone())
    optimizer = new_optimizer(case, param)
    for grad in odd:
        param.grad = grad
        optimizer.step()
    assert torch.equal(param, contiguous_result(case, [start, *grads])[0])
    assert not torch.equal(param, start)


@each_optimizer
def test_a_gradient_that_changes_its_layout_between_steps_is_followed(case, values):
    (param,) = parameters_like(values[:1])
    optimizer = new_optimizer(case, param)
    for i in range(2 * len(LAYOUTS)):
        param.grad = Guarded(values[1 + i % STEPS], LAYOUTS[i % len(LAYOUTS)]).view
        optimizer.step()
    grads = [values[1 + i % STEPS] for i in range(2 * len(LAYOUTS))]
    assert torch.equal(param, contiguous_result(case, [values[0], *grads])[0])


@each_optimizer
def test_the_new_state_of_a_dense_parameter_lies_as_the_parameter_does(case, generator):
    start = random_tensor(LAYOUT_SHAPE, torch.float32, generator)
    param = Parameter(start.to(memory_format=torch.channels_last))
    optimizer = new_optimizer(case, param)
    set_grads([param], [start])
    optimizer.step()
    for name in case.state_names:
        assert optimizer.state[param][name].stride() == param.stride()


@each_optimizer
def test_a_parameter_whose_elements_share_memory_is_refused_by_group_and_index(case):
    fine = Parameter(torch.ones(3))
    overlapping = Parameter(torch.ones(1, 3).expand(4, 3))
    optimizer = case.ours(
        [{"params": [Parameter(torch.ones(2))]}, {"params": [fine, overlapping]}],
        **case.arguments,
    )
    for group in optimizer.param_groups:
        set_grads(group["params"], [torch.ones_like(param) for param in group["params"]])
    with pytest.raises(RuntimeError, match=r"param_groups\[1\]\['params'\]\[1\].*share memory"):
        optimizer.step()
    assert torch.equal(fine, torch.ones(3))
    assert not optimizer.state


@each_optimizer
def test_overlapping_state_is_refused_by_group_and_index(case, generator):
    params = parameters_like([torch.ones(4, 3), torch.ones(4, 3)])
    optimizer = case.ours(params, **case.arguments, **case.with_all_state)
    set_grads(params, params)
    optimizer.step()
    before = [param.detach().clone() for param in params]
    name = case.state_names[-1]
    optimizer.state[params[1]][name] = torch.ones(1, 3).expand(4, 3)
    with pytest.raises(RuntimeError, match=r"param_groups\[0\]\['params'\]\[1\].*share memory"):
        optimizer.step()
    for param, expected in zip(params, before, strict=True):
        assert torch.equal(param, expected)
