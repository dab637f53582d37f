"""The kernels of a device, walked on the host thread by thread, give the bits of the CPU engine."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compiling import NATIVE, compile_library
from fusedlr import _backend

MAX_OPERANDS = 5
GUARD_BYTES = 64

#: In the order of the engine's enumeration.
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ANY = len(DTYPES)  # the storage of a kernel that looks at every operand's dtype

RULES: dict[str, dict[str, Any]] = _backend.extension.rules()
each_rule = pytest.mark.parametrize("rule", RULES)

#: Two sets of hypers that take different branches, by name.
HYPERS = {
    "usual": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.1},
    "other branches": {
        "beta1": 0.3,
        "beta2": 0.95,
        "eps": 1e-6,
        "momentum": 0.5,
        "dampening": 0.2,
        "weight_decay": 0.01,
        "maximize": 1.0,
        "nesterov": 1.0,
        "decoupled_weight_decay": 1.0,
    },
}


class TestRow(ctypes.Structure):
    __test__ = False  # not a test class, but a struct of tests/native/walked_kernels.cpp
    _fields_ = (
        ("data", ctypes.c_void_p * MAX_OPERANDS),
        ("numel", ctypes.c_int64),
        ("layout", ctypes.c_void_p),
        ("dtypes", ctypes.c_int32 * 3),
    )


class Step(ctypes.Structure):
    _fields_ = (
        ("rule", ctypes.c_int32),
        ("lr", ctypes.c_double),
        ("hypers", ctypes.c_void_p),
        ("num_hypers", ctypes.c_int64),
        ("step", ctypes.c_double),
    )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("native")
    library = ctypes.CDLL(os.fspath(compile_library(NATIVE / "walked_kernels.cpp", folder)))
    library.chunk_elements.restype = ctypes.c_int64
    return library


# Tensors in memory that is watched


class Operand:
    """A tensor that begins `offset` elements after an aligned address, with guards around it."""

    def __init__(
        self,
        dtype: torch.dtype,
        sizes: Sequence[int],
        strides: Sequence[int],
        offset: int,
        generator: torch.Generator,
    ) -> None:
        last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        extent = 0 if 0 in sizes else last + 1
        num_bytes = 2 * GUARD_BYTES + (offset + extent) * dtype.itemsize
        # A multiple of eight, so that the memory can be seen as any dtype.
        self.memory = torch.randint(
            0, 256, (-(-num_bytes // 8) * 8,), dtype=torch.uint8, generator=generator
        )
        self.view = self._view(self.memory, dtype, sizes, strides, offset)
        self._place = (dtype, sizes, strides, offset)

    @staticmethod
    def _view(
        memory: Tensor,
        dtype: torch.dtype,
        sizes: Sequence[int],
        strides: Sequence[int],
        offset: int,
    ) -> Tensor:
        first = GUARD_BYTES // dtype.itemsize + offset
        return memory.view(dtype).as_strided(sizes, strides, first)

    def copy(self) -> Operand:
        twin = object.__new__(Operand)
        twin.memory = self.memory.clone()
        twin.view = self._view(twin.memory, *self._place)
        twin._place = self._place
        return twin

    def surroundings(self) -> Tensor:
        """All bytes but those of the tensor's elements."""
        memory = self.memory.clone()
        self._view(memory, *self._place).zero_()
        return memory


@dataclass
class Row:
    operands: list[Operand]  # param, grad, states
    is_strided: bool

    def copy(self) -> Row:
        return Row([operand.copy() for operand in self.operands], self.is_strided)

    def layout(self) -> Tensor | None:
        """The sizes in the order of the walk, then the strides of each operand."""
        if not self.is_strided:
            return None
        param = self.operands[0].view
        dims = sorted(range(param.dim()), key=param.stride, reverse=True)
        sizes = [param.size(dim) for dim in dims]
        strides = [operand.view.stride(dim) for operand in self.operands for dim in dims]
        words = [len(dims), *sizes, *strides]
        padding = 1 + len(dims) * (1 + MAX_OPERANDS) - len(words)
        return torch.tensor(words + [0] * padding)

    def as_struct(self, layout: Tensor | None) -> TestRow:
        addresses = [operand.view.data_ptr() for operand in self.operands]
        dtypes = [operand.view.dtype for operand in self.operands]
        # A rule without states has no dtype of its states.
        kinds = [dtypes[0], dtypes[1], dtypes[-1]]
        return TestRow(
            (ctypes.c_void_p * MAX_OPERANDS)(*addresses),
            self.operands[0].view.numel(),
            None if layout is None else layout.data_ptr(),
            (ctypes.c_int32 * 3)(*(DTYPES.index(kind) for kind in kinds)),
        )


