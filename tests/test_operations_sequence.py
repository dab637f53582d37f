"""Any sequence of operations leaves fusedlr's optimizer where it leaves torch's."""

import copy
import io
import pickle
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor
from torch.nn import Parameter

import fusedlr
from cases import VARIANTS, Variant, random_tensor
from lockstep import TRUSTED, set_grads

# In float64 both take the same steps but for the last digits, however long the sequence.
DTYPE = torch.float64
TOLERANCE = 1e-8
MAX_GROUPS = 4

index = st.integers(0, 2**16)  # taken modulo the number of things there are
lrs = st.sampled_from([0.0, 1e-3, 0.05, 0.4, 1])


class Training(RuleBasedStateMachine):
    """Our optimizer and torch's, to which every operation is applied in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.optimizers: list[Any] = []
        self.schedulers: list[Any] = []
        self.checkpoints: list[Any] = []

    @initialize(variant=st.sampled_from(VARIANTS))
    def build(self, variant: Variant) -> None:
        self.case = variant.case
        groups = [
            {"params": [self.new_parameter((4, 3)), self.new_parameter(())]},
            {"params": [self.new_parameter((0,)), self.new_parameter((7,))]},
        ]
        self.optimizers = [
            optimizer_class(copy.deepcopy(groups), **TRUSTED, **variant.exact_arguments)
            for optimizer_class in (self.case.ours, self.case.theirs)
        ]

    # What operations are made of

    def new_parameter(self, shape: tuple[int, ...]) -> Parameter:
        return Parameter(random_tensor(shape, DTYPE, self.generator))

    def params(self, optimizer: Any) -> list[Parameter]:
        return [param for group in optimizer.param_groups for param in group["params"]]

    def pick_param(self, optimizer: Any, index: int) -> Parameter:
        params = self.params(optimizer)
        return params[index % len(params)]

    def pick_group(self, optimizer: Any, index: int) -> Any:
        return optimizer.param_groups[index % len(optimizer.param_groups)]

    def replace_optimizers(self, optimizers: list[Any]) -> None:
        self.optimizers = optimizers
        self.schedulers = []

    # Training

    @rule(present=st.integers(0, 2**10 - 1), repeat=st.integers(1, 3))
    def step(self, present: int, repeat: int) -> None:
        for _ in range(repeat):
            shapes = [tuple(param.shape) for param in self.params(self.optimizers[0])]
            grads = [random_tensor(shape, DTYPE, self.generator) for shape in shapes]
            chosen = [grad if present >> i & 1 else None for i, grad in enumerate(grads)]
            for optimizer in self.optimizers:
                set_grads(self.params(optimizer), chosen)
                optimizer.step()

    @rule()
    def step_with_all_gradients(self) -> None:
        self.step(present=-1, repeat=1)

    @rule(which=index)
    def drop_a_gradient_and_step(self, which: int) -> None:
        for optimizer in self.optimizers:
            self.pick_param(optimizer, which).grad = None
            optimizer.step()

    @rule(set_to_none=st.booleans())
    def zero_gradients_and_step(self, set_to_none: bool) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)
            optimizer.step()

    # Hypers

    @rule(which=index, lr=lrs)
    def edit_the_lr(self, which: int, lr: float) -> None:
        for optimizer in self.optimizers:
            self.pick_group(optimizer, which)["lr"] = lr

    @rule(which=index, factor=st.sampled_from([0.1, 0.5, 2.0]))
    def scale_the_lr(self, which: int, factor: float) -> None:
        for optimizer in self.optimizers:
            self.pick_group(optimizer, which)["lr"] *= factor

    @rule(which=index, lr=lrs)
    def write_into_the_lr_tensor(self, which: int, lr: float) -> None:
        ours, theirs = self.optimizers
        ours.lr[which % len(ours.param_groups)] = float(lr)
        group = self.pick_group(theirs, which)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        elif group["lr"] != lr:  # an int stays one until a write changes it
            group["lr"] = float(lr)

    @rule(which=index, lr=lrs)
    def give_a_tensor_as_lr(self, which: int, lr: float) -> None:
        for optimizer in self.optimizers:
            self.pick_group(optimizer, which)["lr"] = torch.tensor(lr, dtype=DTYPE)

    @rule(which=index, key=index)
    def edit_a_hyper(self, which: int, key: int) -> None:
        name, value = list(self.case.edits.items())[key % len(self.case.edits)]
        for optimizer in self.optimizers:
            self.pick_group(optimizer, which).update({name: value})

    # Schedulers

    @precondition(lambda self: not self.schedulers)
    @rule(
        build=st.sampled_from(
            [
                lambda module, optimizer: module.StepLR(optimizer, 2, 0.5),
                lambda module, optimizer: module.ExponentialLR(optimizer, 0.8),
                lambda module, optimizer: module.MultiStepLR(optimizer, [1, 1, 3], 0.3),
                lambda module, optimizer: module.LambdaLR(optimizer, lambda e: 1 / (1 + e)),
                lambda module, optimizer: module.CosineAnnealingLR(optimizer, 5, 1e-3),
            ]
        )
    )
    def start_a_schedule(self, build: Any) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.pop("initial_lr", None)
        modules = (fusedlr.lr_scheduler, torch.optim.lr_scheduler)
        self.schedulers = [
            build(module, optimizer)
            for module, optimizer in zip(modules, self.optimizers, strict=True)
        ]
        for optimizer in self.optimizers:
            optimizer.step()  # or the first step of a scheduler warns

    @precondition(lambda self: self.schedulers)
    @rule(repeat=st.integers(1, 3))
    def step_the_schedule(self, repeat: int) -> None:
        for scheduler in self.schedulers:
            for _ in range(repeat):
                scheduler.step()

    @precondition(lambda self: self.schedulers)
    @rule()
    def end_the_schedule(self) -> None:
        self.schedulers = []

    # Parameters and groups

    @precondition(lambda self: len(self.optimizers[0].param_groups) < MAX_GROUPS)
    @rule(shape=st.sampled_from([(), (3,), (2, 5)]), lr=lrs)
    def add_a_group(self, shape: tuple[int, ...], lr: float) -> None:
        param = self.new_parameter(shape)
        for optimizer in self.optimizers:
            optimizer.add_param_group({"params": [copy.deepcopy(param)], "lr": lr})
        self.schedulers = []
        self.checkpoints = []

    @rule(which=index)
    def give_a_parameter_other_storage(self, which: int) -> None:
        data = self.new_parameter(tuple(self.pick_param(self.optimizers[0], which).shape)).data
        for optimizer in self.optimizers:
            self.pick_param(optimizer, which).data = data.clone()

    @rule(which=index, keep_state=st.booleans())
    def replace_a_parameter(self, which: int, keep_state: bool) -> None:
        for optimizer in self.optimizers:
            group = self.pick_group(optimizer, which)
            place = which % len(group["params"])
            old = group["params"][place]
            new = Parameter(old.detach() * 0.5)
            group["params"][place] = new
            state = optimizer.state.pop(old, None)
            if keep_state and state:
                optimizer.state[new] = state

    @rule(which=index)
    def delete_the_state_of_a_parameter(self, which: int) -> None:
        for optimizer in self.optimizers:
            optimizer.state.pop(self.pick_param(optimizer, which), None)

    # Saving, loading, copying

    @rule()
    def save(self) -> None:
        self.checkpoints = []
        for optimizer in self.optimizers:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            self.checkpoints.append(file.getvalue())

    @precondition(lambda self: self.checkpoints)
    @rule(exchange=st.booleans())
    def load(self, exchange: bool) -> None:
        checkpoints = self.checkpoints[:: -1 if exchange else 1]
        for optimizer, checkpoint in zip(self.optimizers, checkpoints, strict=True):
            optimizer.load_state_dict(torch.load(io.BytesIO(checkpoint), weights_only=True))
        self.schedulers = []

    @rule()
    def load_into_new_optimizers(self) -> None:
        self.save()
        fresh = []
        for optimizer in self.optimizers:
            groups = [{"params": group["params"]} for group in optimizer.param_groups]
            fresh.append(type(optimizer)(groups, lr=0.7, **TRUSTED))
        self.replace_optimizers(fresh)
        self.load(exchange=False)

    @rule()
    def go_on_with_a_deepcopy(self) -> None:
        self.replace_optimizers(copy.deepcopy(self.optimizers))

    @rule()
    def go_on_with_a_pickle(self) -> None:
        self.replace_optimizers(pickle.loads(pickle.dumps(self.optimizers)))

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        if not self.optimizers:
            return
        ours, theirs = self.optimizers
        close = {"rtol": TOLERANCE, "atol": TOLERANCE}
        torch.testing.assert_close(self.params(ours), self.params(theirs), **close)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **close)
        assert ours.lr.tolist() == [float(group["lr"]) for group in ours.param_groups]


def test_any_sequence_of_operations_ends_where_it_ends_with_torch():
    run_state_machine_as_test(
        Training,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            database=None,
        ),
    )
