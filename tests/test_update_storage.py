"""Parameters, gradients and state may each be stored in a dtype of their own."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from cases import DTYPE, DTYPES, OPTIMIZERS, OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED

REALS = tuple(row.dtype for row in DTYPES if row.dtype.is_floating_point)
HALVES = tuple(dtype for dtype in REALS if dtype.itemsize == 2)

# Older versions of torch hold every gradient to the dtype of its parameter.
OWN_GRAD_DTYPE = hasattr(torch.Tensor, "grad_dtype")

STORAGES = tuple(
    (param, grad, state)
    for param, grad, state in itertools.product(REALS, repeat=3)
    if OWN_GRAD_DTYPE or param == grad
)


def name_of(dtype: torch.dtype) -> str:
    return str(DTYPE[dtype])


def set_grad(param: Parameter, grad: torch.Tensor) -> None:
    if grad.dtype != param.dtype:
        param.grad_dtype = grad.dtype
    param.grad = grad


def place_state(
    optimizer: torch.optim.Optimizer, param: Parameter, case: OptimizerCase, dtype: torch.dtype
) -> None:
    """Gives a parameter state of this dtype, as after some steps with gradients of zero."""
    optimizer.state[param] = {
        name: torch.zeros_like(param, dtype=dtype) for name in case.state_names
    }
    if case.step_is_visible:
        optimizer.state[param]["step"] = torch.tensor(3.0)


def exact_step(
    case: OptimizerCase, param: Parameter, optimizer: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a float64 step of torch.optim makes of the parameter and state as they are now."""
    exact = Parameter(param.detach().clone().double())
    exact.grad = param.grad.double()
    reference = case.theirs([exact], **TRUSTED, **case.arguments, **case.with_all_state)
    reference.state[exact] = {
        name: value.clone().to(value.dtype if name == "step" else torch.float64)
        for name, value in optimizer.state[param].items()
    }
    reference.step()
    return exact.detach(), {name: reference.state[exact][name] for name in case.state_names}


@pytest.mark.parametrize(
    ("param_dtype", "grad_dtype", "state_dtype"),
    STORAGES,
    ids=["-".join(map(name_of, storage)) for storage in STORAGES],
)
@each_optimizer
def test_a_step_computes_in_opmath_and_rounds_once_to_each_storage_dtype(
    case, param_dtype, grad_dtype, state_dtype, generator
):
    param = Parameter(random_tensor((700,), param_dtype, generator))
    optimizer = case.ours([param], **case.arguments, **case.with_all_state)
    place_state(optimizer, param, case, state_dtype)
    for _ in range(2):
        set_grad(param, random_tensor((700,), grad_dtype, generator))
        grad, before = param.grad.clone(), param.detach().clone()
        expected_param, expected_state = exact_step(case, param, optimizer)
        optimizer.step()

        opmath_eps = torch.finfo(
            torch.float64 if param_dtype == torch.float64 else torch.float32
        ).eps
        rtol = torch.finfo(param_dtype).eps / 2 + 4 * opmath_eps
        torch.testing.assert_close(
            param.detach().double(), expected_param, rtol=rtol, atol=4 * opmath_eps
        )
        smallest = torch.finfo(state_dtype).smallest_normal
        for name, expected in expected_state.items():
            state = optimizer.state[param][name]
            assert state.dtype == state_dtype
            rtol = torch.finfo(state_dtype).eps / 2 + 4 * opmath_eps
            atol = 4 * opmath_eps + smallest * torch.finfo(state_dtype).eps
            torch.testing.assert_close(state.double(), expected, rtol=rtol, atol=atol)
        assert torch.equal(param.grad, grad)
        assert (param.detach() - before).abs().double().mean() > DTYPE[param_dtype].tolerance


@pytest.mark.parametrize(
    "case", [case for case in OPTIMIZERS if len(case.state_names) > 1], ids=str
)
def test_state_dtypes_that_differ_among_each_other_are_refused_by_group_and_index(case):
    param = Parameter(torch.ones(3))
    optimizer = case.ours([param], **case.arguments, **case.with_all_state)
    place_state(optimizer, param, case, torch.float32)
    optimizer.state[param][case.state_names[-1]] = torch.zeros(3, dtype=torch.bfloat16)
    param.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"param_groups\[0\]\['params'\]\[0\].*BFloat16"):
        optimizer.step()
    assert torch.equal(param, torch.ones(3))


@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
@each_optimizer
def test_every_sixteen_bit_number_survives_loading_and_storing(case, dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    param = Parameter(every.clone())
    optimizer = case.ours([param], **{**case.arguments, "lr": 0.0, "weight_decay": 0.0})
    param.grad = torch.zeros_like(param)
    optimizer.step()
    is_nan = every.isnan()
    assert torch.equal(param.isnan(), is_nan)
    assert torch.equal(param.detach()[~is_nan].view(torch.int16), every[~is_nan].view(torch.int16))


@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
@each_optimizer
def test_float32_rounds_to_sixteen_bits_as_in_torch(case, dtype, generator):
    # All signs and exponents, with mantissas around every tie of rounding, and random ones.
    high = torch.arange(2**16, dtype=torch.int64) << 16
    low = torch.tensor(
        [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    )
    ties = (high[:, None] | low).flatten()
    anything = torch.randint(0, 2**32, (2**19,), generator=generator)
    bits = torch.cat([ties, anything])
    grad = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)
    grad = grad[grad.isfinite() & (grad != 0)]  # a sum with zero loses the sign of a zero

    param = Parameter(torch.zeros_like(grad))
    optimizer = case.ours([param], **{**case.arguments, **case.storing_grad, "lr": 0.0})
    place_state(optimizer, param, case, dtype)
    for name in case.state_names[1:]:
        if name.startswith("max"):
            del optimizer.state[param][name]
    param.grad = grad
    optimizer.step()
    stored = optimizer.state[param][case.state_names[0]]
    differs = stored.view(torch.int16) != grad.to(dtype).view(torch.int16)
    assert not differs.any(), f"{grad[differs][0]} became {stored[differs][0]}"
