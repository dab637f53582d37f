"""A GraphedTrainStep trains as the loop that one would write by hand; here in its eager form."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import fusedlr
from fusedlr import GraphedTrainStep, _backend
from fusedlr import schedules as s
from graphed_training import (
    SETUPS,
    STEPS,
    Setup,
    Training,
    adamw,
    bits,
    cosine_of_torch,
    each_setup,
    everything,
    mean_loss,
    mean_move,
    one_cycle,
    sgd,
    train,
    warmup_then_cosine,
)

# In a loop written by hand, an overflow skips the optimizer's first step, but not the scheduler's.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def new_batch():
    return Training(Setup()).new_batch()


# ------------------------------------------------------------------------- the same as a loop does


@each_setup
def test_a_training_ends_with_the_bits_of_the_loop_written_by_hand(setup, engine):
    by_hand = Training(setup)
    expected = train(by_hand, by_hand.step_by_hand)
    ours = Training(setup)
    start = ours.state()
    step = ours.graphed()

    losses = train(ours, step)

    assert bits(losses) == bits(expected)
    assert bits(ours.state()) == bits(by_hand.state())
    assert mean_move(ours, start) > 1e-3
    skipped = ours.optimizer.skipped_steps
    assert 2 <= skipped <= STEPS - 4 if setup.overflows else skipped == 0
    assert ours.optimizer.completed_steps == STEPS - skipped == by_hand.optimizer.completed_steps


@each_setup
def test_gradients_are_those_of_the_last_step(setup):
    by_hand, ours = Training(setup), Training(setup)
    train(by_hand, by_hand.step_by_hand, 1)
    train(ours, ours.graphed(), 1)

    for expected, param in zip(by_hand.model.parameters(), ours.model.parameters(), strict=True):
        assert bits(param.grad) == bits(expected.grad)


def test_each_call_returns_a_loss_of_its_own():
    training = Training(Setup())
    losses = train(training, training.graphed(), 4)

    assert len({loss.item() for loss in losses}) == 4
    assert not any(loss.requires_grad for loss in losses)


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_a_caller_without_gradients_and_with_autocast_makes_no_difference(amp_dtype):
    setup = Setup(amp_dtype=amp_dtype)
    training, other = Training(setup), Training(setup)
    expected = train(training, training.graphed())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert bits(train(other, other.graphed())) == bits(expected)
    assert bits(other.state()) == bits(training.state())


def test_gradients_from_before_do_not_count():
    training, other = Training(Setup()), Training(Setup())
    expected = train(training, training.graphed(), 2)
    for param in other.model.parameters():
        param.grad = torch.ones_like(param)
    assert bits(train(other, other.graphed(), 2)) == bits(expected)


def test_a_history_has_a_row_for_every_step_skipped_ones_too():
    training = Training(SETUPS["scaler and schedules as values"])
    with fusedlr.History(training.optimizer, capacity=100) as history:
        train(training, training.graphed())
    record = history.to_dict()

    assert len(history) == STEPS
    assert record["skipped_steps"][-1] == training.optimizer.skipped_steps > 0
    lr = s.warmup_cosine(0.05, warmup_steps=3, total_steps=STEPS)
    assert record["lr[1]"][-1] == lr(record["step"][-1])


def test_a_disabled_scaler_is_as_none():
    training, other = Training(Setup()), Training(Setup())
    expected = train(training, training.graphed())
    step = other.graphed(scaler=torch.amp.GradScaler("cpu", enabled=False))

    assert bits(train(other, step)) == bits(expected)


def test_a_step_made_elsewhere_is_not_skipped_after_an_overflow():
    training = Training(SETUPS["scaler"])
    train(training, training.graphed(), 1)
    assert training.optimizer.skipped_steps == 1

    training.optimizer.step()

    assert (training.optimizer.completed_steps, training.optimizer.skipped_steps) == (1, 1)


def test_a_scaler_works_also_where_others_set_found_inf_between_steps():
    training, other = Training(SETUPS["scaler"]), Training(SETUPS["scaler"])
    expected = train(training, training.graphed())
    step = other.graphed()

    def disturbed_step(*batch):
        loss = step(*batch)
        del other.optimizer.found_inf
        if other.optimizer.completed_steps % 2 == 0:
            other.optimizer.found_inf = torch.ones(1)
        return loss

    assert bits(train(other, disturbed_step)) == bits(expected)
    assert bits(other.state()) == bits(training.state())


def test_a_found_inf_of_the_users_own_skips_steps():
    training = Training(Setup())
    step = training.graphed()
    training.optimizer.found_inf = torch.ones(())
    start = training.state()
    train(training, step, 3)
    assert (training.optimizer.completed_steps, training.optimizer.skipped_steps) == (0, 3)
    assert mean_move(training, start) == 0

    del training.optimizer.found_inf
    train(training, step, 1)
    assert (training.optimizer.completed_steps, training.optimizer.skipped_steps) == (1, 3)
    assert mean_move(training, start) > 1e-3


# --------------------------------------------------------------------------- between the steps


@each_setup
def test_saving_everything_in_the_middle_and_loading_it_elsewhere_goes_on_with_the_same_bits(setup):
    training = Training(setup)
    step = training.graphed()
    train(training, step)
    expected = [train(training, step, 1) for _ in range(2)], training.state()

    first = Training(setup)
    train(first, first.graphed())
    saved = first.state()

    into_used = Training(setup)
    used = into_used.graphed()
    train(into_used, used, 3)
    into_used.load(saved)
    into_new = Training(setup)
    into_new.load(saved)
    for resumed, resumed_step in ((into_used, used), (into_new, into_new.graphed())):
        losses = [train(resumed, resumed_step, 1) for _ in range(2)]
        assert bits((losses, resumed.state())) == bits(expected)


def edit_lr(training):
    training.optimizer.param_groups[0]["lr"] = 0.3


def edit_weight_decay(training):
    training.optimizer.param_groups[0]["weight_decay"] = 0.9


def edit_betas(training):
    training.optimizer.param_groups[1]["betas"] = (0.5, 0.6)


def write_into_lr(training):
    training.optimizer.lr.mul_(3)


def shrink_parameters(training):
    with torch.no_grad():
        for param in training.model.parameters():
            param.mul_(0.5)


EDITS = [edit_lr, edit_weight_decay, edit_betas, write_into_lr, shrink_parameters]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_between_steps_takes_effect_at_the_next(edit):
    ends = []
    for edits in (False, True):
        by_hand, ours = Training(Setup()), Training(Setup())
        steps = by_hand.step_by_hand, ours.graphed()
        for training, step in zip((by_hand, ours), steps, strict=True):
            train(training, step, 3)
            if edits:
                edit(training)
            train(training, step, 1)
        assert bits(ours.state()) == bits(by_hand.state())
        ends.append(bits(ours.state()["model"]))
    assert ends[0] != ends[1]


def test_a_scheduler_that_is_left_out_may_step_between():
    ends = []
    for by_epoch in (True, False):
        training = Training(Setup(optimizer=sgd))
        scheduler = fusedlr.lr_scheduler.ReduceLROnPlateau(training.optimizer, patience=0)
        step = training.graphed()
        for epoch in range(4):
            train(training, step, 3)
            if by_epoch:
                scheduler.step(torch.tensor(1.0 + epoch))
        ends.append((training.optimizer.lr.item(), bits(training.state()["model"])))
    assert ends[0][0] == pytest.approx(0.05e-3)
    assert ends[1][0] == 0.05
    assert ends[0][1] != ends[1][1]


# -------------------------------------------------------------------------------- building it


@each_setup
def test_building_a_step_changes_nothing(setup):
    training = Training(setup)
    for param in training.model.parameters():
        param.grad = torch.rand_like(param)
    example = training.new_batch()
    before = everything(training)

    training.graphed(example_inputs=example, warmup=4)

    assert training.model.calls == 4
    assert everything(training) == before


def test_building_a_step_in_the_middle_of_a_training_changes_nothing():
    training = Training(SETUPS["everything"])
    train(training, training.graphed())
    example = training.new_batch()
    before = everything(training)

    training.graphed(example_inputs=example)

    assert everything(training) == before


def test_the_warm_up_would_change_something_if_nothing_were_put_back(monkeypatch):
    training = Training(Setup())
    example = training.new_batch()
    before = everything(training)
    step = training.graphed(example_inputs=example)
    assert everything(training) == before

    step._backward(example)

    assert everything(training) != before


def test_a_loss_that_raises_while_a_step_is_built_leaves_everything_as_it_was():
    training = Training(Setup())
    calls = []

    def failing_loss(outputs, target):
        calls.append(outputs)
        if len(calls) == 2:
            raise ArithmeticError("two")
        return outputs.sum()

    example = training.new_batch()
    before = everything(training)
    with pytest.raises(ArithmeticError, match="two"):
        GraphedTrainStep(training.model, failing_loss, training.optimizer, example_inputs=example)
    assert everything(training) == before


def test_parameters_that_are_not_the_optimizers_begin_each_step_without_gradient():
    training = Training(Setup())
    optimizer = fusedlr.SGD(training.model.second.parameters(), lr=0.1)
    step = GraphedTrainStep(
        training.model, mean_loss, optimizer, example_inputs=training.new_batch(), max_norm=0.1
    )
    batch = training.new_batch()
    torch.manual_seed(3)
    step(*batch)
    first = training.model.first.weight.grad
    torch.manual_seed(3)
    step(*batch)

    norms = [p.grad.norm() for p in training.model.second.parameters()]
    assert torch.stack(norms).norm().item() == pytest.approx(0.1, rel=1e-5)
    assert training.model.first.weight.grad is not first
    assert training.model.first.weight.grad.norm() < 1.9 * first.norm()


def test_on_a_cpu_nothing_is_captured():
    assert not Training(Setup()).graphed().is_captured


# --------------------------------------------------------------------------------- what it refuses


def refused(setup: Setup, error: type[Exception], match: str, *batch: Any) -> None:
    """Calls a step with a batch that it refuses, and checks that nothing has moved."""
    training = Training(setup)
    step = training.graphed()
    train(training, step, 1)
    before = everything(training)
    with pytest.raises(error, match=match):
        step(*batch)
    assert everything(training) == before


def test_a_batch_of_another_shape_is_refused_by_name_with_the_repair():
    x, target = new_batch()
    match = r"argument 0 \(x\) has the shape \(5, 6\), but \(8, 6\) .*drop_last=True"
    refused(Setup(), ValueError, match, x[:5], target[:5])


def test_a_target_of_another_shape_is_refused_by_name():
    x, target = new_batch()
    match = r"argument 1 \(the target\) has the shape \(1, 8\), but \(8,\)"
    refused(Setup(), ValueError, match, x, target[None])


def test_another_dtype_is_refused_by_name_with_the_repair():
    x, scale, target = Training(SETUPS["two inputs"]).new_batch()
    match = r"argument 1 \(scale\) has the dtype torch.float64, .*\.to\(torch.float32\)"
    refused(SETUPS["two inputs"], ValueError, match, x, scale.double(), target)


def test_another_device_is_refused_by_name_with_the_repair():
    x, target = new_batch()
    match = r"argument 0 \(x\) is on meta, but on cpu .*\.to\('cpu'\)"
    refused(Setup(), ValueError, match, x.to("meta"), target)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_arguments_is_refused_with_their_names(count):
    x, target = new_batch()
    match = rf"2 tensors of a batch \(argument 0 \(x\), argument 1 .*, but got {count}"
    refused(Setup(), TypeError, match, *(x, target, x)[:count])


def test_an_argument_that_is_no_tensor_is_refused_by_name():
    x, target = new_batch()
    refused(Setup(), TypeError, r"argument 0 \(x\) must be a tensor", x.tolist(), target)


def test_a_model_in_another_mode_is_refused_with_the_repair():
    training = Training(Setup())
    step = training.graphed()
    training.model.eval()
    with pytest.raises(RuntimeError, match=r"built with the model in train mode.*model\.train\(\)"):
        step(*training.new_batch())
    training.model.train()
    step(*training.new_batch())

    training.model.eval()
    step = training.graphed()
    step(*training.new_batch())
    training.model.train()
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\) first"):
        step(*training.new_batch())


def test_groups_that_have_been_added_or_replaced_are_refused():
    training = Training(Setup())
    step = training.graphed()
    training.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(RuntimeError, match=r"with 3 of them; build a new GraphedTrainStep"):
        step(*training.new_batch())

    step = training.graphed()
    training.optimizer.param_groups = training.optimizer.param_groups[:2]
    with pytest.raises(RuntimeError, match=r"with 4 of them; build a new GraphedTrainStep"):
        step(*training.new_batch())


RULE_CHANGES = {
    "momentum": (fusedlr.SGD, 0.9, "momentum_buffer"),
    "amsgrad": (fusedlr.AdamW, True, "max_exp_avg_sq"),
}


@pytest.mark.parametrize("key", RULE_CHANGES)
def test_a_group_that_needs_other_state_is_refused_until_it_is_set_back(key):
    build, value, state = RULE_CHANGES[key]
    training = Training(Setup(optimizer=lambda model: build(model.parameters(), lr=0.01)))
    step = training.graphed()
    train(training, step, 1)
    group = training.optimizer.param_groups[0]
    before = group[key]
    group[key] = value
    batch = training.new_batch()
    numbers = everything(training)
    with pytest.raises(RuntimeError, match=rf"now needs \['{state}'\].*set it back"):
        step(*batch)
    assert everything(training) == numbers
    group[key] = before
    group["weight_decay"] = 0.5
    step(*batch)


def grow_faster(scaler):
    scaler.set_growth_factor(4.0)


def back_off_further(scaler):
    scaler.set_backoff_factor(0.25)


def load_another_interval(scaler):
    scaler.load_state_dict({**scaler.state_dict(), "growth_interval": 7})


SCALER_CHANGES = [grow_faster, back_off_further, load_another_interval]


@pytest.mark.parametrize("change", SCALER_CHANGES, ids=lambda change: change.__name__)
def test_a_scaler_with_other_factors_is_refused_with_the_repair(change):
    training = Training(SETUPS["scaler"])
    step = training.graphed()
    train(training, step, 1)
    saved = training.scaler.state_dict()
    change(training.scaler)
    batch = training.new_batch()
    before = everything(training)
    with pytest.raises(
        RuntimeError, match=r"were \(2\.0, 0\.5, 3\) when .*set them back, or build"
    ):
        step(*batch)
    assert everything(training) == before

    training.scaler.load_state_dict(saved)
    step(*batch)


@pytest.mark.parametrize(
    "name", ["model", "loss_fn", "optimizer", "scheduler", "scaler", "max_norm", "amp_dtype"]
)
def test_what_was_captured_cannot_be_assigned(name):
    step = Training(SETUPS["everything"]).graphed()
    before = getattr(step, name)
    with pytest.raises(AttributeError, match=f"{name} of a GraphedTrainStep .* build a new"):
        setattr(step, name, None)
    assert getattr(step, name) is before


def foreign_scheduler(training):
    return fusedlr.lr_scheduler.StepLR(adamw(training.model), step_size=1)


def plateau(training):
    return fusedlr.lr_scheduler.ReduceLROnPlateau(training.optimizer)


REFUSED_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "model": ({"model": len}, TypeError, "model must be a torch.nn.Module"),
    "loss_fn": ({"loss_fn": 1.0}, TypeError, "loss_fn must be callable, but is 1.0"),
    "optimizer": (
        {"optimizer": torch.optim.SGD([torch.ones(1)])},
        TypeError,
        "optimizer must be one of fusedlr",
    ),
    "no scheduler": ({"scheduler": "cosine"}, TypeError, "must be a LRScheduler, but is 'cosine'"),
    "another's scheduler": ({"scheduler": foreign_scheduler}, ValueError, "another optimizer"),
    "plateau": ({"scheduler": plateau}, TypeError, r"call scheduler.step\(metric\) between"),
    "scaler": ({"scaler": 2.0**16}, TypeError, "scaler must be a torch.amp.GradScaler"),
    "max_norm": ({"max_norm": 0.0}, ValueError, "max_norm must be a positive number, but is 0.0"),
    "warmup": ({"warmup": 0}, ValueError, "warmup must be at least 1, but is 0"),
    "amp_dtype": ({"amp_dtype": torch.float64}, ValueError, "amp_dtype must be one of"),
    "one input": ({"example_inputs": (torch.ones(8, 6),)}, TypeError, "and then the target"),
    "a tensor": ({"example_inputs": torch.ones(8, 6)}, TypeError, "must be the tensors of a batch"),
    "no tensor": (
        {"example_inputs": (torch.ones(8, 6), [1] * 8)},
        TypeError,
        r"argument 1 \(the target\) of example_inputs must be a tensor",
    ),
}


@pytest.mark.parametrize(
    ("changes", "error", "match"), REFUSED_ARGUMENTS.values(), ids=REFUSED_ARGUMENTS
)
def test_an_argument_that_does_not_fit_is_refused(changes, error, match):
    training = Training(Setup())
    arguments: dict[str, Any] = {
        "model": training.model,
        "loss_fn": mean_loss,
        "optimizer": training.optimizer,
        "scheduler": None,
        "example_inputs": training.new_batch(),
        **changes,
    }
    if arguments["scheduler"] in (foreign_scheduler, plateau):
        arguments["scheduler"] = arguments["scheduler"](training)
    with pytest.raises(error, match=match):
        GraphedTrainStep(**arguments)


LOSSES: dict[str, tuple[Any, type[Exception], str]] = {
    "a number": (lambda outputs, target: 1.0, TypeError, "must return a tensor, but returned 1.0"),
    "of each sample": (
        lambda outputs, target: cross_entropy(outputs, target, reduction="none"),
        ValueError,
        r"has the shape \(8,\); take the mean",
    ),
}


@pytest.mark.parametrize(("loss_fn", "error", "match"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_no_tensor_of_one_element_is_refused(loss_fn, error, match):
    training = Training(Setup(loss_fn=loss_fn))
    with pytest.raises(error, match=match):
        training.graphed()


def test_parameters_on_several_devices_are_refused():
    training = Training(Setup())
    training.model.extra = nn.Parameter(torch.ones(1, device="meta"))
    with pytest.raises(ValueError, match="on one device, but they are on cpu, meta"):
        training.graphed()


def test_an_uninitialized_parameter_is_refused():
    model = nn.LazyLinear(3)
    optimizer = fusedlr.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match="call the model once before"):
        GraphedTrainStep(model, mean_loss, optimizer, example_inputs=new_batch())


def test_a_loss_that_does_not_depend_on_the_optimizer_is_refused_with_a_scaler():
    training = Training(Setup())
    optimizer = fusedlr.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    step = GraphedTrainStep(
        training.model,
        mean_loss,
        optimizer,
        example_inputs=training.new_batch(),
        scaler=torch.amp.GradScaler("cpu"),
    )
    with pytest.raises(RuntimeError, match="no parameter of the optimizer has got a gradient"):
        step(*training.new_batch())


class Summed(nn.Module):
    """Takes any number of inputs, none of which has a name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, *inputs):
        return self.weight * sum(inputs)


