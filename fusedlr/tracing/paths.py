"""All the ways that a function can take, joined into one expression.

A function under trace is run once for each of its paths. Where it asks whether a condition holds,
:meth:`Paths.is_true` answers: from what is known on this path if that settles it; otherwise the
path forks, and :meth:`Paths.explore` runs the function again for the other answer. A condition that
turns once as the step grows (``step < 10``, ``(step - 5) / 20 >= 1``) becomes a comparison of the
step with a threshold, so that a loop over n milestones has n + 1 paths, not 2^n.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from fusedlr.expression import (
    STEP,
    Expression,
    Program,
    apply,
    compile_,
    constant,
    evaluate,
    table,
)

#: float64 holds every whole number up to here.
LAST_STEP = 2**53

MAX_PATHS = 1_000
MAX_INSTRUCTIONS = 10_000
# Of all paths together: bounds the time that a trace can take.
MAX_OPERATIONS = 200_000
MAX_CHOICES = 1_000


class Refusal(BaseException):
    """The function cannot be traced; the argument says why, as a clause that starts with "it".

    Not an Exception, which the function under trace might handle. It can still, with a bare
    ``except``: therefore :func:`call_unless_refused` asks afterwards.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        _latest.reason = reason


# The reason of the latest Refusal in this thread.
_latest = threading.local()


def call_unless_refused(function: Callable[[], Any]) -> Any:
    """The value of a function; raises what it raises, and any Refusal that it has handled."""
    _latest.reason = None
    value = function()
    if _latest.reason is not None:
        raise Refusal(_latest.reason)
    return value


class Facts(NamedTuple):
    """What holds of the value of an expression at every step."""

    #: 1: never falls as the step grows; -1: never rises; 0: constant; None: not known.
    trend: int | None
    low: float
    high: float


