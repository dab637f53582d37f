"""Leaving everything as it was: models, the sources of random numbers, the current stream."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module


@contextmanager
def restored_modules(modules: Iterable[Module], params: Iterable[Tensor]) -> Iterator[None]:
    """Puts modules and parameters back however the block ends, in their own memory, bit for bit.

    Parameters and buffers get their values back, parameters also the gradients they had (the same
    tensors; within the block they begin without), modules their mode and their extra state.

    Args:
        modules: restored with all their submodules.
        params: more parameters to restore.
    """
    members = list({id(one): one for module in modules for one in module.modules()}.values())
    tensors = {id(param): param for param in params}
    for module in members:
        own = (*module._parameters.values(), *module._buffers.values())
        tensors.update((id(tensor), tensor) for tensor in own if tensor is not None)
    values = [
        (tensor, tensor.detach().clone()) for tensor in tensors.values() if _is_writable(tensor)
    ]
    grads = [(tensor, tensor.grad) for tensor in tensors.values() if tensor.is_leaf]
    modes = [module.training for module in members]
    entries = [(dict(module._parameters), dict(module._buffers)) for module in members]
    extras = [
        (module, deepcopy(module.get_extra_state())) for module in members if _has_extra(module)
    ]
    try:
        for tensor, _ in grads:
            tensor.grad = None
        yield
    finally:
        with torch.no_grad():
            for module, mode, (parameters, buffers) in zip(members, modes, entries, strict=True):
                module.training = mode
                _reset(module._parameters, parameters)
                _reset(module._buffers, buffers)
            for module, extra in extras:
                module.set_extra_state(extra)
            for tensor, value in values:
                tensor.copy_(value)
            for tensor, grad in grads:
                tensor.grad = grad


@contextmanager
def restored_grads(params: Iterable[Tensor]) -> Iterator[None]:
    """Gives parameters the gradients back that they had (the same tensors) however it ends."""
    grads = [(param, param.grad) for param in params]
    try:
        yield
    finally:
        for param, grad in grads:
            param.grad = grad


@contextmanager
def restored_stream() -> Iterator[None]:
    """Makes the present CUDA stream current again however the block ends.

    ``torch.cuda.graph`` does not if it fails to begin or to end a capture.
    """
    stream = torch.cuda.current_stream()
    try:
        yield
    finally:
        torch.cuda.set_stream(stream)


def _is_writable(tensor: Tensor) -> bool:
    """False for expanded tensors, whose elements share memory: nobody can have written to them."""
    return not any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _has_extra(module: Module) -> bool:
    return type(module).get_extra_state is not Module.get_extra_state


def _reset(current: dict[str, Any], before: dict[str, Any]) -> None:
    current.clear()
    current.update(before)


@contextmanager
def restored_random_states(devices: Iterable[torch.device], loader: Any = None) -> Iterator[None]:
    """Puts random number generators back to where they were, however the block ends.

    Those of torch (of the CPU and of `devices`), of Python, of NumPy if it is loaded, and the ones
    that were given to a ``DataLoader`` (`loader`) or to its sampler.
    """
    accelerators = {device for device in devices if device.type not in ("cpu", "meta")}
    generators = _generators_of(loader)
    numpy_random: Any = sys.modules.get("numpy.random")

    cpu_state = torch.get_rng_state()
    states = [(device, _device_state(device)) for device in accelerators]
    generator_states = [generator.get_state() for generator in generators]
    python_state = random.getstate()
    numpy_state = numpy_random.get_state() if numpy_random else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        for device, state in states:
            _set_device_state(device, state)
        for generator, state in zip(generators, generator_states, strict=True):
            generator.set_state(state)
        random.setstate(python_state)
        if numpy_random:
            numpy_random.set_state(numpy_state)


def _device_state(device: torch.device) -> Tensor:
    module: Any = torch.get_device_module(device)
    # There is only one mps device, and its functions take none.
    state: Tensor = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return state


def _set_device_state(device: torch.device, state: Tensor) -> None:
    module: Any = torch.get_device_module(device)
    if device.type == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, device)


def _generators_of(loader: Any) -> list[torch.Generator]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
