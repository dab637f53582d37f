"""Schedulers that take functions of the step: what the functions see, return, raise and read."""

import functools
import math
import warnings

import pytest
import torch

import fusedlr
from schedule_cases import REPRESENTATIVES, WarmUp, cases, each_case
from schedule_lockstep import Lockstep, Side, exact, lrs, make_optimizer

SIDES = (fusedlr, torch.optim)

#: Functions that are no arithmetic stay on the host, with a warning that a test of its own is for.
pytestmark = [
    pytest.mark.usefixtures("compiled_engine"),
    pytest.mark.filterwarnings("ignore:.* on the host at every step:UserWarning"),
]

TAKES_FUNCTIONS = [case.of for case in cases(takes_functions=True, among=REPRESENTATIVES)]

each_class = pytest.mark.parametrize("scheduler", TAKES_FUNCTIONS, ids=str)


def pair(scheduler, make_function, num_groups=3, lr=float):
    """A scheduler on each side, each with a function of its own."""
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library, num_groups, lr)
        built = scheduler.class_in(library)(optimizer, make_function())
        sides.append(Side(library, optimizer, [built]))
        optimizer.step()
    return sides


def assert_equal_steps(sides, steps=12):
    went_through = set()
    for step in range(steps):
        for side in sides:
            side.scheduler.step()
        assert sides[0].observe() == sides[1].observe(), f"after step {step + 1}"
        went_through.add(str(lrs(sides[0].optimizer)))
    assert len(went_through) > 1


class Offset:
    """Its method is a function of the step."""

    def __init__(self, offset):
        self.offset = offset

    def at(self, epoch):
        return 1 / (1 + epoch + self.offset)


def with_default(epoch, floor=0.2):
    return max(floor, 1 - 0.1 * epoch)


def with_two(steps, epoch):
    return (1 + epoch) / steps


def with_table(epoch):
    return [1.0, 0.5, 0.25][min(epoch, 2)]


def with_loop(epoch):
    value = 1.0
    for _ in range(epoch):
        value = value * 0.9
    return value


def with_branches(epoch):
    if epoch < 3:
        return (epoch + 1) / 3
    if epoch % 4 == 0:
        return 0.5
    return 0.5 * (1 + math.cos(math.pi * min(epoch, 10) / 20))


