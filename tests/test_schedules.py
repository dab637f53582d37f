"""Schedules as values: their numbers, their forms as text and data, their sums, their errors."""

import copy
import doctest
import importlib
import itertools
import json
import math
import pickle
import pkgutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlr import _backend, schedules
from fusedlr.expression import STEP, compile_
from fusedlr.schedules import Schedule, parse
from schedule_value_cases import CASES, OPERATIONS, REFUSALS

ULP = np.finfo(np.float64).eps

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
each_refusal = pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.text)
each_text = pytest.mark.parametrize(
    "text", [case.text for case in CASES] + [text for text, _ in OPERATIONS]
)


def close(value, ulps=4):
    return pytest.approx(value, rel=ulps * ULP, abs=1e-16)


def in_python(text):
    """What Python makes of the text, with the names of the module."""
    return eval(text, {name: getattr(schedules, name) for name in schedules.__all__})


def test_every_public_schedule_has_its_rows():
    functions = set(schedules.__all__) - {"Schedule", "parse"}
    assert functions == {case.name for case in CASES}


# Numbers


@each_case
def test_a_schedule_has_the_values_of_its_row(case):
    schedule = parse(case.text)
    assert {step: schedule(step) for step in case.values} == {
        step: close(value) for step, value in case.values.items()
    }


@each_case
def test_a_schedule_rises_falls_and_stays_where_its_row_says(case):
    schedule = parse(case.text)
    holds = {
        "rises": lambda a, b: a < b,
        "falls": lambda a, b: a > b,
        "stays": lambda a, b: a == b,
    }
    for (start, stop), move in case.moves.items():
        values = [schedule(step) for step in range(start, stop + 1)]
        assert all(map(holds[move], values, values[1:])), (start, stop, move)


@each_case
def test_a_schedule_has_its_first_value_before_its_start(case):
    schedule = parse(case.text)
    assert [schedule(step) for step in (-0.5, -1, -1000)] == 3 * [schedule(0)]


@each_case
def test_a_schedule_settles_at_its_end_exactly(case):
    schedule = parse(case.text)
    if case.settles is not None:
        ends = [schedule(case.settles + later) for later in (0, 0.5, 1, 10, 10**6, 10**15)]
        assert ends == len(ends) * [ends[0]]
        assert case.settles == 0 or schedule(case.settles - 1) != ends[0]
    else:
        assert schedule(300) != schedule(401)


@each_text
def test_numbers_arrays_tensors_and_the_engine_give_the_same_values(text):
    schedule = parse(text)
    steps = np.concatenate([np.arange(-2, 160), [0.5, 30.25, 1e6, 1e12]])
    one_by_one = np.array([schedule(step) for step in steps.tolist()])

    in_array = schedule(steps)
    in_tensor = schedule(torch.from_numpy(steps))
    in_engine = _backend.new_expression(compile_(schedule.expression))

    assert isinstance(in_array, np.ndarray)
    assert in_array.dtype == np.float64
    assert in_tensor.dtype == torch.float64
    # The vectorised cosine and power may differ from the C library's in the last bit.
    bound = 2 * np.spacing(np.abs(one_by_one).max())
    np.testing.assert_allclose(in_array, one_by_one, rtol=0, atol=bound)
    np.testing.assert_array_equal(in_tensor.numpy(), in_array)
    assert [in_engine(step) for step in steps.tolist()] == one_by_one.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (6,), (2, 3), (1, 2, 1)])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_arrays_and_tensors_keep_their_shape_and_become_float64(shape, dtype):
    schedule = schedules.linear(0.0, 8.0, steps=8)
    array = np.arange(math.prod(shape), dtype=dtype).reshape(shape)

    for steps in (array, torch.from_numpy(array)):
        values = schedule(steps)
        assert type(values) is type(steps)
        assert values.shape == steps.shape
        assert str(values.dtype).removeprefix("torch.") == "float64"
        assert values.tolist() == array.astype(float).tolist()


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3), np.float32(3), True + 2])
def test_a_number_gives_a_float(step):
    value = schedules.linear(0.0, 8.0, steps=8)(step)
    assert type(value) is float
    assert value == 3.0


def test_any_view_of_an_array_is_an_array_of_steps():
    schedule = schedules.linear(0.0, 8.0, steps=8)
    whole = np.arange(6, dtype=np.uint16)
    frozen = whole.copy()
    frozen.setflags(write=False)
    for steps in (whole[::-1], whole[::2], frozen, whole.reshape(2, 3).T, np.broadcast_to(3, 4)):
        np.testing.assert_array_equal(schedule(steps), steps)
        assert schedule(steps) is not steps


