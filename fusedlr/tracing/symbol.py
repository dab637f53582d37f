"""The step as a function under trace sees it: a number that records what is done with it."""

from __future__ import annotations

from typing import Any, NoReturn

from fusedlr.expression import Expression
from fusedlr.tracing.paths import Paths, Refusal

Kind = type[bool] | type[int] | type[float]


class Symbol:
    """A number that depends on the step, with Python's arithmetic.

    Args:
        paths: where its expressions are made and its conditions decided.
        expression: its value, as the engine computes it in float64.
        kind: the type of the number that the function itself would see. An engine has no integers;
            what differs, such as that an integer 0 has no sign, is made up for here.
    """

    __slots__ = ("expression", "kind", "paths")
    __array_ufunc__ = None  # NumPy's numbers leave operations with a symbol to the symbol

    def __init__(self, paths: Paths, expression: Expression, kind: Kind) -> None:
        self.paths = paths
        self.expression = expression
        self.kind = kind

    @property
    def is_whole(self) -> bool:
        """Whether it is an int or a bool."""
        return self.kind is not float

    @property
    def low(self) -> float:
        """It is never below this."""
        return self.paths.facts(self.expression).low

    def lift(self, value: Any) -> Symbol | None:
        """A number or a symbol as a symbol; None for anything else."""
        if isinstance(value, Symbol):
            return value
        if not isinstance(value, (int, float)):
            return None
        kinds: tuple[Kind, ...] = (bool, int, float)
        kind = next(kind for kind in kinds if isinstance(value, kind))
        return Symbol(self.paths, self.paths.constant(value), kind)

    def make(self, op: str, kind: Kind, *operands: Symbol) -> Symbol:
        """`op` of operands, as a number of a kind."""
        node = self.paths.node(op, *(operand.expression for operand in operands))
        return Symbol(self.paths, node, kind)

    def as_kind(self, kind: Kind) -> Symbol:
        """The same value, as another kind of number."""
        return Symbol(self.paths, self.expression, kind)

    def whole(self, op: str) -> Symbol:
        """Rounded to an int by `op`."""
        return self.as_kind(int) if self.is_whole else self.make(op, int, self)._unsigned()

    def _unsigned(self) -> Symbol:
        """Without the sign that a float64 gives to 0, but an integer does not."""
        if self.low > 0:
            return self
        return self.make("add", self.kind, self, Symbol(self.paths, self.paths.constant(0.0), int))

    # These give Any because a class may answer NotImplemented, whatever else it promises.

    def _arithmetic(self, op: str, left: Any, right: Any) -> Any:
        a, b = self.lift(left), self.lift(right)
        if a is None or b is None:
            return NotImplemented
        if op in ("div", "floordiv", "mod"):
            self.paths.watch_divisor(b.expression)
        if op == "div" or not (a.is_whole and b.is_whole):
            return self.make(op, float, a, b)
        if op == "pow":
            result = self.make(op, int if b.low >= 0 else float, a, b)
            if result.is_whole and b.expression.op != "constant":
                self.paths.watch_growth(result.expression)
            return result
        result = self.make(op, int, a, b)
        if op == "mod" and b.expression.op == "constant" and b.low > 0:
            self.paths.narrow(result.expression, 0.0, b.low - 1)
        needs_sign = op in ("mul", "floordiv", "mod") and (a.low < 0 or b.low < 0)
        return result._unsigned() if needs_sign else result

    def _compare(self, op: str, left: Any, right: Any) -> Any:
        a, b = self.lift(left), self.lift(right)
        if a is None or b is None:
            return NotImplemented
        return self.make(op, bool, a, b)

    # Comparisons

    def __lt__(self, other: Any) -> Any:
        return self._compare("less", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("less", other, self)

    def __le__(self, other: Any) -> Any:
        return self._compare("less_equal", self, other)

    def __ge__(self, other: Any) -> Any:
        return self._compare("less_equal", other, self)

    def __eq__(self, other: object) -> Any:
        return self._compare("equal", self, other)

    def __ne__(self, other: object) -> Any:
        equal = self._compare("equal", self, other)
        return equal if equal is NotImplemented else self.make("not", bool, equal)

    def __bool__(self) -> bool:
        return self.paths.is_true(self.expression)

    def _logic(self, op: str, other: Any) -> Any:
        other = self.lift(other)
        if self.kind is not bool or other is None or other.kind is not bool:
            return NotImplemented
        return self.make(op, bool, self, other)

    def __and__(self, other: Any) -> Any:
        return self._logic("min", other)

    def __or__(self, other: Any) -> Any:
        return self._logic("max", other)

    __rand__, __ror__ = __and__, __or__

    # Arithmetic

    def __add__(self, other: Any) -> Any:
        return self._arithmetic("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._arithmetic("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._arithmetic("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._arithmetic("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._arithmetic("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._arithmetic("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._arithmetic("div", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._arithmetic("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._arithmetic("floordiv", other, self)

    def __mod__(self, other: Any) -> Any:
        return self._arithmetic("mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._arithmetic("mod", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._arithmetic("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._arithmetic("pow", other, self)

    def __neg__(self) -> Symbol:
        return 0 - self if self.is_whole else self.make("neg", float, self)

    def __pos__(self) -> Symbol:
        return self.as_kind(int if self.is_whole else float)

    def __abs__(self) -> Symbol:
        return self.make("abs", int if self.is_whole else float, self)

    def __floor__(self) -> Symbol:
        return self.whole("floor")

    def __ceil__(self) -> Symbol:
        return self.whole("ceil")

    def __trunc__(self) -> Symbol:
        return self.whole("trunc")

    def __round__(self, digits: int | None = None) -> Symbol:
        if digits is None:
            return self.whole("round")
        if self.is_whole and digits >= 0:
            return self.as_kind(int)
        raise Refusal("it rounds to a number of digits")

    def __divmod__(self, other: Any) -> tuple[Symbol, Symbol]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Symbol, Symbol]:
        return other // self, other % self

    # What needs an ordinary number

    def __index__(self) -> int:
        if not self.is_whole:
            raise TypeError("'float' object cannot be interpreted as an integer")
        choices = self.paths.choices(self.expression)
        return next((choice for choice in choices[:-1] if self == choice), choices[-1])

    def __hash__(self) -> NoReturn:
        raise Refusal("it uses the step as a key of a dict or set")

    def __str__(self) -> NoReturn:
        raise Refusal("it turns the step into text")

    def __format__(self, format_spec: str) -> NoReturn:
        raise Refusal("it turns the step into text")
