"""Parameter lists that are large enough for a GPU, made to fit into its memory."""

from __future__ import annotations

from dataclasses import replace

from workloads import WORKLOADS, Shape, Workload

#: Workloads that are the same on the CPU.
_SHARED = ("gpt2", "lora", "tiny", "tiny-groups", "mlp")

_BILLION, _TENSORS = 10**9, 64


def gpu_workloads(max_elements: int) -> tuple[Workload, ...]:
    """All workloads, none with more elements than that."""
    llama = _llama(max_elements)
    shared = {one.name: one for one in WORKLOADS}
    return (
        _billion(max_elements),
        llama,
        replace(
            llama,
            name="llama-groups",
            title=f"{llama.title}, a group per tensor",
            groups=len(llama.shapes),
        ),
        *(shared[name] for name in _SHARED if shared[name].elements <= max_elements),
    )


def _billion(max_elements: int) -> Workload:
    size = min(_BILLION, max_elements) // _TENSORS
    return Workload("billion", "A billion in 64 tensors", _TENSORS * [(size,)])


def _llama(max_elements: int) -> Workload:
    """Llama-2-7B, its widths halved until it fits."""
    divisor = 1
    while (workload := _llama_with_widths_over(divisor)).elements > max_elements and divisor < 128:
        divisor *= 2
    return workload


def _llama_with_widths_over(divisor: int) -> Workload:
    vocabulary, width, hidden = 32_000 // divisor, 4_096 // divisor, 11_008 // divisor
    attention: list[Shape] = 4 * [(width, width)]
    mlp: list[Shape] = [(hidden, width), (hidden, width), (width, hidden)]
    layer = [*attention, *mlp, (width,), (width,)]
    shapes = [(vocabulary, width), *32 * layer, (width,), (vocabulary, width)]
    scale = "" if divisor == 1 else f" at 1/{divisor} of its widths"
    return Workload("llama", f"Llama-2-7B{scale}", shapes)