def test_inputs_without_a_name_are_told_by_their_number():
    model = Summed()
    optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
    batch = [torch.ones(4) for _ in range(4)]
    step = GraphedTrainStep(model, mse_loss, optimizer, example_inputs=batch)
    step(*batch)
    with pytest.raises(ValueError, match=r"argument 2 has the shape \(3,\)"):
        step(*batch[:2], torch.ones(3), batch[3])


# ------------------------------------------------------------------- which schedulers a graph holds


def stops_at_ten(epoch):
    with open("/dev/null") as file:  # no arithmetic: only the host can call it
        file.read()
    return 1.0 if epoch < 10 else 0.0


class SteppedByItself(fusedlr.lr_scheduler.StepLR):
    def get_lr(self):
        return [0.5 for _ in self.optimizer.param_groups]


SCHEDULERS = {
    "of fusedlr": (one_cycle, True),
    "of fusedlr, made of two": (warmup_then_cosine, True),
    "a traced function": (
        lambda optimizer: fusedlr.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        True,
    ),
    "a function of the host": (
        lambda optimizer: fusedlr.lr_scheduler.LambdaLR(optimizer, stops_at_ten),
        False,
    ),
    "a subclass with a formula of its own": (
        lambda optimizer: SteppedByItself(optimizer, 1),
        False,
    ),
    "of torch": (cosine_of_torch, False),
}


@pytest.mark.filterwarnings("ignore:LambdaLR calls .*stops_at_ten:UserWarning")
@pytest.mark.parametrize(("scheduler", "is_part"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_graph_holds_the_schedulers_that_the_engine_steps_by_itself(scheduler, is_part):
    training = Training(Setup(scheduler=scheduler))
    step = training.graphed()

    assert step._scheduler_is_part == is_part
    train(training, step, 3)
    assert training.scheduler.last_epoch == 3


def test_a_cuda_device_without_an_engine_is_served_eagerly_with_a_warning(monkeypatch):
    training = Training(Setup())
    step = training.graphed()
    monkeypatch.setattr(step, "_device", torch.device("cuda:0"))
    monkeypatch.setattr(_backend, "engine_for", lambda *which: ("torch", "it is not built"))
    with pytest.warns(RuntimeWarning, match="runs eagerly on cuda:0, because it is not built"):
        assert not step._can_capture()
    monkeypatch.setattr(_backend, "engine_for", lambda *which: ("cuda", "compiled"))
    assert step._can_capture()


def test_the_examples_in_its_documentation_run():
    import fusedlr.graphed_train_step

    results = doctest.testmod(fusedlr.graphed_train_step)
    assert results.attempted > 0
    assert results.failed == 0