def fill(operand: Operand, is_square: bool, generator: torch.Generator) -> None:
    """Numbers of either sign; among many, some zeros, denormals, large ones and infinities."""
    elements = operand.view
    for dim in range(elements.dim()):
        if elements.stride(dim) == 0:
            elements = elements.narrow(dim, 0, 1)
    numel = elements.numel()
    numbers = torch.randn(numel, dtype=torch.float64, generator=generator)
    scale = torch.tensor([0.0, 1e-42, 1e-7, 1e4, torch.inf], dtype=torch.float64)
    which = torch.randint(0 if numel > 4 else len(scale), 40, (numel,), generator=generator)
    factors = torch.cat([scale, torch.ones(40 - len(scale), dtype=torch.float64)])[which]
    numbers = torch.where(factors.isinf(), factors.copysign(numbers), numbers * factors)
    numbers = numbers.abs() if is_square else numbers
    elements.copy_(numbers.view(elements.shape))


Strides = Callable[[Sequence[int]], Sequence[int]]


def contiguous(sizes: Sequence[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= size
    return strides[::-1]


def make_row(
    rule: str,
    dtypes: Sequence[torch.dtype],
    sizes: Sequence[int],
    generator: torch.Generator,
    *,
    offsets: Sequence[int] = (0, 0, 0),
    strides: Sequence[Strides] = (contiguous, contiguous, contiguous),
    is_strided: bool = False,
) -> Row:
    """A row of random numbers; `dtypes`, `offsets` and `strides` are of param, grad and states."""
    operands = []
    for index in range(2 + RULES[rule]["states"]):
        kind = min(index, 2)
        operand = Operand(dtypes[kind], sizes, strides[kind](sizes), offsets[kind], generator)
        fill(operand, is_square=index > 2, generator=generator)
        operands.append(operand)
    return Row(operands, is_strided)


# Both engines


def hypers_of(rule: str, which: str) -> Tensor:
    return torch.tensor(
        [HYPERS[which].get(name, 0.0) for name in RULES[rule]["hypers"]], dtype=torch.float64
    )


def run(
    function: Callable[..., int], rule: str, hypers: Tensor, rows: list[Row], *more: object
) -> int:
    """One step, the third one; returns what the function does."""
    step = Step(list(RULES).index(rule), 0.25, hypers.data_ptr(), hypers.numel(), 3.0)
    layouts = [row.layout() for row in rows]
    structs = (TestRow * len(rows))(
        *(row.as_struct(layout) for row, layout in zip(rows, layouts, strict=True))
    )
    return function(ctypes.byref(step), structs, ctypes.c_int64(len(rows)), *more)


def storages(launched: int) -> set[int]:
    return {storage for storage in range(len(DTYPES) + 1) if launched >> storage & 1}


def assert_same_bits(ours: Tensor, theirs: Tensor) -> None:
    """Equal bits, where NaNs are all alike."""
    numbers = ~theirs.isnan()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours[numbers], theirs[numbers])
    assert torch.equal(ours[numbers].signbit(), theirs[numbers].signbit())


def assert_same_rows(ours: list[Row], theirs: list[Row], before: list[Row]) -> None:
    for row, other, old in zip(ours, theirs, before, strict=True):
        for index, operand in enumerate(row.operands):
            assert_same_bits(operand.view, other.operands[index].view)
            assert torch.equal(operand.surroundings(), old.operands[index].surroundings())
        assert torch.equal(row.operands[1].memory, old.operands[1].memory), "a gradient has moved"
        if row.operands[0].view.numel() > 4:
            assert not torch.equal(row.operands[0].memory, old.operands[0].memory), "no step"


def expected_storage(row: Row) -> int:
    dtypes = {operand.view.dtype for operand in row.operands}
    return ANY if row.is_strided or len(dtypes) > 1 else DTYPES.index(dtypes.pop())


def check(kernels: ctypes.CDLL, rule: str, rows: list[Row]) -> None:
    for which in HYPERS:
        hypers = hypers_of(rule, which)
        ours, theirs = ([row.copy() for row in rows] for _ in range(2))
        run(kernels.update_by_cpu_engine, rule, hypers, theirs)
        launched = run(kernels.update_by_walked_kernels, rule, hypers, ours, False)

        assert storages(launched) == {expected_storage(row) for row in rows}
        assert_same_rows(ours, theirs, rows)


# Sizes, storage, alignment, layout


def edge_sizes(kernels: ctypes.CDLL) -> list[int]:
    chunk = kernels.chunk_elements()
    near_chunk = [chunk - 1, chunk, chunk + 1]
    return [0, 1, 3, 4, 15, 16, 17, 255, 257, *near_chunk, 65535, 65536, 65537]


#: How many elements param, grad and states begin after an aligned address.
OFFSETS = {
    "aligned": (0, 0, 0),
    "all off by one": (1, 1, 1),
    "gradient off by one": (0, 1, 0),
    "parameter off by three": (3, 0, 0),
    "states off by one": (0, 0, 1),
}


@each_rule
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_walked_kernels_of_one_storage_give_the_bits_of_the_cpu_engine(
    kernels, generator, rule, dtype, offsets
):
    rows = [
        make_row(rule, [dtype] * 3, [size], generator, offsets=OFFSETS[offsets])
        for size in edge_sizes(kernels)
    ]
    check(kernels, rule, rows)


MIXED = {
    "param bf16, the rest f32": (torch.bfloat16, torch.float32, torch.float32),
    "states f32, the rest bf16": (torch.bfloat16, torch.bfloat16, torch.float32),
    "param f32, the rest bf16": (torch.float32, torch.bfloat16, torch.bfloat16),
    "param f32, grad f16": (torch.float32, torch.float16, torch.float32),
    "param f16, the rest wider": (torch.float16, torch.float32, torch.float64),
    "param f64, the rest narrower": (torch.float64, torch.float32, torch.float16),
    "param f32, the rest f64": (torch.float32, torch.float64, torch.float64),
}


@each_rule
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtypes", MIXED)
def test_walked_kernels_of_mixed_storage_give_the_bits_of_the_cpu_engine(
    kernels, generator, rule, dtypes, offset
):
    rows = [
        make_row(rule, MIXED[dtypes], [size], generator, offsets=[offset] * 3)
        for size in edge_sizes(kernels)
    ]
    check(kernels, rule, rows)


def transposed(sizes: Sequence[int]) -> list[int]:
    return contiguous(sizes[::-1])[::-1]


def channels_last(sizes: Sequence[int]) -> list[int]:
    outer, channels, *rest = contiguous([sizes[0], *sizes[2:], sizes[1]])
    return [outer, rest[-1] if rest else 1, channels, *rest[:-1]]


def expanded(sizes: Sequence[int]) -> list[int]:
    return [0, *contiguous(sizes[1:])]


def with_gaps(sizes: Sequence[int]) -> list[int]:
    return [2 * stride for stride in contiguous([size + 1 for size in sizes])]


#: Of param, grad and states.
LAYOUTS: dict[str, tuple[Strides, Strides, Strides]] = {
    "gradient transposed": (contiguous, transposed, contiguous),
    "gradient expanded": (contiguous, expanded, contiguous),
    "parameter channels last": (channels_last, contiguous, channels_last),
    "parameter channels last, gradient transposed": (channels_last, transposed, contiguous),
    "parameter with gaps": (with_gaps, contiguous, contiguous),
    "all different": (transposed, with_gaps, channels_last),
}

STRIDED_DTYPES = {
    "f32": (torch.float32,) * 3,
    "f64": (torch.float64,) * 3,
    "bf16, states f32": (torch.bfloat16, torch.bfloat16, torch.float32),
    "f16, states f64": (torch.float16, torch.float32, torch.float64),
}


@each_rule
@pytest.mark.parametrize("dtypes", STRIDED_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_walked_kernels_of_any_layout_give_the_bits_of_the_cpu_engine(
    kernels, generator, rule, layout, dtypes
):
    shapes = [(1, 2, 3, 4), (5, 7, 3, 2), (9, 17, 6, 5), (3, 5, 31, 33)]
    assert any(torch.Size(shape).numel() > kernels.chunk_elements() for shape in shapes)
    rows = [
        make_row(
            rule,
            STRIDED_DTYPES[dtypes],
            shape,
            generator,
            strides=LAYOUTS[layout],
            is_strided=True,
        )
        for shape in shapes
    ]
    check(kernels, rule, rows)


def test_the_layouts_of_these_tests_are_those_of_torch():
    tensor = torch.empty(2, 3, 4, 5)
    assert contiguous(tensor.shape) == list(tensor.stride())
    channels_last_strides = tensor.to(memory_format=torch.channels_last).stride()
    assert channels_last(tensor.shape) == list(channels_last_strides)
    assert transposed((3, 4)) == list(torch.empty(4, 3).T.stride())
    assert expanded((3, 4)) == list(torch.empty(1, 4).expand(3, 4).stride())


@each_rule
def test_a_skipped_step_changes_nothing_and_these_tests_notice(kernels, generator, rule):
    rows = [make_row(rule, [torch.float32] * 3, [size], generator) for size in (16, 257)]
    hypers = hypers_of(rule, "usual")
    skipped, stepped = ([row.copy() for row in rows] for _ in range(2))
    run(kernels.update_by_cpu_engine, rule, hypers, stepped)
    launched = run(kernels.update_by_walked_kernels, rule, hypers, skipped, True)

    assert storages(launched) == {DTYPES.index(torch.float32)}
    for row, old in zip(skipped, rows, strict=True):
        for operand, before in zip(row.operands, old.operands, strict=True):
            assert torch.equal(operand.memory, before.memory)
    with pytest.raises(AssertionError):
        assert_same_rows(skipped, stepped, rows)
    with pytest.raises(AssertionError, match="no step"):
        assert_same_rows(skipped, skipped, rows)


# What the host writes

in_either_size = pytest.mark.parametrize("in_small_pieces", [False, True])


@pytest.fixture
def numbers(generator: torch.Generator) -> Callable[[int], Tensor]:
    return lambda size: torch.randn(size, dtype=torch.float64, generator=generator)


def address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@in_either_size
@pytest.mark.parametrize("size", [0, 1, 7, 8, 95, 97, 4000, 4001, 32_000])
def test_bytes_arrive_where_they_belong(kernels, generator, size, in_small_pieces):
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    memory = torch.zeros(size + 16, dtype=torch.uint8)

    kernels.copy_bytes(address(memory[8:]), address(source), size, in_small_pieces)

    assert torch.equal(memory[8 : 8 + size], source)
    assert not memory[:8].any()
    assert not memory[8 + size :].any()


@in_either_size
@pytest.mark.parametrize("count", [0, 1, 97, 250, 251, 2000])
def test_numbers_arrive_in_the_group_table(kernels, generator, numbers, count, in_small_pieces):
    num_groups, num_hypers = 500, 6
    table = numbers(num_groups * (1 + num_hypers)).view(num_groups, 1 + num_hypers)
    lr, hypers = table[:, 0].clone(), table[:, 1:].contiguous()
    chosen = torch.randperm(table.numel(), generator=generator)[:count]
    groups = (chosen // (1 + num_hypers)).int()
    columns = (chosen % (1 + num_hypers)).int() - 1  # -1 is the lr
    values = numbers(count)
    table.view(-1)[chosen] = values

    kernels.write_numbers(
        address(lr),
        address(hypers),
        ctypes.c_int64(num_hypers),
        address(groups),
        address(columns),
        address(values),
        count,
        in_small_pieces,
    )

    assert torch.equal(lr, table[:, 0])
    assert torch.equal(hypers, table[:, 1:])


@in_either_size
@pytest.mark.parametrize("count", [0, 1, 97, 500, 501, 4000])
def test_gradient_pointers_arrive_in_the_active_rows(kernels, generator, count, in_small_pieces):
    num_rows, first = 5000, 3
    active = torch.randperm(num_rows, generator=generator)[: first + count].sort().values.int()
    grads = torch.randint(1, 2**48, (count,), generator=generator)
    seen = torch.full((num_rows,), -1)

    kernels.set_grads(
        address(seen),
        ctypes.c_int64(num_rows),
        address(active),
        first,
        address(grads),
        count,
        in_small_pieces,
    )

    expected = torch.zeros(num_rows, dtype=torch.int64)
    expected[active[first:].long()] = grads
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_threads_of_one_block_meet_between_two_phases(kernels, numbers, size):
    values, doubled, sums = numbers(size), numbers(size), numbers(size)

    kernels.sum_neighbours(*map(address, (values, doubled, sums)), ctypes.c_int64(size))

    assert torch.equal(sums, 2 * values.roll(1) + 2 * values + 2 * values.roll(-1))
