"""Hypers given as tensors, without the compiled extension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Link:
    tensor: Tensor
    slot: Tensor
    source: Tensor | None
    # Last seen values, each to be compared with its own place only: a tensor of lower precision
    # cannot hold what is in the slot.
    tensor_value: float
    source_value: float
    slot_value: float


class LiveTensors:
    """Keeps tensors and entries of the group table in step (``csrc/bindings/live_tensors.h``)."""

    def __init__(self) -> None:
        self._links: list[_Link] = []

    def add(self, tensor: Tensor, table: Tensor, index: int, source: Tensor | None = None) -> None:
        slot = table.view(-1)[index]
        value = tensor.item()
        if slot.to(tensor.dtype).item() != value:
            slot.fill_(value)
        if source is not None and source.item() != value:
            source = None
        source_value = 0.0 if source is None else source.item()
        self._links.append(_Link(tensor, slot, source, value, source_value, slot.item()))

    @torch.no_grad()
    def refresh_(self) -> None:
        for link in self._links:
            value = link.tensor.item()
            if link.source is not None:
                source_value = link.source.item()
                if value != link.tensor_value:
                    link.source = None
                elif source_value != link.source_value:
                    link.tensor.fill_(source_value)
                    link.source_value = source_value
                    value = link.tensor.item()
            if value != link.tensor_value:
                link.slot.fill_(value)
                link.slot_value = link.tensor_value = value

    @torch.no_grad()
    def publish_(self) -> None:
        for link in self._links:
            slot_value = link.slot.item()
            if slot_value != link.slot_value:
                link.tensor.fill_(slot_value)
                link.tensor_value = link.tensor.item()
                link.slot_value = slot_value
                link.source = None
