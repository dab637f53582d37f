"""What ranks do in the tests of sharding: functions that every rank of a group calls."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import fusedlr
from fusedlr.optim.optimizer import FusedOptimizer

STEPS = 6
#: Of the first dimension of a weight: over four ranks, none of them divides evenly, and of the last
#: layer some ranks have nothing.
WIDTHS = (5, 7, 3, 2)


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def make_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The same small model on every rank and in every run."""
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(0)
    for width, following in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(width, following), nn.LayerNorm(following), nn.Tanh()]
    model = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.5 * torch.randn(param.shape, generator=generator, dtype=torch.float64))
    return model


def shard(model: nn.Sequential) -> nn.Sequential:
    """FSDP2, each layer a group of its own."""
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh())
    fully_shard(model, mesh=mesh())
    return model


def batch(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(8, WIDTHS[0], generator=generator, dtype=torch.float64).to(dtype)


def part_of_rank(whole: Tensor) -> Tensor:
    return whole.chunk(dist.get_world_size())[dist.get_rank()]


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: weights, and the rest with another lr, in a tensor."""
    params = list(model.parameters())
    lr = torch.tensor(0.02, dtype=torch.float64)
    return [
        {"params": [param for param in params if param.dim() > 1]},
        {"params": [param for param in params if param.dim() == 1], "lr": lr},
    ]


def train(
    model: nn.Module, optimizer: Any, scheduler: Any = None, steps: Iterable[int] = ()
) -> None:
    """Makes these steps, which move all parameters."""
    before = [whole(param) for param in model.parameters()]
    for step in steps:
        optimizer.zero_grad()
        model(batch(step, next(model.parameters()).dtype)).pow(2).sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    after = [whole(param) for param in model.parameters()]
    assert not any(map(torch.equal, before, after))


def whole(tensor: Tensor) -> Tensor:
    """All elements of a tensor, plain; of a DTensor, a collective operation."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def everything(optimizer: Any) -> list[Tensor]:
    """Copies of all parameters and of their state, whole."""
    tensors: list[Tensor] = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            tensors.append(whole(param))
            entries = optimizer.state[param]
            tensors += [whole(entries[name]) for name in sorted(entries)]
    return tensors


def assert_equal(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def assert_is_compiled(optimizer: FusedOptimizer) -> None:
    """No group of the last step was left to torch's functions."""
    assert optimizer._plans
    assert not optimizer._torch_groups


def assert_moved(model: nn.Module) -> None:
    moves = [
        (whole(param) - start).abs().flatten()
        for param, start in zip(model.parameters(), make_model().parameters(), strict=True)
    ]
    assert all(move.any() for move in moves)
    assert torch.cat(moves).mean() > 0.001


def arguments_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with tensors of their own."""
    return {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in arguments.items()
    }


# ------------------------------------------------------------------------- wrappers of models


def hybrid_shard(model: nn.Sequential) -> nn.Sequential:
    """Shards within halves of the ranks, which are replicas of each other."""
    grid = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("r", "s"))
    return fully_shard(model, mesh=grid)


def ddp(model: nn.Sequential) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def ddp_with_views_of_buckets(model: nn.Sequential) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


WRAPPERS: tuple[Callable[[nn.Sequential], nn.Module], ...] = (
    shard,
    hybrid_shard,
    ddp,
    ddp_with_views_of_buckets,
)


def trains_like_one_process(
    wrap: Callable[[nn.Sequential], nn.Module], name: str, arguments: dict[str, Any]
) -> None:
    """Every rank has the same batch, so that the mean of the gradients is each of them, exactly."""
    ends = []
    for prepare in (lambda model: model, wrap):
        model = prepare(make_model())
        optimizer = getattr(fusedlr, name)(groups_of(model), **arguments_of(arguments))
        scheduler = fusedlr.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * STEPS)
        train(model, optimizer, scheduler, range(STEPS))
        assert_is_compiled(optimizer)
        assert_moved(model)
        ends.append(everything(optimizer))
    assert_equal(*ends)


def trains_tensor_parallel() -> None:
    """Tensor parallelism within pairs of ranks, FSDP2 over the pairs if there are two; in float64.

    The end is that of one process to 1e-10: partial sums come in another order.
    """
    ends = []
    for is_parallel in (False, True):
        model = make_model(torch.float64)
        if is_parallel:
            pairs = dist.get_world_size() // 2
            grid = init_device_mesh("cpu", (pairs, 2), mesh_dim_names=("data", "tensor"))
            plan = {
                "0": ColwiseParallel(output_layouts=Shard(0)),
                "1": SequenceParallel(sequence_dim=0),
                "2": PrepareModuleOutput(
                    output_layouts=Shard(0), desired_output_layouts=Replicate()
                ),
                "3": RowwiseParallel(input_layouts=Replicate()),
                "6": ColwiseParallel(output_layouts=Replicate()),
            }
            parallelize_module(model, grid["tensor"], plan)
            if pairs > 1:
                fully_shard(model, mesh=grid["data"])
        optimizer = fusedlr.AdamW(model.parameters(), lr=0.05)
        train(model, optimizer, None, range(STEPS))
        assert_is_compiled(optimizer)
        assert_moved(model)
        ends.append(everything(optimizer))
    if pairs == 1:
        # The first norm sees half of a batch; FSDP2 would have made the sum.
        assert model[1].weight.grad.placements == (Partial(),)
        assert model[1].weight.placements == (Replicate(),)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def materializes() -> None:
    """State before the first step, as DTensors; the step then gives the same as without."""
    ends = []
    for prepares in (False, True):
        params = [make_param(Shard(0), small_integers(seed, 5, 3)) for seed in range(3)]
        optimizer = fusedlr.AdamW(params, lr=0.1)
        # One has no gradient yet, and one lies elsewhere: that is no matter of this step.
        params[1].grad = gradient(small_integers(4, 5, 3), Shard(0))
        params[2].grad = gradient(small_integers(5, 5, 3), Partial())
        if prepares:
            optimizer.materialize()
            assert all(isinstance(optimizer.state[param]["exp_avg"], DTensor) for param in params)
        params[0].grad = gradient(small_integers(3, 5, 3), Shard(0))
        optimizer.step()
        for seed, param in enumerate(params):
            assert not torch.equal(whole(param), small_integers(seed, 5, 3))
        ends.append(everything(optimizer))
    assert_equal(*ends)


def zero_redundancy(name: str, arguments: dict[str, Any]) -> None:
    """ZeroRedundancyOptimizer under DDP; its state is saved, and loaded by another one."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def split_optimizer(model: nn.Module, **more: Any) -> Any:
        own = {**arguments_of(arguments), **more}
        inner = getattr(fusedlr, name)
        return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=inner, **own)

    single_model, model = make_model(), nn.parallel.DistributedDataParallel(make_model())
    single = getattr(fusedlr, name)(single_model.parameters(), **arguments_of(arguments))
    split = split_optimizer(model)
    for one, optimizer in ((single_model, single), (model, split)):
        train(
            one, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5), range(STEPS)
        )
    assert_is_compiled(split.optim)
    assert len(split.optim.state) < len(single.state)
    assert_equal(single_model.parameters(), model.parameters())

    split.consolidate_state_dict(to=0)
    saved = [split.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(saved, src=0)
    for key, entries in single.state_dict()["state"].items():
        for entry, value in entries.items():
            assert torch.equal(saved[0]["state"][key][entry], value), (key, entry)
    resumed = split_optimizer(model, parameters_as_bucket_view=True)
    resumed.load_state_dict(saved[0])
    for one, optimizer in ((single_model, single), (model, resumed)):
        train(one, optimizer, None, range(STEPS, STEPS + 2))
    assert_equal(single_model.parameters(), model.parameters())


# ---------------------------------------------------------------------------- any DTensor


def make_param(placement: Placement, values: Tensor) -> nn.Parameter:
    return nn.Parameter(distribute_tensor(values.clone(), mesh(), [placement]))


def small_integers(step: int, *shape: int) -> Tensor:
    """Numbers whose sums are exact."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(-8, 9, shape, generator=generator).float()


def gradient(values: Tensor, placement: Placement) -> DTensor:
    """A gradient with these values, as sum over the ranks if `placement` is Partial."""
    if isinstance(placement, Partial):
        return DTensor.from_local(values / 4, mesh(), [placement], run_check=False)
    return distribute_tensor(values, mesh(), [placement])


PLACEMENTS: tuple[Placement, ...] = (Replicate(), Shard(0), Shard(1))
GRAD_PLACEMENTS: tuple[Placement, ...] = (*PLACEMENTS, Partial())


def updates_dtensors(name: str, arguments: dict[str, Any]) -> None:
    """All placements of parameters and gradients at once, beside the same numbers in plain tensors.

    The gradient in ``.grad`` stays as it is.
    """
    pairs = [(of_param, of_grad) for of_param in PLACEMENTS for of_grad in GRAD_PLACEMENTS]
    start = [small_integers(100 + number, 5, 3) for number in range(len(pairs))]
    params = [make_param(of_param, one) for (of_param, _), one in zip(pairs, start, strict=True)]
    plain = [nn.Parameter(one.clone()) for one in start]
    # Plain tensors and DTensors share a group.
    ours = getattr(fusedlr, name)([*params, *plain], **arguments_of(arguments))
    single = [nn.Parameter(one.clone()) for one in start]
    expected = getattr(fusedlr, name)(single, **arguments_of(arguments))
    for step in range(4):
        for number, (param, other, alone) in enumerate(zip(params, plain, single, strict=True)):
            if step == 1 and number % 3 == 0:  # gradients come and go
                param.grad = other.grad = alone.grad = None
                continue
            values = small_integers(step * 50 + number, 5, 3)
            of_grad = pairs[number][1]
            param.grad = gradient(values, of_grad)
            is_sum = isinstance(of_grad, Partial)
            total = values / 4 * dist.get_world_size() if is_sum else values
            other.grad, alone.grad = total.clone(), total
        grads = [param.grad for param in params]
        before = [None if grad is None else grad.to_local().clone() for grad in grads]
        ours.step()
        expected.step()
        assert_is_compiled(ours)
        for param, grad, local in zip(params, grads, before, strict=True):
            assert param.grad is grad
            assert grad is None or torch.equal(grad.to_local(), local)
    assert not any(map(torch.equal, single, start))
    assert_equal(map(whole, params), single)
    assert_equal(plain, single)
    for param, alone in zip(params, single, strict=True):
        entries = ours.state[param]
        assert list(entries) == list(expected.state[alone])
        for key, value in expected.state[alone].items():
            torch.testing.assert_close(whole(entries[key]), value, rtol=0, atol=0)
            assert isinstance(entries[key], DTensor) == (key != "step")
            if key != "step":
                assert entries[key].placements == param.placements


def works_while_collectives_are_under_way() -> None:
    """Gradients whose collective nobody has waited for yet, of DTensors and of plain tensors."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_reduce

    values = small_integers(0, 5, 3)
    params = [make_param(Replicate(), values), nn.Parameter(values.clone())]
    optimizer = fusedlr.AdamW(params, lr=0.1)
    single = nn.Parameter(values.clone())
    expected = fusedlr.AdamW([single], lr=0.1)
    for step in range(1, 4):
        values = small_integers(step, 5, 3)
        partial = DTensor.from_local(values, mesh(), [Partial()], run_check=False)
        params[0].grad = partial.redistribute(placements=[Replicate()], async_op=True)
        assert isinstance(params[0].grad._local_tensor, AsyncCollectiveTensor)
        under_way = all_reduce(values, "sum", dist.group.WORLD)
        assert isinstance(under_way, AsyncCollectiveTensor)
        params[1].grad = under_way
        single.grad = values * dist.get_world_size()
        optimizer.step()
        expected.step()
    assert_is_compiled(optimizer)
    assert not torch.equal(single, small_integers(0, 5, 3))
    assert_equal(map(whole, params), [single, single])


# --------------------------------------------------------------------------- what is refused


def _other_mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (1, dist.get_world_size()))