FUNCTIONS = {
    "lambda": lambda: lambda epoch: 0.95**epoch,
    "default argument": lambda: with_default,
    "partial": lambda: functools.partial(with_two, 7),
    "method": lambda: Offset(2).at,
    "callable object": lambda: WarmUp(5),
    "table": lambda: with_table,
    "loop": lambda: with_loop,
    "branches": lambda: with_branches,
    "constants": lambda: lambda epoch: 0.5 if epoch > 2 else 1.0,
    "int": lambda: lambda epoch: epoch + 1,
    "bool": lambda: lambda epoch: epoch < 6,
    "tensor": lambda: lambda epoch: torch.tensor(0.5, dtype=torch.float64) ** epoch,
    "integer arithmetic": lambda: lambda epoch: 1 / (1 + epoch // 3 + epoch % 2),
    "large": lambda: lambda epoch: 1e300 if epoch == 4 else 0.5,
    "big integers": lambda: lambda epoch: (3**epoch) / (3 ** (epoch + 1) + 1),
    "comparison of strings": lambda: lambda epoch: 0.5 if str(epoch) > "3" else 1.0,
    "list for each group": lambda: [with_loop, with_table, lambda epoch: 1 / (1 + epoch)],
    "tuple for each group": lambda: (with_loop, with_loop, WarmUp(3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@each_class
def test_functions_of_any_kind_give_the_bits_of_torch(scheduler, name):
    sides = pair(scheduler, FUNCTIONS[name])
    went_through = set()
    for step in range(14):
        for side in sides:
            side.scheduler.step()
        ours, theirs = (list(map(float, lrs(side.optimizer))) for side in sides)
        assert exact(ours) == exact(theirs), f"after step {step + 1}"
        went_through.add(str(ours))
    assert len(went_through) > 1


@each_case(takes_functions=True, among=REPRESENTATIVES)
def test_functions_may_be_any_sequence(case):
    lockstep = Lockstep(case)
    for side in lockstep.sides:
        side.scheduler.lr_lambdas = tuple(side.scheduler.lr_lambdas)
    lockstep.run(10)


@each_class
def test_functions_may_be_replaced_while_training(scheduler):
    sides = pair(scheduler, lambda: with_branches)
    assert_equal_steps(sides)
    for side in sides:
        side.scheduler.lr_lambdas[1] = with_loop
    assert_equal_steps(sides)
    for side in sides:
        side.scheduler.lr_lambdas = [with_branches, with_branches, with_loop]
    assert_equal_steps(sides)


@each_class
def test_a_changed_attribute_of_a_callable_object_counts(scheduler):
    sides = pair(scheduler, lambda: WarmUp(20))
    assert_equal_steps(sides)
    for side in sides:
        side.scheduler.lr_lambdas[0].steps = 40
    assert_equal_steps(sides)


@each_class
def test_a_changed_variable_of_a_function_counts(scheduler):
    def run(library):
        factor, table = 0.9, {"floor": 0.1}

        def function(epoch):
            return max(factor**epoch, table["floor"])

        optimizer = make_optimizer(library)
        built = scheduler.class_in(library)(optimizer, function)
        optimizer.step()
        went_through = []
        for step in range(12):
            if step == 4:
                factor = 0.8
            if step == 8:
                table["floor"] = 0.6
            built.step()
            went_through.append(lrs(optimizer))
        return went_through

    assert run(fusedlr) == run(torch.optim)


FACTOR = 0.9


@each_class
def test_a_changed_global_of_a_function_counts(scheduler, monkeypatch):
    sides = pair(scheduler, lambda: lambda epoch: FACTOR**epoch)
    assert_equal_steps(sides)
    monkeypatch.setattr(f"{__name__}.FACTOR", 0.7)
    assert_equal_steps(sides)


@each_class
def test_a_function_that_remembers_is_called_once_a_step_for_the_groups_it_serves(scheduler):
    """torch calls it once for each group; with one group they are the same."""

    def calls(library):
        seen_by_function = []

        def function(epoch):
            seen_by_function.append(epoch)
            return 1 / (1 + len(seen_by_function))

        optimizer = make_optimizer(library, num_groups=1)
        built = scheduler.class_in(library)(optimizer, function)
        optimizer.step()
        seen_by_function.clear()
        went_through = []
        for _ in range(6):
            built.step()
            went_through.append(lrs(optimizer))
        return exact(seen_by_function), went_through

    ours, theirs = map(calls, SIDES)
    assert ours[0] == theirs[0] == (list, [(int, step) for step in range(1, 7)])
    assert ours[1] == theirs[1]


@pytest.mark.parametrize("last", ["alone", "second of two"])
@each_class
def test_a_function_that_remembers_is_called_when_torch_calls_it(scheduler, last):
    """From construction on: where torch keeps the lr without a call, a call would be one too many.

    With one group, for which torch calls the function once.
    """

    def calls(library):
        seen_by_function = []

        def function(epoch):
            seen_by_function.append(epoch)
            return 1 / (1 + len(seen_by_function))

        optimizer = make_optimizer(library, num_groups=1)
        built = scheduler.class_in(library)(optimizer, function)
        if last == "second of two":
            first = library.lr_scheduler.ConstantLR(optimizer, 0.5, 2)
            built = library.lr_scheduler.SequentialLR(optimizer, [first, built], [3])
        went_through = [lrs(optimizer)]
        for _ in range(6):
            optimizer.step()
            built.step()
            went_through.append(lrs(optimizer))
        return exact(seen_by_function), went_through

    ours, theirs = map(calls, SIDES)
    assert len(theirs[0][1]) > 3
    assert ours == theirs


@pytest.mark.parametrize("text", ["1 / epoch", "1 / int(str(epoch))"])
@each_class
def test_a_function_needs_a_value_at_epoch_0_only_where_torch_needs_it(scheduler, text):
    def run(library):
        optimizer = make_optimizer(library)
        try:
            built = scheduler.class_in(library)(optimizer, eval(f"lambda epoch: {text}"))
        except ZeroDivisionError as error:
            return str(error)
        went_through = []
        for _ in range(4):
            optimizer.step()
            built.step()
            went_through.append(lrs(optimizer))
        return went_through

    assert run(fusedlr) == run(torch.optim)


@each_class
def test_a_function_sees_the_scheduler_as_torchs_functions_do(scheduler):
    def calls(library):
        seen_by_function = []

        def function(epoch):
            if built is not None:
                seen_by_function.append(
                    (epoch, type(epoch), built.last_epoch, lrs(built.optimizer))
                )
            return 0.5**epoch

        built = None
        optimizer = make_optimizer(library, num_groups=1)
        built = scheduler.class_in(library)(optimizer, function)
        optimizer.step()
        for _ in range(4):
            built.step()
        return seen_by_function[-4:]

    assert calls(fusedlr) == calls(torch.optim)


@each_class
def test_a_function_that_raises_moves_nothing(scheduler):
    def broken(epoch):
        if epoch == 3:
            raise OSError("no learning rate today")
        return 0.9**epoch

    optimizer = make_optimizer(fusedlr)
    built = scheduler.ours(optimizer, [lambda epoch: 0.5**epoch, broken, lambda epoch: 0.5**epoch])
    optimizer.step()
    built.step()
    built.step()
    side = Side(fusedlr, optimizer, [built])
    before = side.observe_progress()

    for _ in range(2):
        with pytest.raises(OSError, match="no learning rate today"):
            built.step()
        assert side.observe_progress() == before


RAISING = {
    "math domain": lambda epoch: math.sqrt(3 - epoch),
    "division": lambda epoch: 1 / (4 - epoch),
    "no number": lambda epoch: None if epoch == 4 else 1.0,
    "text": lambda epoch: "low" if epoch == 4 else 1.0,
    "overflow": lambda epoch: math.exp(200.0 * epoch),
    "power": lambda epoch: 10.0 ** (100 * epoch),
}


@pytest.mark.parametrize("name", RAISING)
@each_class
def test_a_function_without_a_value_raises_as_with_torch_and_moves_nothing(scheduler, name):
    sides = pair(scheduler, lambda: RAISING[name])
    outcomes = []
    for side in sides:
        steps, error, before = side.step_until_refused()
        assert isinstance(error, (ArithmeticError, ValueError, TypeError))
        outcomes.append(steps)
        if side.library is fusedlr:
            assert side.observe_progress() == before
    assert outcomes[0] == outcomes[1]


@each_class
def test_a_function_on_the_host_is_named_in_one_warning(scheduler):
    # By eval, and another for each class: a function's code is named once in a process.
    function = eval(f"lambda epoch: float(str({len(scheduler.name)} / (1 + epoch)))")
    optimizer = make_optimizer(fusedlr)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        built = scheduler.ours(optimizer, function)
        optimizer.step()
        for _ in range(3):
            built.step()
    (warning,) = (str(one.message) for one in caught)
    assert scheduler.name in warning
    assert "lambda" in warning
    assert "total_steps" in warning


@each_class
def test_a_function_of_a_known_horizon_gives_the_bits_of_torch_without_a_warning(scheduler):
    function = eval("lambda epoch: float(str(1 / (1 + epoch)))")
    theirs = make_optimizer(torch.optim)
    their_scheduler = scheduler.theirs(theirs, function)
    ours = make_optimizer(fusedlr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        our_scheduler = scheduler.ours(ours, function, total_steps=20)
        for optimizer in (ours, theirs):
            optimizer.step()
        for _ in range(20):
            our_scheduler.step()
            their_scheduler.step()
            assert lrs(ours) == lrs(theirs)


@pytest.mark.parametrize("total_steps", [0, -1, 10.0, "10"])
@each_class
def test_a_horizon_that_is_no_number_of_steps_is_refused(scheduler, total_steps):
    with pytest.raises(ValueError, match=f"positive integer total_steps, but got {total_steps!r}"):
        scheduler.ours(make_optimizer(fusedlr), with_loop, total_steps=total_steps)


@pytest.mark.parametrize("library", SIDES, ids=lambda library: library.__name__)
@each_class
def test_callable_objects_are_saved_and_functions_are_not(scheduler, library):
    optimizer = make_optimizer(library)
    built = scheduler.class_in(library)(optimizer, [WarmUp(4), lambda epoch: 0.5**epoch, WarmUp(8)])
    state = built.state_dict()
    assert state["lr_lambdas"] == [{"steps": 4}, None, {"steps": 8}]
    optimizer.step()
    state["lr_lambdas"][0]["steps"] = 16
    built.load_state_dict(state)
    assert built.lr_lambdas[0].steps == 16
    assert state["lr_lambdas"] == [{"steps": 16}, None, {"steps": 8}]
