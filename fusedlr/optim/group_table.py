"""The group table: the learning rate and every other hyper of every param group, as tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class LiveTensors(Protocol):
    """Keeps user tensors and entries of the table in step."""

    def add(self, tensor: Tensor, table: Tensor, index: int, source: Tensor | None) -> None: ...
    def refresh_(self) -> None: ...
    def publish_(self) -> None: ...


def _host_view(tensor: Tensor) -> Any:
    # Indexing this is twenty times faster than indexing the tensor.
    return (ctypes.c_double * tensor.numel()).from_address(tensor.data_ptr())


class GroupTable:
    """One row for each param group: ``lr`` float64 [G] and ``hypers`` float64 [G, H].

    Numbers are written when a group is edited, so that a step reads the table and nothing else.
    Tensors stay the user's own: :meth:`refresh` carries what was written into them into the table.

    Args:
        hyper_names: names of the columns of ``hypers``; ``betas`` fills ``beta1`` and ``beta2``.
        make_live_tensors: builds the object that keeps user tensors and the table in step.
    """

    def __init__(
        self, hyper_names: tuple[str, ...], make_live_tensors: Callable[[], LiveTensors]
    ) -> None:
        self.hyper_names = hyper_names
        self._column = {name: column for column, name in enumerate(hyper_names)}
        self._make_live_tensors = make_live_tensors
        #: The keys of a group whose values are in the table.
        self.keys = frozenset(
            {"lr"} | {"betas" if name in ("beta1", "beta2") else name for name in hyper_names}
        )
        self._set_tables(
            torch.zeros(0, dtype=torch.float64),
            torch.zeros(0, len(hyper_names), dtype=torch.float64),
        )
        # The tensors that groups were given, by (group, column name); lr tensors as they are read
        # back, and the tensor that they follow where one is shared among groups.
        self._tensors: dict[tuple[int, str], Tensor] = {}
        self._given_lr: dict[int, Tensor] = {}
        self._live: LiveTensors | None = None
        self._live_is_stale = False

    def _set_tables(self, lr: Tensor, hypers: Tensor) -> None:
        self.lr = lr
        self.hypers = hypers
        self._lr_view = _host_view(lr)
        self._hyper_view = _host_view(hypers)

    def __len__(self) -> int:
        return self.lr.numel()

    def append_row(self) -> int:
        """Adds a row of zeros for a new group and returns its index."""
        self.refresh()
        self._set_tables(
            torch.cat([self.lr, self.lr.new_zeros(1)]),
            torch.cat([self.hypers, self.hypers.new_zeros(1, len(self.hyper_names))]),
        )
        self._live_is_stale = bool(self._tensors)
        return len(self) - 1

    def assign(self, index: int, key: str, value: Any) -> None:
        """Takes over ``group[key] = value`` of group ``index``.

        Raises:
            TypeError: if the value is neither a number nor a tensor.
            ValueError: if a tensor has more than one element.
        """
        if key == "betas":
            names: tuple[str, ...] = ("beta1", "beta2")
            try:
                first, second = value
            except (TypeError, ValueError):
                raise TypeError(
                    f"param_groups[{index}]['betas'] must be a pair of numbers, got {value!r}"
                ) from None
            values: tuple[Any, ...] = (first, second)
        else:
            names, values = (key,), (value,)
        numbers = [self._number(index, key, one) for one in values]
        for name, one, number in zip(names, values, numbers, strict=True):
            self._set(index, name, one, number)

    def _number(self, index: int, key: str, value: Any) -> float:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"param_groups[{index}]['{key}'] must be a 1-element tensor, "
                    f"but has shape {tuple(value.shape)}"
                )
            return float(value.item())
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"param_groups[{index}]['{key}'] must be a number or a 1-element tensor, "
                f"but got {value!r}"
            ) from None

    def _set(self, index: int, name: str, value: Any, number: float) -> None:
        was_tensor = self._tensors.pop((index, name), None) is not None
        if name == "lr":
            self._lr_view[index] = number
            self._given_lr.pop(index, None)
        else:
            self._hyper_view[index * len(self.hyper_names) + self._column[name]] = number
        if isinstance(value, Tensor):
            self._tensors[index, name] = value
            if name == "lr":
                self._give_lr(index, value)
        if was_tensor or isinstance(value, Tensor):
            self._live_is_stale = True

    def _give_lr(self, index: int, tensor: Tensor) -> None:
        # One tensor in several groups: a scheduler must be able to move each of them on its own, so
        # each gets a tensor that follows the user's until the group is written to itself.
        sharers = [other for other, given in self._given_lr.items() if given is tensor]
        self._given_lr[index] = tensor
        for other in [*sharers, index] if sharers else []:
            if self._tensors[other, "lr"] is tensor:
                self._tensors[other, "lr"] = tensor.detach().clone()

    def current(self, index: int, key: str, stored: Any) -> Any:
        """What ``group[key]`` reads, given what is stored in the dict."""
        if key != "lr":
            return stored
        if self._tensors and (index, "lr") in self._tensors:
            self.refresh()
            return self._tensors[index, "lr"]
        number = self._lr_view[index]
        # An int stays an int as long as no schedule has moved it.
        return stored if stored == number else number

    def refresh(self) -> None:
        """Carries what was written into the user's tensors into the table."""
        if self._live_is_stale:
            self._relink()
        if self._live is not None:
            self._live.refresh_()

    def publish(self) -> None:
        """Carries what a schedule wrote into the table into the user's tensors."""
        if self._live is not None:
            self._live.publish_()

    def _relink(self) -> None:
        self._live = self._make_live_tensors() if self._tensors else None
        for (index, name), tensor in self._tensors.items():
            assert self._live is not None
            if name == "lr":
                given = self._given_lr[index]
                source = None if given is tensor else given
                self._live.add(tensor, self.lr, index, source)
            else:
                place = index * len(self.hyper_names) + self._column[name]
                self._live.add(tensor, self.hypers, place, None)
        self._live_is_stale = False

    def snapshot(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A group as a plain dict that shares no memory with the table or with live tensors."""

        def detached(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.detach().clone()
            if isinstance(value, tuple):
                return tuple(detached(one) for one in value)
            return value

        return {key: detached(value) if key in self.keys else value for key, value in group.items()}
