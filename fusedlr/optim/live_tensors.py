"""Hypers given as tensors, without the compiled extension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Link:
    tensor: Tensor
    source: Tensor | None
    # Last seen values, each to be compared with its own place only: a tensor of lower precision
    # cannot hold what is in the table.
    tensor_value: float
    source_value: float
    slot_value: float


class LiveTensors:
    """Keeps tensors and entries of the group table in step (``csrc/bindings/live_tensors.h``)."""

    def __init__(self) -> None:
        self._links: dict[tuple[int, int], _Link] = {}

    def set_table(self, lr: Tensor, hypers: Tensor) -> None:
        self._lr, self._hypers = lr, hypers

    def _slot(self, group: int, column: int) -> Tensor:
        return self._lr[group] if column < 0 else self._hypers[group, column]

    def put(self, group: int, column: int, tensor: Tensor, source: Tensor | None) -> None:
        value, slot_value = tensor.item(), self._slot(group, column).item()
        self._links[group, column] = _Link(tensor, source, value, value, slot_value)

    def drop(self, group: int, column: int) -> None:
        self._links.pop((group, column), None)

    def follows_source(self, group: int, column: int) -> bool:
        link = self._links.get((group, column))
        return link is not None and link.source is not None

    def sync_(self) -> None:
        for place in self._links:
            self._sync_link(place)

    def sync_group_(self, group: int) -> None:
        for place in self._links:
            if place[0] == group:
                self._sync_link(place)

    @torch.no_grad()
    def _sync_link(self, place: tuple[int, int]) -> None:
        link, slot = self._links[place], self._slot(*place)
        value = link.tensor.item()
        if value != link.tensor_value:
            link.source = None
        elif slot.item() != link.slot_value:
            link.slot_value = slot.item()
            link.tensor_value = link.tensor.fill_(link.slot_value).item()
            link.source = None
            return
        elif link.source is not None and link.source.item() != link.source_value:
            link.source_value = link.source.item()
            value = link.tensor.fill_(link.source_value).item()
        if value != link.tensor_value:
            slot.fill_(value)
            link.slot_value = link.tensor_value = value
