"""A trace notices that something which the function has read is another one now."""

import copy
import dataclasses
import functools
import gc
import math
import sys
import types
import weakref
from types import SimpleNamespace

import pytest

from fusedlr.expression import STEP, apply, compile_, evaluate
from fusedlr.tracing import Traced, trace

MODULE = types.ModuleType("settings")
MODULE.gamma = 0.9
GAMMA = 0.9
BOX = SimpleNamespace(gamma=0.9)
FACTORS = [1.0, 0.5]


def helper(x):
    return x / 2


def other_helper(x):
    return x / 4


class Decay:
    rate = 0.9

    def __init__(self):
        self.gamma = 0.9
        self.milestones = [3, 5]
        self.nested = SimpleNamespace(depth=SimpleNamespace(power=2.0))

    @property
    def doubled(self):
        return 2 * self.gamma

    def factor(self, step):
        return self.gamma**step

    def __call__(self, step):
        return self.factor(step)


@dataclasses.dataclass
class Settings:
    gamma: float = 0.9


class Slotted:
    __slots__ = ("gamma",)

    def __init__(self):
        self.gamma = 0.9

    def __call__(self, step):
        return self.gamma**step


# Each gives a function, and a change of something that it reads.


def closure():
    gamma = 0.9

    def change():
        nonlocal gamma
        gamma = 0.8

    return lambda e: gamma**e, change


def closure_of_a_helper():
    gamma = 0.9

    def inner(x):
        return gamma * x

    def change():
        nonlocal gamma
        gamma = 0.8

    return lambda e: inner(e), change


def closure_emptied():
    gamma = 0.9

    def change():
        nonlocal gamma
        del gamma

    return lambda e: gamma**e, change


def closure_with_an_equal_object():
    settings = Settings()
    replaced = Settings()

    def function(step):
        return settings.gamma**step

    def change():
        nonlocal settings
        settings = replaced  # equal now, but not for long

    return function, change


def global_variable(monkeypatch):
    return lambda e: GAMMA**e, lambda: monkeypatch.setitem(globals(), "GAMMA", 0.8)


def global_deleted(monkeypatch):
    return lambda e: GAMMA**e, lambda: monkeypatch.delitem(globals(), "GAMMA")


def global_function(monkeypatch):
    return lambda e: helper(e), lambda: monkeypatch.setitem(globals(), "helper", other_helper)


def global_that_hides_a_builtin(monkeypatch):
    return (
        lambda e: min(1.0, e / 10),
        lambda: monkeypatch.setitem(globals(), "min", max),
    )


def code_replaced():
    def function(step):
        return 0.9**step

    def change():
        function.__code__ = (lambda step: 0.8**step).__code__

    return function, change


def default_replaced():
    def function(step, gamma=0.9):
        return gamma**step

    def change():
        function.__defaults__ = (0.8,)

    return function, change


def default_list():
    def function(step, factors=[0.5, 0.9]):  # noqa: B006
        return factors[0] ** step

    def change():
        function.__defaults__[0][0] = 0.8

    return function, change


def keyword_default():
    def function(step, *, gamma=0.9):
        return gamma**step

    def change():
        function.__kwdefaults__["gamma"] = 0.8

    return function, change


def keyword_of_a_partial():
    function = functools.partial(lambda e, gamma: gamma**e, gamma=0.9)
    return function, lambda: function.keywords.update(gamma=0.8)


def argument_of_a_nested_partial():
    factors = [0.9]
    function = functools.partial(functools.partial(lambda f, g, e: f[0] ** e, factors), 1.0)
    return function, lambda: factors.__setitem__(0, 0.8)


def list_entry():
    return lambda e: FACTORS[min(e, 1)], lambda: FACTORS.__setitem__(0, 0.8)


def list_length():
    milestones = [3, 5]
    return lambda e: 0.9 ** sum(e >= m for m in milestones), lambda: milestones.append(7)


def list_within_a_list():
    pairs = [[3, 0.5], [5, 0.25]]
    return (
        lambda e: sum(f for m, f in pairs if e >= m) + 1,
        lambda: pairs[1].__setitem__(1, 0.8),
    )


