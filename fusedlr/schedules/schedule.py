"""A schedule as a value: the call that made it, and its formula."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, overload

from torch import Tensor

from fusedlr.expression import Expression, Program, apply, compile_, evaluate, substitute

P = ParamSpec("P")


@dataclass(frozen=True, repr=False)
class Schedule:
    """A pure function of the step, as plain data.

    The functions of :mod:`fusedlr.schedules` make schedules. Two schedules are equal if equal calls
    made them; they do not change, they pickle, and their ``repr`` is the call that makes them.
    Schedules and numbers can be added, subtracted, multiplied and divided.

    Attributes:
        name: the function that made the schedule.
        arguments: its arguments as pairs of name and value, with the defaults.
        expression: the formula, which an engine evaluates.

    Example:
        >>> import torch
        >>> from fusedlr import schedules as s
        >>> schedule = 0.5 * s.linear(1.0, 0.0, steps=4)
        >>> schedule
        0.5 * linear(1.0, 0.0, steps=4)
        >>> schedule(1)
        0.375
        >>> schedule(torch.arange(5))
        tensor([0.5000, 0.3750, 0.2500, 0.1250, 0.0000], dtype=torch.float64)
        >>> s.Schedule.from_json(schedule.to_json()) == schedule
        True
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]
    expression: Expression = field(compare=False)
    _program: Program = field(compare=False)

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: Tensor) -> Tensor: ...
    @overload
    def __call__(self, step: Expression) -> Expression: ...
    @overload
    def __call__(self, step: Any) -> Any: ...
    def __call__(self, step: Any) -> Any:
        """The value at a step; steps count from 0, and before 0 the value is that at 0.

        Args:
            step: an int or a float gives a float; a tensor gives a float64 tensor on its device, an
                array a float64 array, of the same shape; an expression gives an expression.
        """
        if isinstance(step, Expression):
            return substitute(self.expression, step)
        return evaluate(self._program, step)

    # As data

    def to_json(self) -> dict[str, Any]:
        """The schedule as dicts, lists, strings and numbers, for :meth:`from_json`."""
        arguments = {key: _to_json(value) for key, value in self.arguments}
        return {"name": self.name, "arguments": arguments}

    @staticmethod
    def from_json(data: Any) -> Schedule:
        """The schedule that :meth:`to_json` wrote.

        Raises:
            ValueError, TypeError: if the data is not of that form, if there is no such schedule, or
                if it does not take such arguments.
        """
        match data:
            case {"name": str(name), "arguments": Mapping() as arguments} if len(data) == 2:
                return constructor(name)(**{k: _from_json(v) for k, v in arguments.items()})
        raise ValueError(f"expected a dict of 'name' and 'arguments', but got {data!r}")

    def __repr__(self) -> str:
        return _call(self.name, dict(self.arguments))

    def __reduce__(self) -> tuple[Any, ...]:
        return Schedule.from_json, (self.to_json(),)

    def __copy__(self) -> Schedule:
        return self

    def __deepcopy__(self, memo: Any) -> Schedule:
        return self

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """Empty: LambdaLR saves and restores that of a callable, but a schedule does not change."""
        return {}

    # Arithmetic

    # NumPy then leaves `number * schedule` to __rmul__.
    __array_ufunc__ = None

    def __add__(self, other: Operand) -> Schedule:
        return add(self, other) if _is_operand(other) else NotImplemented

    def __radd__(self, other: Operand) -> Schedule:
        return add(other, self) if _is_operand(other) else NotImplemented

    def __sub__(self, other: Operand) -> Schedule:
        return sub(self, other) if _is_operand(other) else NotImplemented

    def __rsub__(self, other: Operand) -> Schedule:
        return sub(other, self) if _is_operand(other) else NotImplemented

    def __mul__(self, other: Operand) -> Schedule:
        return mul(self, other) if _is_operand(other) else NotImplemented

    def __rmul__(self, other: Operand) -> Schedule:
        return mul(other, self) if _is_operand(other) else NotImplemented

    def __truediv__(self, other: Operand) -> Schedule:
        return div(self, other) if _is_operand(other) else NotImplemented

    def __rtruediv__(self, other: Operand) -> Schedule:
        return div(other, self) if _is_operand(other) else NotImplemented

    def __neg__(self) -> Schedule:
        return neg(self)


Operand = Schedule | float


# Constructors

_CONSTRUCTORS: dict[str, Callable[..., Schedule]] = {}


def schedule(build: Callable[P, Expression]) -> Callable[P, Schedule]:
    """Turns a function from arguments to a formula into one that makes schedules.

    The annotations of the parameters say how arguments are read and checked (:data:`_READERS`). A
    ValueError of `build` becomes one that begins with the call.
    """
    name = build.__name__
    signature = inspect.signature(build).replace(return_annotation="Schedule")

    @functools.wraps(build)
    def construct(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{error}; the arguments are {name}{_names(signature)}") from None
        bound.apply_defaults()
        arguments = {
            key: _read(f"{name}: {key}", signature.parameters[key].annotation, value)
            for key, value in bound.arguments.items()
        }
        try:
            expression = build(**arguments)  # type: ignore[call-arg]
        except ValueError as error:
            raise ValueError(f"{_call(name, arguments)}: {error}") from None
        return Schedule(name, tuple(arguments.items()), expression, compile_(expression))

    construct.__signature__ = signature  # type: ignore[attr-defined]
    _CONSTRUCTORS[name] = construct
    return construct


def constructor(name: str) -> Callable[..., Schedule]:
    """The function that makes schedules of this name.

    Raises:
        ValueError: if there is none; the message has the name that was probably meant.
    """
    if name not in _CONSTRUCTORS:
        close = difflib.get_close_matches(str(name), _CONSTRUCTORS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_CONSTRUCTORS)}"
        raise ValueError(f"there is no schedule {name!r}; {hint}")
    return _CONSTRUCTORS[name]


