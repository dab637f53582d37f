"""How edits from outside are noticed: containers that count what is changed in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor


class Revision:
    """A number that grows with every edit that a plan has to know of.

    The containers of an optimizer share one; a plan is stale as soon as the number has moved on.
    (They share this object, not the optimizer: an optimizer must not be part of a reference cycle.)
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def bump(self) -> None:
        self.number += 1


def _counted(name: str) -> Callable[..., Any]:
    mutate = getattr(dict, name)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._revision.bump()
        return mutate(self, *args, **kwargs)

    counted.__name__ = name
    counted.__doc__ = mutate.__doc__
    return counted


_MUTATORS = ("__setitem__", "__delitem__", "clear", "pop", "popitem", "setdefault", "update")


class ParamState(dict[str, Any]):
    """The state of one parameter: ``optimizer.state[param]``."""

    __slots__ = ("_revision", "completed_steps")

    def __init__(self, revision: Revision, entries: dict[str, Any] | None = None) -> None:
        super().__init__(entries or {})
        self._revision = revision
        #: The step count of a rule whose torch.optim twin keeps none in its state.
        self.completed_steps: Tensor | None = None

    def __ior__(self, other: Any) -> ParamState:  # type: ignore[override, misc]
        self.update(other)
        return self

    def set_unnoticed(self, key: str, value: Any) -> None:
        """Stores an entry on behalf of the plan itself."""
        dict.__setitem__(self, key, value)

    # Copies and pickles are plain dicts: they belong to no optimizer.

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class OptimizerState(defaultdict[Any, Any]):
    """``optimizer.state``: maps each parameter to its :class:`ParamState`."""

    def __init__(self, revision: Revision, entries: dict[Any, Any] | None = None) -> None:
        super().__init__(None)
        self._revision = revision
        self.update(entries or {})

    def __missing__(self, param: Any) -> ParamState:
        state = ParamState(self._revision)
        dict.__setitem__(self, param, state)
        return state

    def __setitem__(self, param: Any, entries: Any) -> None:
        self._revision.bump()
        if isinstance(entries, dict) and isinstance(param, Tensor):
            own = isinstance(entries, ParamState) and entries._revision is self._revision
            entries = entries if own else ParamState(self._revision, entries)
        super().__setitem__(param, entries)

    def setdefault(self, param: Any, default: Any = None) -> Any:
        if param not in self:
            self[param] = default
        return self[param]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for param, entries in dict(*args, **kwargs).items():
            self[param] = entries

    def __ior__(self, other: Any) -> OptimizerState:
        self.update(other)
        return self

    # Copies and pickles are defaultdicts like torch's: they belong to no optimizer.

    def copy(self) -> defaultdict[Any, Any]:  # type: ignore[override]
        return defaultdict(dict, {key: _plain(entries) for key, entries in self.items()})

    __copy__ = copy  # type: ignore[assignment]

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> defaultdict[Any, Any]:
        return deepcopy(self.copy(), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict, dict(self.copy()))


def _plain(entries: Any) -> Any:
    return dict(entries) if isinstance(entries, ParamState) else entries


for _name in _MUTATORS:
    setattr(ParamState, _name, _counted(_name))
for _name in ("__delitem__", "clear", "pop", "popitem"):
    setattr(OptimizerState, _name, _counted(_name))
