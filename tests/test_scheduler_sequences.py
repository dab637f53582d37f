"""Whatever is done to a scheduler, in any order, ours and torch's keep equal bits."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedule_cases import each_representative
from schedule_lockstep import LR_KINDS, Lockstep, Side, make_optimizer

GROUPS = 3

lr_values = st.sampled_from([0.0, 1e-3, 0.1, 1 / 3, 2.0])
group_indices = st.integers(0, GROUPS - 1)

operations = st.lists(
    st.one_of(
        st.tuples(st.just("schedule"), st.integers(1, 6)),
        st.tuples(st.just("optimize")),
        st.tuples(st.just("edit_lr"), group_indices, lr_values),
        st.tuples(st.just("scale_lr"), group_indices, st.sampled_from([0.5, 3.0])),
        st.tuples(st.just("edit_base_lr"), group_indices, lr_values),
        st.tuples(st.just("edit_hyper"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("save_and_load"), st.booleans()),
        st.tuples(st.just("deepcopy_state")),
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

    def edit_base_lr(self, index, lr):
        for side in self.run.sides:
            for base_lrs in (getattr(side.scheduler, "base_lrs", None),):
                if base_lrs is not None:
                    base_lrs[index] = LR_KINDS[self.lr_kind](lr)

    def edit_hyper(self, which, choice):
        if not self.case.of.edits:
            return
        name, values = self.case.of.edits[which % len(self.case.of.edits)]
        for side in self.run.sides:
            setattr(side.scheduler, name, values[choice % len(values)])

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


@each_representative
@given(operations=operations, lr_kind=st.sampled_from(["float", "tensor"]))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_any_sequence_of_operations_gives_the_bits_of_torch(case, operations, lr_kind):
    machine = Machine(case, lr_kind)
    for name, *arguments in operations:
        getattr(machine, name)(*arguments)
        machine.run.check()
    machine.run.run(5)
    assert isinstance(machine.run.ours.optimizer, torch.optim.Optimizer)
