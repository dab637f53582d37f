"""What ranks do in the tests of checkpoints that are saved by one number of ranks for another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import fusedlr
from fusedlr import schedules as s
from rank_processes import TASK_SECONDS, join_group
from sharded_training import (
    assert_equal,
    assert_is_compiled,
    batch,
    everything,
    groups_of,
    make_model,
    part_of_rank,
    shard,
    train,
    whole,
)

#: Sums in another order, and formulas in another, then differ by next to nothing.
DTYPE = torch.float64

STEPS_BEFORE, STEPS_AFTER = range(3), range(3, 6)


def built(optimizer_class: Any, arguments: dict[str, Any]) -> tuple[nn.Module, Any]:
    model = shard(make_model(DTYPE))
    return model, optimizer_class(groups_of(model), **arguments)


def saves(folder: str, optimizer_class: Any, arguments: dict[str, Any], how: str) -> list[Tensor]:
    """Trains, saves in the middle, and returns the end: parameters and state."""
    model, optimizer = built(optimizer_class, arguments)
    train(model, optimizer, None, STEPS_BEFORE)
    of_model, of_optimizer = get_state_dict(model, optimizer)
    saved = {"model": of_model, "optimizer": of_optimizer}
    if how == "async_save":
        # Beside the collectives of the training, in a group of its own.
        writing = dcp.async_save(saved, checkpoint_id=folder, process_group=dist.new_group())
        # Goes on with the training, in the memory that is being saved.
        train(model, optimizer, None, STEPS_AFTER)
        writing.result()
    else:
        dcp.save(saved, checkpoint_id=folder)
        train(model, optimizer, None, STEPS_AFTER)
    return everything(optimizer)


def loads(folder: str, optimizer_class: Any, arguments: dict[str, Any]) -> list[Tensor]:
    """Loads into an optimizer that has not made a step, and trains to the same end."""
    model, optimizer = built(optimizer_class, arguments)
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    of_model, of_optimizer = get_state_dict(model, optimizer)
    saved = {"model": of_model, "optimizer": of_optimizer}
    dcp.load(saved, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
    )
    train(model, optimizer, None, STEPS_AFTER)
    if issubclass(optimizer_class, fusedlr.FusedOptimizer):
        assert_is_compiled(optimizer)
    return everything(optimizer)


def passes_full_state(optimizer_class: Any, arguments: dict[str, Any]) -> None:
    """The state of whole tensors, from a sharded run to one process and back."""
    model, optimizer = built(optimizer_class, arguments)
    train(model, optimizer, None, STEPS_BEFORE)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = get_optimizer_state_dict(model, optimizer, options=options)
    other_model, other = built(optimizer_class, arguments)
    set_optimizer_state_dict(
        other_model,
        other,
        full if dist.get_rank() == 0 else {},
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    )
    other_model.load_state_dict(model.state_dict())
    for one, its_optimizer in ((model, optimizer), (other_model, other)):
        train(one, its_optimizer, None, STEPS_AFTER)
    assert_equal(everything(optimizer), everything(other))


def refuses_state_of_another_kind(optimizer_class: Any, arguments: dict[str, Any]) -> None:
    """``load_state_dict`` of plain tensors for DTensors, and the other way round."""
    model, optimizer = built(optimizer_class, arguments)
    plain_model = make_model(DTYPE)
    plain = optimizer_class(groups_of(plain_model), **arguments)
    for one, its_optimizer in ((model, optimizer), (plain_model, plain)):
        train(one, its_optimizer, None, STEPS_BEFORE)
    for target, source, text in (
        (optimizer, plain, "is no DTensor, but the parameter is one"),
        (plain, optimizer, "is a DTensor, but the parameter is none"),
    ):
        before = everything(target)
        try:
            target.load_state_dict(source.state_dict())
        except ValueError as error:
            message = str(error)
        assert text in message
        assert "set_optimizer_state_dict" in message
        assert_equal(before, everything(target))


# ------------------------------------------------------- a run that is killed, and resumed

RUN_STEPS, SAVE_EVERY = 12, 3
#: The step in which all ranks are killed.
LAST_STEP = 8


class Run:
    """A training whose batches are split over the ranks, saved every few steps."""

    def __init__(self) -> None:
        self.model = shard(make_model(DTYPE))
        lr = s.warmup_cosine(0.05, warmup_steps=3, total_steps=RUN_STEPS)
        self.optimizer = fusedlr.AdamW(groups_of(self.model), lr=lr, weight_decay=0.1)
        self.step = 0

    def train(self, until: int, folder: Path | None = None) -> None:
        for step in range(self.step, until):
            loss = self.model(part_of_rank(batch(step, DTYPE))).pow(2).mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step = step + 1
            if folder is not None and self.step % SAVE_EVERY == 0:
                self.save(folder / f"step_{self.step:03d}")

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def save(self, folder: Path) -> None:
        dcp.save(self._state(), checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        saved = self._state()
        dcp.load(saved, checkpoint_id=folder)
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=saved["model"],
            optim_state_dict=saved["optimizer"],
        )
        self.step = saved["step"]

    def end(self) -> dict[str, Tensor]:
        assert_is_compiled(self.optimizer)
        assert self.optimizer.completed_steps == RUN_STEPS
        return {name: whole(param) for name, param in self.model.named_parameters()}


def uninterrupted() -> dict[str, Tensor]:
    run = Run()
    run.train(RUN_STEPS)
    return run.end()


def run_until_killed(rank: int, world_size: int, store: str, folder: str) -> None:
    """The main function of a process that is killed in the middle of a step."""
    join_group(rank, world_size, store)
    run = Run()
    run.train(LAST_STEP, Path(folder))
    run.model(part_of_rank(batch(run.step, DTYPE))).pow(2).mean().backward()
    (Path(folder) / f"in_a_step_{rank}").touch()
    time.sleep(TASK_SECONDS)


def resumed(folder: str) -> tuple[int, dict[str, Tensor]]:
    """Goes on from the last checkpoint, which holds less than was trained."""
    run = Run()
    # The metadata of a checkpoint are written last: without them it is not complete.
    complete = [path.parent for path in Path(folder).glob("*/.metadata")]
    run.load(max(complete))
    began_at = run.step
    run.train(RUN_STEPS)
    return began_at, run.end()