def _names(signature: inspect.Signature) -> str:
    """The parameters without their annotations."""
    plain = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(inspect.Signature(plain))


# How arguments are read


def _number(what: str, value: Any) -> float:
    if not _is_number(value):
        raise TypeError(f"{what} must be a number, but is {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, but is {value!r}")
    return number


def _is_number(value: Any) -> bool:
    """Whether it is a number, of Python, NumPy or torch; not an array of several."""
    if isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__"):
        return False
    return getattr(value, "ndim", 0) == 0


def _count(what: str, value: Any) -> int:
    number = _number(what, value)
    if number < 0 or number != int(number):
        raise ValueError(f"{what} must be a whole number of at least 0, but is {value!r}")
    return int(number)


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be True or False, but is {value!r}")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, but is {value!r}")
    return value


def _schedule(what: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule):
        raise TypeError(f"{what} must be a schedule, but is {value!r}")
    return value


def _operand(what: str, value: Any) -> Operand:
    return value if isinstance(value, Schedule) else _number(what, value)


def _sequence(read: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def read_all(what: str, values: Any) -> tuple[Any, ...]:
        if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
            raise TypeError(f"{what} must be a list, but is {values!r}")
        return tuple(read(f"{what}[{index}]", value) for index, value in enumerate(values))

    return read_all


#: How an argument is read and checked, by the annotation of its parameter.
_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "float": _number,
    "int": _count,
    "bool": _flag,
    "str": _text,
    "Schedule": _schedule,
    "Operand": _operand,
    "Sequence[float]": _sequence(_number),
    "Sequence[int]": _sequence(_count),
    "Sequence[Operand]": _sequence(_operand),
}


def _read(what: str, annotation: str, value: Any) -> Any:
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    return _READERS[kind](what, value)


def _is_operand(value: Any) -> bool:
    return isinstance(value, Schedule) or _is_number(value)


# How schedules are written


def _to_json(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_json()
    return [_to_json(one) for one in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Schedule.from_json(value)
    return [_from_json(one) for one in value] if isinstance(value, list) else value


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    """The call as Python, without the arguments that have their default."""
    if name in ARITHMETIC:
        return _operation(name, *arguments.values())
    words = []
    by_position = True
    for key, parameter in inspect.signature(_CONSTRUCTORS[name]).parameters.items():
        value = arguments[key]
        by_position = by_position and parameter.kind is not parameter.KEYWORD_ONLY
        if value == parameter.default:
            by_position = False
        else:
            text = str(list(value)) if isinstance(value, tuple) else repr(value)
            words.append(text if by_position else f"{key}={text}")
    return f"{name}({', '.join(words)})"


def _operation(name: str, *operands: Operand) -> str:
    """The operation as Python, with the brackets that its order needs."""
    sign, rank = ARITHMETIC[name]
    texts = []
    for index, operand in enumerate(operands):
        inner = ARITHMETIC.get(operand.name) if isinstance(operand, Schedule) else None
        is_first_of_two = index == 0 and len(operands) == 2
        is_clear = inner is None or inner.rank > rank or (inner.rank == rank and is_first_of_two)
        texts.append(repr(operand) if is_clear else f"({operand!r})")
    return f" {sign} ".join(texts) if len(texts) == 2 else f"{sign}{texts[0]}"


# Arithmetic of schedules and numbers


class Sign(NamedTuple):
    """How an operation is written, and how closely it binds."""

    symbol: str
    rank: int


#: The schedules that are written as operations.
ARITHMETIC: Mapping[str, Sign] = {
    "add": Sign("+", 1),
    "sub": Sign("-", 1),
    "mul": Sign("*", 2),
    "div": Sign("/", 2),
    "neg": Sign("-", 3),
}


def _operate(op: str, *operands: Operand) -> Expression:
    return apply(op, *(one.expression if isinstance(one, Schedule) else one for one in operands))


@schedule
def add(a: Operand, b: Operand) -> Expression:
    """The sum."""
    return _operate("add", a, b)


@schedule
def sub(a: Operand, b: Operand) -> Expression:
    """The difference."""
    return _operate("sub", a, b)


@schedule
def mul(a: Operand, b: Operand) -> Expression:
    """The product."""
    return _operate("mul", a, b)


@schedule
def div(a: Operand, b: Operand) -> Expression:
    """The quotient."""
    if b == 0:
        raise ValueError("a schedule cannot be divided by 0")
    return _operate("div", a, b)


@schedule
def neg(a: Operand) -> Expression:
    """The negative."""
    return _operate("neg", a)
