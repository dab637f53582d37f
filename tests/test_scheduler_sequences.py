"""Whatever is done to a scheduler, in any order, ours and torch's keep equal bits."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedule_cases import each_representative
from schedule_lockstep import LR_KINDS, Lockstep, Side, leaves, make_optimizer

pytestmark = pytest.mark.usefixtures("compiled_engine")

GROUPS = 3

lr_values = st.sampled_from([0.0, 1e-3, 0.1, 1 / 3, 2.0])
group_indices = st.integers(0, GROUPS - 1)
choices = st.integers(0, 11)

operations = st.lists(
    st.one_of(
        st.tuples(st.just("schedule"), st.integers(1, 6)),
        st.tuples(st.just("optimize")),
        st.tuples(st.just("edit_lr"), group_indices, lr_values),
        st.tuples(st.just("scale_lr"), group_indices, st.sampled_from([0.5, 3.0])),
        st.tuples(st.just("edit_list"), choices, choices, group_indices, lr_values),
        st.tuples(st.just("edit_attribute"), choices, choices, choices),
        st.tuples(st.just("edit_group"), group_indices, choices, choices, choices),
        st.tuples(st.just("set_epoch"), choices, st.sampled_from([-4, -1, 0, 1, 6, 30])),
        st.tuples(st.just("step_to_epoch"), st.sampled_from([0, 1, 2.5, 7, 33])),
        st.tuples(st.just("step_inside"), choices),
        st.tuples(st.just("reverse_groups")),
        st.tuples(st.just("save_and_load"), st.booleans()),
        st.tuples(st.just("deepcopy_state")),
        st.tuples(st.just("read")),
    ),
    min_size=5,
    max_size=30,
)


class Machine:
    """Performs named operations on both sides of a lockstep."""

    def __init__(self, case, lr_kind):
        self.case = case
        self.lr_kind = lr_kind
        self.run = Lockstep(case, num_groups=GROUPS, lr_kind=lr_kind)

    def leaf(self, side, which):
        """One of the schedulers inside, and the row that it was made from."""
        schedulers = list(leaves(side.scheduler))
        cases = self.case.leaves
        return schedulers[which % len(schedulers)], cases[which % len(cases)]

    def schedule(self, times):
        self.run.run(times)

    def optimize(self):
        for side in self.run.sides:
            side.optimizer.step()

    def edit_lr(self, index, lr):
        for side in self.run.sides:
            side.optimizer.param_groups[index]["lr"] = LR_KINDS[self.lr_kind](lr)

    def scale_lr(self, index, factor):
        for side in self.run.sides:
            side.optimizer.param_groups[index]["lr"] *= factor

    def edit_list(self, which, name, index, value):
        for side in self.run.sides:
            scheduler, case = self.leaf(side, which)
            numbers = getattr(scheduler, case.of.lists[name % len(case.of.lists)])
            kind = "float" if type(numbers[index]) is float else self.lr_kind
            numbers[index] = LR_KINDS[kind](value)

    def edit_attribute(self, which, name, choice):
        for side in self.run.sides:
            scheduler, case = self.leaf(side, which)
            if case.of.edits:
                name_, values = case.of.edits[name % len(case.of.edits)]
                setattr(scheduler, name_, copy.deepcopy(values[choice % len(values)]))

    def edit_group(self, index, which, name, choice):
        for side in self.run.sides:
            _, case = self.leaf(side, which)
            group = side.optimizer.param_groups[index]
            for key, values in case.of.group_edits[name % 8 : name % 8 + 1]:
                if key in group:
                    group[key] = values[choice % len(values)]

    def set_epoch(self, which, epoch):
        """As scripts do that resume by hand."""
        for side in self.run.sides:
            scheduler, _ = self.leaf(side, which)
            scheduler.last_epoch = epoch

    def step_to_epoch(self, epoch):
        if not self.case.of.takes_epoch:
            return
        for side in self.run.sides:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The epoch parameter", UserWarning)
                side.scheduler.step(*self.case.step_arguments(3), epoch)

    def step_inside(self, which):
        for side in self.run.sides:
            scheduler, case = self.leaf(side, which)
            scheduler.step(*case.step_arguments(5))

    def reverse_groups(self):
        for side in self.run.sides:
            side.optimizer.param_groups.reverse()

    def save_and_load(self, crosswise):
        """Into fresh objects: of the same library, or of the other one."""
        states = [
            copy.deepcopy((side.optimizer.state_dict(), side.scheduler.state_dict()))
            for side in self.run.sides
        ]
        if crosswise:
            states.reverse()
        self.run.ours, self.run.theirs = (
            self.restored(side, *state) for side, state in zip(self.run.sides, states, strict=True)
        )

    def restored(self, side, optimizer_state, scheduler_state):
        optimizer = make_optimizer(side.library, GROUPS, LR_KINDS[self.lr_kind])
        scheduler = self.case.build(side.library, optimizer)
        optimizer.load_state_dict(optimizer_state)
        scheduler.load_state_dict(scheduler_state)
        optimizer.step()
        return Side(side.library, optimizer, [scheduler])

    def deepcopy_state(self):
        for side in self.run.sides:
            side.scheduler.load_state_dict(copy.deepcopy(side.scheduler.state_dict()))

    def read(self):
        self.run.check()


@each_representative
@given(operations=operations, lr_kind=st.sampled_from(["float", "tensor"]))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_any_sequence_of_operations_gives_the_bits_of_torch(case, operations, lr_kind):
    machine = Machine(case, lr_kind)
    for name, *arguments in operations:
        getattr(machine, name)(*arguments)
        machine.run.check_hypers()
    machine.run.run(5)
    assert isinstance(machine.run.ours.optimizer, torch.optim.Optimizer)
