"""A record of the steps, written by the steps themselves."""

import copy
import gc
import math
import pickle
import sys
import types
import weakref
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import fusedlr
from cases import OptimizerCase, each_optimizer, each_with_betas
from fusedlr import _backend
from fusedlr import schedules as s

RAMP = s.linear(1.0, 0.0, steps=100)
DECAY = s.cosine(0.5, steps=40)


@pytest.fixture(params=["cpu", "torch", "no extension"])
def engine(request, monkeypatch):
    """What serves CPU tensors; without the extension, Python does what the engines do."""
    if request.param == "no extension":
        monkeypatch.setattr(_backend, "extension", None)
    else:
        monkeypatch.setenv("FUSEDLR_BACKEND", request.param)
    return request.param


def new_group(**entries: Any) -> dict[str, Any]:
    param = Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    return {"params": [param], **entries}


def make(case: OptimizerCase, *groups: dict[str, Any], **arguments: Any) -> Any:
    return case.ours(list(groups) or [new_group()], **{**case.arguments, **arguments})


def run(optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.step()


def same(ours: list[float], expected: list[float]) -> bool:
    return repr(list(map(float, ours))) == repr(list(map(float, expected)))


@each_optimizer
def test_each_step_is_a_row_of_what_it_has_used(case, engine):
    optimizer = make(case, new_group(), new_group(lr=0.25), lr=RAMP, weight_decay=DECAY)
    history = fusedlr.History(optimizer, capacity=10)
    assert (len(history), history.capacity) == (0, 10)
    assert history.to_dict()["lr[0]"] == []
    run(optimizer, 6)
    steps = list(range(6))
    assert len(history) == 6
    assert history.to_dict() == {
        "step": steps,
        "skipped_steps": [0] * 6,
        "lr[0]": [RAMP(step) for step in steps],
        "lr[1]": [0.25] * 6,
        "weight_decay[0]": [DECAY(step) for step in steps],
        "weight_decay[1]": [DECAY(step) for step in steps],
    }
    rows = history.rows()
    assert rows.dtype == torch.float64
    assert rows.shape == (6, len(history.columns))
    assert rows[:, history.columns.index("lr[0]")].tolist() == [RAMP(step) for step in steps]


@each_optimizer
def test_the_lr_that_a_scheduler_moves_is_recorded_too(case, engine):
    optimizer = make(case, lr=1.0)
    scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    history = fusedlr.History(optimizer, capacity=10)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    optimizer.param_groups[0]["lr"] = 0.75
    optimizer.step()
    assert history.to_dict()["lr[0]"] == [1.0, 0.5, 0.25, 0.125, 0.75]


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8, 9, 13])
@each_optimizer
def test_the_last_steps_are_kept(case, steps, engine):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=4)
    run(optimizer, steps)
    kept = list(range(max(0, steps - 4), steps))
    assert len(history) == len(kept)
    assert history.to_dict()["step"] == kept
    assert history.to_dict()["lr[0]"] == [RAMP(step) for step in kept]


@each_optimizer
def test_a_step_that_was_skipped_has_a_row(case, engine):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=10)
    found_inf = optimizer.found_inf = torch.zeros(())
    for overflow in (True, False, False, True, True, False):
        found_inf.fill_(overflow)
        optimizer.step()
    record = history.to_dict()
    assert record["step"] == [0, 0, 1, 2, 2, 2]
    assert record["skipped_steps"] == [1, 1, 1, 2, 3, 3]
    assert record["lr[0]"] == [RAMP(0), RAMP(0), RAMP(1), RAMP(1), RAMP(1), RAMP(2)]


@each_optimizer
def test_a_step_that_raised_has_no_row(case, engine):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=10)
    run(optimizer, 2)
    (param,) = optimizer.param_groups[0]["params"]
    param.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    param.grad = torch.ones(2)
    run(optimizer, 1)
    assert history.to_dict()["step"] == [0, 1, 2]


