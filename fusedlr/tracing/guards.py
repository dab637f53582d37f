"""Notices that something which a traced function has read is another one now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CellType, MethodType
from typing import Any

ABSENT = object()

# Two of these that are equal do the same.
_COMPARED_BY_VALUE = frozenset((bool, int, float, str, MethodType))


class Guards:
    """What a function has read, each with the way to read it again."""

    def __init__(self) -> None:
        # By what is read: the way to read it again, and what it was.
        self._reads: dict[tuple[int, str], tuple[Callable[[], Any], Any]] = {}
        self._containers: dict[int, tuple[Any, Any]] = {}

    def watch_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Watches an attribute; ABSENT if there is none."""
        self._reads[id(owner), name] = partial(getattr, owner, name, ABSENT), value

    def watch_item(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        """Watches a global variable; ABSENT if there is none."""
        self._reads[id(namespace), name] = partial(namespace.get, name, ABSENT), value

    def watch_cell(self, cell: CellType) -> None:
        """Watches a variable of an enclosing function."""
        self._reads[id(cell), ""] = partial(getattr, cell, "cell_contents"), cell.cell_contents

    def watch_contents(self, container: Any) -> None:
        """Watches what is in a list, dict or set."""
        self._containers[id(container)] = container, container.copy()

    def hold(self) -> bool:
        """Whether everything is as it was."""
        try:
            for read, value in self._reads.values():
                now = read()
                if now is not value and not _do_the_same(now, value):
                    return False
            for container, contents in self._containers.values():
                if container != contents:
                    return False
        except Exception:  # whatever reading raises now, it did not before
            return False
        return True


def _do_the_same(now: Any, then: Any) -> bool:
    if type(now) is not type(then) or type(then) not in _COMPARED_BY_VALUE:
        return False
    return bool(now == then != 0)  # 0.0 equals -0.0
