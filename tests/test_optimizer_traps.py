"""Where torch.optim has a trap: a test of what fusedlr does instead."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.nn import Parameter

import fusedlr
from cases import (
    DTYPE,
    DTYPES,
    LAYOUTS,
    Guarded,
    OptimizerCase,
    Variant,
    each_optimizer,
    random_tensor,
)
from lockstep import TRUSTED, Lockstep, parameters_like, random_grads, set_grads

FLOAT32 = DTYPE[torch.float32]
HALVES = [row for row in DTYPES if row.dtype.itemsize == 2]


def flags_of(case: OptimizerCase) -> list[dict[str, Any]]:
    return [{}, *case.flags]


def copies(value: Any) -> list[Any]:
    return [value, copy.deepcopy(value), pickle.loads(pickle.dumps(value))]


# ------------------------------------------------------------------------------- mixed precision


def scaled_training(optimizer: Any, grads: list[list[Tensor]], unscale_first: bool = False) -> None:
    """Training with a GradScaler; gradient clipping is why users unscale first."""
    params = optimizer.param_groups[0]["params"]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for one_step in grads:
        set_grads(params, [grad * scaler.get_scale() for grad in one_step])
        scaler.scale(torch.ones(()))  # what backward starts from
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()


def grads_with_overflows(
    params: list[Tensor], overflows: list[int], steps: int, generator: torch.Generator
) -> list[list[Tensor]]:
    grads = [random_grads(params, generator) for _ in range(steps)]
    for step in overflows:
        grads[step][-1].view(-1)[0] = float("inf")
    return grads


@pytest.mark.parametrize("unscale_first", [False, True])
@pytest.mark.parametrize("overflows", [[0], [0, 1], [2], [0, 3]], ids=str)
@each_optimizer
def test_a_step_that_overflows_leaves_no_trace_even_if_it_is_the_first(
    case, overflows, unscale_first, generator
):
    start = [random_tensor((7,), torch.float32, generator) for _ in range(2)]
    grads = grads_with_overflows(start, overflows, 5, generator)
    finite = [one for step, one in enumerate(grads) if step not in overflows]
    reference = parameters_like(start)
    torch_optimizer = case.theirs(reference, **TRUSTED, **case.arguments, **case.with_all_state)
    for one_step in finite:
        set_grads(reference, one_step)
        torch_optimizer.step()
    for flags in flags_of(case):
        params = parameters_like(start)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state, **flags)
        scaled_training(optimizer, grads, unscale_first)
        tolerance = FLOAT32.tolerance
        torch.testing.assert_close(params, reference, rtol=tolerance, atol=tolerance)
        assert not any(map(torch.equal, params, start))
        for param, other in zip(params, reference, strict=True):
            torch.testing.assert_close(
                dict(optimizer.state[param]), torch_optimizer.state[other], rtol=1e-5, atol=1e-6
            )


@each_optimizer
def test_an_optimizer_that_only_overflowed_has_not_moved(case, generator):
    start = [random_tensor((7,), torch.float32, generator)]
    for flags in flags_of(case):
        params = parameters_like(start)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state, **flags)
        scaled_training(optimizer, grads_with_overflows(start, [0, 1], 2, generator))
        assert torch.equal(params[0], start[0])
        assert len(optimizer.state) == 0


@each_optimizer
def test_copies_and_pickles_handle_overflow_as_the_original(case, generator):
    start = [random_tensor((7,), torch.float32, generator)]
    grads = grads_with_overflows(start, [1], 3, generator)
    for flags in flags_of(case):
        original = case.ours(parameters_like(start), **case.arguments, **flags)
        results = []
        for optimizer in copies(original):
            scaled_training(optimizer, grads)
            results.append(optimizer.param_groups[0]["params"][0])
        for param in results:
            assert param.isfinite().all()
            assert torch.equal(param, results[0])
            assert not torch.equal(param, start[0])


@each_optimizer
def test_a_checkpoint_with_other_flags_changes_neither_values_nor_the_handling_of_overflow(
    case, generator
):
    start = [random_tensor((7,), torch.float32, generator)]
    grads = grads_with_overflows(start, [0, 2], 4, generator)
    results = []
    for own in flags_of(case):
        for loaded in flags_of(case):
            params = parameters_like(start)
            optimizer = case.ours(params, **case.arguments, **own)
            source = case.ours(parameters_like(start), **case.arguments, **loaded)
            set_grads(source.param_groups[0]["params"], start)
            source.step()
            optimizer.load_state_dict(source.state_dict())
            for key, value in loaded.items():
                assert optimizer.param_groups[0][key] == value
            scaled_training(optimizer, grads)
            results.append(params[0])
    for param in results:
        assert param.isfinite().all()
        assert torch.equal(param, results[0])
        assert not torch.equal(param, start[0])


# -------------------------------------------------------------------------- gradients and layouts


@each_optimizer
def test_a_parameter_may_get_its_first_gradient_later_than_others(case, generator):
    start = [random_tensor((7,), torch.float32, generator) for _ in range(2)]
    grads = [random_grads(start, generator) for _ in range(4)]
    for flags in flags_of(case):
        runs = []
        for optimizer_class, chosen in ((case.ours, flags), (case.theirs, TRUSTED)):
            params = parameters_like(start)
            optimizer = optimizer_class(params, **case.arguments, **case.with_all_state, **chosen)
            for step, (first, second) in enumerate(grads):
                set_grads(params, [first, second if step >= 2 else None])
                optimizer.step()
            runs.append(params)
        torch.testing.assert_close(*runs, rtol=FLOAT32.tolerance, atol=FLOAT32.tolerance)
        assert not any(map(torch.equal, runs[0], start))


@each_optimizer
def test_strides_are_respected_and_nothing_outside_of_a_view_is_written(case, generator):
    values, grad = (random_tensor((2, 3, 4, 5), torch.float32, generator) for _ in range(2))
    for flags in flags_of(case):
        (contiguous,) = parameters_like([values])
        contiguous.grad = grad.clone()
        case.ours([contiguous], **case.arguments, **case.with_all_state).step()
        for layout in LAYOUTS:
            placed = Guarded(values, layout)
            param = Parameter(placed.view)
            param.grad = grad.clone()
            case.ours([param], **case.arguments, **case.with_all_state, **flags).step()
            assert torch.equal(param, contiguous)
            assert placed.is_intact()
            assert torch.equal(param.grad, grad)
        assert not torch.equal(contiguous, values)


@pytest.mark.parametrize("size", [15, 16, 17, 64, 1000])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@each_optimizer
def test_sixteen_bit_tensors_of_any_size_are_right_with_any_flags(case, dtype, size, generator):
    tensors = [random_tensor((size,), dtype.dtype, generator)]
    for flags in flags_of(case):
        run = Lockstep(Variant(case, "", case.with_all_state), tensors, dtype.exact)
        run.our_optimizer.param_groups[0].update(flags)
        run.train(3, generator)
        run.assert_as_accurate_as_torch(floor=3 * dtype.eps)
        run.assert_moved(by=2 * dtype.tolerance)


@each_optimizer
def test_gradients_come_out_unchanged_and_may_be_expanded_with_any_flags(case, generator):
    start = random_tensor((4, 6), torch.float32, generator)
    expanded = random_tensor((4, 1), torch.float32, generator).expand(4, 6)
    results = []
    for flags in flags_of(case):
        for grad in (expanded, expanded.contiguous()):
            before = grad.clone()
            param = Parameter(start.clone())
            param.grad = grad
            optimizer = case.ours(
                [param],
                **case.arguments,
                **case.with_all_state,
                **flags,
                weight_decay=0.1,
                maximize=True,
            )
            optimizer.step()
            optimizer.step()
            assert param.grad is grad
            assert torch.equal(grad, before)
            results.append(param.detach())
    assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(results[0], start)


# ------------------------------------------------------------------- one lr tensor in many groups


def two_groups(case: OptimizerCase, lr: Any, **arguments: Any) -> Any:
    groups = [{"params": [Parameter(torch.ones(3))]} for _ in range(2)]
    return case.ours(groups, **{**case.arguments, "lr": lr}, **arguments)


LAMBDAS = [lambda epoch: 0.7**epoch, lambda epoch: 1.0 / (1 + epoch)]

PER_GROUP_SCHEDULES = {
    "torch LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, LAMBDAS),
    "fusedlr LambdaLR": lambda o: fusedlr.lr_scheduler.LambdaLR(o, LAMBDAS),
    "torch CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(
        o, [0.1, 0.2], [0.4, 0.8], 3, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("schedule", PER_GROUP_SCHEDULES.values(), ids=PER_GROUP_SCHEDULES)
@each_optimizer
def test_groups_that_share_one_lr_tensor_are_scheduled_each_on_its_own(case, schedule):
    shared = two_groups(case, torch.tensor(0.1, dtype=torch.float64))
    plain = two_groups(case, 0.1)
    schedulers = [schedule(optimizer) for optimizer in (shared, plain)]
    for _ in range(5):
        for optimizer, scheduler in zip((shared, plain), schedulers, strict=True):
            for group in optimizer.param_groups:
                set_grads(group["params"], [torch.ones(3)])
            optimizer.step()
            scheduler.step()
        expected = [group["lr"] for group in plain.param_groups]
        assert len(set(expected)) == 2
        assert [group["lr"].item() for group in shared.param_groups] == expected
        assert shared.lr.tolist() == expected
    for ours, reference in zip(shared.param_groups, plain.param_groups, strict=True):
        assert torch.equal(ours["params"][0], reference["params"][0])
    assert not torch.equal(shared.param_groups[0]["params"][0], torch.ones(3))


@each_optimizer
def test_one_lr_tensor_of_all_groups_stays_live_until_a_scheduler_takes_a_group_over(case):
    lr = torch.tensor(0.1)
    optimizer = two_groups(case, lr)
    for value in (0.5, 0.25):
        lr.fill_(value)
        assert optimizer.lr.tolist() == [value, value]
        assert [group["lr"].item() for group in optimizer.param_groups] == [value, value]

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0, lambda _: 2.0])
    assert optimizer.lr.tolist() == [0.25, 0.5]
    for group in optimizer.param_groups:
        set_grads(group["params"], [torch.ones(3)])
    optimizer.step()
    scheduler.step()
    lr.fill_(9.0)
    assert optimizer.lr.tolist()[1] == 0.5


@each_optimizer
def test_a_group_that_goes_its_own_way_leaves_the_shared_lr_tensor_to_the_others(case):
    lr = torch.tensor(0.1)
    optimizer = two_groups(case, lr)
    optimizer.param_groups[0]["lr"] = 0.5
    lr.fill_(0.25)
    assert optimizer.lr.tolist() == [0.5, 0.25]
    optimizer.add_param_group({"params": [Parameter(torch.ones(1))]})
    lr.fill_(0.75)
    assert optimizer.lr.tolist() == [0.5, 0.75, 0.75]


# ------------------------------------------------------------------------------------ checkpoints


@each_optimizer
def test_whoever_holds_state_sees_what_a_checkpoint_brings(case, generator):
    def trained() -> tuple[list[Parameter], Any]:
        params = parameters_like([random_tensor((5,), torch.float32, generator)])
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        set_grads(params, random_grads(params, generator))
        optimizer.step()
        return params, optimizer

    (param,), optimizer = trained()
    held = {name: optimizer.state[param][name] for name in optimizer.state[param]}
    addresses = {name: value.data_ptr() for name, value in held.items()}
    lr = optimizer.lr
    (other,), source = trained()
    source.param_groups[0]["lr"] = 0.5
    optimizer.load_state_dict(source.state_dict())
    assert lr.item() == 0.5
    for name, value in held.items():
        assert torch.equal(value, source.state[other][name])
        assert optimizer.state[param][name].data_ptr() == addresses[name]
    set_grads([param], random_grads([param], generator))
    optimizer.step()
    for name, value in held.items():
        assert not torch.equal(value, source.state[other][name])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@each_optimizer
def test_state_keeps_its_dtype_when_a_checkpoint_is_loaded(case, dtype, generator):
    def optimizer_with_float32_state() -> tuple[Parameter, Any]:
        param = Parameter(random_tensor((5,), dtype.dtype, generator))
        optimizer = case.ours([param], **case.arguments, **case.with_all_state)
        for name in case.state_names:
            optimizer.state[param][name] = torch.zeros(5)
        if case.step_is_visible:
            optimizer.state[param]["step"] = torch.tensor(0.0)
        for _ in range(2):
            set_grads([param], [random_tensor((5,), dtype.dtype, generator)])
            optimizer.step()
        return param, optimizer

    (param, optimizer), (other, source) = (optimizer_with_float32_state() for _ in range(2))
    optimizer.load_state_dict(source.state_dict())
    for name in case.state_names:
        value = optimizer.state[param][name]
        assert value.dtype == torch.float32
        assert torch.equal(value, source.state[other][name])
        assert not torch.equal(value, value.to(dtype.dtype).float())


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@each_optimizer
def test_distributed_checkpoint_initialises_state_with_an_lr_of_zero_and_moves_nothing(case, lr):
    model = torch.nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    given = copy.deepcopy(lr)
    optimizer = case.ours(
        model.parameters(), **{**case.arguments, "lr": given}, **case.with_all_state
    )
    saved = get_optimizer_state_dict(model, optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert optimizer.param_groups[0]["lr"] is given or not isinstance(lr, Tensor)
    assert optimizer.lr.item() == lr == saved["param_groups"][0]["lr"]
    for name in case.state_names:
        assert torch.equal(saved["state"]["weight"][name], torch.zeros(2, 3))

    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before["weight"])


# ------------------------------------------------------------------------------------- live hypers


@each_optimizer
def test_every_hyper_is_live(case, generator):
    start = [random_tensor((7,), torch.float32, generator)]
    ours, theirs = parameters_like(start), parameters_like(start)
    pairs = (
        (ours, case.ours(ours, **case.arguments, **case.with_momentum)),
        (theirs, case.theirs(theirs, **TRUSTED, **case.arguments, **case.with_momentum)),
    )
    table = pairs[0][1].lr.data_ptr()
    for key, value in case.edits.items():
        grads = random_grads(start, generator)
        before = ours[0].detach().clone()
        for params, optimizer in pairs:
            optimizer.param_groups[0][key] = value
            set_grads(params, grads)
            optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=FLOAT32.tolerance, atol=FLOAT32.tolerance)
        assert not torch.equal(ours[0], before)
    assert pairs[0][1].lr.data_ptr() == table