@each_optimizer
def test_groups_and_schedules_that_come_later_get_columns_of_their_own(case, engine):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=5)
    run(optimizer, 3)
    optimizer.add_param_group(new_group(lr=0.25))
    run(optimizer, 1)
    optimizer.param_groups[1]["weight_decay"] = DECAY
    optimizer.param_groups[0]["lr"] = 0.5
    run(optimizer, 1)
    record, nan = history.to_dict(), math.nan
    assert list(record) == ["step", "skipped_steps", "lr[0]", "lr[1]", "weight_decay[1]"]
    assert same(record["lr[0]"], [RAMP(0), RAMP(1), RAMP(2), RAMP(3), 0.5])
    assert same(record["lr[1]"], [nan, nan, nan, 0.25, 0.25])
    assert same(record["weight_decay[1]"], [nan, nan, nan, nan, DECAY(4)])
    optimizer.param_groups[1]["weight_decay"] = 0.125
    run(optimizer, 2)
    record = history.to_dict()
    assert record["step"] == [2, 3, 4, 5, 6]
    assert same(record["lr[1]"], [nan, 0.25, 0.25, 0.25, 0.25])
    assert same(record["weight_decay[1]"], [nan, nan, DECAY(4), 0.125, 0.125])


@each_optimizer
def test_a_group_that_is_taken_away_has_no_lr_any_more(case, engine):
    optimizer = make(case, new_group(lr=RAMP), new_group(lr=0.25))
    history = fusedlr.History(optimizer, capacity=5)
    run(optimizer, 2)
    del optimizer.param_groups[1]
    run(optimizer, 2)
    assert history.to_dict()["lr[0]"] == [RAMP(step) for step in range(4)]
    assert same(history.to_dict()["lr[1]"], [0.25, 0.25, math.nan, math.nan])


@each_with_betas
def test_a_pair_is_recorded_by_its_entries(case):
    beta = s.linear(0.5, 0.75, steps=2)
    optimizer = make(case, betas=(0.25, beta))
    history = fusedlr.History(optimizer, capacity=5)
    run(optimizer, 3)
    assert history.columns[2:] == ["lr[0]", "beta2[0]"]
    assert history.to_dict()["beta2[0]"] == [0.5, 0.625, 0.75]


@each_optimizer
def test_recording_changes_no_step(case, engine):
    params = []
    for records in (False, True):
        optimizer = make(case, **case.scheduled["all"])
        if records:
            history = fusedlr.History(optimizer, capacity=3)
        run(optimizer, 8)
        params.append(optimizer.param_groups[0]["params"][0])
    assert torch.equal(*params)
    assert not torch.equal(params[0], torch.ones(2))
    assert len(history) == 3


@each_optimizer
def test_groups_on_the_functions_of_torch_are_recorded_once_per_step(case):
    optimizer = make(case, new_group(), new_group(differentiable=True), lr=RAMP)
    history = fusedlr.History(optimizer, capacity=10)
    run(optimizer, 4)
    record = history.to_dict()
    assert record["step"] == [0, 1, 2, 3]
    assert record["lr[0]"] == record["lr[1]"] == [RAMP(step) for step in range(4)]


@each_optimizer
def test_several_histories_record_independently_of_each_other(case, engine):
    optimizer = make(case, lr=RAMP)
    first = fusedlr.History(optimizer, capacity=3)
    run(optimizer, 2)
    with fusedlr.History(optimizer, capacity=10) as second:
        run(optimizer, 2)
        first.detach()
        first.detach()
        run(optimizer, 1)
    run(optimizer, 1)
    third = fusedlr.History(optimizer, capacity=10)
    run(optimizer, 1)
    recorded = [history.to_dict()["step"] for history in (first, second, third)]
    assert recorded == [[1, 2, 3], [2, 3, 4], [6]]


@each_optimizer
def test_a_record_ends_where_an_error_leaves_its_block(case):
    optimizer = make(case)
    history = fusedlr.History(optimizer, capacity=10)

    def fail() -> None:
        with history:
            optimizer.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    run(optimizer, 1)
    assert len(history) == 1


