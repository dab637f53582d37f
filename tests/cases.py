"""THE tables of the optimizer tests: one row per optimizer, dtype, size and memory layout.

A new optimizer is a new row of ``OPTIMIZERS``: no test names one, what sets it apart is a field of
its row. The tables of the schedulers are in ``schedule_cases.py``.
"""

from __future__ import annotations

import itertools
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import fusedlr
from fusedlr import schedules as s

# ------------------------------------------------------------------------------------ optimizers


@dataclass(frozen=True, repr=False)
class OptimizerCase:
    """One optimizer: its name in both libraries, and what the generic tests need to know of it."""

    name: str
    #: Arguments of every variant. The lr moves a bfloat16 number near 1 by many of its steps.
    arguments: dict[str, Any]
    #: Every combination of one entry of each switch is a variant.
    switches: tuple[dict[str, dict[str, Any]], ...]
    #: The per-element state of the variant that keeps the most of it, and its arguments.
    state_names: tuple[str, ...]
    with_all_state: dict[str, Any]
    #: Arguments with which a step stores the gradient as the first entry of the state.
    storing_grad: dict[str, Any]
    #: Whether `arguments` alone keep no per-element state.
    is_stateless: bool
    #: Whether state[param]["step"] exists.
    step_is_visible: bool
    #: The key through which momentum is cycled, and how to read it from a group.
    momentum_key: str
    #: Arguments with which momentum can be cycled.
    with_momentum: dict[str, Any]
    #: Another valid value for each hyper, to be assigned while training.
    edits: dict[str, Any]
    #: Arguments in which hypers follow a schedule, of about ten steps.
    scheduled: dict[str, dict[str, Any]]
    #: Arguments that torch refuses.
    invalid: tuple[dict[str, Any], ...]
    #: Flags of torch's implementations, which change nothing in our values.
    flags: tuple[dict[str, Any], ...] = field(default=())

    @property
    def ours(self) -> Any:
        return getattr(fusedlr, self.name)

    @property
    def theirs(self) -> Any:
        return getattr(torch.optim, self.name)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Variant:
    """An optimizer with one combination of its switches."""

    case: OptimizerCase
    label: str
    switched: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments; tensors among them are fresh."""
        return deepcopy({**self.case.arguments, **self.switched})

    @property
    def exact_arguments(self) -> dict[str, Any]:
        """The same with numbers for tensors, whose precision would limit a float64 run."""
        return {key: _without_tensors(value) for key, value in self.arguments.items()}

    def __repr__(self) -> str:
        return f"{self.case}-{self.label}" if self.label else self.case.name


def _without_tensors(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    if isinstance(value, tuple):
        return tuple(_without_tensors(one) for one in value)
    return value


def variants_of(case: OptimizerCase) -> list[Variant]:
    variants = []
    for choice in itertools.product(*(switch.items() for switch in case.switches)):
        label = "+".join(name for name, _ in choice if name)
        switched = {key: value for _, arguments in choice for key, value in arguments.items()}
        variants.append(Variant(case, label, switched))
    return variants


_MAXIMIZE: dict[str, dict[str, Any]] = {"": {}, "maximize": {"maximize": True}}

_ADAM_SWITCHES: tuple[dict[str, dict[str, Any]], ...] = (
    {"": {}, "amsgrad": {"amsgrad": True}},
    _MAXIMIZE,
    {
        "": {},
        "beta1=0": {"betas": (0.0, 0.98)},
        "tensor_lr": {"lr": torch.tensor(0.05)},
        "tensor_betas": {"betas": (torch.tensor(0.9), torch.tensor(0.98))},
    },
)

_ADAM_INVALID: tuple[dict[str, Any], ...] = (
    {"lr": -1.0},
    {"lr": torch.tensor([0.1, 0.2])},
    {"lr": torch.tensor(0.1), "foreach": True},
    {"lr": torch.tensor(-0.1)},
    {"eps": -1e-8},
    {"betas": (-0.1, 0.999)},
    {"betas": (1.0, 0.999)},
    {"betas": (0.9, 1.0)},
    {"betas": (0.9, -0.5)},
    {"betas": (0.9, torch.tensor(0.999))},
    {"betas": (torch.tensor(0.9), torch.tensor([0.9, 0.9]))},
    {"betas": (torch.tensor(0.9), torch.tensor(0.999)), "foreach": True},
    {"betas": (0, 0.999)},
    {"weight_decay": -0.1},
    {"fused": True, "differentiable": True},
    {"fused": True, "foreach": True},
    {"unheard_of": 1},
)

_LR = s.warmup_cosine(0.05, warmup_steps=3, total_steps=10)
_WEIGHT_DECAY = s.linear(0.3, 0.0, steps=8)
_FALLING_BETA = s.linear(0.95, 0.0, steps=6)
_RISING_BETA = s.cosine(0.8, 0.99, steps=7)

_ADAM_SCHEDULED: dict[str, dict[str, Any]] = {
    "lr": {"lr": _LR},
    "beta1": {"betas": (_FALLING_BETA, 0.98)},
    "beta2": {"betas": (0.9, _RISING_BETA)},
    "eps": {"eps": s.exponential(1e-2, gamma=0.5)},
    "weight_decay": {"weight_decay": _WEIGHT_DECAY},
    "all": {
        "lr": _LR,
        "betas": (_FALLING_BETA, _RISING_BETA),
        "eps": s.constant(1e-3),
        "weight_decay": _WEIGHT_DECAY,
        "amsgrad": True,
    },
}

_ADAM_FLAGS: tuple[dict[str, Any], ...] = (
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"fused": False},
    {"capturable": True},
    {"capturable": True, "foreach": True},
)


def _adam_case(name: str, weight_decay: dict[str, dict[str, Any]], **changes: Any) -> OptimizerCase:
    return OptimizerCase(
        name=name,
        arguments={"lr": 0.05},
        switches=(weight_decay, *_ADAM_SWITCHES),
        state_names=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        with_all_state={"amsgrad": True},
        storing_grad={"betas": (0.0, 0.98)},
        is_stateless=False,
        step_is_visible=True,
        momentum_key="betas",
        with_momentum={},
        edits={
            "lr": 0.02,
            "betas": (0.5, 0.9),
            "eps": 1e-2,
            "weight_decay": 0.3,
            "maximize": True,
            "decoupled_weight_decay": changes.pop("other_decoupled", True),
            "amsgrad": False,
        },
        scheduled=_ADAM_SCHEDULED,
        invalid=_ADAM_INVALID,
        flags=_ADAM_FLAGS,
    )


OPTIMIZERS: tuple[OptimizerCase, ...] = (
    _adam_case(
        "Adam",
        {
            "": {},
            "coupled": {"weight_decay": 0.2},
            "decoupled": {"weight_decay": 0.2, "decoupled_weight_decay": True},
        },
    ),
    _adam_case(
        "AdamW",
        {"": {}, "decay": {"weight_decay": 0.2}},
        other_decoupled=False,
    ),
    OptimizerCase(
        name="SGD",
        arguments={"lr": 0.05},
        switches=(
            {
                "": {},
                "momentum": {"momentum": 0.9},
                "dampening": {"momentum": 0.9, "dampening": 0.4},
                "nesterov": {"momentum": 0.9, "nesterov": True},
            },
            {"": {}, "decay": {"weight_decay": 0.2}},
            _MAXIMIZE,
            {"": {}, "tensor_lr": {"lr": torch.tensor(0.05)}},
        ),
        state_names=("momentum_buffer",),
        with_all_state={"momentum": 0.9},
        storing_grad={"momentum": 0.9},
        is_stateless=True,
        step_is_visible=False,
        momentum_key="momentum",
        with_momentum={"momentum": 0.9},
        edits={
            "lr": 0.02,
            "momentum": 0.5,
            "dampening": 0.3,
            "weight_decay": 0.3,
            "nesterov": True,
            "maximize": True,
        },
        scheduled={
            "lr": {"lr": _LR},
            "weight_decay": {"weight_decay": _WEIGHT_DECAY},
            "momentum": {"momentum": s.linear(0.5, 0.9, steps=8)},
            "momentum from 0": {
                "momentum": s.piecewise_constant([0.0, 0.9, 0.0, 0.8], [2, 5, 7]),
                "dampening": 0.3,
            },
            "momentum to 0 with nesterov": {
                "momentum": s.linear(0.9, 0.0, steps=5),
                "nesterov": True,
                "weight_decay": 0.1,
            },
            "dampening": {"momentum": 0.9, "dampening": s.cosine(0.5, steps=9)},
            "all": {
                "lr": _LR,
                "momentum": s.linear(0.0, 0.9, steps=4),
                "dampening": s.cosine(0.5, steps=9),
                "weight_decay": _WEIGHT_DECAY,
            },
        },
        invalid=(
            {"lr": -1.0},
            {"lr": torch.tensor([0.1, 0.2])},
            {"lr": torch.tensor(-0.1)},
            {"momentum": -0.9},
            {"weight_decay": -0.1},
            {"nesterov": True},
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            {"fused": True, "differentiable": True},
            {"fused": True, "foreach": True},
            {"unheard_of": 1},
        ),
        flags=({"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}),
    ),
)

VARIANTS: tuple[Variant, ...] = tuple(itertools.chain.from_iterable(map(variants_of, OPTIMIZERS)))

# ----------------------------------------------------------------------------------------- dtypes


@dataclass(frozen=True)
class DtypeCase:
    """A dtype of parameters, the dtype of its exact run, and how close we are to torch."""

    dtype: torch.dtype
    exact: torch.dtype
    #: How far numbers near 1 may be from torch's after a few steps in this dtype, relative to
    #: the larger of 1 and their magnitude. Torch rounds to the dtype after every operation.
    tolerance: float

    @property
    def eps(self) -> float:
        return torch.finfo(self.dtype).eps

    @property
    def max(self) -> float:
        return torch.finfo(self.dtype).max

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")


DTYPES: tuple[DtypeCase, ...] = (
    DtypeCase(torch.float64, torch.float64, tolerance=1e-12),
    DtypeCase(torch.float32, torch.float64, tolerance=2e-6),
    DtypeCase(torch.bfloat16, torch.float64, tolerance=2e-2),
    DtypeCase(torch.float16, torch.float64, tolerance=4e-3),
    DtypeCase(torch.complex64, torch.complex128, tolerance=2e-6),
    DtypeCase(torch.complex128, torch.complex128, tolerance=1e-12),
)

DTYPE: dict[torch.dtype, DtypeCase] = {case.dtype: case for case in DTYPES}

# ------------------------------------------------------------------------------------------ sizes

#: Around the widths of SIMD registers and converted blocks; () is 0-dim.
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (3, 0, 2),
    (1,),
    (3,),
    (4,),
    (15,),
    (16,),
    (17,),
    (255,),
    (257,),
    (5, 7),
)

LARGE_SIZES: tuple[int, ...] = (65535, 65536, 65537)

# ---------------------------------------------------------------------------------------- layouts

SENTINEL = 77.0
_MARGIN = 64  # elements before and after every guarded tensor


@dataclass(frozen=True)
class LayoutCase:
    """How a tensor lies in memory: strides for the shape, from the order of dimensions and gaps."""

    name: str
    #: Dimensions from outermost to innermost in memory.
    order: tuple[int, ...]
    #: Stride of the innermost dimension, and elements left out after each run of it.
    inner_stride: int = 1
    gap: int = 0
    offset: int = _MARGIN

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        strides = [0] * len(shape)
        stride = self.inner_stride
        for place, dim in enumerate(reversed(self.order)):
            strides[dim] = stride
            stride = stride * shape[dim] + (self.gap if place == 0 else 0)
        return tuple(strides)

    def __str__(self) -> str:
        return self.name


#: The shape that all layouts are for: no two sizes alike, and room for several converted blocks.
LAYOUT_SHAPE = (6, 5, 7, 9)

LAYOUTS: tuple[LayoutCase, ...] = (
    LayoutCase("contiguous", order=(0, 1, 2, 3)),
    LayoutCase("channels_last", order=(0, 2, 3, 1)),
    LayoutCase("transposed", order=(3, 2, 1, 0)),
    LayoutCase("every_second", order=(0, 1, 2, 3), inner_stride=2),
    LayoutCase("rows_with_gaps", order=(0, 1, 2, 3), gap=3),
    LayoutCase("transposed_with_gaps", order=(1, 3, 0, 2), inner_stride=3, gap=1),
    LayoutCase("misaligned", order=(0, 1, 2, 3), offset=1),
)


class Guarded:
    """A tensor of some layout, in the middle of a buffer of sentinels."""

    def __init__(self, values: torch.Tensor, layout: LayoutCase) -> None:
        shape = tuple(values.shape)
        strides = layout.strides(shape)
        extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        self.buffer = values.new_full((layout.offset + extent + _MARGIN,), SENTINEL)
        self.view = self.buffer.as_strided(shape, strides, layout.offset)
        self.view.copy_(values)
        outside = torch.ones_like(self.buffer, dtype=torch.bool)
        outside.as_strided(shape, strides, layout.offset).fill_(False)
        self._outside = outside

    def is_intact(self) -> bool:
        """Whether nothing outside of the tensor has been written to."""
        return bool((self.buffer[self._outside] == SENTINEL).all())


# ------------------------------------------------------------------------------- what tests use

each_optimizer = pytest.mark.parametrize("case", OPTIMIZERS, ids=str)
each_with_betas = pytest.mark.parametrize(
    "case", [case for case in OPTIMIZERS if case.momentum_key == "betas"], ids=str
)
each_scheduled = pytest.mark.parametrize(
    ("case", "arguments"),
    [
        pytest.param(case, arguments, id=f"{case}-{label}")
        for case in OPTIMIZERS
        for label, arguments in case.scheduled.items()
    ],
)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random_tensor(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Numbers of either sign and magnitude 0.5 to 1.5, where all dtypes are equally at home."""
    if dtype.is_complex:
        real = random_tensor(shape, dtype.to_real(), generator)
        return torch.complex(real, random_tensor(shape, dtype.to_real(), generator))
    magnitude = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (magnitude * sign).to(dtype)
