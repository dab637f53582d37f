"""Steps that a graph has captured, on the host: it walks the kernels of a GPU, and repeats them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import fusedlr
import interpreter
from cases import VARIANTS, Variant
from fusedlr import _backend
from fusedlr import schedules as s


@pytest.fixture(autouse=True)
def _walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDLR_BACKEND", interpreter.KERNELS_ON_HOST)


@contextmanager
def captured() -> Iterator[Any]:
    graph = _backend.extension.HostGraph()
    graph.begin_()
    try:
        yield graph
    finally:
        graph.end_()


class Training:
    """Parameters in two groups whose gradients stay where they are, as in a graph."""

    def __init__(self, build: Callable[..., Any], **arguments: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        self.params = [
            Parameter(torch.randn(shape, generator=generator)) for shape in ((33, 5), (7,), (1,))
        ]
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], "lr": 0.05}]
        self.optimizer = build(groups, **arguments)
        self.noise = torch.Generator().manual_seed(2)
        for param in self.params:
            param.grad = torch.zeros_like(param)

    def new_gradients(self) -> None:
        for param in self.params:
            param.grad.copy_(torch.randn(param.shape, generator=self.noise))

    def capture(self) -> Any:
        with captured() as graph:
            self.optimizer.step()
        return graph

    def numbers(self) -> list[torch.Tensor]:
        state = self.optimizer.state
        entries = [value for param in self.params for value in state[param].values()]
        return [*self.params, *(one for one in entries if one is not None), self.optimizer.lr]


def same_bits(left: Training, right: Training) -> bool:
    pairs = zip(left.numbers(), right.numbers(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def run_beside_eager(
    build: Callable[..., Any], edits: dict[int, Callable[[Any], None]], steps: int = 30
) -> tuple[Training, Training]:
    """Replays a captured step beside an eager one, and checks that their bits stay equal."""
    graphed, eager = Training(build), Training(build)
    graphed.optimizer.materialize()
    graph = graphed.capture()
    first = [param.detach().clone() for param in graphed.params]
    for step in range(steps):
        for training in (graphed, eager):
            training.new_gradients()
            edits.get(step, lambda optimizer: None)(training.optimizer)
        graph.replay_()
        eager.optimizer.step()
        assert same_bits(graphed, eager), f"step {step}"
        assert graphed.optimizer.completed_steps == eager.optimizer.completed_steps
    moved = zip(first, graphed.params, strict=True)
    assert not any(torch.equal(one, other) for one, other in moved)
    return graphed, eager


def edit_group(key: str, value: Any) -> Callable[[Any], None]:
    return lambda optimizer: optimizer.param_groups[0].__setitem__(key, value)


def overflow(value: float) -> Callable[[Any], None]:
    def edit(optimizer: Any) -> None:
        optimizer.found_inf = torch.tensor(value)

    return edit


def load_earlier_state(optimizer: Any) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group["lr"] *= 3.0
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_replay_makes_the_step_that_the_eager_optimizer_makes(variant: Variant) -> None:
    def build(groups: Any) -> Any:
        return variant.case.ours(groups, **variant.arguments)

    run_beside_eager(build, {3: edit_group("lr", 0.25), 5: edit_group("weight_decay", 0.125)}, 8)


def test_edits_between_replays_count_in_the_next_one() -> None:
    def double_all(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= 2

    def write_into_the_table(optimizer: Any) -> None:
        optimizer.lr.mul_(0.5)

    graphed, _ = run_beside_eager(
        lambda groups: fusedlr.AdamW(groups, lr=0.01),
        {
            2: edit_group("betas", (0.5, 0.75)),
            4: edit_group("eps", 1e-3),
            6: double_all,
            8: write_into_the_table,
            10: overflow(1.0),
            13: overflow(0.0),
            15: load_earlier_state,
            20: edit_group("lr", s.cosine(0.1, 0.01, steps=40)),
            25: edit_group("lr", 0.125),
        },
    )
    assert graphed.optimizer.skipped_steps == 3
    assert graphed.optimizer.param_groups[0]["lr"] == 0.125


def test_a_live_tensor_counts_in_every_replay() -> None:
    rates = [torch.tensor(0.05), torch.tensor(0.05)]
    trainings = [Training(lambda groups, lr=lr: fusedlr.SGD(groups, lr=lr)) for lr in rates]
    graphed, eager = trainings
    graphed.optimizer.materialize()
    graph = graphed.capture()
    for step in range(6):
        for training, rate in zip(trainings, rates, strict=True):
            training.new_gradients()
            rate.fill_(0.05 * (step + 1))
        graph.replay_()
        eager.optimizer.step()
        assert same_bits(graphed, eager)
    assert graphed.optimizer.param_groups[0]["lr"] is rates[0]


def test_schedules_and_a_history_go_on_in_replays() -> None:
    def build(groups: Any) -> Any:
        groups[1]["lr"] = s.warmup_cosine(0.1, warmup_steps=4, total_steps=20)
        return fusedlr.AdamW(groups, lr=1e-3, weight_decay=s.linear(0.1, 0.0, steps=10))

    trainings = [Training(build), Training(build)]
    histories = [fusedlr.History(training.optimizer, capacity=16) for training in trainings]
    graphed, eager = trainings
    graphed.optimizer.materialize()
    graph = graphed.capture()
    for _ in range(20):
        for training in trainings:
            training.new_gradients()
        graph.replay_()
        eager.optimizer.step()
    assert same_bits(graphed, eager)
    rows = [history.rows().tolist() for history in histories]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 16
    assert len({row[3] for row in rows[0]}) > 10


def test_an_eager_step_between_replays_may_have_other_gradients() -> None:
    graphed, eager = (Training(lambda groups: fusedlr.Adam(groups)) for _ in range(2))
    graphed.optimizer.materialize()
    graph = graphed.capture()
    buffers = [param.grad for param in graphed.params]
    for step in range(9):
        eager.new_gradients()
        eager.optimizer.step()
        with torch.no_grad():
            for buffer, param in zip(buffers, eager.params, strict=True):
                buffer.copy_(param.grad)
        if step % 3 == 1:
            for param, buffer in zip(graphed.params, buffers, strict=True):
                param.grad = buffer.clone()
            graphed.optimizer.step()
        else:
            graph.replay_()
        assert same_bits(graphed, eager), f"step {step}"


def test_a_graph_outlives_a_change_of_the_parameters_that_have_gradients() -> None:
    graphed, eager = (Training(lambda groups: fusedlr.Adam(groups)) for _ in range(2))
    graphed.optimizer.materialize()
    graph = graphed.capture()
    for training in (graphed, eager):
        training.new_gradients()
        kept, training.params[1].grad = training.params[1].grad, None
        training.optimizer.step()  # without this parameter: other tables
        training.params[1].grad = kept
    for _ in range(3):
        for training in (graphed, eager):
            training.new_gradients()
        graph.replay_()
        eager.optimizer.step()
        assert same_bits(graphed, eager)


def test_a_step_is_two_launches_whatever_the_number_of_groups() -> None:
    for num_groups in (1, 3, 100):
        params = [Parameter(torch.ones(3)) for _ in range(num_groups)]
        for param in params:
            param.grad = torch.ones(3)
        optimizer = fusedlr.AdamW([{"params": [param]} for param in params], lr=0.1)
        optimizer.step()
        with captured() as graph:
            optimizer.step()
        # A capture also brings the addresses of its gradients.
        assert graph.size == 3


def test_what_was_not_prepared_is_refused_during_a_capture_and_nothing_moves() -> None:
    training = Training(lambda groups: fusedlr.Adam(groups, lr=0.1))
    training.optimizer.materialize()
    before = [number.clone() for number in training.numbers()]
    training.optimizer.param_groups[0]["lr"] = 0.5
    with captured(), pytest.raises(RuntimeError, match=r"materialize\(\).*before the capture"):
        training.optimizer.step()
    training.optimizer.param_groups[0]["lr"] = 0.1
    training.optimizer.materialize()
    training.params[1].grad = None
    with captured(), pytest.raises(RuntimeError, match="right before the capture"):
        training.optimizer.step()
    training.params[1].grad = torch.zeros_like(training.params[1])
    training.optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
    with captured(), pytest.raises(RuntimeError, match=r"materialize\(\)"):
        training.optimizer.step()
    after = training.numbers()
    assert all(torch.equal(one, other) for one, other in zip(before[:-1], after, strict=False))


def test_a_graph_outlives_the_plan_that_it_has_captured() -> None:
    graphed, eager = (Training(lambda groups: fusedlr.Adam(groups)) for _ in range(2))
    graphed.optimizer.materialize()
    graph = graphed.capture()
    for _ in range(3):
        for training in (graphed, eager):
            training.new_gradients()
            training.optimizer.load_state_dict(training.optimizer.state_dict())
            training.optimizer.param_groups[0]["amsgrad"] = False
        graphed.optimizer.step()  # builds a new plan
        eager.optimizer.step()
        for training in (graphed, eager):
            training.new_gradients()
        graph.replay_()
        eager.optimizer.step()
        assert same_bits(graphed, eager)


def run_edits(build: Callable[..., Any], edits: dict[int, Callable[[Any, int], None]]) -> None:
    """As `run_beside_eager`; an edit knows whose it is: 0 for the graph, 1 for the eager one."""
    trainings = [Training(build), Training(build)]
    graphed, eager = trainings
    graphed.optimizer.materialize()
    graph = graphed.capture()
    for step in range(10):
        for owner, training in enumerate(trainings):
            training.new_gradients()
            edits.get(step, lambda optimizer, owner: None)(training.optimizer, owner)
        graph.replay_()
        eager.optimizer.step()
        assert same_bits(graphed, eager), f"step {step}"


def test_a_tensor_that_takes_the_place_of_another_as_lr_is_live_in_replays() -> None:
    first, second, third = ([torch.tensor(lr), torch.tensor(lr)] for lr in (0.05, 0.1, 0.2))

    def give(tensors: list[torch.Tensor]) -> Callable[[Any, int], None]:
        return lambda optimizer, owner: edit_group("lr", tensors[owner])(optimizer)

    def write(tensors: list[torch.Tensor], number: float) -> Callable[[Any, int], None]:
        return lambda optimizer, owner: tensors[owner].fill_(number)

    run_edits(
        lambda groups: fusedlr.SGD(groups, lr=0.3),
        {
            1: give(first),
            2: write(first, 0.07),
            3: give(second),
            4: write(second, 0.4),
            5: give(third),
            6: write(second, 9.0),
            7: write(third, 0.6),
        },
    )


@pytest.mark.parametrize("build", [fusedlr.Adam, fusedlr.SGD])
def test_loading_a_state_from_before_the_first_step_begins_anew_in_replays(build: Any) -> None:
    arguments = {"lr": 0.05, **({"momentum": 0.9} if build is fusedlr.SGD else {})}
    fresh = Training(build, **arguments)
    saved = copy.deepcopy(fresh.optimizer.state_dict())
    assert not saved["state"]

    def load(optimizer: Any, owner: int) -> None:
        optimizer.load_state_dict(saved)

    run_edits(lambda groups: build(groups, **arguments), {4: load})


def test_a_history_can_begin_and_end_between_replays() -> None:
    graphed = Training(fusedlr.SGD, lr=0.1)
    graphed.optimizer.materialize()
    graph = graphed.capture()
    graph.replay_()
    with fusedlr.History(graphed.optimizer, capacity=10) as history:
        graph.replay_()
        graph.replay_()
    graph.replay_()
    assert history.to_dict()["step"] == [1, 2]


def test_a_captured_scheduler_stays_within_its_groups_when_groups_come() -> None:
    graphed = Training(fusedlr.SGD, lr=1.0)
    scheduler = fusedlr.lr_scheduler.StepLR(graphed.optimizer, step_size=1, gamma=0.5)
    graphed.optimizer.step()
    scheduler.step()
    with captured() as graph:
        scheduler.step()
    graphed.optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "lr": 8.0})
    graph.replay_()
    assert graphed.optimizer.lr.tolist() == [0.25, 0.0125, 8.0]
    assert scheduler.get_last_lr() == [0.25, 0.0125]