def test_a_list_of_steps_gives_a_list():
    assert schedules.linear(0.0, 8.0, steps=8)([1, 2]) == [1.0, 2.0]


def test_a_schedule_of_an_expression_is_an_expression():
    schedule = schedules.cosine(1.0, steps=10)
    shifted = schedule(STEP - 5)
    function = _backend.new_expression(compile_(shifted))
    assert [function(step) for step in range(20)] == [schedule(step - 5) for step in range(20)]
    assert function(10) != schedule(10)


def test_long_joins_are_no_deeper_than_python_can_recurse():
    count = 3_000
    stairs = schedules.piecewise_constant(range(count), range(1, count))
    assert [stairs(step) for step in (0, 1, 1_234, count, 2 * count)] == [0, 1, 1_234, 2_999, 2_999]
    later = schedules.join([-1.0, stairs], [10])
    assert [later(step) for step in (9, 10, 1_010)] == [-1.0, 0.0, 1_000.0]


# Any arguments

finite = st.floats(-1e6, 1e6, allow_subnormal=False)
lengths = st.integers(1, 10**6)
RAMPS = {
    "linear": {},
    "cosine": {"exponent": st.floats(0.2, 4.0)},
    "polynomial": {"power": st.floats(0.2, 4.0)},
    "one_minus_sqrt": {},
    "geometric": {},
}


@pytest.mark.parametrize("name", RAMPS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_a_ramp_goes_from_end_to_end_without_turning_back(name, data):
    ends = st.floats(1e-6, 1e6) if name == "geometric" else finite
    init, end, steps = data.draw(ends), data.draw(ends), data.draw(lengths)
    options = {key: data.draw(values) for key, values in RAMPS[name].items()}
    schedule = getattr(schedules, name)(init, end, steps=steps, **options)

    assert schedule(0) == init
    assert schedule(steps) == schedule(steps + 1) == end
    values = [schedule(steps * part / 16) for part in range(17)]
    slack = 4 * ULP * max(abs(init), abs(end))
    sign = math.copysign(1.0, end - init)
    for before, after in itertools.pairwise(values):
        assert sign * (after - before) >= -slack
    assert all(min(init, end) - slack <= value <= max(init, end) + slack for value in values)


WARMUPS = ["warmup_linear", "warmup_cosine", "warmup_polynomial"]


@pytest.mark.parametrize("name", WARMUPS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(peak=finite, init=finite, end=finite, warmup_steps=lengths, decay_steps=lengths)
def test_a_warmup_meets_its_corners_exactly(name, peak, init, end, warmup_steps, decay_steps):
    total_steps = warmup_steps + decay_steps
    schedule = getattr(schedules, name)(
        peak, warmup_steps=warmup_steps, total_steps=total_steps, init=init, end=end
    )
    corners = [schedule(step) for step in (0, warmup_steps, total_steps, 2 * total_steps)]
    assert corners == [init, peak, end, end]
    middle = schedule(warmup_steps / 2)
    assert middle == pytest.approx((init + peak) / 2, abs=1e-9, rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 10**6), st.integers(2, 12), st.integers(0, 12), st.integers(0, 1))
def test_cosine_restarts_find_their_period_next_to_every_boundary(period, growth, index, side):
    schedule = schedules.cosine_restarts(1.0, period=period, growth=growth)
    start = period * (growth**index - 1) // (growth - 1)
    length = period * growth**index
    at = [schedule(start), schedule(start + length - 1), schedule(start + side * (length - 1))]
    last = 0.5 * (1 + math.cos(math.pi * (length - 1) / length))
    assert at[0] == 1.0
    assert at[1] == (pytest.approx(last, abs=1e-12) if length > 1 else 1.0)


@pytest.mark.parametrize("growth", [2, 3, 5, 10, 17])
@pytest.mark.parametrize("period", [1, 2, 3, 10, 1000])
def test_cosine_restarts_find_their_period_up_to_the_last_whole_float(period, growth):
    schedule = schedules.cosine_restarts(1.0, period=period, growth=growth)
    start, length = period, period * growth
    while start + length < 2**53:
        last = 0.5 * (1 + math.cos(math.pi * (length - 1) / length))
        assert schedule(start) == 1.0
        assert schedule(start + length - 1) == pytest.approx(last, abs=1e-12)
        start, length = start + length, length * growth


parts = st.sampled_from([case.text for case in CASES]).map(parse) | st.floats(-9, 9)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_join_starts_each_part_at_its_boundary(data):
    boundaries = sorted(data.draw(st.lists(st.integers(0, 100), max_size=4)))
    count = len(boundaries) + 1
    members = data.draw(st.lists(parts, min_size=count, max_size=count))
    joined = schedules.join(members, boundaries)

    for step in range(0, 130, 3):
        index = sum(boundary <= step for boundary in boundaries)
        start = boundaries[index - 1] if index else 0
        member = members[index]
        expected = member(step - start) if isinstance(member, Schedule) else member
        assert joined(step) == expected


@pytest.mark.parametrize(("text", "function"), OPERATIONS, ids=[text for text, _ in OPERATIONS])
def test_arithmetic_is_that_of_the_values(text, function):
    schedule = parse(text)
    assert schedule == in_python(text)
    assert [schedule(step) for step in range(9)] == [close(function(step)) for step in range(9)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.recursive(
    parts,
    lambda inner: st.tuples(st.sampled_from("+-*/~"), inner, inner),
    max_leaves=6,
))  # fmt: skip
def test_any_sum_and_product_survives_text_data_and_pickle(tree):
    def build(node):
        if not isinstance(node, tuple):
            return node
        a, b = build(node[1]), build(node[2])
        if node[0] == "~":
            return -a
        if node[0] == "/":
            return a / b if b != 0 else a
        return (
            {"+": a.__add__, "-": a.__sub__, "*": a.__mul__}[node[0]](b)
            if isinstance(a, Schedule)
            else {"+": b.__radd__, "-": b.__rsub__, "*": b.__rmul__}[node[0]](a)
        )

    schedule = build(tree)
    if isinstance(schedule, Schedule):
        assert_same(eval(repr(schedule), vars(schedules)), schedule)
        assert_same(parse(repr(schedule)), schedule)
        assert_same(Schedule.from_json(json.loads(json.dumps(schedule.to_json()))), schedule)


def assert_same(one, other):
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)
    np.testing.assert_array_equal([one(t) for t in range(50)], [other(t) for t in range(50)])