class Paths:
    """The paths of one function, from `first_step` on. Equal expressions are one object here."""

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        #: Steps at which the function takes another turn: a comparison must be right there.
        self.turns: set[int] = set()
        #: Beyond this step, numbers that the function makes may have very many digits.
        self.last_to_compare: float = math.inf
        self._nodes: dict[tuple[object, ...], Expression] = {("step",): STEP}
        self._facts = {id(STEP): Facts(1, float(first_step), float(LAST_STEP))}
        # By the id of a condition: its instructions; where it turns, and what it was before.
        self._programs: dict[int, Program] = {}
        self._thresholds: dict[int, tuple[int, bool]] = {}
        self._operations = 0
        # The conditions on which this path forked, and the answers: replayed, then extended.
        self._decisions: list[tuple[Expression, bool]] = []
        self._begin()

    def _begin(self) -> None:
        self._position = 0
        self._first, self._last = self.first_step, LAST_STEP
        self._known: dict[int, bool] = {}

    # Expressions

    def constant(self, value: float) -> Expression:
        """A number."""
        value = float(value)
        key = ("constant", repr(value))  # tells -0.0 from 0.0, and finds NaN again
        if key not in self._nodes:
            return self._add(key, constant(value))
        return self._nodes[key]

    def node(self, op: str, *args: Expression) -> Expression:
        """`op` of its operands."""
        key = (op, *map(id, args))
        self._count()
        return self._nodes.get(key) or self._add(key, apply(op, *args))

    def table(self, index: Expression, entries: tuple[float, ...]) -> Expression:
        """The entry at an index."""
        key = ("table", id(index), entries)
        self._count()
        return self._nodes.get(key) or self._add(key, table(index, entries))

    def facts(self, node: Expression) -> Facts:
        """What holds of an expression that was made here."""
        return self._facts[id(node)]

    def _add(self, key: tuple[object, ...], node: Expression) -> Expression:
        if len(self._nodes) > MAX_INSTRUCTIONS:
            raise Refusal(f"it takes more than {MAX_INSTRUCTIONS:,} instructions")
        self._nodes[key] = node
        facts = [self._facts[id(arg)] for arg in node.args]
        self._facts[id(node)] = Facts(_trend(node, facts), *_range(node, facts))
        return node

    def _count(self, operations: int = 1) -> None:
        self._operations += operations
        if self._operations > MAX_OPERATIONS:
            raise Refusal(f"its paths take more than {MAX_OPERATIONS:,} operations")

    # Decisions

    def is_true(self, node: Expression) -> bool:
        """Whether a value is other than 0 on this path; forks if that is open."""
        self._count()
        if node.op == "constant":
            return node.value != 0
        if node.op == "not":
            return not self.is_true(node.args[0])
        if node.op not in ("less", "less_equal", "equal"):
            return not self.is_true(self.node("equal", node, self.constant(0.0)))
        if self.facts(node).trend is not None:
            return self._is_true_by_threshold(node)
        if id(node) not in self._known:
            self._known[id(node)] = self._compare(node)
        return self._known[id(node)]

    def _compare(self, node: Expression) -> bool:
        left, right = node.args
        less = self.node("less", left, right)
        if node.op == "equal" and self.facts(less).trend is not None:
            return not self.is_true(less) and not self.is_true(self.node("less", right, left))
        low, high = self.facts(node)[1:]
        if low == high:
            return low != 0
        for side in (left, right):
            if side.op == "constant":
                self._add_turn(side.value)
        return self._fork(node)

    def _is_true_by_threshold(self, node: Expression) -> bool:
        """The truth of a condition that turns at most once as the step grows."""
        if id(node) not in self._thresholds:
            before = self._holds_at(node, self._first)
            if self._holds_at(node, self._last) == before:
                return before
            threshold = self._find_threshold(node, self._first, self._last)
            self._thresholds[id(node)] = threshold, before
            self._add_turn(threshold)
        threshold, before = self._thresholds[id(node)]
        if self._last < threshold:
            return before
        if self._first >= threshold:
            return not before
        if self._fork(self.node("less", STEP, self.constant(threshold))):
            self._last = threshold - 1
            return before
        self._first = threshold
        return not before

    def _holds_at(self, node: Expression, step: int) -> bool:
        if id(node) not in self._programs:
            self._programs[id(node)] = compile_(node)
        program = self._programs[id(node)]
        self._count(len(program.code))
        return bool(evaluate(program, step) != 0)

    def _find_threshold(self, node: Expression, first: int, last: int) -> int:
        """The first step at which a condition is no longer what it is at `first`."""
        before = self._holds_at(node, first)
        if self._holds_at(node, last) == before:
            return last + 1
        while last - first > 1:
            middle = (first + last) // 2
            if self._holds_at(node, middle) == before:
                first = middle
            else:
                last = middle
        return last

    def narrow(self, node: Expression, low: float, high: float) -> None:
        """Notes the least and the greatest that a value can be."""
        self._facts[id(node)] = Facts(self.facts(node).trend, low, high)

    def watch_growth(self, node: Expression) -> None:
        """Notes that the function itself computes a value as an int of any size."""
        is_finite = self.node("less", self.node("abs", node), self.constant(math.inf))
        infinite_at = self._find_threshold(is_finite, self.first_step, LAST_STEP)
        self.last_to_compare = min(self.last_to_compare, 2 * infinite_at)

    def watch_divisor(self, node: Expression) -> None:
        """Notes the step at which a value that something is divided by may be 0."""
        trend, low, high = self.facts(node)
        if trend is not None and low <= 0 <= high:
            is_below = self.node("less", node, self.constant(0.0))
            self._add_turn(self._find_threshold(is_below, self.first_step, LAST_STEP))

    def _add_turn(self, value: object) -> None:
        if isinstance(value, (int, float)) and self.first_step <= value <= LAST_STEP:
            self.turns.add(round(value))

    def _fork(self, condition: Expression) -> bool:
        if self._position == len(self._decisions):
            self._decisions.append((condition, True))
        expected, answer = self._decisions[self._position]
        if condition is not expected:
            raise Refusal("it does not do the same when it is called again")
        self._position += 1
        return answer

    def choices(self, node: Expression) -> range:
        """The whole numbers that a value can be on this path."""
        facts = self.facts(node)
        low, high = facts.low, facts.high
        if facts.trend is not None:
            program = compile_(node)
            low, high = sorted((evaluate(program, self._first), evaluate(program, self._last)))
        if not high - low < MAX_CHOICES:
            raise Refusal("it uses the step, without a bound, as an index or a count")
        return range(round(low), round(high) + 1)

    # Exploration

    def explore(self, run: Callable[[], Expression]) -> Expression:
        """The value of `run()`, which asks :meth:`is_true` on its way, for all answers."""
        if_true: list[Expression] = []  # the values of branches that wait for their other side
        for _ in range(MAX_PATHS):
            self._begin()
            value = run()
            if self._position != len(self._decisions):
                raise Refusal("it does not do the same when it is called again")
            while self._decisions and not self._decisions[-1][1]:
                condition, _ = self._decisions.pop()
                other = if_true.pop()
                if other is not value:
                    value = self.node("select", condition, other, value)
            if not self._decisions:
                return value
            if_true.append(value)
            self._decisions[-1] = (self._decisions[-1][0], False)
        raise Refusal(f"it has more than {MAX_PATHS:,} paths")


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _joint(a: int | None, b: int | None) -> int | None:
    """The trend of what rises with both of two values."""
    if a is None or b is None:
        return None
    return a or b if a * b >= 0 else None


