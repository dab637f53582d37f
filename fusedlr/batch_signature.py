"""What the batches of a training step look like."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module


class BatchSignature:
    """The tensors of a batch, the inputs of a model and then the target, by name.

    Args:
        model: names its inputs in the signature of ``forward``.
        example_inputs: one batch.

    Raises:
        TypeError: if it is not a sequence of at least two tensors.
    """

    def __init__(self, model: Module, example_inputs: Sequence[Tensor]) -> None:
        if not isinstance(example_inputs, (tuple, list)) or len(example_inputs) < 2:
            raise TypeError(
                "example_inputs must be the tensors of a batch, the inputs of the model and then "
                f"the target, but is {example_inputs!r}"
            )
        names = _names(model, len(example_inputs))
        for name, one in zip(names, example_inputs, strict=True):
            if not isinstance(one, Tensor):
                raise TypeError(f"{name} of example_inputs must be a tensor, but is {one!r}")
        self._arguments = [
            _Argument(name, one.shape, one.dtype, one.device)
            for name, one in zip(names, example_inputs, strict=True)
        ]

    def check(self, batch: Sequence[Any]) -> None:
        """Raises if a batch is not as the example.

        Raises:
            TypeError: if the number of arguments differs, or one is not a tensor.
            ValueError: if a shape, dtype or device differs.
        """
        if len(batch) != len(self._arguments):
            names = ", ".join(argument.name for argument in self._arguments)
            raise TypeError(
                f"the step takes the {len(self._arguments)} tensors of a batch ({names}), "
                f"but got {len(batch)}"
            )
        for argument, value in zip(self._arguments, batch, strict=True):
            argument.check(value)


@dataclass(frozen=True)
class _Argument:
    """One tensor of a batch, as it was in the example."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def check(self, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"{self.name} must be a tensor, but is {value!r}")
        if value.shape != self.shape:
            raise ValueError(
                f"{self.name} has the shape {tuple(value.shape)}, but {tuple(self.shape)} in "
                "example_inputs; a step is built for one shape: drop a last batch that is smaller "
                "(DataLoader(..., drop_last=True)), pad it, or build another GraphedTrainStep"
            )
        if value.dtype != self.dtype:
            raise ValueError(
                f"{self.name} has the dtype {value.dtype}, but {self.dtype} in example_inputs; "
                f"convert it with .to({self.dtype})"
            )
        if value.device != self.device:
            raise ValueError(
                f"{self.name} is on {value.device}, but on {self.device} in example_inputs; "
                f"move it with .to('{self.device}')"
            )


def _names(model: Module, count: int) -> list[str]:
    """What the arguments of a batch are called in errors."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    inputs = [parameter.name for parameter in parameters if parameter.kind in positional]
    names = [f"argument {index}" for index in range(count)]
    for index, name in enumerate(inputs[: count - 1]):
        names[index] += f" ({name})"
    names[-1] += " (the target)"
    return names
