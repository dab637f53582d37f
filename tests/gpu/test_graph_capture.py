"""Steps that are captured in a CUDA graph go on by themselves, and stay open to edits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from places import Place, assert_same_bits, captured, everything_of, parameters_on
from torch import Tensor

import fusedlr
from cases import (
    OPTIMIZERS,
    Variant,
    each_dtype,
    each_optimizer,
    each_scheduled,
    each_variant,
    random_tensor,
)
from schedule_cases import REPRESENTATIVES

SHAPES = [(300,), (17, 3), (), (65_537,)]


class Run:
    """An optimizer whose gradients and overflow are tensors that stay where they are."""

    def __init__(
        self,
        place: Place,
        variant: Variant,
        dtype: torch.dtype = torch.float32,
        scheduler: Callable[[Any], Any] | None = None,
        **arguments: Any,
    ) -> None:
        chance = torch.Generator().manual_seed(0)
        self.place, self.case = place, variant.case
        tensors = [random_tensor(shape, dtype, chance) for shape in SHAPES]
        self.start = tensors[0].clone()
        self.params = parameters_on(place.device, tensors)
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], "lr": 0.02}]
        self.optimizer = variant.case.ours(groups, **{**variant.arguments, **arguments})
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.found_inf = torch.zeros((), device=place.device)
        self.optimizer.found_inf = self.found_inf
        # A few gradients to choose from: what a backward pass would write.
        self.source = [
            [random_tensor(shape, dtype, chance).to(place.device) for shape in SHAPES]
            for _ in range(7)
        ]
        for param, grad in zip(self.params, self.source[0], strict=True):
            param.grad = grad.clone()
        self.grads = [param.grad for param in self.params]

    def step(self) -> None:
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def captured(self) -> Callable[[], Any]:
        self.optimizer.materialize()
        if isinstance(self.scheduler, fusedlr.lr_scheduler.LRScheduler):
            materialize = getattr(self.scheduler, "_materialize", None)
            if materialize is not None:
                materialize()
        return captured(self.place, self.step)

    def feed(self, number: int, *, overflows: bool = False) -> None:
        """What happens before step `number`."""
        for grad, source in zip(self.grads, self.source[number % 7], strict=True):
            grad.copy_(source)
        self.found_inf.fill_(float(overflows))

    def everything(self) -> list[Tensor]:
        found = everything_of(self.optimizer)
        found.append(self.hypers())
        if self.scheduler is not None:
            lrs = self.scheduler.get_last_lr()
            epoch = getattr(self.scheduler, "last_epoch", -1)
            found.append(torch.tensor([epoch, *lrs], dtype=torch.float64))
        return found

    def hypers(self) -> Tensor:
        """All numbers that a user sees in the groups."""
        numbers: list[float] = []
        for group in self.optimizer.param_groups:
            for key in sorted(group.keys() - {"params"}):
                value = group[key]
                parts = value if isinstance(value, tuple) else (value,)
                numbers += [float(one) for one in parts if isinstance(one, (int, float, Tensor))]
        return torch.tensor(numbers, dtype=torch.float64)

    def has_moved(self) -> bool:
        return not torch.equal(self.params[0].detach().cpu(), self.start)


def pair(place: Place, *arguments: Any, **keywords: Any) -> tuple[Run, Run]:
    return Run(place, *arguments, **keywords), Run(place, *arguments, **keywords)


def with_all_state(case: Any) -> Variant:
    return Variant(case, "", case.with_all_state)


@pytest.fixture(autouse=True)
def _at_the_place(place):
    with place.chosen():
        yield


# ------------------------------------------------------------------------------------ many replays


@each_optimizer
def test_a_thousand_replays_give_the_bits_of_a_thousand_steps(case, place):
    """With a scheduler that moves lr and momentum, edits of the weight decay, and overflows."""

    def one_cycle(optimizer: Any) -> Any:
        return fusedlr.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.02], total_steps=1_100)

    variant = Variant(case, "", {**case.with_momentum, **case.with_all_state, "weight_decay": 0.1})
    eager, graphed = pair(place, variant, scheduler=one_cycle)
    momentums = set()
    replay = graphed.captured()
    for number in range(1, 1_001):
        for run, step in ((eager, eager.step), (graphed, replay)):
            if number in (300, 700):
                for group in run.optimizer.param_groups:
                    group["weight_decay"] = 0.3 if number == 300 else 0.0
            run.feed(number, overflows=number in (500, 501))
            step()
        if number in (1, 2, 3, 299, 300, 301, 499, 500, 501, 502) or number % 100 == 0:
            assert_same_bits(graphed.everything(), eager.everything())
            momentums.add(graphed.optimizer.param_groups[0][case.momentum_key])

    optimizer = graphed.optimizer
    assert (optimizer.completed_steps, optimizer.skipped_steps) == (998, 2)
    assert graphed.scheduler.last_epoch == 1_000
    assert len(momentums) > 10
    assert graphed.has_moved()


def assert_replays_as_steps(place: Place, variant: Variant, dtype: torch.dtype) -> None:
    eager, graphed = pair(place, variant, dtype)
    replay = graphed.captured()
    for number in range(4):
        for run, step in ((eager, eager.step), (graphed, replay)):
            run.feed(number, overflows=number == 1)
            step()
    assert_same_bits(graphed.everything(), eager.everything())
    assert graphed.has_moved()


@each_variant
def test_replays_of_every_variant_give_the_bits_of_steps(variant, place):
    assert_replays_as_steps(place, variant, torch.float32)


@each_dtype
@each_optimizer
def test_replays_in_every_dtype_give_the_bits_of_steps(case, dtype, place):
    assert_replays_as_steps(place, with_all_state(case), dtype.dtype)


@each_scheduled
def test_schedules_as_values_go_on_in_replays(case, arguments, place):
    runs = pair(place, Variant(case, "", {}), **copy.deepcopy(arguments))
    eager, graphed = runs
    histories = [fusedlr.History(run.optimizer, capacity=10) for run in runs]
    replay = graphed.captured()
    for number in range(14):
        for run, step in ((eager, eager.step), (graphed, replay)):
            run.feed(number, overflows=number in (3, 4))
            step()
    assert_same_bits(graphed.everything(), eager.everything())
    assert_same_bits([histories[1].rows()], [histories[0].rows()])
    assert (len(histories[1]), graphed.optimizer.completed_steps) == (10, 12)
    assert graphed.has_moved()


#: Schedulers that an engine steps by itself. A metric is not known when a graph is captured.
CAPTURED = [case for case in REPRESENTATIVES if not case.of.takes_metric]


@pytest.mark.parametrize("case", CAPTURED, ids=str)
def test_schedulers_go_on_in_replays(case, place):
    variant = Variant(next(one for one in OPTIMIZERS if one.name == case.optimizer), "", {})
    eager, graphed = pair(
        place, variant, scheduler=lambda optimizer: case.build(fusedlr, optimizer)
    )
    assert graphed.scheduler._runs_on_device()
    replay = graphed.captured()
    for number in range(int(min(30, case.final_epoch - 1))):
        for run, step in ((eager, eager.step), (graphed, replay)):
            run.feed(number)
            step()
        if number < 3 or number % 7 == 0:
            assert_same_bits(graphed.everything(), eager.everything())
    assert_same_bits(graphed.everything(), eager.everything())
    assert graphed.has_moved()


# ------------------------------------------------------------------------------ between the replays


# torch looks for calls of step(), which a replay does not make.
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")
@each_optimizer
def test_a_scheduler_of_torch_moves_the_lr_between_replays(case, place):
    def one_cycle(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=50)

    variant = Variant(case, "", {**case.with_momentum, **case.with_all_state})
    eager, graphed = pair(place, variant)
    graphed.optimizer.step()
    eager.optimizer.step()
    replay = graphed.captured()
    schedulers = [one_cycle(run.optimizer) for run in (eager, graphed)]
    for number in range(40):
        steps = (eager.step, replay)
        for run, step, scheduler in zip((eager, graphed), steps, schedulers, strict=True):
            run.feed(number)
            step()
            scheduler.step()
    assert_same_bits(graphed.everything(), eager.everything())
    assert len({lr.item() for lr in graphed.optimizer.lr}) == 1
    assert graphed.has_moved()


def load_what_was_saved(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.load_state_dict(saved)


def multiply_the_lr(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.lr.mul_(0.5)


def assign_the_lr(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.lr = [0.3, 0.1]


def scale_a_lr(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.param_groups[0]["lr"] *= 3


def give_a_tensor_as_lr(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.param_groups[0]["lr"] = torch.tensor(0.3, device=run.place.device)


def shrink_the_parameters(run: Run, saved: dict[str, Any]) -> None:
    with torch.no_grad():
        for param in run.params:
            param.mul_(0.5)


def set_completed_steps(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.completed_steps = 77


def step_eagerly(run: Run, saved: dict[str, Any]) -> None:
    run.optimizer.step()


def load_and_step_eagerly(run: Run, saved: dict[str, Any]) -> None:
    """Which makes new plans; what has been freed meanwhile is written over."""
    run.optimizer.load_state_dict(saved)
    run.optimizer.step()
    for size in range(1, 200):
        torch.full((20, size), 1e30, dtype=torch.float64, device=run.place.device)


def remove_the_overflow(run: Run, saved: dict[str, Any]) -> None:
    run.found_inf.fill_(1.0)
    del run.optimizer.found_inf
    run.optimizer.step()
    run.optimizer.found_inf = run.found_inf


BETWEEN = [
    load_what_was_saved,
    multiply_the_lr,
    assign_the_lr,
    scale_a_lr,
    give_a_tensor_as_lr,
    shrink_the_parameters,
    set_completed_steps,
    step_eagerly,
    load_and_step_eagerly,
    remove_the_overflow,
]


def run_with(place: Place, case: Any, between: Callable[[Run, dict[str, Any]], None]) -> None:
    """Steps and replays, with something done in between, twice."""
    ends = []
    for is_disturbed in (False, True):
        eager, graphed = pair(place, with_all_state(case))
        replay = graphed.captured()
        for run, step in ((eager, eager.step), (graphed, replay)):
            saved: dict[str, Any] = {}
            for number in range(12):
                if number == 3:
                    saved = copy.deepcopy(run.optimizer.state_dict())
                if is_disturbed and number in (6, 9):
                    between(run, saved)
                run.feed(number)
                step()
        assert_same_bits(graphed.everything(), eager.everything())
        ends.append(torch.cat([one.double().flatten() for one in graphed.everything()[:2]]))
        ends.append(graphed.hypers())
    is_same = [
        one.shape == other.shape and torch.equal(one, other)
        for one, other in zip(ends[:2], ends[2:], strict=True)
    ]
    assert not all(is_same) or between is set_completed_steps


@pytest.mark.parametrize("between", BETWEEN, ids=lambda between: between.__name__)
@each_optimizer
def test_what_is_done_between_replays_counts_from_the_next_one_on(case, between, place):
    run_with(place, case, between)


@each_optimizer
def test_edits_of_hypers_between_replays_count_from_the_next_one_on(case, place):
    for key, value in case.edits.items():
        if key == "amsgrad":  # other state, other rule: needs another graph
            continue

        def edit(run: Run, saved: dict[str, Any], key: str = key, value: Any = value) -> None:
            for group in run.optimizer.param_groups:
                group["weight_decay"] = max(group["weight_decay"], 0.1)
                group[key] = value

        run_with(place, case, edit)


@each_optimizer
def test_a_tensor_lr_on_the_device_is_live_in_replays(case, place):
    runs = []
    for is_graphed in (False, True):
        lr = torch.tensor(0.05, device=place.device)
        run = Run(place, with_all_state(case), lr=lr)
        step = run.captured() if is_graphed else run.step
        for number in range(10):
            if number == 4:
                lr.fill_(0.4)
            if number == 7:
                lr.mul_(0.1)
            run.feed(number)
            step()
        runs.append(run)
    assert_same_bits(runs[1].everything(), runs[0].everything())
    assert runs[1].optimizer.lr[0].item() == pytest.approx(0.04)


@each_optimizer
def test_gradients_may_be_dropped_after_the_capture(case, place):
    eager, graphed = pair(place, with_all_state(case))
    replay = graphed.captured()
    if place.device.type == "cuda":
        graphed.optimizer.zero_grad()
    for number in range(5):
        for run, step in ((eager, eager.step), (graphed, replay)):
            run.feed(number)
            step()
    assert_same_bits(graphed.everything(), eager.everything())
    assert graphed.has_moved()


@each_optimizer
def test_two_graphs_of_one_optimizer_take_turns(case, place):
    eager, graphed = pair(place, with_all_state(case))
    first = graphed.captured()
    for number in range(2):
        graphed.feed(number)
        first()
    second = graphed.captured()
    for number in range(2, 8):
        graphed.feed(number)
        (first if number % 3 else second)()
    for number in range(8):
        eager.feed(number)
        eager.step()
    assert_same_bits(graphed.everything(), eager.everything())
    assert graphed.has_moved()