def list_within_a_tuple():
    pairs = ([3, 0.5],)
    return (lambda e: pairs[0][1] ** e, lambda: pairs[0].__setitem__(1, 0.8))


def dict_entry():
    factors = {"gamma": 0.9}
    return lambda e: factors["gamma"] ** e, lambda: factors.update(gamma=0.8)


def dict_key():
    factors = {0: 1.0, 10: 0.9}
    return lambda e: factors.get(e, 0.5), lambda: factors.update({20: 0.8})


def set_member():
    members = {3, 5}
    return lambda e: 0.5 if e in members else 1.0, lambda: members.add(7)


def function_in_a_list():
    parts = [lambda e: e / 2, lambda e: e / 3]
    return lambda e: parts[e > 5](e), lambda: parts.reverse()


def attribute():
    box = SimpleNamespace(gamma=0.9)
    return lambda e: box.gamma**e, lambda: setattr(box, "gamma", 0.8)


def attribute_of_a_global(monkeypatch):
    return lambda e: BOX.gamma**e, lambda: monkeypatch.setattr(BOX, "gamma", 0.8)


def attribute_of_the_function_itself():
    decay = Decay()
    return decay, lambda: setattr(decay, "gamma", 0.8)


def attribute_deep_down():
    decay = Decay()
    return (
        lambda e: decay.nested.depth.power * e,
        lambda: setattr(decay.nested.depth, "power", 0.8),
    )


def attribute_behind_a_property():
    decay = Decay()
    return lambda e: decay.doubled * e, lambda: setattr(decay, "gamma", 0.8)


def attribute_in_a_slot():
    slotted = Slotted()
    return slotted, lambda: setattr(slotted, "gamma", 0.8)


def attribute_that_appears():
    box = SimpleNamespace()
    return lambda e: getattr(box, "gamma", 0.9) ** e, lambda: setattr(box, "gamma", 0.8)


def all_attributes():
    decay = Decay()
    return decay, lambda: setattr(decay, "__dict__", {**vars(decay), "gamma": 0.8})


def list_in_an_attribute():
    decay = Decay()
    return lambda e: 0.9 ** sum(e >= m for m in decay.milestones), decay.milestones.clear


def method_of_the_object():
    decay = Decay()
    return decay, lambda: setattr(decay, "factor", lambda step: 0.8**step)


def method_of_the_class(monkeypatch):
    return Decay(), lambda: monkeypatch.setattr(Decay, "factor", lambda self, e: 0.8**e)


def call_of_the_class(monkeypatch):
    return Decay(), lambda: monkeypatch.setattr(Decay, "__call__", lambda self, e: 0.8**e)


def property_of_the_class(monkeypatch):
    decay = Decay()
    return (
        lambda e: decay.doubled * e,
        lambda: monkeypatch.setattr(Decay, "doubled", property(lambda self: 0.8)),
    )


def attribute_of_the_class(monkeypatch):
    decay = Decay()
    return lambda e: decay.rate**e, lambda: monkeypatch.setattr(Decay, "rate", 0.8)


def attribute_that_hides_that_of_the_class():
    decay = Decay()
    return lambda e: decay.rate**e, lambda: setattr(decay, "rate", 0.8)


def attribute_of_a_module(monkeypatch):
    return lambda e: MODULE.gamma**e, lambda: monkeypatch.setattr(MODULE, "gamma", 0.8)


def module_that_is_imported_inside(monkeypatch):
    monkeypatch.setitem(sys.modules, "settings_of_a_test", MODULE)
    replaced = types.ModuleType("settings")
    replaced.gamma = 0.8

    def function(step):
        import settings_of_a_test

        return settings_of_a_test.gamma**step

    return function, lambda: monkeypatch.setitem(sys.modules, "settings_of_a_test", replaced)


CHANGES = [
    closure,
    closure_of_a_helper,
    closure_emptied,
    closure_with_an_equal_object,
    global_variable,
    global_deleted,
    global_function,
    global_that_hides_a_builtin,
    code_replaced,
    default_replaced,
    default_list,
    keyword_default,
    keyword_of_a_partial,
    argument_of_a_nested_partial,
    list_entry,
    list_length,
    list_within_a_list,
    list_within_a_tuple,
    dict_entry,
    dict_key,
    set_member,
    function_in_a_list,
    attribute,
    attribute_of_a_global,
    attribute_of_the_function_itself,
    attribute_deep_down,
    attribute_behind_a_property,
    attribute_in_a_slot,
    attribute_that_appears,
    all_attributes,
    list_in_an_attribute,
    method_of_the_object,
    method_of_the_class,
    call_of_the_class,
    property_of_the_class,
    attribute_of_the_class,
    attribute_that_hides_that_of_the_class,
    attribute_of_a_module,
    module_that_is_imported_inside,
]


