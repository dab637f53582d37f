"""What a function under trace may call that is not written in Python.

Most builtins work on symbols as they are, because they use Python's own operations. Those that
insist on ordinary numbers have a stand-in here, which leaves ordinary numbers to the original.
"""

from __future__ import annotations

import bisect
import builtins
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType
from typing import Any

from fusedlr.tracing.paths import Refusal
from fusedlr.tracing.symbol import Kind, Symbol

AnyFunction = Callable[..., Any]


def _symbols(values: Iterable[Any]) -> list[Symbol] | None:
    """The values as symbols; None if none of them is one, or if some are no numbers."""
    values = list(values)
    symbol = next((value for value in values if isinstance(value, Symbol)), None)
    if symbol is None:
        return None
    symbols = [symbol.lift(value) for value in values]
    return None if any(one is None for one in symbols) else symbols  # type: ignore[return-value]


def _float_function(op: str, original: AnyFunction) -> AnyFunction:
    """A function of ``math``, which takes and returns floats, as an operation."""

    def function(*args: Any) -> Any:
        symbols = _symbols(args)
        return original(*args) if symbols is None else symbols[0].make(op, float, *symbols)

    return function


def _ordinary(original: AnyFunction) -> AnyFunction:
    """A function that is no operation of the engine, and works on ordinary numbers only."""

    def function(*args: Any) -> Any:
        if any(isinstance(arg, Symbol) for arg in args):
            raise Refusal(f"it calls math.{original.__name__}, which engines do not have")
        return original(*args)

    return function


def _extreme(op: str, original: AnyFunction) -> AnyFunction:
    """``min`` or ``max``."""

    def function(*args: Any, **options: Any) -> Any:
        values = list(args[0]) if len(args) == 1 else list(args)
        symbols = None if options else _symbols(values)
        if symbols is None:
            return original(values, **options)
        # A float among ints makes it a float, though it may be one of the ints. That matters only
        # to the sign of a 0, and the comparison with the function finds such a case.
        kind: Kind = int if all(symbol.is_whole for symbol in symbols) else float
        return functools.reduce(lambda a, b: a.make(op, kind, a, b), symbols)

    return function


_log = _float_function("log", math.log)


def _logarithm(x: Any, *base: Any) -> Any:
    return _log(x) / _log(*base) if base else _log(x)


def _fmod(x: Any, y: Any) -> Any:
    symbols = _symbols((x, y))
    if symbols is None:
        return math.fmod(x, y)
    if any(symbol.low < 0 for symbol in symbols):
        raise Refusal("it calls math.fmod of what may be negative; % can do that")
    return symbols[0].make("mod", float, *symbols)


class _NumberType(type):
    """A stand-in for ``int`` or ``float``, also in ``isinstance``."""

    kind: type[int] | type[float]

    def __call__(cls, *args: Any, **options: Any) -> Any:
        value = args[0] if args else None
        if not isinstance(value, Symbol):
            return cls.kind(*args, **options)
        return value.whole("trunc") if cls.kind is int else value.as_kind(float)

    def __instancecheck__(cls, value: Any) -> bool:
        if isinstance(value, Symbol):
            return issubclass(value.kind, cls.kind)
        return isinstance(value, cls.kind)


class _Int(metaclass=_NumberType):
    kind = int


class _Float(metaclass=_NumberType):
    kind = float


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


_ORIGINALS_AND_STAND_INS: list[tuple[Any, Any]] = [
    *(
        (function, _ordinary(function))
        for function in vars(math).values()
        if isinstance(function, BuiltinFunctionType)
    ),
    # Those below take the place of the ones above.
    *(
        (getattr(math, op), _float_function(op, getattr(math, op)))
        for op in ("sqrt", "exp", "sin", "cos", "tan", "tanh", "pow")
    ),
    (math.fabs, _float_function("abs", math.fabs)),
    (math.log, _logarithm),
    (math.fmod, _fmod),
    (math.radians, lambda x: x * (math.pi / 180)),
    (math.degrees, lambda x: x * (180 / math.pi)),
    *((error, error) for error in vars(builtins).values() if _is_exception(error)),
    (int, _Int),
    (float, _Float),
    (min, _extreme("min", min)),
    (max, _extreme("max", max)),
    # As they are:
    *(
        (function, function)
        for module, names in (
            (
                builtins,
                "abs all any bool callable dict divmod enumerate filter frozenset getattr hasattr "
                "isinstance iter len list map next pow range reversed round set slice sorted str "
                "sum tuple zip NotImplemented",
            ),
            (math, "ceil floor trunc prod"),
            (bisect, "bisect bisect_left bisect_right"),
            (functools, "reduce"),
            (itertools, "accumulate chain count pairwise takewhile"),
            (operator, "add sub mul truediv floordiv mod pow neg lt le gt ge eq ne"),
        )
        for function in (getattr(module, name) for name in names.split())
    ),
]
# By identity: what is looked up here need not be hashable.
_STAND_INS = {id(original): stand_in for original, stand_in in _ORIGINALS_AND_STAND_INS}


def stand_in_for(value: Any) -> Any:
    """What a function under trace gets to call instead of `value`; None if it is not known."""
    return _STAND_INS.get(id(value))
