"""Every scheduler gives the bits of torch's, for float and Tensor lr, over any number of steps."""

import math

import pytest
import torch

import fusedlr
from schedule_cases import (
    REPRESENTATIVES,
    SCHEDULES,
    cases,
    each_case,
    each_representative,
    each_schedule,
    metric,
)
from schedule_lockstep import Lockstep, initial_lr, lrs, make_optimizer


@pytest.mark.parametrize(
    ("lr_kind", "num_groups", "steps"),
    [
        ("float", 1, 300),
        ("float", 3, 300),
        ("float", 40, 300),
        ("tensor", 1, 300),
        ("tensor", 3, 300),
        ("tensor", 40, 60),
    ],
)
@each_schedule
def test_every_step_gives_the_bits_of_torch(case, lr_kind, num_groups, steps):
    Lockstep(case, num_groups=num_groups, lr_kind=lr_kind).run(steps)


@each_representative
def test_a_tensor_lr_of_one_dimension_gives_the_bits_of_torch(case):
    Lockstep(case, lr_kind="one_element").run(100)


@each_case(runs_long=True)
def test_ten_thousand_steps_give_the_bits_of_torch(case):
    Lockstep(case).run(10_000)


@each_representative
def test_the_first_row_of_each_scheduler_moves_every_group(case):
    lockstep = Lockstep(case)
    before = lrs(lockstep.ours.optimizer)

    lockstep.run(20)

    after = lrs(lockstep.ours.optimizer)
    assert all(a != b for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@each_representative
def test_parameters_move_by_the_scheduled_lr(case, name):
    params = {}
    for library in (fusedlr, torch.optim):
        optimizer = make_optimizer(library, name=name)
        scheduler = case.build(library, optimizer)
        for step in range(40):
            optimizer.step()
            scheduler.step(*case.step_arguments(step))
        params[library] = [group["params"][0].detach() for group in optimizer.param_groups]
    unscheduled = make_optimizer(torch.optim, name=name)
    for _ in range(40):
        unscheduled.step()

    torch.testing.assert_close(params[fusedlr], params[torch.optim], rtol=1e-5, atol=1e-5)
    for param, group in zip(params[fusedlr], unscheduled.param_groups, strict=True):
        assert (param - group["params"][0]).abs().min() > 0.01


EDITS = {
    "assigned": lambda group, lr: group.__setitem__("lr", lr),
    "multiplied": lambda group, lr: group.__setitem__("lr", group["lr"] * 0.3),
    "updated": lambda group, lr: group.update(lr=lr),
    "set to zero": lambda group, lr: group.update({"lr": 0.0}),
}
TENSOR_EDITS = {
    "filled in place": lambda group, lr: group["lr"].fill_(lr),
    "multiplied in place": lambda group, lr: group["lr"].mul_(0.3),
    "replaced by a tensor": lambda group, lr: group.update(lr=torch.full_like(group["lr"], lr)),
}


def run_with_edits(lockstep, edit):
    """Edits the lr of the first and the last group now and then."""
    for step in range(60):
        lockstep.step()
        if step % 13 == 6:
            for side in lockstep.sides:
                edit(side.optimizer.param_groups[0], 0.07 / (1 + step))
                edit(side.optimizer.param_groups[-1], 0.3)


@pytest.mark.parametrize("edit", EDITS)
@each_schedule
def test_edits_of_a_float_lr_count_as_in_torch(case, edit):
    run_with_edits(Lockstep(case), EDITS[edit])


@pytest.mark.parametrize("edit", TENSOR_EDITS)
@each_representative
def test_edits_of_a_tensor_lr_count_as_in_torch(case, edit):
    run_with_edits(Lockstep(case, lr_kind="tensor"), TENSOR_EDITS[edit])


@each_representative
def test_a_tensor_lr_that_was_replaced_by_a_float_is_scheduled_as_a_float(case):
    lockstep = Lockstep(case, lr_kind="tensor")
    lockstep.run(3)
    for side in lockstep.sides:
        for group in side.optimizer.param_groups:
            group["lr"] = 0.3

    for step in range(4, 30):
        for side in lockstep.sides:
            side.scheduler.step(*case.step_arguments(step))
        ours, theirs = (lrs(side.optimizer) for side in lockstep.sides)
        assert ours == list(map(float, theirs))
        assert all(type(lr) is float for lr in ours)


@each_representative
def test_writing_into_the_lr_tensor_of_the_optimizer_counts(case):
    lockstep = Lockstep(case)
    lockstep.run(3)

    lockstep.ours.optimizer.lr[1] = 0.4
    lockstep.theirs.optimizer.param_groups[1]["lr"] = 0.4

    lockstep.run(30)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize("lr_kind", ["float", "tensor"])
@each_schedule
def test_step_with_an_epoch_gives_the_bits_of_torch(case, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    for epoch in (1, 2, 3, 10, 11, 5, 100, 0, 1, 30, 299):
        for side in lockstep.sides:
            side.scheduler.step(*case.step_arguments(epoch), epoch)
        lockstep.check()
        lockstep.step()


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@each_case(has_closed_form=True, among=REPRESENTATIVES)
def test_step_with_a_fractional_epoch_gives_the_bits_of_torch(case):
    lockstep = Lockstep(case)
    for epoch in (0.25, 2.5, 3.0, 7.0, 29.999999, 30.0):
        for side in lockstep.sides:
            side.scheduler.step(epoch)
        lockstep.check()


@each_schedule
def test_the_first_step_after_a_reset_count_gives_the_bits_of_torch(case):
    """Schedulers that torch resumes in the middle have a formula of their own for that step."""
    lockstep = Lockstep(case)
    lockstep.run(5)
    for side in lockstep.sides:
        side.scheduler._step_count = 0
    lockstep.run(5)


@each_case(takes_metric=False)
def test_resuming_with_last_epoch_gives_the_bits_of_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(11)
    for side in lockstep.sides:
        saved = side.optimizer.state_dict()
        side.optimizer = make_optimizer(side.library)
        side.optimizer.load_state_dict(saved)
        side.schedulers = [case.build(side.library, side.optimizer, last_epoch=10)]
        side.optimizer.step()
    lockstep.check()

    lockstep.run(40)


@each_representative
def test_an_int_lr_stays_an_int_until_it_moves(case):
    lockstep = Lockstep(case)
    for side in lockstep.sides:
        for group in side.optimizer.param_groups:
            group["lr"] = 1
    lockstep.run(10)


# float32 tensors: torch computes in float32, fusedlr in float64


def run_in_float32(library, case, steps):
    optimizer = make_optimizer(library, lr=lambda value: torch.tensor(value, dtype=torch.float32))
    scheduler = case.build(library, optimizer)
    optimizer.step()
    for step in range(1, steps + 1):
        scheduler.step(*case.step_arguments(step))
    return optimizer


def run_in_float64(case, steps):
    """torch's own scheduler on float64, from the initial lr that float32 tensors give."""
    optimizer = make_optimizer(torch.optim, lr=lambda value: torch.tensor(value).item())
    scheduler = case.build(torch.optim, optimizer)
    optimizer.step()
    for step in range(1, steps + 1):
        scheduler.step(*case.step_arguments(step))
    return torch.tensor(lrs(optimizer), dtype=torch.float64)


@each_case(drifts_in_float32=True)
def test_a_float32_tensor_lr_does_not_drift_as_in_torch(case):
    exact = run_in_float64(case, 9_000)

    ours = run_in_float32(fusedlr, case, 9_000).lr
    theirs = torch.stack(lrs(run_in_float32(torch.optim, case, 9_000))).double()

    our_error = ((ours - exact) / exact).abs().max()
    their_error = ((theirs - exact) / exact).abs().max()
    assert their_error > 1e-6
    assert our_error < 1e-6 * their_error


@each_schedule
def test_a_float32_tensor_lr_reads_as_the_rounded_float64_lr(case):
    optimizer = run_in_float32(fusedlr, case, 50)

    assert torch.stack(lrs(optimizer)).tolist() == optimizer.lr.float().tolist()
    torch.testing.assert_close(optimizer.lr, run_in_float64(case, 50), rtol=1e-15, atol=0)


def test_a_float32_recursion_agrees_with_the_closed_form_where_torch_does_not():
    steps, gamma = 10_000, 0.9997
    optimizers = {}
    for library in (fusedlr, torch.optim):
        optimizer = library.SGD([torch.nn.Parameter(torch.ones(1))], lr=torch.tensor(0.1))
        scheduler = library.lr_scheduler.ExponentialLR(optimizer, gamma)
        optimizer.step()
        for _ in range(steps):
            scheduler.step()
        optimizers[library] = optimizer
    exact = torch.tensor(0.1).item() * gamma**steps

    our_error = abs(optimizers[fusedlr].lr.item() / exact - 1)
    their_error = abs(optimizers[torch.optim].param_groups[0]["lr"].item() / exact - 1)

    assert our_error < 1e-11
    assert their_error > 1e-6


def test_a_lr_of_0_05_reads_0_05_from_everywhere():
    optimizer = fusedlr.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.05)
    scheduler = fusedlr.lr_scheduler.StepLR(optimizer, step_size=1000)
    optimizer.step()
    scheduler.step()

    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.lr.tolist() == scheduler.get_last_lr() == [0.05]


def test_the_table_holds_every_scheduler_and_its_special_cases():
    assert {case.of.name for case in SCHEDULES} == {
        name for name in fusedlr.lr_scheduler.__all__ if not name.endswith("LRScheduler")
    }
    assert len(cases(runs_long=True)) >= 6
    assert any(math.isnan(metric(step)) for step in range(50))
    assert initial_lr(0) != initial_lr(1)
