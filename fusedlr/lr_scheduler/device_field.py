"""Attributes of a scheduler that live in the engine's memory."""

from __future__ import annotations

from typing import Any


class DeviceField:
    """A number that the engine changes while a scheduler steps, such as ``last_epoch``.

    Until the engine has a node for the scheduler (and on optimizers without an engine, always), it
    is an ordinary entry of the instance's ``__dict__``; that entry also keeps the type: an int
    stays an int.

    Args:
        always_float: a value that the engine has changed reads as a float even if it is whole.
    """

    def __init__(self, *, always_float: bool = False) -> None:
        self._always_float = always_float

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        fields = instance.__dict__
        try:
            stored = fields[self._name]
        except KeyError:
            raise AttributeError(
                f"{type(instance).__name__!r} object has no attribute {self._name!r}"
            ) from None
        node = fields.get("_node")
        if node is None:
            return stored
        value = node.read(self._name)
        if value != stored:
            is_whole = value.is_integer() and not self._always_float
            stored = fields[self._name] = int(value) if is_whole else value
        return stored

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value
        node = instance.__dict__.get("_node")
        if node is not None:
            node.write_(self._name, float(value))

    def __delete__(self, instance: Any) -> None:
        del instance.__dict__[self._name]
