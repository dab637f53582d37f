"""A world for a function under trace in which it can read everything and change nothing.

The function that is called is a copy of the user's: same code, but its global variables, closure
and defaults are stand-ins. Numbers and text stand for themselves; containers are copied; functions
that it calls are treated like itself; modules and objects can be read, attribute by attribute.
Whatever is read is put under guard. Anything else is refused before it is touched.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import numbers
import operator
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
)
from typing import Any

from fusedlr.expression import Expression, compile_, evaluate
from fusedlr.tracing.containers import SymbolicDict, SymbolicList, SymbolicSet, SymbolicTuple
from fusedlr.tracing.guards import ABSENT, Guards
from fusedlr.tracing.paths import Refusal
from fusedlr.tracing.symbol import Symbol
from fusedlr.tracing.symbolic_functions import stand_in_for

# Comparing a longer one at every step would take too long.
MAX_WATCHED_ENTRIES = 10_000

# Why not, by the module that something comes from.
_REASONS = {
    **dict.fromkeys(
        ("cupy", "jax", "numpy", "scipy", "torch"),
        "whose arithmetic need not be Python's to the last bit",
    ),
    **dict.fromkeys(
        ("_random", "datetime", "os", "random", "secrets", "time", "uuid"),
        "whose values are not a function of the step alone",
    ),
}


class StandIns:
    """The stand-ins for all that one function reads, and the guards of what they stand for."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        # By id. The originals are kept: another object could take the id of one that is gone.
        self._made: dict[int, tuple[Any, Any]] = {}
        # Reads what a function could change in a stand-in, and what there was at first.
        self._changeable: list[tuple[Callable[[], list[Any]], list[Any]]] = []

    def forget(self) -> None:
        """Lets go of all stand-ins, which know each other and this object."""
        self._made.clear()
        self._changeable.clear()

    def refuse_changes(self) -> None:
        """Raises Refusal if a stand-in has been changed: the function would change the original."""
        for read, original in self._changeable:
            now = read()
            if len(now) != len(original) or not all(map(operator.is_, now, original)):
                raise Refusal("it changes a variable or a container that outlives the call")

    def of(self, value: Any, name: str) -> Any:
        """The stand-in for a value that the function knows by `name`."""
        if value is None or isinstance(value, (int, str, bytes)):
            return value
        if isinstance(value, float):
            return float(value)  # NumPy's float64 is one too
        if isinstance(value, numbers.Integral):
            return int(value)
        if id(value) not in self._made:
            self._remember(value, self._make(value, name))
        return self._made[id(value)][1]

    def _remember(self, value: Any, stand_in: Any) -> None:
        self._made[id(value)] = (value, stand_in)

    def _make(self, value: Any, name: str) -> Any:
        known = stand_in_for(value)
        if known is not None:
            return known
        expression = expression_of(value)
        if expression is not None:
            return functools.partial(_call_expression, expression)
        for module in sorted(_modules(value) & _REASONS.keys()):
            raise Refusal(f"it uses {name} of {module.strip('_')}, {_REASONS[module]}")
        if type(value) in _CONTAINERS:
            return self._container(value, name)
        if isinstance(value, FunctionType):
            return self._function(value, name)
        if isinstance(value, MethodType):
            return MethodType(self.of(value.__func__, name), self.of(value.__self__, name))
        if isinstance(value, functools.partial):
            options = self.of(value.keywords, name)
            return functools.partial(
                self.of(value.func, name), *self._all(value.args, name), **options
            )
        if isinstance(value, functools._lru_cache_wrapper):
            return self.of(value.__wrapped__, name)
        if isinstance(value, BuiltinFunctionType):
            if type(value.__self__) in _CONTAINERS:  # a method, such as {…}.get
                return getattr(self.of(value.__self__, name), value.__name__)
            raise Refusal(f"it uses {name}, which is not written in Python")
        return _object_stand_in(self, value, name)

    # Functions

    def _function(self, function: FunctionType, name: str) -> FunctionType:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise Refusal("it is asynchronous")
        code = function.__code__
        self._guards.watch_attribute(function, "__code__", code)
        self._guards.watch_attribute(function, "__defaults__", function.__defaults__)
        if code.co_kwonlyargcount:
            self._guards.watch_attribute(function, "__kwdefaults__", function.__kwdefaults__)
        cells = tuple(CellType() for _ in code.co_freevars)
        copy = FunctionType(
            _with_symbolic_sets(code), self._globals(function), code.co_name, None, cells
        )
        self._remember(function, copy)  # before its closure, in which it may be itself
        for variable, cell, original in zip(
            code.co_freevars, cells, function.__closure__ or (), strict=True
        ):
            if original == CellType():
                raise Refusal(f"it reads {variable}, which has no value yet")
            self._guards.watch_cell(original)
            cell.cell_contents = self.of(original.cell_contents, variable)
            self._watch_for_changes(functools.partial(_contents, cell))
        if function.__defaults__ is not None:
            copy.__defaults__ = tuple(self._all(function.__defaults__, name))
        if function.__kwdefaults__ is not None:
            copy.__kwdefaults__ = self.of(function.__kwdefaults__, name)
        return copy

    def _globals(self, function: FunctionType) -> dict[str, Any]:
        namespace = function.__globals__
        if id(namespace) not in self._made:
            stand_in = _Globals(self, namespace)
            self._remember(namespace, stand_in)
            self._watch_for_changes(stand_in.changed_names)
        made: dict[str, Any] = self._made[id(namespace)][1]
        return made

    def _watch_for_changes(self, read: Callable[[], list[Any]]) -> None:
        self._changeable.append((read, read()))

    def global_variable(self, namespace: dict[str, Any], name: str) -> Any:
        """What a function reads as a global variable or a builtin; raises KeyError."""
        value = namespace.get(name, ABSENT)
        self._guards.watch_item(namespace, name, value)
        return self.of(_BUILTINS[name] if value is ABSENT else value, name)

    def import_(
        self, name: str, _globals: Any, _locals: Any, names: Iterable[str] | None, level: int
    ) -> Any:
        """What an import statement in a function gets: a module that is loaded already."""
        if level or name not in sys.modules:
            raise Refusal(f"it imports {name}")
        name = name if names else name.partition(".")[0]
        self._guards.watch_item(sys.modules, name, sys.modules[name])
        return self.of(sys.modules[name], name)

    # Containers

    def _all(self, values: Iterable[Any], name: str) -> list[Any]:
        return [self.of(value, f"an entry of {name}") for value in values]

    def _container(self, value: Any, name: str) -> Any:
        if type(value) is tuple:
            return SymbolicTuple(self._all(value, name))
        if type(value) is frozenset:
            return SymbolicSet(self._all(value, name))
        if len(value) > MAX_WATCHED_ENTRIES:
            raise Refusal(
                f"it reads {name}, of {len(value):,} entries, which is too long to watch for "
                "changes; a tuple needs no watching"
            )
        entries = value.values() if isinstance(value, dict) else value
        if not all(_is_compared_rightly(entry) for entry in entries):
            raise Refusal(f"it reads {name}, whose entries cannot be watched for changes")
        self._guards.watch_contents(value)
        if isinstance(value, set):
            return SymbolicSet(self._all(value, name))
        if isinstance(value, list):
            entries = SymbolicList(self._all(value, name))
            self._watch_for_changes(functools.partial(list, entries))
            return entries
        keys = self._all(value, name)
        items = SymbolicDict(zip(keys, self._all(entries, name), strict=True))
        self._watch_for_changes(lambda: [*items, *items.values()])
        return items

    # Modules and objects

    def attribute(self, owner: Any, stand_in: Any, attribute: str, name: str) -> Any:
        """An attribute of a module, a class or an object."""
        kind = type(owner)
        if isinstance(kind.__getattribute__, FunctionType):
            raise Refusal(f"it uses {name}, which is computed in a way of its own")
        found = inspect.getattr_static(owner, attribute, ABSENT)
        if found is ABSENT:
            if hasattr(kind, "__getattr__") or "__getattr__" in _stored(owner):
                raise Refusal(f"it uses {name}, which is computed when it is read")
            self._guards.watch_attribute(owner, attribute, ABSENT)
            raise AttributeError(f"{name} does not exist")
        if isinstance(owner, type) or found is not _stored(owner).get(attribute, ABSENT):
            if isinstance(found, property):
                self._guards.watch_attribute(kind, attribute, found)
                return self.of(found.fget, name)(stand_in)
            if hasattr(type(found), "__get__") and not isinstance(found, _USUAL_DESCRIPTORS):
                raise Refusal(f"it uses {name}, which is not written in Python")
        value = getattr(owner, attribute)
        self._guards.watch_attribute(owner, attribute, value)
        return self.of(value, name)