# A value


@each_text
def test_a_schedule_survives_text_data_and_copies(text):
    schedule = parse(text)
    assert_same(in_python(repr(schedule)), schedule)
    assert_same(parse(repr(schedule)), schedule)
    assert_same(Schedule.from_json(json.loads(json.dumps(schedule.to_json()))), schedule)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(schedule, protocol)), schedule)
    assert copy.copy(schedule) is schedule
    assert copy.deepcopy([schedule])[0] is schedule


def test_the_data_of_a_schedule_passes_a_checkpoint_of_plain_data(tmp_path):
    schedule = schedules.join([schedules.cosine(1.0, steps=9), 0.5], [9]) * 0.1
    torch.save({"lr": schedule.to_json()}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert_same(Schedule.from_json(loaded["lr"]), schedule)


def test_the_text_is_the_call_without_what_is_default():
    s = schedules
    assert repr(s.cosine(1, 0, steps=5e3)) == "cosine(1.0, steps=5000)"
    assert repr(s.cosine(end=0.5, init=1, steps=5)) == "cosine(1.0, 0.5, steps=5)"
    assert repr(s.wsd(1, warmup_steps=1, decay_steps=2, total_steps=9, decay="linear")) == (
        "wsd(1.0, warmup_steps=1, decay_steps=2, total_steps=9, decay='linear')"
    )
    assert repr(s.join((s.constant(1), 2), (7,))) == "join([constant(1.0), 2.0], [7])"


def test_the_data_has_every_argument_so_that_a_default_can_change():
    assert schedules.step(0.1, step_size=30).to_json() == {
        "name": "step",
        "arguments": {"init": 0.1, "step_size": 30, "gamma": 0.1},
    }


def test_equal_calls_make_equal_schedules_and_others_do_not():
    s = schedules
    assert s.cosine(1, steps=10) == s.cosine(init=1.0, end=0, steps=np.int64(10))
    assert len({s.cosine(1, steps=10), s.cosine(1.0, 0.0, steps=10)}) == 1
    others = [
        s.cosine(1, steps=11),
        s.cosine(1, 0.1, steps=10),
        s.polynomial(1, steps=10),
        s.linear(1, 0, steps=10),
        2.0 * s.cosine(1, steps=10),
        s.cosine(1, steps=10) * 2.0,
        1.0,
    ]
    for index, one in enumerate(others):
        assert one != s.cosine(1, steps=10)
        assert one not in others[:index]


def test_a_schedule_does_not_change():
    schedule = schedules.cosine(1.0, steps=10)
    for name in ("name", "arguments", "expression", "another"):
        with pytest.raises(AttributeError):
            setattr(schedule, name, None)
    values = [1.0, 2.0]
    joined = schedules.join(values, [5])
    values[0] = 9.0
    assert joined(0) == 1.0


def test_numbers_of_numpy_and_torch_are_plain_numbers_in_a_schedule():
    plain = 0.5 * schedules.linear(1.0, 0.25, steps=4)
    other = torch.tensor(1.0)
    for half in (np.float64(0.5), np.float32(0.5), torch.tensor(0.5)):
        schedule = half * schedules.linear(other, np.float32(0.25), steps=torch.tensor(4))
        assert_same(schedule, plain)
    assert_same(schedules.linear(1.0, 0.25, steps=4) * np.float64(0.5) + 0, plain.__class__
                .from_json((schedules.linear(1.0, 0.25, steps=4) * 0.5 + 0).to_json()))  # fmt: skip


@pytest.mark.parametrize(
    "other", ["2", None, [1.0], True, 1j, object(), np.ones(2), np.ones(1), torch.ones(2)]
)
def test_arithmetic_with_what_is_no_number_is_a_type_error(other):
    schedule = schedules.constant(1.0)
    for operate in (
        lambda: schedule + other,
        lambda: other - schedule,
        lambda: schedule * other,
        lambda: other / schedule,
    ):
        with pytest.raises(TypeError):
            operate()


def test_a_lambda_lr_takes_a_schedule_and_saves_and_resumes(tmp_path):
    def new():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        schedule = schedules.warmup_cosine(1.0, warmup_steps=3, total_steps=10)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)

    optimizer, scheduler = new()
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    resumed = new()[1]
    resumed.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))

    expected = schedules.warmup_cosine(1.0, warmup_steps=3, total_steps=10)
    assert scheduler.get_last_lr() == [0.5 * expected(5)]
    assert resumed.last_epoch == 5
    assert_same(resumed.lr_lambdas[0], expected)


