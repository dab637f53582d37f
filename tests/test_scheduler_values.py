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
from schedule_lockstep import (
    Lockstep,
    exact,
    initial_lr,
    lrs,
    make_optimizer,
    momentums,
)


@pytest.mark.parametrize(
    ("lr_kind", "num_groups", "steps"),
    [("float", 1, 60), ("float", 3, 300), ("tensor", 3, 60)],
)
@each_schedule
def test_every_step_gives_the_bits_of_torch(case, lr_kind, num_groups, steps):
    Lockstep(case, num_groups=num_groups, lr_kind=lr_kind).run(steps)


@pytest.mark.parametrize(
    ("lr_kind", "num_groups", "steps"),
    [("float", 40, 100), ("tensor", 1, 300), ("tensor", 40, 20), ("one_element", 3, 100)],
)
@each_representative
def test_more_and_fewer_groups_give_the_bits_of_torch(case, lr_kind, num_groups, steps):
    Lockstep(case, num_groups=num_groups, lr_kind=lr_kind).run(steps)


def test_a_thousand_groups_give_the_bits_of_torch():
    """One scheduler after the other, as building such an optimizer takes long."""
    optimizers = {library: make_optimizer(library, 1000) for library in (fusedlr, torch.optim)}
    for case in REPRESENTATIVES:
        went_through = []
        for library, optimizer in optimizers.items():
            scheduler = case.with_one_function().build(library, optimizer)
            optimizer.step()
            for step in range(1, 6):
                scheduler.step(*case.step_arguments(step))
            seen = [lrs(optimizer), momentums(optimizer), scheduler.get_last_lr()]
            went_through.append(exact(seen))
        assert went_through[0] == went_through[1], case


@each_case(runs_long=True)
def test_ten_thousand_steps_give_the_bits_of_torch(case):
    Lockstep(case).run(10_000, compare_every=11)


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


def run_with_edits(lockstep, edits):
    """Edits the lr of the first and the last group now and then, in one way after another."""
    for step, edit in enumerate(2 * list(edits.values())):
        lockstep.run(9)
        for side in lockstep.sides:
            edit(side.optimizer.param_groups[0], 0.07 / (1 + step))
            edit(side.optimizer.param_groups[-1], 0.3)
    lockstep.run(9)


@each_schedule
def test_edits_of_a_float_lr_count_as_in_torch(case):
    run_with_edits(Lockstep(case), EDITS)


@each_schedule
def test_edits_of_a_tensor_lr_count_as_in_torch(case):
    run_with_edits(Lockstep(case, lr_kind="tensor"), TENSOR_EDITS)


def edits_of(kind, rows=REPRESENTATIVES):
    return [
        pytest.param(case, name, values, id=f"{case}-{name}")
        for case in rows
        for name, values in getattr(case.of, kind)
    ]


@pytest.mark.parametrize(("case", "name", "values"), edits_of("edits"))
def test_edits_of_an_attribute_count_as_in_torch(case, name, values):
    lockstep = Lockstep(case)
    lockstep.run(4)
    for value in (*values, values[0]):
        for side in lockstep.sides:
            setattr(side.scheduler, name, value)
        lockstep.check()
        lockstep.run(9)


def edited_lists():
    return [
        pytest.param(case, name, id=f"{case}-{name}")
        for case in REPRESENTATIVES
        for name in case.of.lists
    ]