def plain_gradient(param: Any, state: Any) -> None:
    param.grad = torch.ones(4, 3)


def gradient_on_another_mesh(param: Any, state: Any) -> None:
    param.grad = distribute_tensor(torch.ones(4, 3), _other_mesh(), [Replicate(), Shard(0)])


def gradient_with_a_smaller_part(param: Any, state: Any) -> None:
    param.grad._local_tensor = param.grad._local_tensor[:, :1]


def integer_gradient(param: Any, state: Any) -> None:
    param.grad_dtype = None
    param.grad = distribute_tensor(torch.ones(4, 3, dtype=torch.int32), mesh(), [Shard(0)])


def plain_state(param: Any, state: Any) -> None:
    state["exp_avg"] = torch.ones(4, 3)


def state_with_other_placements(param: Any, state: Any) -> None:
    state["exp_avg"] = distribute_tensor(torch.ones(4, 3), mesh(), [Replicate()])


#: What is wrong, and what the error says.
REFUSED: dict[Callable[[Any, Any], None], tuple[str, ...]] = {
    plain_gradient: ("is a Tensor, the parameter a DTensor", "distribute_tensor"),
    gradient_on_another_mesh: ("DeviceMesh", "bring the gradient to the mesh"),
    gradient_with_a_smaller_part: ("local tensor of shape", "set .grad = None"),
    integer_gradient: ("dtype Int", "cast the gradient"),
    plain_state: ("state tensor 0", "is no DTensor", "set_optimizer_state_dict"),
    state_with_other_placements: ("state tensor 0", "Replicate", "redistribute()"),
}


