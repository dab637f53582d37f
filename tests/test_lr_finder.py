"""The learning rate range test: what it measures, what it suggests, and that it leaves no trace."""

from __future__ import annotations

import copy
import doctest
import gzip
import importlib
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import fusedlr
from fusedlr import LRFinder
from fusedlr import schedules as s
from fusedlr.lr_finder import RangeTest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# ------------------------------------------------------------------------- what the tests train


class Network(nn.Module):
    """Has everything that a test must put back."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.25)
        self.second = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("scale", torch.ones(1, 1).expand(4, 3))

    def forward(self, x):
        self.calls = self.calls + 1  # another tensor in its place
        self.register_buffer("latest", x.detach())
        hidden = self.dropout(torch.relu(self.norm(self.first(x))))
        return self.second(hidden) * self.scale[0]


class NoisyData:
    """A map-style dataset that draws from every source of random numbers."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        noise = random.random() + numpy.random.random() + torch.rand(6)
        return index / 20 + noise, index % 3


def make_loader(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(NoisyData(), batch_size=4, shuffle=True, generator=generator)


def train(model, optimizer, loader, scheduler=None):
    model.train()
    for inputs, targets in loader:
        optimizer.zero_grad()
        cross_entropy(model(inputs.float()), targets).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def train_on_floats(model, batch):
    inputs, targets = batch
    return cross_entropy(model(inputs.float()), targets)


def groups_of(model, **first):
    return [{"params": model.first.parameters(), **first}, {"params": model.second.parameters()}]


def with_shared_lr(model):
    return fusedlr.Adam(groups_of(model), lr=torch.tensor(0.01))


def with_schedules(model):
    lr = s.warmup_cosine(0.05, warmup_steps=4, total_steps=20)
    return fusedlr.AdamW(groups_of(model, lr=lr), weight_decay=s.linear(0.1, 0.0, steps=20))


#: Optimizers over a `Network`.
OPTIMIZERS: dict[str, Callable[[Network], torch.optim.Optimizer]] = {
    "AdamW": lambda model: fusedlr.AdamW(model.parameters(), lr=0.01, amsgrad=True),
    "SGD": lambda model: fusedlr.SGD(model.parameters(), lr=0.1),
    "SGD with momentum": lambda model: fusedlr.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "a shared lr tensor": with_shared_lr,
    "schedules": with_schedules,
    "torch.optim.AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "torch.optim.SGD": lambda model: torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1)),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def frozen(value: Any) -> Any:
    """A value in a form that compares to the last bit, and shares no memory with it."""
    if isinstance(value, torch.Tensor):
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
        return value.dtype, tuple(value.shape), content
    if isinstance(value, numpy.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {key: frozen(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(one) for one in value]
    return copy.deepcopy(value)


def traces(model, optimizer, loader=None):
    """All that a range test might change, and the tensors that hold it, by identity."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    state = {key: dict(entries) for key, entries in enumerate(optimizer.state.values())}
    values = {
        "tensors": dict(tensors),
        "grads": {name: param.grad for name, param in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "optimizer": optimizer.state_dict(),
        "lrs": [group["lr"] for group in optimizer.param_groups],
        "completed": getattr(optimizer, "completed_steps", None),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "loader": None if loader is None else loader.generator.get_state(),
    }
    held = [tensor for _, tensor in tensors] + [param.grad for param in model.parameters()]
    held += [value for entries in state.values() for value in entries.values()]
    held += [group["lr"] for group in optimizer.param_groups]
    identities = [(id(one), one.data_ptr()) for one in held if isinstance(one, torch.Tensor)]
    return frozen(values), identities


# ------------------------------------------------------------------------------------- no trace


@each_optimizer
@pytest.mark.parametrize("has_trained", [False, True], ids=["fresh", "trained"])
def test_a_test_leaves_everything_as_it_was_bit_for_bit(name, has_trained, engine):
    model, loader = Network(), make_loader()
    optimizer = OPTIMIZERS[name](model)
    if has_trained:
        train(model, optimizer, loader)
    model.eval()
    model.norm.train()
    before = traces(model, optimizer, loader)

    test = LRFinder(model, optimizer, forward=train_on_floats).run(loader, 1e-4, 50.0, num_iter=30)

    assert len(test.losses) > 5
    assert traces(model, optimizer, loader) == before


@each_optimizer
def test_training_goes_on_as_if_there_had_been_no_test(name, engine):
    ends = []
    for is_tested in (False, True):
        torch.manual_seed(1)
        random.seed(1)
        numpy.random.seed(1)
        model, loader = Network(), make_loader()
        optimizer = OPTIMIZERS[name](model)
        train(model, optimizer, loader)
        if is_tested:
            LRFinder(model, optimizer, forward=train_on_floats).run(loader, 1e-4, 50.0, num_iter=9)
        train(model, optimizer, loader)
        optimizer.param_groups[0]["lr"] = 0.5
        train(model, optimizer, loader)
        ends.append(frozen([*model.state_dict().values(), optimizer.state_dict()]))
    assert ends[0] == ends[1]


def test_a_shared_lr_tensor_still_moves_all_its_groups_after_a_test():
    model = Network()
    lr = torch.tensor(0.25)
    optimizer = fusedlr.SGD(groups_of(model), lr=lr)
    LRFinder(model, optimizer, forward=train_on_floats).run(make_loader(), num_iter=5)
    lr.fill_(0.5)
    assert optimizer.lr.tolist() == [0.5, 0.5]


class Trouble(BaseException):
    """Not an Exception, as little as what an interrupt raises."""


@pytest.mark.parametrize("where", ["forward", "loader", "step", "hook"])
@each_optimizer
def test_a_test_that_is_interrupted_leaves_everything_as_it_was(name, where):
    model, loader = Network(), make_loader()
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, loader)
    calls = Counter()

    def trouble(place):
        calls[place] += 1
        if place == where and calls[place] == 4:
            raise Trouble

    def batches():
        for batch in loader:
            trouble("loader")
            yield batch

    def forward(model, batch):
        trouble("forward")
        loss = train_on_floats(model, batch)
        loss.register_hook(lambda grad: trouble("hook"))
        return loss

    optimizer.register_step_pre_hook(lambda *args: trouble("step"))
    # A finder cannot put back the generator of a loader within a generator.
    before = traces(model, optimizer)

    with pytest.raises(Trouble):
        LRFinder(model, optimizer, forward=forward).run(batches(), num_iter=20)

    assert calls[where] == 4
    assert traces(model, optimizer) == before


def test_parameters_and_extra_state_of_the_criterion_come_back():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.calls = 0

        def forward(self, outputs, targets):
            self.calls += 1
            return cross_entropy(outputs * self.weight, targets)

        def get_extra_state(self):
            return {"calls": self.calls}

        def set_extra_state(self, state):
            self.calls = state["calls"]

    model, criterion = nn.Linear(6, 3), Weighted()
    optimizer = fusedlr.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
    batches = [(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))]
    before = criterion.weight.detach().clone()

    LRFinder(model, optimizer, criterion).run(batches, 0.01, 1.0, num_iter=5)

    assert torch.equal(criterion.weight, before)
    assert criterion.calls == 0


def test_tied_parameters_and_those_outside_of_the_model_come_back():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    outside = nn.Parameter(torch.ones(4))
    outside.grad = grad = torch.full((4,), 7.0)
    optimizer = fusedlr.AdamW([*model.parameters(), outside])
    before = frozen([model[0].weight, outside])

    def forward(model, batch):
        return (model(batch) * outside).square().mean()

    LRFinder(model, optimizer, forward=forward).run([torch.randn(2, 4)], num_iter=5)

    assert model[1].weight is model[0].weight
    assert frozen([model[0].weight, outside]) == before
    assert outside.grad is grad
    assert grad.tolist() == [7.0] * 4


def test_a_test_moves_no_scheduler_and_writes_no_history():
    model = Network()
    optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
    scheduler = fusedlr.lr_scheduler.StepLR(optimizer, step_size=2)
    history = fusedlr.History(optimizer, 100)
    train(model, optimizer, make_loader(), scheduler)
    before = frozen(scheduler.state_dict()), frozen(history.rows())

    LRFinder(model, optimizer, forward=train_on_floats).run(make_loader(), num_iter=20)

    assert (frozen(scheduler.state_dict()), frozen(history.rows())) == before


# The optimizers of torch whose steps take no closure.
TORCH_OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and name not in ("Optimizer", "LBFGS", "SparseAdam")
)


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_every_optimizer_of_torch_can_be_tested(name):
    # Muon takes matrices only.
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False))
    optimizer = getattr(torch.optim, name)(model.parameters())
    batches = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(3)]
    for inputs, targets in batches:
        mse_loss(model(inputs), targets).backward()
        optimizer.step()
    before = traces(model, optimizer)

    test = LRFinder(model, optimizer, mse_loss).run(batches, 1e-4, 1.0, num_iter=20)

    assert len(set(test.losses)) > 5
    assert traces(model, optimizer) == before


# -------------------------------------------------------------------------------------- the ramp


@dataclass
class LrSpy:
    """A model whose parameters show the lr of the last step: each has the gradient 1, from 0."""

    params: list[nn.Parameter]
    lrs: list[list[float]]

    @classmethod
    def with_groups(cls, count):
        params = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(count)]
        return cls(params, [])

    @torch.no_grad()
    def note(self):
        self.lrs.append([-param.item() for param in self.params])
        for param in self.params:
            param.zero_()

    def run(self, optimizer, **arguments):
        def forward(model, batch):
            self.note()
            return sum(param.sum() for param in self.params)

        # What the last step has done shows in one more iteration, whose own step is not seen.
        model = nn.ParameterList(self.params)
        finder = LRFinder(model, optimizer, forward=forward)
        test = finder.run([None], diverge=math.inf, **arguments)
        return test, self.lrs[1:]


RAMPS = {
    "exp": lambda start, end, progress: start * (end / start) ** progress,
    "linear": lambda start, end, progress: start + (end - start) * progress,
}

LIBRARIES = [pytest.param(fusedlr, id="fusedlr"), pytest.param(torch.optim, id="torch.optim")]
each_library = pytest.mark.parametrize("library", LIBRARIES)


@each_library
@pytest.mark.parametrize("mode", RAMPS)
@pytest.mark.parametrize("completed", [0, 3])
def test_each_step_uses_the_lr_of_the_formula(library, mode, completed, engine):
    spy = LrSpy.with_groups(1)
    optimizer = library.SGD(spy.params, lr=0.1)
    for _ in range(completed):
        spy.params[0].grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()

    test, used = spy.run(optimizer, start_lr=1e-5, end_lr=2.0, num_iter=41, mode=mode)

    expected = [RAMPS[mode](1e-5, 2.0, iteration / 40) for iteration in range(41)]
    assert test.lrs == pytest.approx(expected, rel=1e-14)
    assert [lr for (lr,) in used] == test.lrs[:-1]
    assert (test.lrs[0], test.lrs[-1]) == (1e-5, 2.0)


@each_library
def test_groups_keep_the_ratios_of_their_lrs(library):
    spy = LrSpy.with_groups(3)
    lrs = [0.001, 0.004, 0.0]
    groups = [{"params": [param], "lr": lr} for param, lr in zip(spy.params, lrs, strict=True)]

    test, used = spy.run(library.SGD(groups), start_lr=0.01, end_lr=1.0, num_iter=9)

    assert used == [[0.25 * lr, lr, 0.0] for lr in test.lrs[:-1]]


def test_groups_whose_lrs_are_all_zero_follow_the_ramp_alike():
    spy = LrSpy.with_groups(2)
    groups = [{"params": [param]} for param in spy.params]
    test, used = spy.run(fusedlr.SGD(groups, lr=0.0), num_iter=9)
    assert used == [[lr, lr] for lr in test.lrs[:-1]]


def test_the_lr_of_a_group_is_the_one_that_its_warmup_leads_to():
    spy = LrSpy.with_groups(2)
    lrs = [s.warmup_cosine(peak, warmup_steps=10, total_steps=50) for peak in (0.1, 0.4)]
    groups = [{"params": [param], "lr": lr} for param, lr in zip(spy.params, lrs, strict=True)]
    test, used = spy.run(fusedlr.SGD(groups), num_iter=9)
    assert used == [[0.25 * lr, lr] for lr in test.lrs[:-1]]

    spy = LrSpy.with_groups(2)
    groups = [{"params": [one], "lr": lr} for one, lr in zip(spy.params, (0.1, 0.4), strict=True)]
    optimizer = torch.optim.SGD(groups)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    test, used = spy.run(optimizer, num_iter=9)
    assert used == [[0.25 * lr, lr] for lr in test.lrs[:-1]]


def test_an_optimizer_with_an_lr_tensor_gets_the_lr_in_it():
    spy = LrSpy.with_groups(1)
    lr = torch.tensor(0.5, dtype=torch.float64)
    test, used = spy.run(torch.optim.SGD(spy.params, lr=lr), num_iter=9)
    assert [lr for (lr,) in used] == test.lrs[:-1]
    assert lr.item() == 0.5


def test_other_hypers_go_on_with_their_schedules_during_a_test():
    param = nn.Parameter(torch.ones(1, dtype=torch.float64))
    decay = s.linear(1.0, 0.0, steps=10)
    optimizer = fusedlr.SGD([param], lr=0.1, weight_decay=decay)
    optimizer.completed_steps = 4
    decays = []

    def forward(model, batch):
        with torch.no_grad():
            decays.append((1 - param.item()) / lr(len(decays) - 1) if decays else None)
            param.fill_(1.0)
        return 0.0 * param.sum()

    def lr(iteration):
        return 0.1 + 0.1 * iteration

    finder = LRFinder(nn.ParameterList([param]), optimizer, forward=forward)
    finder.run([None], 0.1, 0.5, num_iter=5, mode="linear", diverge=math.inf)

    assert decays[1:] == pytest.approx([decay(step) for step in range(4, 8)])


# ---------------------------------------------------------------------------- nothing is read back


class Reads(TorchDispatchMode):
    """Counts what waits for the device: copies of tensors into Python."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("tolist", "numpy", "cpu", "__array__"):
            monkeypatch.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)))

    def counted(self, method):
        def wrapper(*args, **kwargs):
            self.count += 1
            return method(*args, **kwargs)

        return wrapper

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:  # item(), float(), bool() …
            self.count += 1
        return func(*args, **(kwargs or {}))


READS = {
    "item": lambda tensor: tensor.item(),
    "float": float,
    "bool": bool,
    "tolist": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.numpy(),
}


@pytest.mark.parametrize("name", READS)
def test_the_counter_of_reads_counts(name, monkeypatch):
    with Reads(monkeypatch) as reads:
        READS[name](torch.ones(()))
    assert reads.count >= 1


@pytest.mark.parametrize(
    ("check_every", "expected"), [(None, 0), (1, 29), (7, 4), (29, 1), (30, 0)]
)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_loop_reads_nothing_but_the_losses_that_it_checks(
    check_every, expected, accumulation_steps, monkeypatch
):
    model = nn.Linear(4, 1)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    optimizer = fusedlr.AdamW(groups, weight_decay=s.linear(0.1, 0.0, steps=10))
    inputs = torch.randn(8, 4)
    batches = [(inputs, inputs.sum(1, keepdim=True))]
    counts = []

    def criterion(outputs, targets):
        counts.append(reads.count)
        return mse_loss(outputs, targets)

    finder = LRFinder(model, optimizer, criterion)
    with Reads(monkeypatch) as reads:
        finder.run(
            batches,
            1e-6,
            1e-2,
            num_iter=30,
            check_every=check_every,
            accumulation_steps=accumulation_steps,
        )
    assert len(counts) == 30 * accumulation_steps
    # From the first forward pass to the last; before and after, the loop is not running.
    assert counts[-1] - counts[0] == expected
    assert reads.count - counts[-1] == 1


# ----------------------------------------------------------------------------------- divergence


def given_losses(losses, **arguments):
    """A test in which the losses are these; returns it with the number of iterations it made."""
    param = nn.Parameter(torch.zeros(()))
    iterations = iter(losses)
    calls = Counter()

    def forward(model, batch):
        calls["forward"] += 1
        return param * 0.0 + next(iterations)

    model = nn.ParameterList([param])
    finder = LRFinder(model, fusedlr.SGD([param], lr=0.1), forward=forward)
    return finder.run([None], num_iter=len(losses), **arguments), calls["forward"]


DIVERGING = [4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 2.0, 30.0, 400.0, 5000.0, 6e4, 1.0, 1.0]


@pytest.mark.parametrize(
    ("check_every", "iterations"), [(1, 8), (2, 8), (3, 9), (5, 10), (7, 13), (None, 13), (100, 13)]
)
def test_the_run_ends_at_the_check_after_divergence_and_the_result_is_the_same(
    check_every, iterations
):
    test, calls = given_losses(DIVERGING, smooth=0.5, check_every=check_every)
    assert calls == iterations
    assert test.diverged
    assert test.losses == DIVERGING[:8]
    assert test.lrs == given_losses(DIVERGING, diverge=math.inf)[0].lrs[:8]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("diverge", [5.0, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_left_out(value, diverge):
    losses = [3.0, 2.0, 1.0, value, 1.0, 1.0]
    test, calls = given_losses(losses, check_every=1, diverge=diverge)
    assert test.diverged
    assert test.losses == [3.0, 2.0, 1.0]
    assert len(test.lrs) == len(test.smoothed) == 3
    assert calls == 4


def test_without_a_bound_the_run_goes_on_as_long_as_losses_are_finite():
    test, calls = given_losses(DIVERGING, check_every=1, diverge=math.inf)
    assert not test.diverged
    assert test.losses == DIVERGING
    assert calls == len(DIVERGING)


def test_negative_losses_diverge_when_they_rise_as_far_as_positive_ones_would():
    falling = [-1.0, -2.0, -3.0, -4.0]
    assert not given_losses([*falling, 11.9], smooth=0.0)[0].diverged
    assert given_losses([*falling, 12.1], smooth=0.0)[0].diverged
    assert not given_losses([5.0, 4.0, 19.9], smooth=0.0)[0].diverged
    assert given_losses([5.0, 4.0, 20.1], smooth=0.0)[0].diverged


def test_one_high_loss_is_no_divergence_if_the_average_is_low():
    losses = [1.0] * 10 + [9.0] + [1.0] * 10
    assert given_losses(losses, smooth=0.0)[0].diverged
    assert not given_losses(losses, smooth=0.8)[0].diverged


def test_a_model_that_diverges_is_noticed_and_restored():
    model = nn.Linear(4, 1)
    before = frozen(model.state_dict())
    inputs = torch.randn(16, 4)
    finder = LRFinder(model, fusedlr.SGD(model.parameters(), lr=0.1), mse_loss)
    test = finder.run([(inputs, inputs.sum(1, keepdim=True))], 1e-3, 1e3, num_iter=200)
    assert test.diverged
    assert 20 < len(test.losses) < 190
    assert test.losses[-1] > 5 * min(test.losses)
    assert frozen(model.state_dict()) == before


# ----------------------------------------------------------------------------------- suggestions

LRS = [10 ** (-6 + 0.08 * i) for i in range(100)]


def sigmoid_curve(center, width=6.0, high=2.5, low=0.5):
    return [low + (high - low) / (1 + math.exp((i - center) / width)) for i in range(100)]


@pytest.mark.parametrize("smooth", [0.0, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("center", [30, 48, 61])
def test_steepest_is_where_a_curve_falls_fastest_however_it_is_smoothed(center, smooth):
    test = RangeTest.from_losses(LRS, sigmoid_curve(center), smooth=smooth)
    assert test.suggestion() == test.suggestion("steepest") == LRS[center]


@pytest.mark.parametrize("smooth", [0.5, 0.8, 0.9])
def test_an_explosion_does_not_move_the_steepest_point_far(smooth):
    losses = sigmoid_curve(40)
    for i in range(75, 100):
        losses[i] += 10.0 ** (i - 75)
    test = RangeTest.from_losses(LRS, losses, smooth=smooth)
    assert test.diverged
    assert len(test.losses) < 80
    assert abs(LRS.index(test.suggestion()) - 40) <= 2


def test_a_fall_after_the_minimum_is_not_the_steepest():
    losses = [*sigmoid_curve(40)[:80], 2.4, 2.4, 0.6, *[0.7] * 17]
    assert RangeTest.from_losses(LRS, losses, smooth=0.3).suggestion() == LRS[40]


def test_noise_moves_the_steepest_point_little(generator):
    for _ in range(20):
        noise = 0.1 * torch.randn(100, generator=generator)
        losses = [loss + bit for loss, bit in zip(sigmoid_curve(50), noise.tolist(), strict=True)]
        test = RangeTest.from_losses(LRS, losses)
        assert abs(LRS.index(test.suggestion()) - 50) <= 6


def valley_curve(start, end):
    """Flat, then down in equal steps from `start` to `end`, then up."""
    fall = end - start
    down = [2.0 - i / fall for i in range(fall + 1)]
    return [2.0] * start + down + [1.0 + 0.01 * i for i in range(1, 100 - end)]


@pytest.mark.parametrize(("start", "end"), [(20, 60), (10, 30), (0, 50), (1, 98), (40, 43)])
def test_valley_is_the_middle_of_the_longest_fall(start, end):
    test = RangeTest.from_losses(LRS, valley_curve(start, end))
    assert test.suggestion("valley") == LRS[(start + end) // 2]


def test_valley_looks_over_bumps_in_the_fall():
    losses = valley_curve(20, 60)
    for i in (25, 33, 41, 52):
        losses[i] += 0.3
    index = LRS.index(RangeTest.from_losses(LRS, losses).suggestion("valley"))
    assert abs(index - 40) <= 4


def test_valley_picks_the_longer_of_two_falls():
    losses = [2.0] * 10 + [0.95 - 0.01 * i for i in range(5)] + [1.95] * 20
    losses += [1.9 - 0.05 * i for i in range(21)] + [1.2] * 44
    index = LRS.index(RangeTest.from_losses(LRS, losses).suggestion("valley"))
    assert 43 <= index <= 47


def test_smoothing_averages_both_sides_with_weights_that_decay():
    losses = [3.0, 1.0, 0.0]
    test = RangeTest.from_losses(LRS, losses, smooth=0.5)
    expected = [(3 + 0.5) / 1.75, (1.5 + 1 + 0) / 2, (0.75 + 0.5 + 0) / 1.75]
    assert test.smoothed == pytest.approx(expected)
    assert RangeTest.from_losses(LRS, losses, smooth=0.0).smoothed == losses


def test_a_run_that_diverged_at_once_says_to_start_lower():
    test, _ = given_losses([1.0, 9.0, 1e9, 1.0, 1.0, 1.0, 1.0, 1.0], smooth=0.0)
    with pytest.raises(RuntimeError, match=r"2 iterations .* at least 5; .* lower start_lr"):
        test.suggestion()
    rising = RangeTest.from_losses(LRS, [1.5**i for i in range(20)], smooth=0.5)
    for method in ("steepest", "valley"):
        with pytest.raises(RuntimeError, match=r"never fell between .* 1e-06 .*; .*lower start_lr"):
            rising.suggestion(method)


def test_a_run_that_was_too_short_says_to_go_on_longer():
    test, _ = given_losses([3.0, 2.0, 1.0, 0.5])
    with pytest.raises(RuntimeError, match=r"4 iterations .* at least 5; go on longer"):
        test.suggestion()


def test_a_run_without_a_fall_says_to_go_higher():
    test, _ = given_losses([1.0] * 20)
    with pytest.raises(RuntimeError, match=r"never fell .* higher end_lr"):
        test.suggestion()


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'steepest' or 'valley', but got 'minimum'"):
        RangeTest.from_losses(LRS, sigmoid_curve(40)).suggestion("minimum")


def test_the_suggestion_for_a_quadratic_lies_below_where_it_diverges():
    # Gradient descent on x²/2 converges for an lr below 2.
    param = nn.Parameter(torch.full((), 1.0))
    finder = LRFinder(
        nn.ParameterList([param]),
        fusedlr.SGD([param], lr=0.1),
        forward=lambda model, batch: param.square() / 2,
    )
    test = finder.run([None], 1e-4, 100.0, num_iter=200)
    for method in ("steepest", "valley"):
        assert 1e-3 < test.suggestion(method) < 2.0


# ----------------------------------------------------------------------------------- the picture


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.mark.parametrize(("mode", "scale"), [("exp", "log"), ("linear", "linear")])
def test_a_picture_has_both_curves_and_the_suggestion(mode, scale, pyplot):
    test = RangeTest.from_losses(LRS, sigmoid_curve(40), mode=mode)
    axes = test.plot()
    raw, smoothed, mark = axes.get_lines()
    assert axes.get_xscale() == scale
    assert list(raw.get_xdata()) == list(smoothed.get_xdata()) == test.lrs
    assert list(raw.get_ydata()) == test.losses
    assert list(smoothed.get_ydata()) == test.smoothed
    assert list(mark.get_xdata()) == [LRS[40]]
    assert list(mark.get_ydata()) == [test.smoothed[40]]
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1].startswith("steepest: ")


def test_a_picture_is_drawn_into_the_axes_that_were_given(pyplot):
    _, (left, right) = pyplot.subplots(1, 2)
    test = RangeTest.from_losses(LRS, sigmoid_curve(40))
    assert test.plot(right, method="valley") is right
    assert not left.get_lines()
    assert list(right.get_lines()[2].get_xdata()) == [test.suggestion("valley")]
    assert len(pyplot.get_fignums()) == 1


def test_a_picture_without_a_suggestion_marks_nothing(pyplot):
    flat = RangeTest.from_losses(LRS, [1.0] * 100)
    assert len(flat.plot().get_lines()) == 2
    assert len(RangeTest.from_losses(LRS, sigmoid_curve(40)).plot(method=None).get_lines()) == 2
    assert RangeTest.from_losses(LRS, [math.nan]).plot().get_lines()


def test_an_explosion_does_not_flatten_the_picture(pyplot):
    test = RangeTest.from_losses(LRS, [*sigmoid_curve(40)[:80], 1e9])
    assert test.losses[-1] == 1e9
    bottom, top = test.plot().get_ylim()
    assert bottom < 0.5
    assert 2.5 < top < 5.0


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        RangeTest.from_losses(LRS, sigmoid_curve(40)).plot()


# ------------------------------------------------------------------------- batches and the model


def linear_finder(**arguments):
    model = nn.Linear(4, 1)
    optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
    return LRFinder(model, optimizer, **(arguments or {"criterion": mse_loss}))


def linear_batches(count):
    return [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(count)]


def test_a_loader_that_is_shorter_than_the_run_is_iterated_again():
    batches = linear_batches(3)
    seen = []

    def forward(model, batch):
        seen.append(next(i for i, one in enumerate(batches) if one[0] is batch[0]))
        return mse_loss(model(batch[0]), batch[1])

    finder = linear_finder(forward=forward)
    finder.run(batches, 1e-4, 1e-2, num_iter=8)
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_loader_that_cannot_be_iterated_again_is_refused_when_it_ends():
    finder = linear_finder()
    with pytest.raises(ValueError, match="ended after 3 batches and cannot be iterated again"):
        finder.run(iter(linear_batches(3)), num_iter=5)
    with pytest.raises(ValueError, match="the loader is empty"):
        finder.run([], num_iter=5)


def test_a_loader_with_worker_processes_works():
    dataset = TensorDataset(torch.randn(16, 4), torch.randn(16, 1))
    loader = DataLoader(dataset, batch_size=8, num_workers=1, shuffle=True)
    finder = linear_finder()
    before = torch.get_rng_state()
    test = finder.run(loader, 1e-4, 1e-2, num_iter=3)
    assert len(test.losses) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        ({"x": 1, "y": 2, "z": 3}, "dict of 3"),
        ((1, 2, 3), "tuple of 3"),
        (5, "int"),
        ([torch.ones(1)], "list of 1"),
    ],
)
def test_a_batch_that_is_no_pair_is_refused_and_the_repair_named(batch, what):
    with pytest.raises(TypeError, match=f"but is a {what}; give LRFinder a forward="):
        linear_finder().run([batch], num_iter=5)


def test_batches_of_any_form_are_moved_to_the_device():
    moves = []

    class Movable:
        def to(self, device, non_blocking):
            moves.append((device, non_blocking))
            return "moved"

    def forward(model, batch):
        assert batch["nested"][0] == ("moved", ["moved", 3])
        assert type(batch["nested"][0]) is tuple
        assert batch["record"].left == batch["record"].right == "moved"
        return model.weight.sum()

    class Record(NamedTuple):
        left: Any
        right: Any

    batch = {
        "nested": [(Movable(), [Movable(), 3])],
        "record": Record(Movable(), Movable()),
        "text": "as it is",
    }
    finder = linear_finder(forward=forward, device="cpu")
    finder.run([batch], num_iter=2, diverge=math.inf)
    assert moves == [(torch.device("cpu"), False)] * 8


def test_gradients_of_accumulated_batches_are_averaged():
    batches = linear_batches(6)
    pairs = [tuple(map(torch.cat, zip(*batches[i : i + 2], strict=True))) for i in range(0, 6, 2)]
    finder = linear_finder()
    accumulated = finder.run(batches, 1e-3, 0.1, num_iter=9, accumulation_steps=2)
    whole = finder.run(pairs, 1e-3, 0.1, num_iter=9)
    assert accumulated.losses == pytest.approx(whole.losses, rel=1e-5)
    assert len(set(whole.losses)) == 9


def test_a_test_trains_in_training_mode_with_gradients_whatever_surrounds_it():
    finder = linear_finder(forward=lambda model, batch: model(batch).square().mean())
    finder.model.eval()
    modes = []
    finder.model.register_forward_hook(lambda module, *_: modes.append(module.training))
    with torch.no_grad():
        test = finder.run([torch.randn(8, 4)], 1e-3, 0.1, num_iter=9)
    assert modes == [True] * 9
    assert not finder.model.training
    assert test.losses[-1] < test.losses[0]


def test_step_pre_hooks_run_and_post_hooks_do_not():
    calls = Counter()
    finder = linear_finder()
    finder.optimizer.register_step_pre_hook(lambda *_: calls.update(["before"]))
    finder.optimizer.register_step_post_hook(lambda *_: calls.update(["after"]))
    finder.run(linear_batches(2), 1e-4, 1e-2, num_iter=7)
    assert calls == {"before": 7}


def test_a_test_begins_with_the_state_of_the_optimizer():
    losses = []
    for has_momentum in (False, True):
        torch.manual_seed(3)
        model = nn.Linear(4, 1)
        optimizer = fusedlr.SGD(model.parameters(), lr=0.0, momentum=0.9)
        batches = linear_batches(1)
        if has_momentum:
            mse_loss(model(batches[0][0]), batches[0][1]).backward()
            optimizer.step()
        finder = LRFinder(model, optimizer, mse_loss)
        losses.append(finder.run(batches, 1e-2, 1e-1, num_iter=5).losses)
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_half_precision_losses_are_kept_in_single_precision():
    model = nn.Linear(4, 1, dtype=torch.bfloat16)
    finder = LRFinder(
        model,
        fusedlr.SGD(model.parameters(), lr=0.1),
        forward=lambda model, batch: model(batch).square().mean(),
    )
    test = finder.run([torch.ones(2, 4, dtype=torch.bfloat16)], 1e-4, 1e-2, num_iter=5)
    assert all(loss == torch.tensor(loss).bfloat16().item() for loss in test.losses)


# ------------------------------------------------------------------------------------- arguments

REFUSED = [
    ({"start_lr": 1.0, "end_lr": 0.1}, "start_lr is 1.0 and end_lr 0.1"),
    ({"start_lr": 0.1, "end_lr": 0.1}, "start_lr must be less than end_lr"),
    ({"start_lr": 0.0}, "start_lr must be a positive number, but is 0.0"),
    ({"start_lr": -1e-3}, "start_lr must be a positive number"),
    ({"start_lr": math.nan}, "start_lr must be a positive number, but is nan"),
    ({"end_lr": math.inf}, "end_lr must be a positive number, but is inf"),
    ({"num_iter": 1}, "num_iter must be an integer of at least 2, but is 1"),
    ({"num_iter": 10.0}, "num_iter must be an integer of at least 2, but is 10.0"),
    ({"mode": "cosine"}, "mode must be 'exp' or 'linear', but is 'cosine'"),
    ({"smooth": 1.0}, "smooth must be at least 0 and less than 1, but is 1.0"),
    ({"smooth": -0.1}, "smooth must be at least 0"),
    ({"diverge": 1.0}, "diverge must be greater than 1, but is 1.0"),
    ({"diverge": math.nan}, "diverge must be greater than 1, but is nan"),
    ({"check_every": 0}, "check_every must be an integer of at least 1, but is 0"),
    ({"accumulation_steps": 0}, "accumulation_steps must be an integer of at least 1, but is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_arguments_out_of_range_are_refused_before_anything_runs(arguments, message):
    calls = Counter()
    finder = linear_finder(forward=lambda model, batch: calls.update(["forward"]))
    with pytest.raises(ValueError, match=message):
        finder.run(linear_batches(1), **arguments)
    assert not calls


def test_a_finder_is_refused_what_it_cannot_work_with():
    model = nn.Linear(4, 1)
    optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, but is 3"):
        LRFinder(3, optimizer, mse_loss)
    with pytest.raises(
        TypeError, match=r"optimizer must be a torch.optim.Optimizer, but is <gener"
    ):
        LRFinder(model, model.parameters(), mse_loss)
    with pytest.raises(ValueError, match="give either criterion"):
        LRFinder(model, optimizer)
    with pytest.raises(ValueError, match="give either criterion"):
        LRFinder(model, optimizer, mse_loss, forward=mse_loss)
    with pytest.raises(TypeError, match="criterion must be callable, but is 'mse'"):
        LRFinder(model, optimizer, "mse")


def test_a_loss_that_is_no_scalar_is_refused():
    batches = linear_batches(1)
    with pytest.raises(ValueError, match=r"shape \(8, 1\); take the mean"):
        linear_finder(forward=lambda model, batch: model(batch[0])).run(batches)
    with pytest.raises(TypeError, match=r"the loss must be a tensor, but is 1\.5"):
        linear_finder(forward=lambda model, batch: 1.5).run(batches)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_that_is_not_initialized_is_refused():
    model = nn.LazyLinear(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="call the model once before the test"):
        LRFinder(model, optimizer, mse_loss).run(linear_batches(1))


# ---------------------------------------------------------------------------------- progress bar


def test_nothing_is_printed_where_nobody_is_looking(capfd):
    linear_finder().run(linear_batches(2), 1e-4, 1e-2, num_iter=5)
    assert capfd.readouterr() == ("", "")


def test_the_progress_bar_counts_the_iterations_on_a_terminal(monkeypatch, capfd):
    console = pytest.importorskip("rich.console")
    monkeypatch.setattr(console.Console, "is_terminal", property(lambda self: True))
    linear_finder().run(linear_batches(2), 1e-4, 1e-2, num_iter=5)
    printed = capfd.readouterr()
    assert "learning rate range test" in printed.err
    assert "100%" in printed.err
    assert not printed.out

    linear_finder().run(linear_batches(2), 1e-4, 1e-2, num_iter=5, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_test_runs_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert len(linear_finder().run(linear_batches(2), 1e-4, 1e-2, num_iter=5).losses) == 5


# --------------------------------------------------------------------------- examples and docs


@pytest.mark.parametrize("module", ["lr_finder", "lr_finder.finder", "lr_finder.range_test"])
def test_the_examples_in_the_docstrings_run(module):
    results = doctest.testmod(importlib.import_module(f"fusedlr.{module}"))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("lr_finder")


def test_the_digits_are_those_of_the_source():
    with gzip.open(EXAMPLES / "data" / "digits.csv.gz", "rt") as file:
        rows = [[int(value) for value in line.split(",")] for line in file]
    counts = Counter(row[-1] for row in rows)
    assert [counts[digit] for digit in range(10)] == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert {len(row) for row in rows} == {65}
    assert {value for row in rows for value in row[:-1]} == set(range(17))


def test_the_suggestion_trains_digits_and_a_hundred_times_more_or_less_does_not(
    example, tmp_path, capsys
):
    picture = tmp_path / "lr_finder.png"
    assert example.main(["--epochs", "3", "--picture", str(picture)]) == 0
    assert "suggested learning rate" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def small_example(example, monkeypatch):
    """The example with fewer digits, for what goes wrong with any."""
    load_digits = example.load_digits

    def load_few_digits():
        return tuple(type(one)(*(part[:160] for part in one)) for one in load_digits())

    monkeypatch.setattr(example, "load_digits", load_few_digits)
    return example


def test_the_example_fails_on_a_suggestion_that_is_far_off(
    small_example, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(RangeTest, "suggestion", lambda self, method="": self.lrs[-1])
    arguments = ["--epochs", "1", "--picture", str(tmp_path / "lr_finder.png")]
    assert small_example.main(arguments) == 1
    assert "FAILED: not the suggested learning rate alone" in capsys.readouterr().out


def test_the_example_fails_on_a_finder_that_leaves_a_trace(
    small_example, tmp_path, monkeypatch, capsys
):
    run = LRFinder.run

    def faulty_run(self, *args, **kwargs):
        with torch.no_grad():
            self.model[0].weight.mul_(1.01)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(LRFinder, "run", faulty_run)
    arguments = ["--epochs", "1", "--picture", str(tmp_path / "lr_finder.png")]
    assert small_example.main(arguments) == 1
    assert "FAILED: the range test has changed the model" in capsys.readouterr().out
