"""A step on a device gives the bits that the CPU engine gives, whatever it is given."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from places import (
    assert_as_on_cpu,
    assert_same_bits,
    everything_of,
    give_grads,
    parameters_on,
)
from torch import Tensor
from torch.nn import Parameter

import fusedlr
from cases import (
    DTYPES,
    LARGE_SIZES,
    LAYOUT_SHAPE,
    LAYOUTS,
    SHAPES,
    Guarded,
    Variant,
    each_dtype,
    each_optimizer,
    each_scheduled,
    each_variant,
    random_tensor,
    variants_of,
)

Grads = list[list[Tensor | None]]


def random_tensors(shapes, dtype, generator):
    return [random_tensor(shape, dtype, generator) for shape in shapes]


def random_grads(tensors, steps, generator) -> Grads:
    """Gradients for some steps."""
    return [
        [random_tensor(tuple(one.shape), one.dtype, generator) for one in tensors]
        for _ in range(steps)
    ]


def with_gaps(grads: Grads) -> Grads:
    """The same, where now and then a gradient is missing."""
    return [
        [None if (step + place) % 4 == 1 else grad for place, grad in enumerate(of_step)]
        for step, of_step in enumerate(grads)
    ]


def train(device, variant: Variant, tensors, grads: Grads) -> list[Tensor]:
    params = parameters_on(device, tensors)
    optimizer = variant.case.ours(params, **variant.arguments)
    for of_step in grads:
        give_grads(params, of_step)
        optimizer.step()
    return everything_of(optimizer)


def has_moved(result: list[Tensor], start: Tensor) -> bool:
    return not torch.equal(result[0], start)


# ------------------------------------------------------------------------------- values and sizes


@each_dtype
@each_variant
def test_every_variant_steps_small_tensors_of_any_shape(variant, dtype, place, generator):
    tensors = random_tensors([(6,), *SHAPES], dtype.dtype, generator)
    grads = with_gaps(random_grads(tensors, 4, generator))
    assert has_moved(assert_as_on_cpu(place, train, variant, tensors, grads), tensors[0])


@each_dtype
@each_optimizer
def test_tensors_of_many_chunks(case, dtype, place, generator):
    shapes = [(size,) for size in (*LARGE_SIZES, 300_001)]
    tensors = random_tensors(shapes, dtype.dtype, generator)
    variant = Variant(case, "", {**case.with_all_state, "weight_decay": 0.1})
    grads = random_grads(tensors, 2, generator)
    assert has_moved(assert_as_on_cpu(place, train, variant, tensors, grads), tensors[0])


@each_dtype
@each_optimizer
def test_sizes_at_the_edges_of_vectors_and_of_chunks(case, dtype, place, generator):
    sizes = [1, 3, 4, 15, 16, 17, 255, 257, 4095, 4096, 4097]
    tensors = random_tensors([(size,) for size in sizes], dtype.dtype, generator)
    grads = random_grads(tensors, 2, generator)

    def train_views(device):
        # One element behind the beginning of their memory: where no vector begins.
        memory = [torch.zeros(one.numel() + 1, dtype=one.dtype, device=device) for one in tensors]
        params = [Parameter(one[1:]) for one in memory[::2]]
        params += [Parameter(one[:-1]) for one in memory[1::2]]
        optimizer = case.ours(params, **case.arguments, **case.with_all_state, weight_decay=0.1)
        order = [*range(0, len(sizes), 2), *range(1, len(sizes), 2)]
        for param, place_ in zip(params, order, strict=True):
            param.data.copy_(tensors[place_])
        for of_step in grads:
            give_grads(params, [of_step[place_] for place_ in order])
            optimizer.step()
        assert all(one[0] == 0 for one in memory[::2])
        assert all(one[-1] == 0 for one in memory[1::2])
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_views), tensors[0])


@pytest.mark.parametrize("count", [1_000, 4_500])
@each_optimizer
def test_thousands_of_tiny_tensors(case, count, place, generator):
    tensors = random_tensors([(1 + i % 5,) for i in range(count)], torch.float32, generator)
    variant = Variant(case, "", case.with_all_state)
    grads = with_gaps(random_grads(tensors, 2, generator))
    assert has_moved(assert_as_on_cpu(place, train, variant, tensors, grads), tensors[0])


@each_optimizer
def test_a_hundred_steps(case, place, generator):
    tensors = random_tensors([(300,), (17, 3)], torch.float32, generator)
    grads = random_grads(tensors, 100, generator)
    for variant in variants_of(case):
        assert has_moved(assert_as_on_cpu(place, train, variant, tensors, grads), tensors[0])


@pytest.mark.parametrize("dtype", [row for row in DTYPES if not row.dtype.is_complex], ids=str)
@each_optimizer
def test_infinities_nans_and_subnormals(case, dtype, place):
    tiny, inf = torch.finfo(dtype.dtype).tiny, float("inf")
    values = [0.0, -0.0, 1.0, tiny, -tiny / 4, dtype.max, inf, -inf, float("nan")]
    special = torch.tensor(values, dtype=torch.float64)
    start = special.repeat_interleave(len(special)).to(dtype.dtype)
    grads = [[one.repeat(len(special)).to(dtype.dtype)] for one in (special.roll(1), special)]
    for variant in variants_of(case):
        assert_as_on_cpu(place, train, variant, [start], grads)


@each_optimizer
def test_groups_of_all_dtypes_and_variants_in_one_optimizer(case, place, generator):
    variants = variants_of(case)
    rows = [(dtype, variant) for dtype in DTYPES for variant in variants]
    tensors = [random_tensors([(9,), (4, 5)], dtype.dtype, generator) for dtype, _ in rows]
    grads = [random_grads(of_group, 3, generator) for of_group in tensors]

    def train_together(device):
        groups = [
            {"params": parameters_on(device, of_group), **variant.arguments}
            for of_group, (_, variant) in zip(tensors, rows, strict=True)
        ]
        optimizer = case.ours(groups)
        for step in range(3):
            for group, of_group in zip(optimizer.param_groups, grads, strict=True):
                give_grads(group["params"], of_group[step])
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_together), tensors[0][0])


@pytest.mark.parametrize("num_groups", [1, 3, 1_000])
@each_optimizer
def test_any_number_of_groups(case, num_groups, place, generator):
    tensors = random_tensors(
        [(1 + i % 7,) for i in range(2 * num_groups)], torch.float32, generator
    )
    grads = random_grads(tensors, 3, generator)

    def train_groups(device):
        params = parameters_on(device, tensors)
        groups = [
            {"params": params[2 * i : 2 * i + 2], "lr": 0.1 / (1 + i), "weight_decay": 0.01 * i}
            for i in range(num_groups)
        ]
        optimizer = case.ours(groups, **case.arguments, **case.with_all_state)
        for of_step in grads:
            give_grads(params, of_step)
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_groups), tensors[0])


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_optimizer
def test_state_of_another_dtype_than_the_parameters(
    case, param_dtype, state_dtype, place, generator
):
    tensors = random_tensors([(257,), (3, 5)], param_dtype, generator)
    grads = random_grads(tensors, 3, generator)

    def train_with_state(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        give_grads(params, grads[0])
        optimizer.step()
        for param in params:
            for name in case.state_names:
                optimizer.state[param][name] = optimizer.state[param][name].to(state_dtype)
        for of_step in grads[1:]:
            give_grads(params, of_step)
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_with_state), tensors[0])


# ---------------------------------------------------------------------------------------- layouts


@each_dtype
@each_optimizer
def test_parameters_and_gradients_of_any_layouts(case, dtype, place, generator):
    pairs = [(param, grad) for param in LAYOUTS for grad in LAYOUTS]
    values = [random_tensors(3 * [LAYOUT_SHAPE], dtype.dtype, generator) for _ in pairs]

    def train_layouts(device):
        placed = [
            Guarded(start.to(device), param_layout)
            for (start, *_), (param_layout, _) in zip(values, pairs, strict=True)
        ]
        params = [Parameter(one.view) for one in placed]
        optimizer = case.ours(params, **case.arguments, **case.with_all_state, weight_decay=0.1)
        for step in (1, 2):
            grads = [
                Guarded(of_pair[step].to(device), grad_layout)
                for of_pair, (_, grad_layout) in zip(values, pairs, strict=True)
            ]
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.view
            optimizer.step()
            assert all(grad.is_intact() for grad in grads)
        assert all(one.is_intact() for one in placed)
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_layouts), values[0][0])


@each_optimizer
def test_state_of_any_layout(case, place, generator):
    pairs = [(param, state) for param in LAYOUTS for state in LAYOUTS]
    values = [random_tensors(3 * [LAYOUT_SHAPE], torch.float32, generator) for _ in pairs]

    def train_layouts(device):
        placed = [
            Guarded(start.to(device), param_layout)
            for (start, *_), (param_layout, _) in zip(values, pairs, strict=True)
        ]
        params = [Parameter(one.view) for one in placed]
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        give_grads(params, [of_pair[1] for of_pair in values])
        optimizer.step()
        for param, (_, state_layout) in zip(params, pairs, strict=True):
            state = optimizer.state[param]
            for name in case.state_names:
                placed.append(Guarded(state[name], state_layout))
                state[name] = placed[-1].view
        give_grads(params, [of_pair[2] for of_pair in values])
        optimizer.step()
        assert all(one.is_intact() for one in placed)
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_layouts), values[0][0])


@each_optimizer
def test_expanded_gradients(case, place, generator):
    start = random_tensor(LAYOUT_SHAPE, torch.float32, generator)
    row = random_tensor((1, *LAYOUT_SHAPE[1:3], 1), torch.float32, generator)

    def train_expanded(device):
        params = parameters_on(device, [start])
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        for _ in range(2):
            params[0].grad = row.to(device).expand(LAYOUT_SHAPE)
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_expanded), start)


# ------------------------------------------------------------------------------ gradients and time


@pytest.mark.parametrize("set_to_none", [True, False])
@each_optimizer
def test_gradients_that_zero_grad_removes_or_zeroes(case, set_to_none, place, generator):
    tensors = random_tensors([(33,), (5, 3)], torch.float32, generator)
    grads = random_grads(tensors, 4, generator)

    def train_with_zero_grad(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        for step, of_step in enumerate(grads):
            optimizer.zero_grad(set_to_none=set_to_none)
            if step == 2:
                optimizer.step()
            loss = sum((p * g.to(device)).sum() for p, g in zip(params, of_step, strict=True))
            loss.backward()
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_with_zero_grad), tensors[0])


@each_optimizer
def test_gradients_written_in_place_between_steps(case, place, generator):
    tensors = random_tensors([(1000,)], torch.float32, generator)
    grads = random_grads(tensors, 20, generator)

    def train_in_place(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        grad = params[0].grad = torch.zeros_like(params[0])
        for (value,) in grads:
            grad.copy_(value, non_blocking=True)
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_in_place), tensors[0])


@pytest.mark.parametrize("shape", [(), (1,)])
@each_optimizer
def test_a_step_after_an_overflow_moves_nothing_but_the_count_of_skipped_steps(
    case, shape, place, generator
):
    tensors = random_tensors([(40,)], torch.float32, generator)
    grads = random_grads(tensors, 6, generator)

    def train_with_overflows(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **case.arguments, **case.with_all_state)
        found_inf = torch.zeros(shape, device=device)
        for step, of_step in enumerate(grads):
            give_grads(params, of_step)
            found_inf.fill_(float(step in (0, 3)))
            optimizer.found_inf = found_inf
            optimizer.step()
            if step == 0:
                assert torch.equal(params[0].detach().cpu(), tensors[0])
        del optimizer.found_inf
        optimizer.step()
        assert (optimizer.completed_steps, optimizer.skipped_steps) == (5, 2)
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_with_overflows), tensors[0])


@each_optimizer
def test_a_sparse_gradient_is_refused_by_name_and_nothing_has_moved(case, place):
    with place.chosen():
        params = parameters_on(place.device, [torch.ones(4), torch.ones(4)])
        optimizer = case.ours(params, **case.arguments)
        give_grads(params, [torch.ones(4), torch.ones(4)])
        optimizer.step()
        before = everything_of(optimizer)
        params[1].grad = torch.ones(4, device=place.device).to_sparse()
        with pytest.raises(RuntimeError, match=r"param_groups\[0\]\['params'\]\[1\]"):
            optimizer.step()
        assert_same_bits(everything_of(optimizer), before)


# ----------------------------------------------------------------------------------------- hypers


def edited(optimizer: Any, key: str, value: Any) -> None:
    for group in optimizer.param_groups[::2]:
        group[key] = value


def scale_lr(optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] *= 0.3


def write_into_lr(optimizer: Any) -> None:
    optimizer.lr[0] = 0.3


def multiply_lr(optimizer: Any) -> None:
    optimizer.lr.mul_(0.3)


def assign_lr(optimizer: Any) -> None:
    optimizer.lr = [0.3, 0.2]


OTHER_EDITS = [scale_lr, write_into_lr, multiply_lr, assign_lr]


@each_optimizer
def test_edits_of_hypers_count_from_the_next_step_on(case, place, generator):
    tensors = random_tensors([(20,), (7, 3)], torch.float32, generator)
    grads = random_grads(tensors, 6, generator)
    edits = [
        *(lambda optimizer, edit=edit: edited(optimizer, *edit) for edit in case.edits.items()),
        *OTHER_EDITS,
    ]

    def train_with_edit(device, edit):
        params = parameters_on(device, tensors)
        groups = [{"params": [param]} for param in params]
        arguments = {**case.arguments, **case.with_all_state, "weight_decay": 0.1}
        optimizer = case.ours(groups, **arguments)
        for step, of_step in enumerate(grads):
            if step == 3 and edit is not None:
                edit(optimizer)
            give_grads(params, of_step)
            optimizer.step()
        return everything_of(optimizer)

    plain = assert_as_on_cpu(place, train_with_edit, None)
    for edit in edits:
        result = assert_as_on_cpu(place, train_with_edit, edit)
        assert any(
            one.shape != other.shape or not torch.equal(one, other)
            for one, other in zip(result, plain, strict=False)
        )


@pytest.mark.parametrize("where", ["host", "device"])
@each_optimizer
def test_a_tensor_lr_stays_live(case, where, place, generator):
    tensors = random_tensors([(20,), (7, 3)], torch.float32, generator)
    grads = random_grads(tensors, 6, generator)

    def train_live(device):
        lr = torch.tensor(0.05, device=device if where == "device" else "cpu")
        params = parameters_on(device, tensors)
        groups = [{"params": [param]} for param in params]
        optimizer = case.ours(groups, **{**case.arguments, "lr": lr})
        for step, of_step in enumerate(grads):
            if step == 2:
                lr.fill_(0.4)
            if step == 4:
                optimizer.param_groups[0]["lr"] = 0.01
            give_grads(params, of_step)
            optimizer.step()
        return everything_of(optimizer)

    result = assert_as_on_cpu(place, train_live)
    assert has_moved(result, tensors[0])


@each_scheduled
def test_schedules_as_values(case, arguments, place, generator):
    tensors = random_tensors([(20,), (7, 3)], torch.float64, generator)
    grads = random_grads(tensors, 12, generator)

    def train_scheduled(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **{**case.arguments, **copy.deepcopy(arguments)})
        found_inf = optimizer.found_inf = torch.zeros((), device=device)
        seen = []
        for step, of_step in enumerate(grads):
            give_grads(params, of_step)
            found_inf.fill_(float(step in (4, 5)))
            optimizer.step()
            group = optimizer.param_groups[0]
            seen += [float(x) for key in case.edits for x in numbers_of(group[key])]
        return [*everything_of(optimizer), torch.tensor(seen, dtype=torch.float64)]

    with place.chosen():
        ours = train_scheduled(place.device)
    expected = train_scheduled("cpu")
    # Schedules of cosines and powers may differ in their last digits.
    close = {"rtol": 1e-13 * place.ulps, "atol": 1e-13 * place.ulps}
    torch.testing.assert_close(ours, expected, **close)
    assert has_moved(ours, tensors[0])
    assert len(set(ours[-1].tolist())) > 4


def numbers_of(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


# --------------------------------------------------------------------------- what makes plans stale


def add_a_group(optimizer, params):
    params.append(Parameter(torch.full((5,), 0.5, device=params[0].device)))
    optimizer.add_param_group({"params": [params[-1]], "lr": 0.2})


def give_other_storage(optimizer, params):
    params[0].data = params[0].detach() * 0.5


def replace_a_parameter(optimizer, params):
    new = Parameter(params[1].detach() * 0.5)
    state = optimizer.state.pop(params[1], None)
    optimizer.param_groups[0]["params"][1] = params[1] = new
    if state:
        optimizer.state[new] = state


def shrink_a_parameter(optimizer, params):
    """As codes do that prune their parameters."""
    new = Parameter(params[1].detach()[:3].clone())
    state = optimizer.state.pop(params[1])
    for name, one in state.items():
        if one.dim() > 0:
            state[name] = one[:3].clone()
    optimizer.param_groups[0]["params"][1] = params[1] = new
    optimizer.state[new] = state


def delete_state(optimizer, params):
    optimizer.state.pop(params[0], None)


def freeze(optimizer, params):
    params[0].requires_grad_(False)
    params[0].grad = None


def load_own_state(optimizer, params):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


CHANGES = [
    add_a_group,
    give_other_storage,
    replace_a_parameter,
    shrink_a_parameter,
    delete_state,
    freeze,
    load_own_state,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@each_optimizer
def test_a_step_after_a_change_is_right(case, change, place, generator):
    tensors = random_tensors([(20,), (9,), (4, 4)], torch.float32, generator)

    def train_with_change(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **{**case.arguments, **case.with_all_state})
        chance = torch.Generator().manual_seed(1)
        for step in range(7):
            if step == 4:
                change(optimizer, params)
            for param in params:
                if param.requires_grad:
                    value = random_tensor(tuple(param.shape), param.dtype, chance)
                    param.grad = value.to(device)
            optimizer.step()
        return everything_of(optimizer)

    assert has_moved(assert_as_on_cpu(place, train_with_change), tensors[0])


# ------------------------------------------------------------------------------ copies and records


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@each_optimizer
def test_a_copy_goes_on_by_itself(case, copied, place, generator):
    tensors = random_tensors([(20,), (7, 3)], torch.float32, generator)
    grads = random_grads(tensors, 4, generator)

    def train_copies(device):
        params = parameters_on(device, tensors)
        optimizer = case.ours(params, **{**case.arguments, **case.with_all_state})
        results = []
        for of_step in grads[:2]:
            give_grads(params, of_step)
            optimizer.step()
        other = copied(optimizer)
        for one in (other, optimizer):
            for of_step in grads[2:]:
                give_grads(one.param_groups[0]["params"], of_step)
                one.step()
            results.append(everything_of(one))
        assert_same_bits(*results)
        return results[0]

    assert has_moved(assert_as_on_cpu(place, train_copies), tensors[0])


@each_optimizer
def test_a_history_records_what_each_step_has_used(case, place):
    lr = fusedlr.schedules.linear(0.5, 0.0, steps=8)

    def record(device):
        params = parameters_on(device, [torch.ones(5), torch.ones(3)])
        groups = [{"params": [params[0]], "lr": lr}, {"params": [params[1]], "lr": 0.25}]
        optimizer = case.ours(groups)
        found_inf = optimizer.found_inf = torch.zeros((), device=device)
        history = fusedlr.History(optimizer, capacity=5)
        for step in range(8):
            give_grads(params, [torch.ones(5), torch.ones(3)])
            found_inf.fill_(float(step == 4))
            optimizer.step()
        return [history.rows(), *everything_of(optimizer)]

    rows = assert_as_on_cpu(place, record)[0]
    assert rows[:, 0].tolist() == [3, 4, 4, 5, 6]
    assert rows[:, 1].tolist() == [0, 1, 1, 1, 1]


@each_optimizer
def test_a_learning_rate_test_leaves_no_trace(case, place, generator):
    inputs = random_tensor((32, 4), torch.float32, generator)

    def find(device):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1).to(device)
        optimizer = case.ours(model.parameters(), **case.arguments)
        batch = inputs.to(device), inputs.sum(1, keepdim=True).to(device)
        finder = fusedlr.LRFinder(model, optimizer, torch.nn.functional.mse_loss)
        with torch.random.fork_rng(devices=[]):
            test = finder.run([batch], 1e-4, 10.0, num_iter=30, progress=False)
        assert test.lrs[0] < test.suggestion() < test.lrs[-1]
        return [*model.parameters(), *everything_of(optimizer)]

    assert_as_on_cpu(place, find)


# ------------------------------------------------------------------------------------- checkpoints


def trained(case, params, grads, optimizer_class=None, **flags) -> Any:
    optimizer = (optimizer_class or case.ours)(
        params, **{**case.arguments, **case.with_all_state}, **flags
    )
    for of_step in grads:
        give_grads(params, of_step)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("to_device", [True, False])
@each_optimizer
def test_a_checkpoint_goes_on_elsewhere_with_the_same_bits(case, to_device, place, generator):
    tensors = random_tensors([(20,), (7, 3)], torch.float32, generator)
    grads = random_grads(tensors, 5, generator)
    ends = []
    with place.chosen():
        devices = [torch.device("cpu"), place.device][:: 1 if to_device else -1]
        params = parameters_on(devices[0], tensors)
        first = trained(case, params, grads[:3])
        saved = copy.deepcopy(first.state_dict())
        others = parameters_on(devices[1], params)
        second = case.ours(others, lr=0.7)
        second.load_state_dict(saved)
        for params_of, optimizer in ((params, first), (others, second)):
            for of_step in grads[3:]:
                give_grads(params_of, of_step)
                optimizer.step()
            names = case.state_names
            states = [optimizer.state[param][name] for param in params_of for name in names]
            ends.append([*params_of, *states])
    assert_same_bits(*ends)
    assert not torch.equal(ends[0][0].cpu(), tensors[0])


@pytest.mark.parametrize("from_torch", [True, False])
@each_optimizer
def test_checkpoints_are_exchanged_with_torch(case, from_torch, place, generator):
    tensors = random_tensors([(20,), (7, 3)], torch.float32, generator)
    grads = random_grads(tensors, 5, generator)
    with place.chosen():
        params = parameters_on(place.device, tensors)
        classes = [case.theirs, case.ours][:: 1 if from_torch else -1]
        first = trained(case, params, grads[:3], classes[0], foreach=False, fused=False)
        others = parameters_on(place.device, params)
        second = classes[1](others, lr=0.7, foreach=False, fused=False)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for params_of, optimizer in ((params, first), (others, second)):
            for of_step in grads[3:]:
                give_grads(params_of, of_step)
                optimizer.step()
    torch.testing.assert_close(params, others, rtol=2e-6, atol=2e-6)
    for one, other in zip(params, others, strict=True):
        for name in case.state_names:
            ours, theirs = first.state[one][name], second.state[other][name]
            torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    assert not torch.equal(params[0].detach().cpu(), tensors[0])
