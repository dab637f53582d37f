"""The group table: the learning rate and every other hyper of every param group, as tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class LiveTensors(Protocol):
    """Keeps user tensors and entries of the table in step."""

    def set_table(self, lr: Tensor, hypers: Tensor) -> None: ...
    def put(self, group: int, column: int, tensor: Tensor, source: Tensor | None) -> None: ...
    def drop(self, group: int, column: int) -> None: ...
    def sync_(self) -> None: ...


_LR = -1  # the column of the lr

_SIZE = ctypes.sizeof(ctypes.c_double)


class GroupTable:
    """One row for each param group: ``lr`` float64 [G] and ``hypers`` float64 [G, H].

    Numbers are written when a group is edited, so that a step reads the table and nothing else.
    Tensors stay the user's own: :meth:`sync` carries what was written into them into the table, and
    what was written into the table into them.

    Args:
        hyper_names: names of the columns of ``hypers``; ``betas`` fills ``beta1`` and ``beta2``.
        make_live_tensors: builds the object that keeps user tensors and the table in step.
    """

    def __init__(
        self, hyper_names: tuple[str, ...], make_live_tensors: Callable[[], LiveTensors]
    ) -> None:
        self.hyper_names = hyper_names
        self._column = {name: column for column, name in enumerate(hyper_names)}
        #: The keys of a group whose values are in the table.
        self.keys = frozenset(
            {"lr"} | {"betas" if name in ("beta1", "beta2") else name for name in hyper_names}
        )
        # The lr tensors as they are read back, and as they were given, by group.
        self._lr_tensors: dict[int, Tensor] = {}
        self._given_lr: dict[int, Tensor] = {}
        self._live = make_live_tensors()
        self._has_live = False
        self._set_tables(
            torch.zeros(0, dtype=torch.float64, device="cpu"),
            torch.zeros(0, len(hyper_names), dtype=torch.float64, device="cpu"),
        )

    def _set_tables(self, lr: Tensor, hypers: Tensor) -> None:
        self.lr = lr
        self.hypers = hypers
        self._live.set_table(lr, hypers)

    def _slot(self, index: int, column: int) -> ctypes.c_double:
        # Several times faster than indexing the tensor.
        if column == _LR:
            return ctypes.c_double.from_address(self.lr.data_ptr() + _SIZE * index)
        place = index * len(self.hyper_names) + column
        return ctypes.c_double.from_address(self.hypers.data_ptr() + _SIZE * place)

    def __len__(self) -> int:
        return self.lr.numel()

    def append_row(self) -> int:
        """Adds a row of zeros for a new group and returns its index."""
        self._set_tables(
            torch.cat([self.lr, self.lr.new_zeros(1)]),
            torch.cat([self.hypers, self.hypers.new_zeros(1, len(self.hyper_names))]),
        )
        return len(self) - 1

    def check(self, index: int, key: str, value: Any) -> list[tuple[int, Any, float]]:
        """What ``group[key] = value`` of group ``index`` means: (column, value, number).

        Raises:
            TypeError: if the value is neither a number nor a tensor.
            ValueError: if a tensor has more than one element.
        """
        if key != "betas":
            column = _LR if key == "lr" else self._column[key]
            return [(column, value, _number(index, key, value))]
        try:
            first, second = value
        except (TypeError, ValueError):
            raise TypeError(
                f"param_groups[{index}]['betas'] must be a pair of numbers, got {value!r}"
            ) from None
        return [
            (self._column[name], one, _number(index, key, one))
            for name, one in (("beta1", first), ("beta2", second))
        ]

    def assign(self, index: int, key: str, value: Any) -> None:
        """Takes over ``group[key] = value`` of group ``index``; raises as :meth:`check` does."""
        columns = self.check(index, key, value)
        if any(isinstance(one, Tensor) for _, one, _ in columns):
            self.sync()  # an edit that waits in a tensor must not get lost when it is tied anew
        for column, one, number in columns:
            self._slot(index, column).value = number
            if column == _LR and self._lr_tensors:
                self._lr_tensors.pop(index, None)
                self._given_lr.pop(index, None)
            if isinstance(one, Tensor):
                self._put(index, column, one)
            elif self._has_live:
                self._live.drop(index, column)

    def _put(self, index: int, column: int, tensor: Tensor) -> None:
        self._has_live = True
        if column != _LR:
            self._live.put(index, column, tensor, None)
            return
        # One tensor in several groups: a scheduler must be able to move each of them on its own, so
        # each gets a tensor that follows the user's until the group is written to itself.
        sharers = [other for other, given in self._given_lr.items() if given is tensor]
        self._given_lr[index] = self._lr_tensors[index] = tensor
        if not sharers:
            self._live.put(index, _LR, tensor, None)
            return
        for other in (*sharers, index):
            if self._lr_tensors[other] is tensor:
                self._lr_tensors[other] = tensor.detach().clone()
                self._live.put(other, _LR, self._lr_tensors[other], tensor)

    def current_lr(self, index: int, stored: Any) -> Any:
        """What ``group["lr"]`` reads, given what is stored in the dict."""
        if self._has_live and index in self._lr_tensors:
            self.sync()
            return self._lr_tensors[index]
        number = self._slot(index, _LR).value
        # An int stays an int as long as no schedule has moved it.
        return stored if stored == number else number

    def lr_tensors(self) -> dict[int, Tensor]:
        """The lr tensors of the groups that were given one, by group."""
        return self._lr_tensors.copy()

    def sync(self) -> None:
        """Carries what was written into the user's tensors into the table, and the other way."""
        if self._has_live:
            self._live.sync_()

    def snapshot(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A group as a plain dict that shares no memory with the table or with live tensors."""

        def detached(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.detach().clone()
            if isinstance(value, tuple):
                return tuple(detached(one) for one in value)
            return value

        return {key: detached(value) if key in self.keys else value for key, value in group.items()}


def _number(index: int, key: str, value: Any) -> float:
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