def traced(function):
    trace_ = trace(function)
    assert isinstance(trace_, Traced), trace_
    return trace_


def printing(function):
    return lambda e: print(function(e))


def values(trace_):
    program = compile_(trace_.expression)
    return [evaluate(program, step) for step in range(30)]


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_a_trace_is_not_current_once_what_it_read_has_changed(make, monkeypatch):
    takes = make.__code__.co_varnames[: make.__code__.co_argcount]
    function, change = make(*([monkeypatch] if takes else []))
    trace_ = traced(function)
    assert trace_.is_current()

    change()

    assert not trace_.is_current()
    again = trace(function)
    if isinstance(again, Traced):
        assert again.is_current()
        assert values(again) == [function(step) for step in range(30)]


def test_a_function_is_traced_anew_with_what_it_reads_now():
    box = SimpleNamespace(gamma=0.9)
    function = lambda e: box.gamma**e  # noqa: E731
    before = traced(function)

    box.gamma = 0.8

    assert values(traced(function)) != values(before)


def test_an_equal_number_or_text_in_the_place_of_another_changes_nothing():
    box = SimpleNamespace(gamma=0.9, steps=1000, kind="cosine", on=True)

    def function(step):
        return min(1.0, step / box.steps) if box.on and box.kind == "cosine" else box.gamma

    trace_ = traced(function)
    box.gamma = float("0.9")
    box.steps = int("1000")
    box.kind = "".join(["cos", "ine"])

    assert trace_.is_current()


@pytest.mark.parametrize(
    ("before", "after"), [(0.0, -0.0), (1, 1.0), (1, True), (0.9, 0.9000000000000001)]
)
def test_a_number_that_may_do_something_else_is_another_one(before, after):
    box = SimpleNamespace(value=before)
    trace_ = traced(lambda e: math.cos(e) * box.value)

    box.value = after

    assert not trace_.is_current()


def test_what_the_function_does_not_read_is_not_watched():
    box = SimpleNamespace(gamma=0.9, other=1.0, log=[])
    unused = 1.0

    def function(step):
        return box.gamma**step

    def other():
        return unused

    trace_ = traced(function)
    box.other = 2.0
    box.log.append(1)
    box.new = 3.0
    unused = 2.0

    assert trace_.is_current()
    assert other() == 2.0


def test_what_is_read_on_any_path_is_watched():
    box = SimpleNamespace(early=1.0, late=0.5)
    trace_ = traced(lambda e: box.early if e < 10**6 else box.late)

    box.late = 0.25

    assert not trace_.is_current()


def test_a_change_that_is_taken_back_counts_for_nothing():
    box = SimpleNamespace(gamma=0.9)
    trace_ = traced(lambda e: box.gamma**e)

    box.gamma = 0.8
    assert not trace_.is_current()
    box.gamma = 0.9
    assert trace_.is_current()


def test_a_trace_without_surroundings_is_always_current():
    assert traced(math.sqrt).is_current()
    assert Traced.of(apply("add", STEP, 1)).is_current()


def test_a_trace_does_not_keep_its_surroundings_beyond_itself():
    class Big:
        pass

    def make():
        big = Big()
        big.gamma = 0.9
        return (lambda e: big.gamma**e), weakref.ref(big)

    function, reference = make()
    trace_ = traced(function)
    refused = trace(printing(function))
    assert trace_.is_current()

    del function, trace_, refused
    gc.collect()

    assert reference() is None


def test_a_copied_object_has_a_trace_of_its_own():
    decay = Decay()
    twin = copy.deepcopy(decay)
    trace_, trace_of_twin = traced(decay), traced(twin)

    twin.gamma = 0.8

    assert trace_.is_current()
    assert not trace_of_twin.is_current()