def _opposite(trend: int | None) -> int | None:
    return None if trend is None else -trend


def _trend(node: Expression, args: list[Facts]) -> int | None:
    # Rounding to the nearest float64 keeps the order, so this holds of computed values too.
    if node.op == "constant":
        return 0
    trends = [facts.trend for facts in args]
    match node.op:
        case "add" | "min" | "max":
            return _joint(trends[0], trends[1])
        case "sub":
            return _joint(trends[0], _opposite(trends[1]))
        case "less" | "less_equal":
            return _joint(_opposite(trends[0]), trends[1])
        case "mul" if trends[0] == 0:
            return None if trends[1] is None else trends[1] * _sign(args[0].low)
        case "mul" | "div" | "floordiv" if trends[1] == 0:
            return None if trends[0] is None else trends[0] * _sign(args[1].low)
        case "neg":
            return _opposite(trends[0])
        case "floor" | "ceil" | "trunc" | "round":
            return trends[0]
    return None


# Operations whose extreme values are those of the extreme operands.
_EXTREME_AT_ENDS = frozenset(
    {"add", "sub", "mul", "div", "floordiv", "min", "max", "neg"}
    | {"floor", "ceil", "trunc", "round", "sqrt", "exp", "log", "tanh"}
)


def _range(node: Expression, args: list[Facts]) -> tuple[float, float]:
    everything = (-math.inf, math.inf)
    lows, highs = [facts.low for facts in args], [facts.high for facts in args]
    match node.op:
        case "constant" if isinstance(node.value, float) and not math.isnan(node.value):
            return node.value, node.value
        case "table" if isinstance(node.value, tuple) and not any(map(math.isnan, node.value)):
            return min(node.value), max(node.value)
        case "div" | "floordiv" if lows[1] <= 0 <= highs[1]:
            return everything
        case op if op in _EXTREME_AT_ENDS:
            ends = [facts[1:] for facts in args]
            values = [apply(op, *corner).value for corner in itertools.product(*ends)]
            if all(isinstance(value, float) and not math.isnan(value) for value in values):
                return min(values), max(values)  # type: ignore[type-var, return-value]
        case "mod" if lows[1] > 0:
            return 0.0, highs[1]
        case "abs":
            return 0.0, max(map(abs, (*lows, *highs)))
        case "pow" if lows[0] >= 0:
            return 0.0, math.inf
        case "sin" | "cos":
            return -1.0, 1.0
        case "less" if highs[0] < lows[1]:
            return 1.0, 1.0
        case "less" if lows[0] >= highs[1]:
            return 0.0, 0.0
        case "less_equal" if highs[0] <= lows[1]:
            return 1.0, 1.0
        case "less_equal" if lows[0] > highs[1]:
            return 0.0, 0.0
        case "equal" if highs[0] < lows[1] or highs[1] < lows[0]:
            return 0.0, 0.0
        case "less" | "less_equal" | "equal" | "not":
            return 0.0, 1.0
    return everything
