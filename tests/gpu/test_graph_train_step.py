"""A GraphedTrainStep that replays trains as the loop that one would write by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fusedlr
from graphed_training import (
    SETUPS,
    Setup,
    Training,
    bits,
    each_setup,
    everything,
    mean_loss,
    mean_move,
    sgd,
    train,
)

# In a loop written by hand, an overflow skips the optimizer's first step, but not the scheduler's.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")


@pytest.fixture(autouse=True)
def _at_the_place(place):
    with place.chosen(), torch.random.fork_rng():
        yield


@each_setup
def test_replays_end_with_the_bits_of_the_loop_written_by_hand(setup, place):
    by_hand, ours = Training(setup, place.device), Training(setup, place.device)
    expected = train(by_hand, by_hand.step_by_hand)
    start = ours.state()
    step = ours.graphed()

    losses = train(ours, step)

    assert step.is_captured == (place.device.type == "cuda")
    assert bits(losses) == bits(expected)
    assert bits(ours.state()) == bits(by_hand.state())
    assert mean_move(ours, start) > 1e-3
    for param, other in zip(ours.model.parameters(), by_hand.model.parameters(), strict=True):
        assert bits(param.grad) == bits(other.grad)


def cosine(optimizer: Any) -> Any:
    return fusedlr.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1_000)


@pytest.mark.parametrize("name", ["scaler", "clipping", "bfloat16"])
def test_a_thousand_replays_give_the_bits_of_the_loop_written_by_hand(name, place):
    setup = SETUPS[name]
    runs = [Training(setup, place.device) for _ in range(2)]
    for run in runs:
        run.scheduler = cosine(run.optimizer)
    losses = []
    for run, step in zip(runs, (runs[0].step_by_hand, runs[1].graphed()), strict=True):
        torch.manual_seed(1)
        batches = [run.new_batch() for _ in range(16)]
        of_run = []
        for number in range(1_000):
            if number in (300, 700):
                for group in run.optimizer.param_groups:
                    group["weight_decay"] = 0.3 if number == 300 else 0.0
            of_run.append(step(*batches[number % 16]))
        losses.append(torch.stack(of_run).cpu())
    assert bits(losses[1]) == bits(losses[0])
    assert bits(runs[1].state()) == bits(runs[0].state())
    assert losses[1][-50:].mean() < losses[1][:50].mean()


@each_setup
def test_building_a_step_changes_nothing(setup, place):
    training = Training(setup, place.device)
    train(training, training.step_by_hand, 2)
    example = training.new_batch()
    before = everything(training)

    training.graphed(example_inputs=example)

    assert everything(training) == before


@each_setup
def test_loading_a_checkpoint_between_replays_goes_on_from_there(setup, place):
    training = Training(setup, place.device)
    step = training.graphed()
    train(training, step, 4)
    saved = training.state()
    expected = bits((train(training, step, 3), training.state()))
    train(training, step, 2)

    training.load(saved)

    assert bits((train(training, step, 3), training.state())) == expected


def test_steps_by_hand_and_replays_may_take_turns(place):
    by_hand, ours = Training(Setup(), place.device), Training(Setup(), place.device)
    step = ours.graphed()
    torch.manual_seed(1)
    batches = [ours.new_batch() for _ in range(9)]
    torch.manual_seed(2)
    for number, batch in enumerate(batches):
        (step if number % 3 else ours.step_by_hand)(*batch)
    torch.manual_seed(2)
    for batch in batches:
        by_hand.step_by_hand(*batch)
    assert bits(ours.state()) == bits(by_hand.state())


def test_a_metric_may_lower_the_lr_between_replays(place):
    training = Training(Setup(optimizer=sgd), place.device)
    scheduler = fusedlr.lr_scheduler.ReduceLROnPlateau(training.optimizer, patience=0)
    step = training.graphed()
    for epoch in range(4):
        train(training, step, 3)
        scheduler.step(torch.tensor(1.0 + epoch, device=place.device))
    before = training.state()
    train(training, step, 1)
    assert training.optimizer.lr.item() == pytest.approx(0.05e-3)
    assert 0 < mean_move(training, before) < 1e-4


@pytest.mark.parametrize("host_has", ["lr", "betas", "found_inf"])
def test_tensors_on_the_host_take_effect_at_the_next_replay(host_has, place):
    trainings = [Training(Setup(), place.device) for _ in range(2)]
    tensors = []
    for training in trainings:
        tensor = torch.tensor(0.0 if host_has == "found_inf" else 0.5)
        tensors.append(tensor)
        if host_has == "found_inf":
            training.optimizer.found_inf = tensor
        else:
            pair = (tensor, torch.tensor(0.9))
            training.optimizer.param_groups[0][host_has] = tensor if host_has == "lr" else pair
    steps = trainings[0].step_by_hand, trainings[1].graphed()
    for training, step, tensor in zip(trainings, steps, tensors, strict=True):
        torch.manual_seed(1)
        for value in (None, 0.25, 0.75, 0.0):
            if value is not None:
                tensor.fill_(value)
            step(*training.new_batch())
    assert bits(trainings[1].state()) == bits(trainings[0].state())
    assert trainings[1].optimizer.skipped_steps == (2 if host_has == "found_inf" else 0)


def test_gradients_that_were_dropped_or_replaced_come_back_with_the_next_replay(place):
    by_hand, ours = Training(Setup(), place.device), Training(Setup(), place.device)
    step = ours.graphed()
    for training, one_step in ((by_hand, by_hand.step_by_hand), (ours, step)):
        torch.manual_seed(1)
        one_step(*training.new_batch())
        for number, param in enumerate(training.model.parameters()):
            param.grad = torch.ones_like(param) if number % 2 else None
        one_step(*training.new_batch())
    for param, other in zip(ours.model.parameters(), by_hand.model.parameters(), strict=True):
        assert bits(param.grad) == bits(other.grad)


class WithUnusedLayer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        used: torch.Tensor = self.used(x)
        return used


def test_parameters_without_a_gradient_stay_as_they_are(place):
    model = WithUnusedLayer().to(place.device)
    optimizer = fusedlr.AdamW(model.parameters(), lr=0.1)
    batch = Training(Setup(), place.device).new_batch()
    before = [param.detach().clone() for param in model.parameters()]
    step = fusedlr.GraphedTrainStep(model, mean_loss, optimizer, example_inputs=batch)
    for _ in range(3):
        step(*batch)
    moved = [
        not torch.equal(param, was) for param, was in zip(model.parameters(), before, strict=True)
    ]
    assert moved == [True, True, False, False]
    assert all(param.requires_grad for param in model.parameters())


def test_batches_may_come_from_memory_of_the_host(place):
    def pinned(batch: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        on_host = [one.cpu() for one in batch]
        return [one.pin_memory() for one in on_host] if torch.cuda.is_available() else on_host

    training, other = Training(Setup(), place.device), Training(Setup(), place.device)
    expected = train(training, training.graphed())
    step = other.graphed(example_inputs=pinned(other.new_batch()))

    assert bits(train(other, lambda *batch: step(*pinned(batch)))) == bits(expected)


def test_a_batch_of_another_shape_is_refused_and_nothing_has_moved(place):
    training = Training(Setup(), place.device)
    step = training.graphed()
    train(training, step, 2)
    x, target = training.new_batch()
    before = everything(training)
    with pytest.raises(ValueError, match="drop_last=True"):
        step(x[:5], target[:5])
    assert everything(training) == before
