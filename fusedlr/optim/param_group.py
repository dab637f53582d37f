"""Param groups that write edits through to the group table."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.revision import Revision

# An edit of these keys changes which tensors a step walks, or by which rule.
_STRUCTURAL_KEYS = frozenset({"params", "amsgrad", "differentiable", "fused"})


class ParamGroup(dict[str, Any]):
    """One entry of ``optimizer.param_groups``.

    A dict like torch's, except that every edit reaches the group table at once, and reading
    ``"lr"`` gives what the table holds: a schedule may have moved it.
    """

    __slots__ = ("_index", "_revision", "_table")

    def __init__(
        self, entries: dict[str, Any], table: GroupTable, index: int, revision: Revision
    ) -> None:
        super().__init__(entries)
        self._table = table
        self._index = index
        self._revision = revision
        self._write_through()

    @property
    def index(self) -> int:
        """The place of this group in ``optimizer.param_groups``."""
        return self._index

    def belongs_to(self, table: GroupTable, index: int) -> bool:
        """Whether this group is row `index` of `table`."""
        return self._table is table and self._index == index

    def _write_through(self) -> None:
        self._revision.bump()
        for key in self._table.keys:
            if key in self:
                self._table.assign(self._index, key, dict.__getitem__(self, key))

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return self._table.current_lr(self._index, value) if key == "lr" else value

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (this is that get)

    # With an __iter__ of its own, dict(group) and {**group} read through __getitem__.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> Any:
        return dict(self).items()

    def values(self) -> Any:
        return dict(self).values()

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __eq__(self, other: object) -> bool:
        return self is other or dict(self) == other

    __hash__ = None

    def __repr__(self) -> str:
        return repr(dict(self))

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    # Copies and pickles are plain dicts: they belong to no optimizer.

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    # Writing

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._table.keys:
            before = dict.get(self, key)
            self._table.assign(self._index, key, value)
            # SGD keeps momentum buffers only for a momentum that is not zero.
            if key == "momentum" and bool(before) != bool(value):
                self._revision.bump()
        elif key in _STRUCTURAL_KEYS:
            if key == "params" and not isinstance(value, list):
                value = list(value)
            self._revision.bump()
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __delitem__(self, key: str) -> None:
        self._revision.bump()
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        self._revision.bump()
        value = self.get(key, *default)
        super().pop(key, *default)
        return value

    def popitem(self) -> tuple[str, Any]:
        key = list(self)[-1]
        return key, self.pop(key)

    def clear(self) -> None:
        self._revision.bump()
        super().clear()
