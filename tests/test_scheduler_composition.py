"""Schedulers that share an optimizer, take turns, are made of others, or mixed with torch's own."""

import copy
import itertools

import pytest
import torch

import fusedlr
from schedule_cases import (
    CHAINED_SCHEDULER,
    EXPONENTIAL_LR,
    REPRESENTATIVES,
    SEQUENTIAL_LR,
    STEP_LR,
    SWA_LR,
    cases,
    joined,
)
from schedule_lockstep import (
    Lockstep,
    Side,
    exact,
    leaves,
    lrs,
    make_optimizer,
    outcome,
)

pytestmark = pytest.mark.usefixtures("compiled_engine")

SIDES = (fusedlr, torch.optim)

#: A representative of each class with a formula of its own, and of each that is made of others.
BY_EPOCH = cases(has_get_lr=True, among=REPRESENTATIVES)
COMPOSITES = [case for case in REPRESENTATIVES if case.children]

each_by_epoch = pytest.mark.parametrize("case", BY_EPOCH, ids=str)
each_composite = pytest.mark.parametrize("case", COMPOSITES, ids=str)
#: All rows that are made of others.
each_composite_row = pytest.mark.parametrize(
    "case", [case for composite in COMPOSITES for case in cases(of=composite.of)], ids=str
)


def names(rows):
    return "+".join(map(str, rows))


def row(scheduler, label):
    (found,) = (case for case in cases(of=scheduler) if case.label == label)
    return found


def sequence_of(*rows, milestones):
    return joined(SEQUENTIAL_LR, names(rows), *rows, milestones=milestones)


def chain_of(*rows):
    return joined(CHAINED_SCHEDULER, names(rows), *rows)


def assert_equal_runs(make_scheduler, steps, act=None):
    """Builds one scheduler on each side, by ``make_scheduler(side)``, and steps both alike."""
    ours, theirs = (Side(library, make_optimizer(library)) for library in SIDES)
    for side in (ours, theirs):
        side.schedulers = [make_scheduler(side)]
        side.optimizer.step()
    moved = set()
    for step in range(steps):
        assert ours.observe() == theirs.observe(), f"after step {step}"
        moved.add(str(lrs(ours.optimizer)))
        for side in (ours, theirs):
            side.scheduler.step()
            if act is not None:
                act(side, step)
    assert ours.observe() == theirs.observe()
    assert len(moved) > 1
    return ours, theirs


# Several schedulers on one optimizer


@pytest.mark.parametrize("pair", list(itertools.combinations(REPRESENTATIVES, 2)), ids=names)
def test_two_schedulers_on_one_optimizer_give_the_bits_of_torch(pair):
    Lockstep(*pair).run(40)


def test_all_schedulers_on_one_optimizer_give_the_bits_of_torch():
    Lockstep(*REPRESENTATIVES).run(60)


def test_two_schedulers_of_one_class_on_one_optimizer_give_the_bits_of_torch():
    for case in REPRESENTATIVES:
        Lockstep(case, case).run(30)


def test_phases_step_lr_then_exponential_lr_give_the_bits_of_torch():
    """One scheduler for the first epochs, another one afterwards, as tutorials show it."""
    ours, theirs = (Side(library, make_optimizer(library)) for library in SIDES)
    for side in (ours, theirs):
        side.schedulers = [
            row(STEP_LR, "every_3").build(side.library, side.optimizer),
            row(EXPONENTIAL_LR, "0.9").build(side.library, side.optimizer),
        ]
        side.optimizer.step()
    seen_lrs = []
    for epoch in range(40):
        for side in (ours, theirs):
            side.schedulers[0 if epoch < 20 else 1].step()
        assert ours.observe() == theirs.observe(), f"after epoch {epoch}"
        seen_lrs.append(lrs(ours.optimizer)[0])
    assert len(set(seen_lrs[:20])) == 7
    assert len(set(seen_lrs[20:])) == 20


def test_a_second_phase_built_later_starts_from_the_first_ones_initial_lr_as_in_torch():
    ours, theirs = (Side(library, make_optimizer(library)) for library in SIDES)
    for side in (ours, theirs):
        first = row(STEP_LR, "every_3").build(side.library, side.optimizer)
        side.optimizer.step()
        for _ in range(20):
            first.step()
        side.schedulers = [case.build(side.library, side.optimizer) for case in BY_EPOCH]
    for _ in range(20):
        for side in (ours, theirs):
            for scheduler in side.schedulers:
                scheduler.step()
        assert ours.observe() == theirs.observe()
        bases = [exact(side.schedulers[0].base_lrs) for side in (ours, theirs)]
        assert bases[0] == bases[1]


