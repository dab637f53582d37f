"""Numbers that param groups hold under keys of a scheduler's own, such as ``max_lr``."""

from __future__ import annotations

from typing import Any

from fusedlr.optim.group_table import GroupTable


class GroupColumns:
    """The values of some keys of all groups, read again only after a group has been edited.

    Args:
        keys: the keys; a column of a key that the groups do not have is empty.
    """

    def __init__(self, *keys: str) -> None:
        self._keys = keys
        self._table: GroupTable | None = None
        self._annotations = -1
        self._columns: tuple[list[Any], ...] = ()

    def read(self, table: GroupTable, groups: list[Any]) -> tuple[list[Any], ...]:
        """A list with one entry for each group, for each key."""
        if self._table is not table or self._annotations != table.annotations:
            self._columns = tuple(
                [group[key] for group in groups if key in group] for key in self._keys
            )
            self._table, self._annotations = table, table.annotations
        return self._columns