@pytest.mark.parametrize("lr_kind", ["float", "tensor"])
@pytest.mark.parametrize(("case", "name"), edited_lists())
def test_edits_of_a_list_in_place_count_as_in_torch(case, name, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    lockstep.run(3)
    for _ in range(3):
        for side in lockstep.sides:
            getattr(side.scheduler, name)[0] *= 1.3
            getattr(side.scheduler, name)[2] = 0.43
        lockstep.check()
        lockstep.run(7)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize(("case", "name"), edited_lists())
def test_a_list_may_be_replaced_by_any_sequence_of_numbers(case, name, kind):
    lockstep = Lockstep(case)
    lockstep.run(2)
    for side in lockstep.sides:
        setattr(side.scheduler, name, kind([0.4, 1, 0.2]))
    lockstep.check()
    lockstep.run(40)


@pytest.mark.parametrize("lr_kind", ["float", "tensor"])
@pytest.mark.parametrize(
    ("case", "name", "values"),
    edits_of("group_edits", [*REPRESENTATIVES, *cases(optimizer="Adam")]),
)
def test_edits_of_what_a_group_holds_for_a_scheduler_count_as_in_torch(case, name, values, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    lockstep.run(3)
    for value in (*values, values[0]):
        for side in lockstep.sides:
            for group in side.optimizer.param_groups[1:]:
                if name in group:
                    group[name] = value
        lockstep.check()
        lockstep.run(12)


@each_schedule
def test_rows_that_cycle_the_momentum_do_so_and_no_others(case):
    optimizer = make_optimizer(torch.optim, name=case.optimizer)
    scheduler = case.build(torch.optim, optimizer)
    optimizer.step()
    seen_momentums = [momentums(optimizer)]
    for step in range(12):
        scheduler.step(*case.step_arguments(step))
        seen_momentums.append(momentums(optimizer))
    for of_group in zip(*seen_momentums, strict=True):
        assert (len(set(of_group)) > 1) == case.moves_momentum


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
@each_case(takes_epoch=True, has_no_length=False)
def test_step_with_an_epoch_gives_the_bits_of_torch(case, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    for epoch in (1, 2, 3, 10, 11, 5, 100, 0, 1, 30, 299):
        if epoch > case.final_epoch:
            continue
        for side in lockstep.sides:
            side.scheduler.step(*case.step_arguments(epoch), epoch)
        lockstep.check()
        lockstep.step()


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@each_case(takes_epoch=True, takes_metric=False, among=REPRESENTATIVES)
def test_step_with_a_fractional_epoch_gives_the_bits_of_torch(case):
    lockstep = Lockstep(case)
    for epoch in (0.25, 2.5, 3.0, 7.0, 29.999999, 30.0):
        for side in lockstep.sides:
            side.scheduler.step(epoch)
        lockstep.check()


@each_schedule
def test_the_torch_engine_gives_the_bits_of_torch(case, monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    Lockstep(case).run(50)


@each_schedule
def test_the_engines_may_take_turns(case, monkeypatch):
    lockstep = Lockstep(case)
    for backend in ("torch", "cpu", "torch", "cpu"):
        lockstep.run(5)
        monkeypatch.setenv("FUSEDLR_BACKEND", backend)
    lockstep.run(5)


@each_schedule
def test_the_first_step_after_a_reset_count_gives_the_bits_of_torch(case):
    """Schedulers that torch resumes in the middle have a formula of their own for that step."""
    lockstep = Lockstep(case)
    lockstep.run(5)
    for side in lockstep.sides:
        side.scheduler._step_count = 0
    lockstep.run(5)


@each_case(takes_last_epoch=True)
def test_resuming_with_last_epoch_gives_the_bits_of_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(11)
    for side in lockstep.sides:
        saved = side.optimizer.state_dict()
        side.optimizer = make_optimizer(side.library, name=case.optimizer)
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


def run_on(library, case, steps, make_lr):
    optimizer = make_optimizer(library, 2, make_lr, case.optimizer)
    scheduler = case.build(library, optimizer)
    optimizer.step()
    for step in range(1, 1 + min(steps, case.final_epoch)):
        scheduler.step(*case.step_arguments(step))
    return optimizer


def run_in_float32(library, case, steps):
    return run_on(library, case, steps, lambda value: torch.tensor(value, dtype=torch.float32))


def run_in_float64(case, steps):
    """torch's own scheduler on float64, from the initial lr that float32 tensors give."""
    optimizer = run_on(torch.optim, case, steps, lambda value: torch.tensor(value).item())
    return torch.tensor(lrs(optimizer), dtype=torch.float64)


@each_case(drifts_in_float32=True)
def test_a_float32_tensor_lr_does_not_drift_as_in_torch(case):
    exact = run_in_float64(case, 7_000)

    ours = run_in_float32(fusedlr, case, 7_000).lr
    theirs = torch.stack(lrs(run_in_float32(torch.optim, case, 7_000))).double()

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
    torchs = {name for name in torch.optim.lr_scheduler.__all__ if name != "LRScheduler"}
    assert {case.of.name for case in SCHEDULES} == torchs | {"SWALR"}
    assert len(cases(runs_long=True)) >= 16
    assert any(math.isnan(metric(step)) for step in range(50))
    assert initial_lr(0) != initial_lr(1)