# Errors


@each_refusal
def test_a_call_that_cannot_be_is_refused_with_the_value_and_the_repair(refusal):
    with pytest.raises(refusal.error) as caught:
        parse(refusal.text)
    for word in refusal.words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (None, "None"),
        ([], "[]"),
        ({}, "{}"),
        ({"name": "constant"}, "'arguments'"),
        ({"name": "constant", "arguments": {"value": 1.0}, "more": 1}, "more"),
        ({"name": "constant", "arguments": [1.0]}, "[1.0]"),
        ({"name": "constnat", "arguments": {"value": 1.0}}, "did you mean 'constant'"),
        ({"name": ["constant"], "arguments": {"value": 1.0}}, "['constant']"),
    ],
)
def test_data_that_is_no_schedule_is_refused(data, word):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Schedule.from_json(data)
    assert word in str(caught.value)


def test_data_with_other_arguments_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        Schedule.from_json({"name": "constant", "arguments": {"value": 1.0, "speed": 1.0}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot read ''"),
        ("linear(", "cannot read 'linear('"),
        ("linear", "cannot read 'linear'"),
        ("'linear'", "'linear'"),
        ("[1, 2]", "[1, 2]"),
        ("1 if 2 else 3", "1 if 2 else 3"),
        ("__import__('os').getcwd()", "getcwd"),
        ("(lambda: 1)()", "lambda"),
        ("constant(open('file'))", "'open'"),
        ("constant([x for x in (1, 2)])", "for x in"),
        ("constant(**{'value': 1})", "**"),
        ("constant(*[1])", "*[1]"),
        ("constant(2 ** 3)", "2 ** 3"),
        ("constant('a' * 3)", "'a'"),
        ("constant([1] * 3)", "[1]"),
        ("constant(1 / 0)", "divides by 0"),
        ("constant(True + 1)", "True"),
        ("constant(3j)", "3j"),
        ("constant(b'1')", "b'1'"),
        ("s.constant(1)", "s.constant"),
        ("constant(1); constant(2)", "cannot read"),
    ],
)
def test_text_that_is_no_schedule_is_refused_without_running_it(text, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(text)
    assert words in str(caught.value)


def test_text_may_compute_with_numbers():
    assert parse(" linear(2 * 0.05, -1/4, steps=3 * (10 + 2)) ") == schedules.linear(
        0.1, -0.25, steps=36
    )
    assert parse("0.25") == schedules.constant(0.25)
    assert parse("-(1/4)") == schedules.constant(-0.25)


# Documentation


@pytest.mark.parametrize(
    "module", [schedules.__name__, *(f"{schedules.__name__}.{info.name}"
                                     for info in pkgutil.iter_modules(schedules.__path__))]
)  # fmt: skip
def test_the_examples_of_the_documentation_are_true(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", sorted(set(schedules.__all__) - {"Schedule", "parse"}))
def test_the_documentation_of_a_schedule_has_its_arguments_and_an_example(name):
    function = getattr(schedules, name)
    text = function.__doc__
    assert ">>>" in text
    for parameter in function.__signature__.parameters:
        assert f"\n        {parameter}:" in text, parameter