@each_optimizer
def test_what_was_read_is_a_copy(case):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=2)
    run(optimizer, 2)
    rows = history.rows()
    before = rows.clone()
    run(optimizer, 1)
    assert torch.equal(rows, before)
    rows.fill_(7.0)
    assert history.to_dict()["step"] == [1, 2]


@each_optimizer
def test_copies_and_pickles_of_a_record_keep_what_there_was(case):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=2)
    run(optimizer, 3)
    before = history.to_dict()
    copies = copy.deepcopy(history), pickle.loads(pickle.dumps(history))
    for copied in copies:
        copied.detach()
    run(optimizer, 1)
    assert all(copied.to_dict() == before for copied in copies)
    assert before["step"] == [1, 2]
    assert history.to_dict()["step"] == [2, 3]


@each_optimizer
def test_copies_and_checkpoints_of_an_optimizer_record_nothing(case):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=10)
    run(optimizer, 2)
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        run(copied, 3)
        assert copied.completed_steps == 5
    assert history.to_dict()["step"] == [0, 1]
    optimizer.load_state_dict(optimizer.state_dict())
    run(optimizer, 1)
    assert history.to_dict()["step"] == [0, 1, 2]


@each_optimizer
def test_a_record_outlives_its_optimizer_and_does_not_keep_it(case):
    optimizer = make(case, lr=RAMP)
    history = fusedlr.History(optimizer, capacity=10)
    run(optimizer, 2)
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()
    history.detach()
    assert history.to_dict()["lr[0]"] == [RAMP(0), RAMP(1)]


@each_optimizer
def test_what_is_no_fused_optimizer_is_refused(case):
    theirs = case.theirs([Parameter(torch.ones(1))], **case.arguments)
    with pytest.raises(TypeError, match="optimizers of fusedlr, but got "):
        fusedlr.History(theirs, capacity=10)


@pytest.mark.parametrize(
    ("capacity", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)]
)
@each_optimizer
def test_a_capacity_is_a_positive_number_of_steps(case, capacity, error):
    optimizer = make(case)
    with pytest.raises(error):
        fusedlr.History(optimizer, capacity)
    run(optimizer, 1)


# Data frames and pictures


def recorded() -> fusedlr.History:
    optimizer = fusedlr.SGD(
        [new_group(), new_group(lr=s.constant(0.25))], lr=RAMP, weight_decay=DECAY
    )
    history = fusedlr.History(optimizer, capacity=10)
    run(optimizer, 3)
    return history


def test_a_data_frame_has_the_columns_of_the_record(monkeypatch):
    """With a stand-in for pandas, whose data frame is what it was made from."""
    stand_in = types.ModuleType("pandas")
    stand_in.DataFrame = lambda columns: columns
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    history = recorded()
    assert history.to_pandas() == history.to_dict()
    assert list(history.to_pandas()) == history.columns


@pytest.mark.parametrize(("method", "package"), [("to_pandas", "pandas"), ("plot", "matplotlib")])
def test_a_missing_package_is_named_with_the_way_to_install_it(method, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    history = recorded()
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        getattr(history, method)()
    assert len(history) == 3


def test_a_plot_has_a_line_for_each_group():
    from matplotlib import pyplot

    history = recorded()
    columns = history.to_dict()
    for arguments, hyper in (({}, "lr"), ({"hyper": "weight_decay"}, "weight_decay")):
        axes = history.plot(**arguments)
        lines = axes.get_lines()
        assert [line.get_label() for line in lines] == ["group 0", "group 1"]
        for index, line in enumerate(lines):
            assert list(line.get_xdata()) == columns["step"]
            assert list(line.get_ydata()) == columns[f"{hyper}[{index}]"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", hyper)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["group 0", "group 1"]
        assert history.plot(axes) is axes
        assert len(axes.get_lines()) == 4
        pyplot.close(axes.figure)


def test_a_hyper_that_was_not_recorded_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"'beta1' was not recorded; these were: lr, weight_decay"):
        recorded().plot(hyper="beta1")
