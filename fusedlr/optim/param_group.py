"""Param groups that write edits through to the group table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.revision import Revision
from fusedlr.schedules import Schedule

# An edit of these keys changes which tensors a step walks, or by which rule.
_STRUCTURAL_KEYS = frozenset({"params", "amsgrad", "differentiable", "fused"})


class ParamGroup(dict[str, Any]):
    """One entry of ``optimizer.param_groups``.

    A dict like torch's, except that every edit reaches the group table at once, and reading a
    hyper gives what the table holds: a schedule may have moved it.

    A hyper that was given as a schedule reads as a number: the value that the last step has used,
    before the first step that of step 0. Assigning a number ends the schedule, assigning a schedule
    begins one, and putting back the very number that was read before resumes the one that ended.
    """

    __slots__ = ("_index", "_revision", "_table")

    def __init__(
        self, entries: dict[str, Any], table: GroupTable, index: int, revision: Revision
    ) -> None:
        super().__init__(definition_of(entries))
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

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The schedules that hypers follow, by name: ``"lr"``, ``"beta1"``, ``"weight_decay"``.

        Read-only; to change one, assign to the group: ``group["lr"] = schedule``.
        """
        return MappingProxyType(self._table.schedules_of(self._index))

    def end_schedules(self, keys: Iterable[str]) -> None:
        """Ends the schedules of some keys."""
        for key in self._table.keys & set(keys):
            self._table.forget(self._index, key)

    def values_with(self, schedules: Mapping[str, Schedule]) -> dict[str, Any]:
        """What to assign so that hypers follow schedules, given as :attr:`schedules` has them."""
        values: dict[str, Any] = {}
        for key in self._table.keys & self.keys() if schedules else ():
            names = self._table.names_of(key)
            if schedules.keys().isdisjoint(names):
                continue
            current = self[key] if len(names) > 1 else (self[key],)
            mixed = tuple(map(schedules.get, names, current))
            values[key] = mixed if len(names) > 1 else mixed[0]
        return values

    def may_be_nonzero(self, key: str) -> bool:
        """Whether a hyper is not 0, or a schedule or a scheduler may make it so."""
        value = dict.__getitem__(self, key)
        return bool(
            # A tensor may be on a device, which is not to be waited for.
            isinstance(value, Tensor)
            or value != 0
            or key in self.schedules
            # Schedulers that cycle a hyper note the range in the group, or have moved it already.
            or self.get(f"max_{key}", 0) != 0
            or self._table.last_known(self._index, key) != 0
        )

    def _write_through(self) -> None:
        self._revision.bump()
        for key, value in dict.items(self):
            if key in self._table.keys:
                dict.__setitem__(self, key, self._table.assign(self._index, key, value))
            elif isinstance(value, Schedule):
                self._table.refuse_schedule(self._index, key, value)

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        table = self._table
        return table.current(self._index, key, value) if key in table.keys else value

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
            value = self._table.assign(self._index, key, value)
            # SGD keeps momentum buffers only for a momentum that is not zero.
            if key == "momentum" and bool(before) != bool(value):
                self._revision.bump()
        elif isinstance(value, Schedule):
            self._table.refuse_schedule(self._index, key, value)
        else:
            if key == "params" and not isinstance(value, list):
                value = list(value)
            self._notice_edit(key)
        super().__setitem__(key, value)

    def _notice_edit(self, key: str) -> None:
        """Tells plans, or if no step reads the entry, whoever does."""
        if key in _STRUCTURAL_KEYS or key in self._table.keys:
            self._revision.bump()
        else:
            self._table.annotations += 1

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
        self._lose(key)
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        value = self.get(key, *default)
        self._lose(key)
        super().pop(key, *default)
        return value

    def popitem(self) -> tuple[str, Any]:
        key = list(self)[-1]
        return key, self.pop(key)

    def clear(self) -> None:
        for key in self:
            self._lose(key)
        super().clear()

    def _lose(self, key: str) -> None:
        self._notice_edit(key)
        if key in self._table.keys:
            self._table.forget(self._index, key)


def definition_of(group: dict[str, Any]) -> dict[str, Any]:
    """A group as it can be given to an optimizer: with schedules, not with their values."""
    entries = dict(group)
    if isinstance(group, ParamGroup):
        entries.update(group.values_with(group.schedules))
    return entries