_BUILTINS = vars(builtins)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_COMPARED_BY_VALUE = (int, float, str, bytes, type(None), *_CONTAINERS)
_USUAL_EQUALITIES: tuple[Any, ...] = (object.__eq__, type.__eq__)
_USUAL_DESCRIPTORS: tuple[type, ...] = (
    FunctionType,
    staticmethod,
    classmethod,
    MemberDescriptorType,  # of __slots__
    type(vars(namedtuple("_", "field"))["field"]),
)


def expression_of(value: Any) -> Expression | None:
    """The expression of a schedule, or of whatever else has one; None for anything else."""
    expression = getattr(value, "expression", None)
    return expression if isinstance(expression, Expression) else None


def _call_expression(expression: Expression, step: Any) -> Any:
    """An expression of a symbol, or its value at a number."""
    program = compile_(expression)
    if not isinstance(step, Symbol):
        return evaluate(program, step)
    paths = step.paths
    results: list[Expression] = []
    for op, a, b, c, value in program.code:
        if op == "constant":
            result = paths.constant(value)
        elif op == "step":
            result = step.expression
        elif op == "table":
            result = paths.table(results[a], tuple(program.tables[b : b + c]))
        else:
            result = paths.node(op, *(results[place] for place in (a, b, c) if place >= 0))
        results.append(result)
    return Symbol(paths, results[-1], float)