@each_by_epoch
def test_averaging_takes_over_from_any_schedule_as_in_torch(case):
    def take_over(side, step):
        if step == 10:
            averaging = SWA_LR.class_in(side.library)
            side.schedulers[0] = averaging(side.optimizer, swa_lr=0.4, anneal_epochs=5)

    ours, _ = assert_equal_runs(
        lambda side: case.build(side.library, side.optimizer), steps=30, act=take_over
    )
    assert lrs(ours.optimizer) == [0.4] * 3


def test_two_optimizers_have_schedules_of_their_own():
    optimizers = [make_optimizer(fusedlr) for _ in range(2)]
    schedulers = [
        fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma)
        for optimizer, gamma in zip(optimizers, (0.5, 0.25), strict=True)
    ]
    for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
        start = lrs(optimizer)
        optimizer.step()
        scheduler.step()
        assert lrs(optimizer) == [lr * scheduler.gamma for lr in start]
    schedulers[0].step()
    assert lrs(optimizers[1]) == [lr * 0.25 for lr in lrs(make_optimizer(fusedlr))]


# Sequences and chains of any schedulers


@pytest.mark.parametrize("pair", list(itertools.permutations(BY_EPOCH, 2)), ids=names)
def test_a_sequence_of_two_schedulers_gives_the_bits_of_torch(pair):
    Lockstep(sequence_of(*pair, milestones=[7])).run(25)


@pytest.mark.parametrize("pair", list(itertools.combinations(BY_EPOCH, 2)), ids=names)
def test_a_chain_of_two_schedulers_gives_the_bits_of_torch(pair):
    Lockstep(chain_of(*pair)).run(25)


@pytest.mark.parametrize("lr_kind", ["float", "tensor"])
def test_a_sequence_and_a_chain_of_all_schedulers_give_the_bits_of_torch(lr_kind):
    milestones = [5 * (place + 1) for place in range(len(BY_EPOCH) - 1)]
    Lockstep(sequence_of(*BY_EPOCH, milestones=milestones), lr_kind=lr_kind).run(90)
    Lockstep(chain_of(*BY_EPOCH), lr_kind=lr_kind).run(90)


@pytest.mark.parametrize(
    "milestones", [[0, 4], [4, 4], [0, 0], [3, 0], [9, 4], [1, 2], [2.5, 6.5]], ids=str
)
@pytest.mark.parametrize("first", range(0, len(BY_EPOCH), 3))
def test_milestones_of_any_kind_give_the_bits_of_torch(first, milestones):
    three = [BY_EPOCH[(first + place) % len(BY_EPOCH)] for place in range(3)]
    Lockstep(sequence_of(*three, milestones=milestones)).run(16)


@pytest.mark.parametrize("pair", list(itertools.product(COMPOSITES, BY_EPOCH)), ids=names)
def test_compositions_come_first_in_sequences_and_anywhere_in_chains(pair):
    composite, other = pair
    for case in (
        sequence_of(composite, other, milestones=[6]),
        chain_of(composite, other),
        chain_of(other, composite),
        sequence_of(sequence_of(composite, other, milestones=[3]), other, milestones=[9]),
        chain_of(chain_of(other, composite), composite),
    ):
        Lockstep(case).run(20)


@each_composite
def test_a_composition_later_in_a_sequence_is_refused_at_its_turn_as_by_torch(case):
    """torch asks for its formula, and it has none. Ours says so."""
    refused = []
    for library in SIDES:
        side = Side(library, make_optimizer(library))
        sequence = sequence_of(row(STEP_LR, "every_3"), case, milestones=[3])
        side.schedulers = [sequence.build(side.library, side.optimizer)]
        side.optimizer.step()
        for _ in range(2):
            side.scheduler.step()
        before = lrs(side.optimizer)
        refused.append(outcome(side.scheduler.step))
        assert lrs(side.optimizer) == before
    assert refused[0][0] is refused[1][0] is NotImplementedError
    assert "first scheduler" in refused[0][1]


@each_by_epoch
def test_a_scheduler_twice_in_a_chain_steps_twice(case):
    def chain(side):
        one = case.build(side.library, side.optimizer)
        two = row(STEP_LR, "every_3").build(side.library, side.optimizer)
        return CHAINED_SCHEDULER.class_in(side.library)([one, two, one])

    assert_equal_runs(chain, steps=20)


@each_by_epoch
def test_a_scheduler_that_comes_again_in_a_sequence_goes_on_from_its_start(case):
    def sequence(side):
        one = case.build(side.library, side.optimizer)
        two = row(STEP_LR, "every_3").build(side.library, side.optimizer)
        arguments = {"schedulers": [one, two, one], "milestones": [4, 9]}
        return SEQUENTIAL_LR.class_in(side.library)(side.optimizer, **arguments)

    assert_equal_runs(sequence, steps=20)


