"""A whole training step that a CUDA device replays as one graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fusedlr import _backend
from fusedlr._stack import user_stacklevel
from fusedlr.batch_signature import BatchSignature
from fusedlr.lr_scheduler.device_scheduler import DeviceScheduler, device_table
from fusedlr.optim import FusedOptimizer
from fusedlr.restoring import (
    restored_grads,
    restored_modules,
    restored_random_states,
    restored_stream,
)

_AMP_DTYPES = (torch.float16, torch.bfloat16)

_CANNOT_CAPTURE = (
    "the training step could not be captured in a CUDA graph, for the reason above. What makes the "
    "host wait for the device cannot be captured: .item(), .cpu(), .tolist(), printing a tensor, "
    "`if` on a tensor, or a shape that depends on values; nor can an autograd graph that is still "
    "alive from before: delete losses that were kept, and wrappers that hold AccumulateGrad nodes "
    "of the parameters, as DistributedDataParallel does. torch may not recover from a capture that "
    "failed (its allocator and its random generators can stay in it): restart the process"
)


@dataclass(frozen=True)
class _Captured:
    """A graph, with the memory of its own that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Sequence[Tensor]
    loss: Tensor
    #: Of each parameter of the step.
    grads: Sequence[Tensor | None]


class GraphedTrainStep:
    """A training step: forward, backward, clipping, optimizer and scheduler in one call.

    On a CUDA device all of it is captured in a CUDA graph once, here; a call copies the batch in
    and replays, so that the host launches one graph instead of hundreds of kernels. Learning rate
    and schedules live on the device and go on in the graph. On any other device a call runs the
    same step eagerly, with the same results: a script runs anywhere.

    One call computes ``loss_fn(model(*inputs), target)``, where the last tensor of a batch is the
    target and those before it are the inputs of the model. A model that wants its inputs otherwise,
    or a loss that wants more, takes a :class:`torch.nn.Module` of a few lines around the model.

    Between calls everything may be edited and takes effect at the next one: the learning rate and
    other hypers of the groups, also tensors that were given for them, on whatever device,
    ``load_state_dict`` of model, optimizer, scheduler and scaler, the scale of the scaler. The
    object has no state of its own to be saved. Building it changes nothing: `warmup` forward and
    backward passes run first, and parameters, buffers, gradients and random numbers come back bit
    for bit. The first call is step 1 of the training. (Meanwhile that takes the memory of a second
    copy of parameters and buffers.)

    A replay does what was captured, and nothing that Python would do: forward hooks and step hooks,
    ``if`` and counters in Python have run for the last time. What the graph reads must stay where
    it is: parameters and buffers are to be written in place, not replaced. What a graph cannot
    follow is fixed: the attributes of this object cannot be assigned, and a call refuses a scaler
    with other growth and backoff factors or another interval, and groups that were given a momentum
    or ``amsgrad`` since, without having had one.

    After a call, the gradients of all parameters are those of that call, whatever they were before
    it; whoever adds up gradients of several batches needs a loop instead. Inputs and target get no
    gradient.

    Args:
        model: called with the inputs of a batch, in the mode (``train`` or ``eval``) that it is in
            now.
        loss_fn: called with what the model returns and with the target; returns the loss, a tensor
            with one element.
        optimizer: a fused optimizer (those of torch.optim freeze their hypers in a graph).
        scheduler: stepped once in each call, after the optimizer. Those of fusedlr are part of the
            graph; those of torch, and functions that run on the host, are stepped by the host after
            each replay. Schedules given as values need no scheduler. One that is to be stepped per
            epoch, or by a metric, is left out here and stepped between calls.
        example_inputs: the tensors of one batch. Batches must come with the same shapes and dtypes
            and from the same devices; batches in pinned host memory are copied without waiting.
        scaler: scales the loss, for float16. A step whose gradients overflow is skipped on the
            device, through :attr:`FusedOptimizer.found_inf`, and the host need not know.
        max_norm: clips the total norm of the gradients of the optimizer's parameters.
        warmup: passes before the capture, at least one; libraries choose their algorithms there.
        amp_dtype: forward and loss run under autocast to this dtype, ``torch.bfloat16`` or
            ``torch.float16``. None: without autocast, also where the caller is within one.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range, the scheduler is one of another optimizer, or
            the parameters are not all on one device.
        RuntimeError: if the step cannot be captured. Parameters, buffers, gradients, scaler and
            current stream are as before, but torch may not recover from a capture that failed (its
            allocator and its random generators can stay in it): restart the process.

    Example:
        >>> import torch, fusedlr
        >>> device = "cuda" if torch.cuda.is_available() else "cpu"
        >>> model = torch.nn.Linear(4, 1).to(device)
        >>> optimizer = fusedlr.AdamW(model.parameters(), lr=0.1)
        >>> scheduler = fusedlr.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
        >>> inputs, targets = torch.randn(64, 4, device=device), torch.ones(64, 1, device=device)
        >>> train_step = fusedlr.GraphedTrainStep(
        ...     model,
        ...     torch.nn.functional.mse_loss,
        ...     optimizer,
        ...     scheduler,
        ...     example_inputs=(inputs, targets),
        ...     max_norm=1.0,
        ... )
        >>> losses = [train_step(inputs, targets) for _ in range(100)]
        >>> bool(losses[-1] < 0.1 * losses[0])
        True
        >>> optimizer.completed_steps, scheduler.last_epoch
        (100, 100)
    """

    def __init__(
        self,
        model: Module,
        loss_fn: Callable[[Any, Tensor], Tensor],
        optimizer: FusedOptimizer,
        scheduler: LRScheduler | None = None,
        *,
        example_inputs: Sequence[Tensor],
        scaler: torch.amp.GradScaler | None = None,
        max_norm: float | None = None,
        warmup: int = 3,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        _check_objects(model, loss_fn, optimizer, scheduler, scaler)
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be a positive number, but is {max_norm!r}")
        if not warmup >= 1:
            raise ValueError(f"warmup must be at least 1, but is {warmup!r}")
        if amp_dtype is not None and amp_dtype not in _AMP_DTYPES:
            raise ValueError(f"amp_dtype must be one of {_AMP_DTYPES}, but is {amp_dtype!r}")
        self.model = model
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.max_norm = max_norm
        self.amp_dtype = amp_dtype
        self._clipped = [param for group in optimizer.param_groups for param in group["params"]]
        params = {id(param): param for param in (*self._clipped, *model.parameters())}
        self._params = list(params.values())
        self._device = _device_of(self._params)
        self._signature = BatchSignature(model, example_inputs)
        self._is_training = model.training
        # What a captured step reads, and how many rows it had. (Reading the lr settles the table.)
        self._num_groups, self._table = optimizer.lr.numel(), optimizer._table
        self._state_names = self._needed_state()
        self._revision_seen = optimizer._revision.number
        self._scheduler_is_part = _is_part(scheduler, optimizer)
        # What tells the optimizer of an overflow; 0 between steps, so that no other is skipped.
        self._found_inf = torch.zeros((), device=self._device)
        self._scaler_settings = _settings_of(self.scaler)
        self._captured: _Captured | None = None
        if self._can_capture():
            self._captured = self._capture(example_inputs, warmup)
        else:
            self._warm_up([tensor.to(self._device) for tensor in example_inputs], warmup)

    @property
    def is_captured(self) -> bool:
        """Whether calls replay a graph."""
        return self._captured is not None

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name in vars(self):
            raise AttributeError(
                f"{name} of a GraphedTrainStep is a part of what was captured and cannot be "
                "assigned; build a new GraphedTrainStep"
            )
        super().__setattr__(name, value)

    def __call__(self, *batch: Tensor) -> Tensor:
        """One step of the training.

        Args:
            batch: the inputs of the model, then the target.

        Returns:
            The loss before the step, unscaled and detached: a new tensor for each call, on the
            device; nothing waits for it until somebody reads it.

        Raises:
            TypeError: if the batch has another number of arguments, or one that is not a tensor.
            ValueError: if a tensor has another shape, dtype or device than in `example_inputs`.
            RuntimeError: if the model is in another mode, the groups of the optimizer are not
                those that the step was built for or need other state, or the factors of the scaler
                are others. Nothing has moved.
        """
        self._check(batch)
        self._attach_found_inf()
        if self._captured is None:
            loss = self._step([tensor.to(self._device) for tensor in batch])
        else:
            loss = self._replay(self._captured, batch)
        if self.scheduler is not None and not self._scheduler_is_part:
            self.scheduler.step()
        return loss

    def _check(self, batch: Sequence[Any]) -> None:
        """Raises if a graph would not do what the eager step would."""
        self._signature.check(batch)
        if self.model.training != self._is_training:
            mode = "train" if self._is_training else "eval"
            raise RuntimeError(
                f"the step was built with the model in {mode} mode, which it has left; call "
                f"model.{mode}() first"
            )
        optimizer = self.optimizer
        if optimizer._table is not self._table or len(optimizer.param_groups) != self._num_groups:
            raise RuntimeError(
                "the param groups of the optimizer have been added to or replaced since the step "
                f"was built with {self._num_groups} of them; build a new GraphedTrainStep"
            )
        if optimizer._revision.number != self._revision_seen:
            self._refuse_other_rules()
            self._revision_seen = optimizer._revision.number
        if _settings_of(self.scaler) != self._scaler_settings:
            raise RuntimeError(
                "growth factor, backoff factor and growth interval of the scaler are "
                f"{_settings_of(self.scaler)}, but were {self._scaler_settings} when the step was "
                "built, which a graph cannot follow; set them back, or build a new GraphedTrainStep"
            )

    def _needed_state(self) -> list[set[str]]:
        """The names of the state that each group needs."""
        optimizer = self.optimizer
        return [set(optimizer._state_names(group)) for group in optimizer.param_groups]

    def _refuse_other_rules(self) -> None:
        pairs = zip(self._needed_state(), self._state_names, strict=True)
        for index, (needed, captured) in enumerate(pairs):
            if needed <= captured:
                continue
            raise RuntimeError(
                f"param_groups[{index}] now needs {sorted(needed - captured)}, which "
                "the step was built without; set it back (momentum=0, amsgrad=False), or build a "
                "new GraphedTrainStep"
            )

    # The step

    def _step(self, batch: Sequence[Tensor]) -> Tensor:
        loss = self._backward(batch)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.max_norm is not None:
            clip_grad_norm_(self._clipped, self.max_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self._step_unless_overflow(self.scaler)
        if self.scheduler is not None and self._scheduler_is_part:
            self.scheduler.step()
        return loss

    def _backward(self, batch: Sequence[Tensor]) -> Tensor:
        """Computes the gradients of the loss, scaled if there is a scaler; returns the loss."""
        for param in self._params:
            param.grad = None  # a graph then has them in its own memory
        # Inputs that want a gradient would tie the steps together.
        batch = [tensor.detach() for tensor in batch]
        # Backward, too, would run under an autocast of the caller.
        with torch.enable_grad(), torch.autocast(self._device.type, enabled=False):
            loss = self._forward(batch)
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            torch.autograd.backward(scaled)
        return loss.detach()

    def _forward(self, batch: Sequence[Tensor]) -> Tensor:
        *inputs, target = batch
        is_amp = self.amp_dtype is not None
        # Weights that were cast within an autocast of the caller would be from before the last
        # step, and constants in a graph.
        torch.clear_autocast_cache()
        with torch.autocast(self._device.type, dtype=self.amp_dtype, enabled=is_amp):
            loss = self.loss_fn(self.model(*inputs), target)
        torch.clear_autocast_cache()
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_fn must return a tensor, but returned {loss!r}")
        if loss.numel() != 1:
            raise ValueError(
                f"the loss must have one element, but has the shape {tuple(loss.shape)}; "
                "take the mean"
            )
        return loss

    def _step_unless_overflow(self, scaler: torch.amp.GradScaler) -> None:
        # scaler.step() would wait for the device to know whether to call the optimizer.
        found_inf = scaler._per_optimizer_states[id(self.optimizer)]["found_inf_per_device"]
        if not found_inf:
            raise RuntimeError(
                "no parameter of the optimizer has got a gradient; is the loss computed from them?"
            )
        self._found_inf.copy_(found_inf[self._device])
        self.optimizer.step()
        self._found_inf.zero_()
        scaler.update()

    def _attach_found_inf(self) -> None:
        is_attached = getattr(self.optimizer, "found_inf", None) is self._found_inf
        if self.scaler is not None and not is_attached:
            self.optimizer.found_inf = self._found_inf

    # The capture

    def _can_capture(self) -> bool:
        if self._device.type != "cuda":
            return False
        engine, reason = _backend.engine_for("cuda", self.optimizer._chosen_engine)
        if engine == "torch":
            warnings.warn(
                f"GraphedTrainStep runs eagerly on {self._device}, because {reason}",
                RuntimeWarning,
                stacklevel=user_stacklevel(),
            )
        return engine != "torch"

    def _warm_up(self, batch: Sequence[Tensor], passes: int) -> list[Tensor | None]:
        """Forward and backward passes that leave no trace, but in the caches of libraries.

        Returns:
            The gradients of the parameters, if only for the layout that they have.
        """
        modules = [one for one in (self.model, self.loss_fn) if isinstance(one, Module)]
        with restored_random_states({self._device}), restored_modules(modules, self._params):
            for _ in range(passes):
                self._backward(batch)
            return [param.grad for param in self._params]

    def _capture(self, example_inputs: Sequence[Tensor], warmup: int) -> _Captured:
        batch = [
            torch.empty_like(one, device=self._device, requires_grad=False)
            for one in example_inputs
        ]
        # Warm-up and capture share a stream: what autograd remembers of the one fits the other.
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device):
            stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(stream):
                    _copy_(batch, example_inputs)
                    grads = self._warm_up(batch, warmup)
            finally:
                # Also after an error: everything is being put back on that stream.
                torch.cuda.current_stream().wait_stream(stream)
            self._attach_found_inf()
            self._materialize(grads)
            return self._record(stream, batch)

    def _record(self, stream: torch.cuda.Stream, batch: Sequence[Tensor]) -> _Captured:
        """Captures a step, which does not run yet."""
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other threads, such as a loader's that pins memory, may go on.
            with (
                restored_random_states({self._device}),
                restored_grads(self._params),
                restored_stream(),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                loss = self._step(batch)
                grads = [param.grad for param in self._params]
        except BaseException as error:
            if self.scaler is not None:  # it believes that gradients are unscaled
                self.scaler._per_optimizer_states.pop(id(self.optimizer), None)
            if isinstance(error, RuntimeError):
                raise RuntimeError(_CANNOT_CAPTURE) from error
            raise
        return _Captured(graph, batch, loss, grads)

    def _replay(self, captured: _Captured, batch: Sequence[Tensor]) -> Tensor:
        # A graph reads hypers on the device; those in tensors on the host are to be sent there.
        self._table.sync()
        if self._table.device is not None:
            self._table.device.flush_()
        _copy_(captured.batch, batch)
        captured.graph.replay()
        # Others may have dropped or replaced the gradients since.
        for param, grad in zip(self._params, captured.grads, strict=True):
            if param.grad is not grad:
                param.grad = grad
        return captured.loss.clone()

    def _materialize(self, grads: Sequence[Tensor | None]) -> None:
        """Creates what steps with such gradients need, as a captured step cannot."""
        with restored_grads(self._params):
            for param, grad in zip(self._params, grads, strict=True):
                param.grad = grad
            # For the optimizer, every parameter that requires a gradient will have one.
            without = [one for one in self._clipped if one.grad is None and one.requires_grad]
            for param in without:
                param.requires_grad_(False)
            try:
                self.optimizer.materialize()
            finally:
                for param in without:
                    param.requires_grad_(True)
        self._refuse_groups_without_engine()
        if isinstance(self.scheduler, DeviceScheduler) and self._scheduler_is_part:
            self.scheduler._materialize()

    def _refuse_groups_without_engine(self) -> None:
        for group in self.optimizer._torch_groups:
            why = "is differentiable" if group["differentiable"] else "has parameters without one"
            raise ValueError(
                f"param_groups[{group.index}] is updated by torch.optim's own functions, which "
                f"cannot be captured: it {why} (see fusedlr.backend_info()); train it in a loop"
            )


def _check_objects(model: Any, loss_fn: Any, optimizer: Any, scheduler: Any, scaler: Any) -> None:
    """Raises a TypeError about the first argument that is of another kind."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {model!r}")
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be callable, but is {loss_fn!r}")
    if not isinstance(optimizer, FusedOptimizer):
        raise TypeError(
            "optimizer must be one of fusedlr, whose hypers stay live in a graph, but is "
            f"{optimizer!r}"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "ReduceLROnPlateau steps by a metric; leave it out and call scheduler.step(metric) "
            "between the steps: what it does to the lr takes effect at the next one"
        )
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise TypeError(f"scheduler must be a LRScheduler, but is {scheduler!r}")
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError(
            "the scheduler belongs to another optimizer; build it with the one given here"
        )
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"scaler must be a torch.amp.GradScaler, but is {scaler!r}")


def _settings_of(scaler: torch.amp.GradScaler | None) -> tuple[float, ...]:
    """The numbers of a scaler that ``update`` takes as constants."""
    if scaler is None:
        return ()
    return (
        scaler.get_growth_factor(),
        scaler.get_backoff_factor(),
        scaler.get_growth_interval(),
    )


@torch.no_grad()
def _copy_(buffers: Sequence[Tensor], batch: Sequence[Tensor]) -> None:
    for buffer, tensor in zip(buffers, batch, strict=True):
        buffer.copy_(tensor, non_blocking=True)


def _device_of(params: Sequence[Tensor]) -> torch.device:
    """The one device on which all parameters are."""
    if any(map(is_lazy, params)):
        raise ValueError("a parameter is not initialized; call the model once before")
    device, *others = dict.fromkeys(param.device for param in params)
    if others:
        raise ValueError(
            "all parameters of model and optimizer must be on one device, but they are on "
            f"{', '.join(map(str, (device, *others)))}"
        )
    return device


def _is_part(scheduler: LRScheduler | None, optimizer: FusedOptimizer) -> bool:
    """Whether the engine steps this scheduler by itself, so that a graph can hold its step."""
    return (
        isinstance(scheduler, DeviceScheduler)
        and device_table(optimizer) is not None
        and scheduler._runs_on_device()
    )
