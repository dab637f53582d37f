"""Containers that look up a symbol: copies of those that a function under trace reads."""

from __future__ import annotations

from typing import Any

from fusedlr.tracing.symbol import Kind, Symbol

_NUMBERS = frozenset((bool, int, float))


def _look_up(entries: tuple[Any, ...], index: Symbol) -> Any:
    if not index.is_whole:
        raise TypeError("list indices must be integers or slices, not float")
    size = len(entries)
    if index < 0:
        index = index + size
    if index < 0 or index >= size:
        raise IndexError("list index out of range")
    kinds = {type(entry) for entry in entries}
    if not kinds <= _NUMBERS:
        return entries[index]
    kind: Kind = float if float in kinds else int
    node = index.paths.table(index.expression, tuple(map(float, entries)))
    return Symbol(index.paths, node, kind)


class SymbolicList(list[Any]):
    """A list that takes a symbol as an index."""

    def __getitem__(self, index: Any) -> Any:
        return (
            _look_up(tuple(self), index)
            if isinstance(index, Symbol)
            else super().__getitem__(index)
        )


class SymbolicTuple(tuple[Any, ...]):
    """A tuple that takes a symbol as an index."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return (
            _look_up(tuple(self), index)
            if isinstance(index, Symbol)
            else super().__getitem__(index)
        )


class SymbolicDict(dict[Any, Any]):
    """A dict that takes a symbol as a key: which of its keys that is, is decided one by one."""

    def __contains__(self, key: object) -> bool:
        if isinstance(key, Symbol):
            return any(key == own for own in self)
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, Symbol):
            return super().__getitem__(key)
        for own, value in self.items():
            if key == own:
                return value
        raise KeyError(key)

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (would call itself)


class SymbolicSet(frozenset[Any]):
    """A set that tells whether a symbol is in it."""

    def __contains__(self, value: object) -> bool:
        if isinstance(value, Symbol):
            return any(value == own for own in self)
        return super().__contains__(value)