def test_two_compositions_may_share_a_scheduler():
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        shared, first, last = (
            case.build(library, optimizer) for case in (BY_EPOCH[6], BY_EPOCH[2], BY_EPOCH[7])
        )
        chained = CHAINED_SCHEDULER.class_in(library)
        sides.append(Side(library, optimizer, [chained([first, shared]), chained((shared, last))]))
        optimizer.step()
    for step in range(20):
        for side in sides:
            side.schedulers[step % 3 == 0].step()
        assert sides[0].observe() == sides[1].observe(), f"after step {step}"


# What is done to the schedulers inside


@each_composite_row
def test_stepping_the_schedulers_inside_by_hand_counts_as_in_torch(case):
    lockstep = Lockstep(case)
    for step in range(24):
        for side in lockstep.sides:
            inside = list(leaves(side.scheduler))
            inside[step % len(inside)].step()
        lockstep.check()
        if step % 3:
            lockstep.step()


@each_composite_row
def test_edits_of_the_schedulers_inside_count_as_in_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(3)
    edited = 0
    for place, leaf_case in enumerate(case.leaves):
        for name, values in (*leaf_case.of.edits, ("last_epoch", (2, 9))):
            for value in values:
                for side in lockstep.sides:
                    leaf = list(leaves(side.scheduler))[place]
                    # Only what is not switched off can be edited.
                    if name in ("last_epoch", *leaf.state_dict()):
                        setattr(leaf, name, copy.deepcopy(value))
                        edited += 1
                lockstep.run(2)
        for name in leaf_case.of.lists:
            for side in lockstep.sides:
                numbers = getattr(list(leaves(side.scheduler))[place], name, None)
                if numbers is not None:
                    numbers[1] = 0.37
            lockstep.run(2)
    assert edited


def test_edited_milestones_count_as_in_torch():
    lockstep = Lockstep(sequence_of(*BY_EPOCH[:3], milestones=[4, 20]))
    lockstep.run(6)
    for side in lockstep.sides:
        side.scheduler._milestones[1] = 9
    lockstep.run(6)
    for side in lockstep.sides:
        side.scheduler._milestones = [2, 40]
        side.scheduler.last_epoch = 0
    lockstep.run(12)


@each_composite
def test_exchanged_schedulers_count_as_in_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(3)
    for place, other in enumerate(BY_EPOCH[2:8]):
        for side in lockstep.sides:
            inside = side.scheduler._schedulers
            inside[place % len(inside)] = other.build(side.library, side.optimizer)
        lockstep.check()
        lockstep.run(6)


@each_composite_row
def test_a_composition_keeps_the_list_and_the_schedulers_that_it_was_given(case):
    for library in SIDES:
        optimizer = make_optimizer(library, name=case.optimizer)
        given = [child.build(library, optimizer) for child in case.children]
        members = list(given)
        built = case.build_of(case.of.class_in(library), optimizer, given)
        assert built._schedulers is given
        assert all(one is other for one, other in zip(given, members, strict=True))
        assert built.optimizer is optimizer


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@each_composite_row
def test_a_copy_of_a_composition_has_schedulers_and_an_optimizer_of_its_own(case):
    lockstep = Lockstep(case)
    lockstep.run(4)
    copied = copy.deepcopy(lockstep.ours.scheduler)
    originals = {id(leaf) for leaf in leaves(lockstep.ours.scheduler)}
    assert copied.optimizer is not lockstep.ours.optimizer
    for leaf in leaves(copied):
        assert id(leaf) not in originals
        assert leaf.optimizer is copied.optimizer
    copied.optimizer.step()
    before = lockstep.ours.observe()
    copied.step()
    assert lockstep.ours.observe() == before
    lockstep.run(4)


# Schedulers of torch, of the user's, and ours together


@pytest.mark.parametrize("of_torch", ["composition", "first", "second", "both"])
@each_composite
def test_schedulers_of_torch_and_ours_may_be_mixed(case, of_torch):
    mixture = {
        "composition": (torch.optim, fusedlr, fusedlr),
        "first": (fusedlr, torch.optim, fusedlr),
        "second": (fusedlr, fusedlr, torch.optim),
        "both": (fusedlr, torch.optim, torch.optim),
    }

    def build(side):
        outer, *inner = (
            (library if side.library is fusedlr else torch.optim) for library in mixture[of_torch]
        )
        inside = [
            child.build(library, side.optimizer)
            for child, library in zip(case.children, inner, strict=True)
        ]
        return case.build_of(case.of.class_in(outer), side.optimizer, inside)

    assert_equal_runs(build, steps=40)


def own_get_lr(side):
    class Own(EXPONENTIAL_LR.class_in(side.library)):
        def get_lr(self):
            return [lr * 0.9 + 0.001 for lr in super().get_lr()]

    return Own(side.optimizer, 0.95)


