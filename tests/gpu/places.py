"""Where steps run, and how what they compute is compared with the CPU engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fusedlr import _backend


@dataclass(frozen=True)
class Place:
    """An engine, and the device of the tensors that it updates."""

    name: str
    device: torch.device
    #: What FUSEDLR_BACKEND must be to get it.
    backend: str
    #: How far its cosines and powers may be from those of the host's library, in ulps of float64.
    ulps: int

    @contextmanager
    def chosen(self) -> Iterator[None]:
        before = os.environ.get("FUSEDLR_BACKEND")
        _set_backend(self.backend)
        try:
            engine, reason = _backend.engine_for(self.device.type)
            assert engine == self.backend, reason
            yield
        finally:
            _set_backend(before)

    def __str__(self) -> str:
        return self.name


def _set_backend(backend: str | None) -> None:
    if backend is None:
        os.environ.pop("FUSEDLR_BACKEND", None)
    else:
        os.environ["FUSEDLR_BACKEND"] = backend


CPU = Place("cpu", torch.device("cpu"), "cpu", ulps=0)
CUDA = Place("cuda", torch.device("cuda", 0), "cuda", ulps=2)
#: The kernels of a GPU, walked on the host.
WALKED = Place("walked", torch.device("cpu"), "walked", ulps=0)
#: The kernels of Triton, on a GPU and interpreted on the host.
TRITON = Place("triton", torch.device("cuda", 0), "triton", ulps=2)
INTERPRETED = Place("interpreted", torch.device("cpu"), "triton", ulps=0)


def captured(place: Place, step: Callable[[], Any]) -> Callable[[], Any]:
    """What replays a step; nothing has moved yet. (The CPU engine has no graphs: it steps.)"""
    if place.device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay
    if place is not CPU:
        on_host = _backend.extension.HostGraph()
        on_host.begin_()
        try:
            step()
        finally:
            on_host.end_()
        replay: Callable[[], Any] = on_host.replay_
        return replay
    return step


def assert_as_on_cpu(
    place: Place, train: Callable[..., Sequence[Tensor]], *arguments: Any, **keywords: Any
) -> list[Tensor]:
    """Calls ``train(device, ...)`` at a place and on the CPU engine; both give the same bits.

    Returns:
        What it returned at the place, on the CPU.
    """
    with place.chosen():
        ours = [one.detach().cpu() for one in train(place.device, *arguments, **keywords)]
    with CPU.chosen():
        expected = [one.detach() for one in train(CPU.device, *arguments, **keywords)]
    assert_same_bits(ours, expected)
    return ours


def assert_same_bits(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(ours) == len(expected)
    for index, (one, other) in enumerate(zip(ours, expected, strict=True)):
        assert one.dtype == other.dtype, f"tensor {index}"
        assert one.shape == other.shape, f"tensor {index}"
        differs = _differs(_reals(one), _reals(other))
        if differs.any():
            first = differs.nonzero()[0].item()
            raise AssertionError(
                f"tensor {index} of {len(ours)}, {one.dtype} {tuple(one.shape)}: "
                f"{differs.sum().item()} of {differs.numel()} elements differ, the first at "
                f"{first}: {_reals(one)[first].item()!r} instead of "
                f"{_reals(other)[first].item()!r}"
            )


def _reals(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


def _differs(one: Tensor, other: Tensor) -> Tensor:
    """Where the bits differ; all NaNs are the same."""
    size = one.element_size()
    bytes_differ = (one.view(torch.uint8) != other.view(torch.uint8)).view(-1, size).any(1)
    return bytes_differ & ~(one.isnan() & other.isnan())


def parameters_on(device: torch.device, tensors: Sequence[Tensor]) -> list[Parameter]:
    return [Parameter(one.detach().to(device, copy=True)) for one in tensors]


def give_grads(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Gives each parameter a new gradient on its device; None takes it away."""
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.to(param.device, copy=True)


def everything_of(optimizer: Any) -> list[Tensor]:
    """Parameters, state, learning rates and counters, on the CPU."""
    found: list[Tensor] = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            found += [param, *(state[name] for name in sorted(state))]
    counters = [optimizer.completed_steps, optimizer.skipped_steps]
    found += [optimizer.lr, torch.tensor(counters)]
    return [one.detach().cpu() for one in found]
