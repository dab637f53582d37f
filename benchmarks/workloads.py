"""Parameter lists of real models, from their architectures' formulas: shapes only, no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """A list of float32 tensors, dealt in order to groups of equal length."""

    name: str
    title: str
    shapes: Sequence[Shape]
    groups: int = 1

    def __post_init__(self) -> None:
        if len(self.shapes) % self.groups:
            raise ValueError(
                f"{self.name}: {len(self.shapes)} tensors do not deal evenly to {self.groups} "
                "groups; choose a number of groups that divides the number of tensors"
            )

    @property
    def elements(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    @property
    def grouped_shapes(self) -> list[Sequence[Shape]]:
        per_group = len(self.shapes) // self.groups
        return [
            self.shapes[start : start + per_group]
            for start in range(0, len(self.shapes), per_group)
        ]

    def __str__(self) -> str:
        counts = [(len(self.shapes), "tensor"), (self.elements, "element"), (self.groups, "group")]
        sizes = ", ".join(f"{count:,} {word}{'s' * (count != 1)}" for count, word in counts)
        return f"{self.title}: {sizes}"


def _linear(inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]


def _norm(features: int) -> list[Shape]:
    return [(features,), (features,)]


def _mlp(*widths: int) -> list[Shape]:
    return [shape for inputs, outputs in pairwise(widths) for shape in _linear(inputs, outputs)]


def _gpt2(vocabulary: int, context: int, layers: int, width: int) -> list[Shape]:
    """The output head shares the token embedding, so it adds no tensor."""
    block = [
        *_norm(width),
        *_linear(width, 3 * width),
        *_linear(width, width),
        *_norm(width),
        *_linear(width, 4 * width),
        *_linear(4 * width, width),
    ]
    return [(vocabulary, width), (context, width), *layers * block, *_norm(width)]


def _bottlenecks(inputs: int, width: int, blocks: int) -> Iterator[Shape]:
    """One stage of a residual network: 1x1, 3x3, 1x1 convolutions, each with its batch norm."""
    outputs = 4 * width
    for block in range(blocks):
        for filters, channels, kernel in (
            (width, inputs if block == 0 else outputs, 1),
            (width, width, 3),
            (outputs, width, 1),
        ):
            yield (filters, channels, kernel, kernel)
            yield from _norm(filters)
        if block == 0:
            yield (outputs, inputs, 1, 1)
            yield from _norm(outputs)


def _resnet50() -> list[Shape]:
    shapes: list[Shape] = [(64, 3, 7, 7), *_norm(64)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        shapes += _bottlenecks(channels, width, blocks)
        channels = 4 * width
    return [*shapes, *_linear(channels, 1000)]


def _lora(rank: int, layers: int, width: int, hidden: int) -> list[Shape]:
    """Factors A and B of every linear module of a Llama layer: q, k, v, o, gate, up, down."""
    modules = 4 * [(width, width)] + 2 * [(width, hidden)] + [(hidden, width)]
    layer: list[Shape] = []
    for inputs, outputs in modules:
        layer += [(rank, inputs), (outputs, rank)]
    return layers * layer


_GPT2 = _gpt2(vocabulary=50257, context=1024, layers=12, width=768)
_TINY: Sequence[Shape] = 2000 * [(64,)]

WORKLOADS = (
    Workload("one-tensor", "One tensor of 32 M", [(32 * 2**20,)]),
    Workload("gpt2", "GPT-2 124M", _GPT2),
    Workload("resnet50", "ResNet-50", _resnet50()),
    Workload("lora", "LoRA r=16 of a 7B model", _lora(16, layers=32, width=4096, hidden=11008)),
    Workload("mlp", "Small MLP", _mlp(32, 128, 32, 10)),
    Workload("tiny", "2,000 x 64", _TINY),
    Workload("tiny-groups", "2,000 x 64 in 1,000 groups", _TINY, groups=1000),
    Workload("gpt2-groups", "GPT-2 124M, a group per tensor", _GPT2, groups=len(_GPT2)),
)