def own_step(side):
    class Own(STEP_LR.class_in(side.library)):
        def step(self, epoch=None):
            super().step(epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] + 0.001

    return Own(side.optimizer, 2, 0.5)


def own_state(side):
    class Own(EXPONENTIAL_LR.class_in(side.library)):
        """Overrides nothing that moves."""

        note = "mine"

    return Own(side.optimizer, 0.95)


def from_scratch(side):
    class Own(torch.optim.lr_scheduler.LRScheduler):
        def get_lr(self):
            return [base_lr * 0.8**self.last_epoch for base_lr in self.base_lrs]

    return Own(side.optimizer)


def replaced_step(side):
    scheduler = row(EXPONENTIAL_LR, "0.9").build(side.library, side.optimizer)
    original = scheduler.step

    def step():
        original()
        side.optimizer.param_groups[0]["lr"] *= 0.9

    def state_dict():
        return {}

    scheduler.step = step
    scheduler.state_dict = state_dict
    return scheduler


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "own",
    [own_get_lr, own_step, own_state, from_scratch, replaced_step],
    ids=lambda own: own.__name__,
)
@each_composite
def test_a_scheduler_of_the_users_inside_is_respected(case, own, place):
    def build(side):
        inside = [child.build(side.library, side.optimizer) for child in case.children]
        inside[place] = own(side)
        return case.build_of(case.of.class_in(side.library), side.optimizer, inside)

    assert_equal_runs(build, steps=20)


@each_composite
def test_a_composition_inside_of_one_of_torch_gives_the_bits_of_torch(case):
    def build(side):
        inside = case.build(side.library, side.optimizer)
        other = row(STEP_LR, "every_3").build(side.library, side.optimizer)
        return torch.optim.lr_scheduler.ChainedScheduler([inside, other])

    assert_equal_runs(build, steps=30)


# Errors and warnings


def other_optimizer(side):
    return make_optimizer(side.library, num_groups=1)


def wrong_compositions(side):
    """Arguments that are refused, by what is wrong with them."""
    step_lr, exponential = (
        row(*at).build(side.library, side.optimizer)
        for at in ((STEP_LR, "every_3"), (EXPONENTIAL_LR, "0.9"))
    )
    foreign = row(STEP_LR, "every_3").build(side.library, other_optimizer(side))
    takes_metric = cases(takes_metric=True)[0].build(side.library, side.optimizer)
    return {
        "no schedulers": [],
        "no scheduler": [step_lr, "exponential"],
        "a metric": [step_lr, takes_metric],
        "a metric first": [takes_metric, step_lr],
        "another optimizer": [step_lr, foreign],
        "too few milestones": [step_lr, exponential, step_lr],
    }


WRONG = (
    "no schedulers",
    "no scheduler",
    "a metric",
    "a metric first",
    "another optimizer",
    "too few milestones",
)


def refusal(case, library, wrong):
    """What the construction raises; None if it is not refused."""
    side = Side(library, make_optimizer(library, num_groups=1))
    schedulers = wrong_compositions(side)[wrong]
    built = outcome(case.build_of, case.of.class_in(library), side.optimizer, schedulers)
    return built if isinstance(built, tuple) else None


@pytest.mark.parametrize("wrong", WRONG)
@each_composite
def test_wrong_compositions_raise_what_torch_raises(case, wrong):
    ours, theirs = (refusal(case, library, wrong) for library in SIDES)
    assert ours == theirs


@each_composite
def test_most_wrong_compositions_are_refused(case):
    refused = [refusal(case, torch.optim, wrong) for wrong in WRONG]
    assert sum(one is not None for one in refused) >= 5


@each_composite
def test_a_composition_takes_no_epoch_and_has_no_formula_as_in_torch(case):
    lockstep = Lockstep(case)
    for act in (
        lambda scheduler: scheduler.step(5),
        lambda scheduler: scheduler.step(epoch=5),
        lambda scheduler: scheduler.get_lr(),
    ):
        ours, theirs = (outcome(act, side.scheduler) for side in lockstep.sides)
        assert ours[0] is theirs[0]
        assert issubclass(ours[0], (TypeError, NotImplementedError))
    lockstep.check()


ENDING = min(cases(), key=lambda case: case.final_epoch)


@pytest.mark.parametrize("rows", [(ENDING, BY_EPOCH[6]), (BY_EPOCH[6], ENDING)], ids=names)
def test_a_step_that_one_part_refuses_moves_none(rows):
    refused = []
    for library in SIDES:
        side = Side(library, make_optimizer(library))
        side.schedulers = [chain_of(*rows).build(side.library, side.optimizer)]
        side.optimizer.step()
        steps, error, before = side.step_until_refused()
        refused.append((steps, str(error)))
        if library is fusedlr:
            assert side.observe_progress() == before
    assert refused[0] == refused[1]
    assert refused[0][0] == ENDING.final_epoch