def _modules(value: Any) -> set[str]:
    """The packages that a value, or its type, or the object whose method it is, come from."""
    origins: list[Any] = [type(value)]
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        origins += [value, type(getattr(value, "__self__", None))]
    names = (getattr(origin, "__module__", None) for origin in origins)
    return {name.partition(".")[0] for name in names if isinstance(name, str)}


def _is_compared_rightly(entry: Any) -> bool:
    """Whether an entry that equals another one, as containers compare, does the same."""
    return isinstance(entry, _COMPARED_BY_VALUE) or type(entry).__eq__ in _USUAL_EQUALITIES


def _with_symbolic_sets(code: CodeType) -> CodeType:
    """The same code, in which ``x in {1, 2}`` looks a symbol up."""
    constants = tuple(
        SymbolicSet(constant)
        if isinstance(constant, frozenset)
        else _with_symbolic_sets(constant)
        if isinstance(constant, CodeType)
        else constant
        for constant in code.co_consts
    )
    return code.replace(co_consts=constants)


def _stored(owner: Any) -> Mapping[str, Any]:
    """The attributes that an object has of its own."""
    stored: Mapping[str, Any] = getattr(owner, "__dict__", {})
    return stored


def _contents(cell: CellType) -> list[Any]:
    return [cell.cell_contents] if cell != CellType() else []


class _Globals(dict[str, Any]):
    """The global variables of a copied function: read when they are used."""

    def __init__(self, stand_ins: StandIns, namespace: dict[str, Any]) -> None:
        self._given: dict[str, Any] = {"__builtins__": {"__import__": stand_ins.import_}}
        super().__init__(self._given)
        self._stand_ins = stand_ins
        self._namespace = namespace

    def __missing__(self, name: str) -> Any:
        self[name] = self._given[name] = self._stand_ins.global_variable(self._namespace, name)
        return self[name]

    def changed_names(self) -> list[Any]:
        """The variables that the function has set or deleted."""
        names = self.keys() | self._given.keys()
        return [name for name in names if self.get(name, self) is not self._given.get(name, ABSENT)]


def _object_stand_in(stand_ins: StandIns, original: Any, name: str) -> Any:
    """Something with the attributes of a module, a class or an object, to be read only."""
    kind = type(original)

    class StandIn:
        __slots__ = ()

        def __getattr__(self, attribute: str) -> Any:
            return stand_ins.attribute(original, self, attribute, f"{name}.{attribute}")

        def __setattr__(self, attribute: str, value: Any) -> None:
            raise Refusal(f"it sets {name}.{attribute}")

        def __delattr__(self, attribute: str) -> None:
            raise Refusal(f"it deletes {name}.{attribute}")

        def __eq__(self, other: object) -> bool:
            if kind.__eq__ not in _USUAL_EQUALITIES:
                raise Refusal(f"it compares {name}")
            return self is other

        def __bool__(self) -> bool:
            if hasattr(kind, "__bool__") or hasattr(kind, "__len__"):
                raise Refusal(f"it asks whether {name} is true")
            return True

    def special(method: str) -> Callable[..., Any]:
        def call(self: StandIn, *args: Any, **options: Any) -> Any:
            if not isinstance(inspect.getattr_static(kind, method, None), FunctionType):
                raise Refusal(f"it uses {name}, a {kind.__name__}, which is not written in Python")
            return stand_ins.attribute(original, self, method, name)(*args, **options)

        return call

    for method in ("__call__", "__len__", "__getitem__", "__contains__", "__iter__", "__next__"):
        setattr(StandIn, method, special(method))
    StandIn.__name__ = StandIn.__qualname__ = kind.__name__  # which errors tell
    return StandIn()