def refuses(spoil: Callable[[Any, Any], None], texts: tuple[str, ...]) -> None:
    """Raises with the parameter's group and index, on every rank, and nothing has moved."""
    params = [make_param(Shard(0), torch.ones(4, 3)) for _ in range(3)]
    optimizer = fusedlr.AdamW([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    for param in params:
        param.grad = gradient(torch.ones(4, 3), Shard(0))
    optimizer.step()
    assert not torch.equal(whole(params[2]), torch.ones(4, 3))
    before = [
        *map(whole, params),
        *(whole(optimizer.state[params[0]][n]) for n in ("exp_avg", "step")),
    ]
    spoil(params[2], optimizer.state[params[2]])
    with pytest.raises(RuntimeError) as raised:
        optimizer.step()
    for text in ("param_groups[1]['params'][1]", *texts):
        assert text in str(raised.value), str(raised.value)
    after = [
        *map(whole, params),
        *(whole(optimizer.state[params[0]][n]) for n in ("exp_avg", "step")),
    ]
    assert_equal(before, after)


def refuses_a_dtensor_for_a_plain_parameter() -> None:
    param = nn.Parameter(torch.ones(4, 3))
    optimizer = fusedlr.SGD([param], lr=0.1)
    param.grad = gradient(torch.ones(4, 3), Shard(0))
    with pytest.raises(RuntimeError, match=r"is a DTensor, the parameter a plain.*full_tensor"):
        optimizer.step()
    assert torch.equal(param.detach(), torch.ones(4, 3))


# ------------------------------------------------------------------- tensors that are replaced


def follows_parameters_to_new_memory() -> None:
    """FSDP2's parameters move between steps; the training goes on as if they had not."""
    ends = []
    for is_moved in (False, True):
        model = shard(make_model())
        optimizer = fusedlr.AdamW(model.parameters(), lr=0.05)
        train(model, optimizer, None, range(2))
        old = [param._local_tensor for param in model.parameters()]
        copies = [one.clone() for one in old]
        if is_moved:
            values = {name: value.clone() for name, value in model.state_dict().items()}
            model.to_empty(device="cpu")
            model.load_state_dict(values)
        params = optimizer.param_groups[0]["params"]
        assert all(map(operator.is_, model.parameters(), params))
        train(model, optimizer, None, range(2, 4))
        assert_is_compiled(optimizer)
        if is_moved:
            assert_equal(old, copies)  # nobody wrote into memory that was left
        ends.append(everything(optimizer))
    assert_equal(*ends)


def follows_a_local_tensor() -> None:
    """The local tensors of parameter and state are replaced by hand."""
    param, state_of = make_param(Shard(0), torch.ones(5, 3)), fusedlr.SGD
    single = nn.Parameter(torch.ones(5, 3))
    ours, expected = (state_of([one], lr=0.1, momentum=0.9) for one in (param, single))
    for step in range(4):
        values = small_integers(step, 5, 3)
        param.grad, single.grad = gradient(values, Shard(0)), values
        if step == 2:
            buffer = ours.state[param]["momentum_buffer"]
            old = [one._local_tensor for one in (param, buffer)]
            copies = [one.clone() for one in old]
            for one in (param, buffer):
                one._local_tensor = one._local_tensor.clone()
        ours.step()
        expected.step()
    assert_equal(old, copies)
    assert not torch.equal(single, torch.ones(5, 3))
    assert_equal(everything(ours), everything(expected))


def follows_another_dtype() -> None:
    """The local tensor is replaced by one of another dtype; the state stays as it is."""
    param = make_param(Shard(0), torch.ones(4, 3))
    optimizer = fusedlr.AdamW([param], lr=0.1)
    for dtype in (torch.float32, torch.float64):
        param._local_tensor = param._local_tensor.to(dtype)
        param.grad = gradient(torch.ones(4, 3), Shard(0))
        before = param._local_tensor.clone()
        optimizer.step()
        assert param._local_tensor.dtype == dtype
        assert not torch.equal(param._local_tensor, before)
        assert optimizer.state[param]["exp_avg"]._local_tensor.dtype == torch.float32


def follows_new_placements() -> None:
    """A parameter that is placed otherwise by hand has to get its state placed so, too."""
    param = make_param(Shard(0), torch.ones(4, 3))
    optimizer = fusedlr.AdamW([param], lr=0.1)
    param.grad = gradient(torch.ones(4, 3), Shard(0))
    optimizer.step()
    before = whole(param)
    replicated = param.detach().redistribute(placements=[Replicate()])
    param._local_tensor, param._spec = replicated._local_tensor, replicated._spec
    with pytest.raises(RuntimeError, match=r"state tensor 0 of param_groups\[0\]\['params'\]\[0\]"):
        optimizer.step()
    assert_equal([before], [whole(param)])
    entries = optimizer.state[param]
    for name in ("exp_avg", "exp_avg_sq"):
        entries[name] = entries[name].redistribute(placements=[Replicate()])
    single = nn.Parameter(torch.ones(4, 3))
    expected = fusedlr.AdamW([single], lr=0.1)
    single.grad = torch.ones(4, 3)
    expected.step()
    for one in (optimizer, expected):  # the gradient is still sharded
        one.step()
    assert not torch.equal(whole(param), before)
    assert_equal(everything(optimizer), everything(expected))


def versions_grow() -> None:
    """Autograd must notice that a parameter has changed since it was saved for backward."""
    param = make_param(Shard(0), torch.ones(4, 3))
    optimizer = fusedlr.SGD([param], lr=0.1)
    param.grad = gradient(torch.ones(4, 3), Shard(0))
    before = param._version, param._local_tensor._version
    optimizer.step()
    assert param._version > before[0]
    assert param._local_tensor._version > before[1]


def calls_of_a_step(num_layers: int) -> int:
    """Function calls that Python makes in the third step of a sharded model of so many layers."""
    model = shard(nn.Sequential(*(nn.Linear(5, 5) for _ in range(num_layers))))
    optimizer = fusedlr.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, None, range(2))
    optimizer.zero_grad()
    model(batch(2)).sum().backward()
    calls: list[str] = []
    sys.setprofile(lambda frame, event, arg: calls.append(event) if "call" in event else None)
    try:
        optimizer.step()
    finally:
        sys.setprofile(None)
    return len(calls)
