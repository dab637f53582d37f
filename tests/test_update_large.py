"""A tensor of more elements than 32 bits count, and a list of very many tensors."""

import gc
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from cases import OPTIMIZERS, OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, parameters_like, set_grads

NUMEL = 2**31 + 12_345
# The first and last elements, and those around the reach of narrower indices.
PLACES = [0, 1, 2**15, 2**16, 2**30, 2**31 - 1, 2**31, 2**31 + 1, NUMEL - 2, NUMEL - 1]
DTYPE = torch.bfloat16

# Updating all elements of such a parameter writes 4 GiB. State of its size would double or triple
# that and show nothing more, as the walk is the same for every rule. On a machine with less memory
# to spare, the tensor with wide gaps below still reaches offsets of the same width.
DENSE_GIB = 6


def available_gib() -> float:
    meminfo = Path("/proc/meminfo")
    found = (
        re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    )
    return int(found[1]) / 2**20 if found else 0.0


def untouched_zeros(numel: int) -> Tensor:
    """Zeros that take no memory until they are written to (torch.zeros writes them)."""
    pages = mmap.mmap(-1, numel * DTYPE.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=DTYPE)


def trained_by_torch(case: OptimizerCase, values: Tensor, grads: Tensor) -> Tensor:
    (param,) = parameters_like([values])
    set_grads([param], [grads])
    case.theirs([param], **TRUSTED, **case.arguments).step()
    assert not torch.equal(param, values)
    return param.detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [case for case in OPTIMIZERS if case.is_stateless and available_gib() > DENSE_GIB],
    ids=str,
)
def test_a_tensor_of_more_than_2_31_elements_is_updated_up_to_its_last(
    case, generator, set_num_threads
):
    set_num_threads(2)
    values, grads = (random_tensor((len(PLACES),), DTYPE, generator) for _ in range(2))
    data, grad = untouched_zeros(NUMEL), untouched_zeros(NUMEL)
    data[PLACES] = values
    grad[PLACES] = grads
    param = Parameter(data)
    param.grad = grad

    case.ours([param], **case.arguments).step()

    torch.testing.assert_close(
        param.detach()[PLACES], trained_by_torch(case, values, grads), rtol=1e-2, atol=0
    )
    param.detach()[PLACES] = 0
    packed = data[: NUMEL // 4 * 4].view(torch.int64)  # counts four elements at once
    assert packed.count_nonzero() == 0
    assert data[NUMEL // 4 * 4 :].count_nonzero() == 0


@pytest.mark.parametrize("gap", [2**29 + 7, 2**31 + 7])
@each_optimizer
def test_offsets_of_more_than_31_bits_are_reached_in_a_tensor_with_wide_gaps(case, gap, generator):
    values, grads = (random_tensor((2, 3), DTYPE, generator) for _ in range(2))

    def with_gaps(values: Tensor) -> Tensor:
        view = untouched_zeros(gap * 2).as_strided((2, 3), (gap, 2))
        return view.copy_(values)

    param = Parameter(with_gaps(values))
    param.grad = with_gaps(grads)
    case.ours([param], **case.arguments).step()
    torch.testing.assert_close(
        param.detach(), trained_by_torch(case, values, grads), rtol=1e-2, atol=0
    )


@pytest.fixture
def _without_garbage_collection() -> Iterator[None]:
    """Looking for garbage while so many objects are made takes most of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("_without_garbage_collection")
@each_optimizer
def test_two_hundred_thousand_tiny_tensors_are_all_updated(case, generator):
    values, grads = (random_tensor((200_000, 2), torch.float32, generator) for _ in range(2))
    params = [Parameter(one) for one in values.clone().unbind()]
    # A few of them are trained by torch, and all of them as one tensor.
    few = params[:: len(params) // 50]
    reference = parameters_like(few)
    (whole,) = parameters_like([values])
    for param, grad in zip(params, grads.unbind(), strict=True):
        param.grad = grad
    set_grads(reference, [param.grad for param in few])
    whole.grad = grads
    optimizers = [
        case.ours(params, **case.arguments),
        case.ours([whole], **case.arguments),
        case.theirs(reference, **TRUSTED, **case.arguments),
    ]
    for optimizer in 2 * optimizers:
        optimizer.step()

    torch.testing.assert_close(few, reference, rtol=2e-6, atol=2e-6)
    assert torch.equal(torch.stack(params), whole)
    assert ((whole - values).abs() > 1e-3).all()
