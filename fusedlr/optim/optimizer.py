"""What all fused optimizers share: the plan, the group table, and torch.optim's contract."""

from __future__ import annotations

import functools
import inspect
import operator
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor
from torch.optim import Optimizer

from fusedlr import _backend
from fusedlr.optim import checkpoint, planning
from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.live_tensors import LiveTensors
from fusedlr.optim.param_group import ParamGroup, definition_of
from fusedlr.optim.recorder import Recorder
from fusedlr.optim.revision import OptimizerState, Revision
from fusedlr.optim.step_clock import Clock, StepClock
from fusedlr.schedules import Schedule


def _hooks_when_needed(step: Callable[..., Any]) -> Callable[..., Any]:
    # torch's wrapper opens a profiler range and walks the hooks on every call, which takes longer
    # than a whole step of a small model. It runs only where somebody would notice.
    with_hooks = Optimizer.profile_hook_step(step)
    # torch.compile calls the step as it is: there is nothing in it to compile.
    uncompiled = torch._disable_dynamo(with_hooks)  # type: ignore[attr-defined]

    @functools.wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return uncompiled(*args, **kwargs)
        optimizer = args[0]
        if (
            optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or _backend.has_observers()
        ):
            return with_hooks(*args, **kwargs)
        return step(*args, **kwargs)

    wrapper.hooked = True  # type: ignore[attr-defined]
    return wrapper


def _accepting_schedules(torch_init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a torch.optim class, with schedules where it takes numbers.

    And with one argument more, `backend`.
    """
    signature = inspect.signature(torch_init)
    names = list(signature.parameters)[1:]
    backend_parameter = inspect.Parameter(
        "backend", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None"
    )

    @functools.wraps(torch_init)
    def __init__(
        self: FusedOptimizer, *args: Any, backend: str | None = None, **kwargs: Any
    ) -> None:
        _backend.check_backend(backend, "backend")
        self._chosen_engine = backend
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self._scheduled_defaults = {key: one for key, one in given.items() if _is_scheduled(one)}
        # torch checks the values at step 0.
        values = {key: _first_value(value) for key, value in kwargs.items()}
        super(FusedOptimizer, self).__init__(*map(_first_value, args), **values)
        # Not in the first step, which would have to wait for tensors on the device.
        self._placed_table()

    parameters = [*signature.parameters.values(), backend_parameter]
    __init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return __init__


def _is_scheduled(hyper: Any) -> bool:
    parts = hyper if isinstance(hyper, (tuple, list)) else (hyper,)
    return any(isinstance(one, Schedule) for one in parts)


def _first_value(hyper: Any) -> Any:
    if isinstance(hyper, Schedule):
        return hyper(0)
    return tuple(map(_first_value, hyper)) if _is_scheduled(hyper) else hyper


def _set_count_(count: Tensor, value: Tensor) -> None:
    # What comes from the host is written by a kernel's argument: nobody waits.
    if value.device.type == "cpu":
        count.fill_(value.item())
    else:
        count.copy_(value)


class FusedOptimizer(Optimizer):
    """Base class of the fused optimizers. Comes before the torch.optim class of the same name.

    The torch.optim class contributes what it is good at: the constructor with its checks and error
    texts, the defaults of old checkpoints, and (on devices without an engine of ours) the step.
    """

    #: Columns of the group table, in the order of the rule's ``Hyper`` struct.
    hyper_names: ClassVar[tuple[str, ...]]
    #: What a sparse gradient raises, as in torch.optim.
    sparse_error: ClassVar[str]
    #: Whether ``state[param]["step"]`` exists; where it does not, steps are counted out of sight.
    step_is_visible: ClassVar[bool]
    #: The state whose uses are counted out of sight.
    state_without_step: ClassVar[tuple[str, ...]] = ()

    _revision: Revision
    _table: GroupTable
    _plans: list[_backend.Plan]
    _torch_groups: list[ParamGroup]
    _planned_revision: int
    _placed_revision: int
    _clock: Clock
    _recorders: list[Recorder]
    # Plans that graphs have captured: they know the memory by address.
    _captured_plans: list[_backend.Plan]
    # The schedulers that an engine steps: materialize() prepares them, too.
    _schedulers: weakref.WeakSet[Any]
    _scheduled_defaults: dict[str, Any]
    # What the constructor was told; None: the best one for each parameter.
    _chosen_engine: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__bases__:
            is_of_torch = issubclass(base, Optimizer) and not issubclass(base, FusedOptimizer)
            if is_of_torch and "__init__" not in cls.__dict__:
                init = _accepting_schedules(base.__init__)  # type: ignore[misc]
                cls.__init__ = init  # type: ignore[method-assign]

    # What a subclass tells of its rule

    def _rule_name(self, group: ParamGroup) -> str:
        """The rule (of ``csrc/math/rules.h``) that this group follows."""
        raise NotImplementedError

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        """The per-element state that the rule keeps, in the order of its ``update``."""
        raise NotImplementedError

    def _torch_step(self, group: ParamGroup) -> None:
        """One step of this group by torch.optim's functional API."""
        raise NotImplementedError

    def _can_update(self, param: Tensor) -> bool:
        """Whether an engine of ours updates this parameter, and not torch.optim's functions."""
        return _backend.can_update(param, self._chosen_engine)

    # The learning rate

    @property
    def lr(self) -> Tensor:
        """The learning rates: float64 ``[num_groups]``, the very memory that a step reads.

        It lies on the device of the parameters (on the first of several; on the CPU if some are
        there). Writing into it in place is seen by the next step, which overwrites it in groups
        whose lr follows a schedule. Adding a group makes a new tensor.
        """
        table = self._placed_table()
        table.sync()
        return table.lr

    @lr.setter
    def lr(self, values: Any) -> None:
        lr = self.lr
        lr.copy_(torch.as_tensor(values))

    # The clock

    @property
    def completed_steps(self) -> int:
        """How many steps were completed; schedules go by it: the first step uses their value at 0.

        A step counts also if no parameter had a gradient; one that raised or was skipped does not.
        A state dict has it only if there are schedules. Set it to go on somewhere else.

        Raises:
            ValueError: if it is set to a negative number.
        """
        return int(self._clock.completed.item())

    @completed_steps.setter
    def completed_steps(self, count: int) -> None:
        if operator.index(count) < 0:
            raise ValueError(f"completed_steps must not be negative, but got {count}")
        self._clock.completed.fill_(count)
        self._table.refresh_schedules()

    def _move_clock(self, device: _backend.DeviceTable | None) -> None:
        """Lets steps be counted on a device that runs kernels, or on the host."""
        before = self._clock
        clock: Any = device or (_backend.step_clock_class() or StepClock)()
        if clock is before:
            return
        _set_count_(clock.completed, before.completed)
        _set_count_(clock.skipped, before.skipped)
        clock.found_inf = before.found_inf
        self._clock = clock
        self._table.set_clock(clock.completed)

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped because of :attr:`found_inf`."""
        return int(self._clock.skipped.item())

    @property
    def found_inf(self) -> Tensor:
        """What tells a step to skip itself: a tensor of one element, not zero after an overflow.

        It is read when the step begins. A skipped step moves nothing: no parameter, no state, and
        no schedule. Deleting the attribute, or setting it to None, ends that.

        Raises:
            AttributeError: if it was not set.
            TypeError, ValueError: if it is set to something else than such a tensor.
        """
        found_inf = self._clock.found_inf
        if found_inf is None:
            raise AttributeError("found_inf was not set")
        return found_inf

    @found_inf.setter
    def found_inf(self, found_inf: Tensor | None) -> None:
        if found_inf is not None:
            if not isinstance(found_inf, Tensor):
                raise TypeError(f"found_inf must be a tensor, but got {found_inf!r}")
            if found_inf.numel() != 1:
                shape = tuple(found_inf.shape)
                raise ValueError(f"found_inf must have one element, but has shape {shape}")
        self._clock.found_inf = found_inf

    @found_inf.deleter
    def found_inf(self) -> None:
        self._clock.found_inf = None

    def _attach(self, recorder: Recorder) -> Callable[[], None]:
        """Lets a recorder record each step from now on; returns what ends that."""
        recorder.fit(self._table)
        recorders, reference = self._recorders, weakref.ref(self)  # it may outlive that

        def detach() -> None:
            if recorder in recorders:
                recorders.remove(recorder)
                if (optimizer := reference()) is not None:
                    optimizer._notice_recorders()

        recorders.append(recorder)
        self._notice_recorders()
        return detach

    def _notice_recorders(self) -> None:
        """Tells plans, or at once the device where graphs go on without them, of recorders."""
        self._revision.bump()
        if self._was_captured:
            planning.configure_clock(self)

    @property
    def _was_captured(self) -> bool:
        """Whether a graph may step this optimizer."""
        return self._table.device is not None and self._table.device.was_captured

    # Groups and state: attributes that others replace as a whole

    @property
    def param_groups(self) -> list[Any]:
        return self._param_groups

    @param_groups.setter
    def param_groups(self, groups: Iterable[dict[str, Any]]) -> None:
        self._param_groups = list(groups)
        self._adopt_groups()

    @property
    def state(self) -> OptimizerState:
        return self._state

    @state.setter
    def state(self, entries: dict[Any, Any]) -> None:
        if "_revision" not in self.__dict__:
            # Construction and unpickling both begin here; the latter calls no __init__.
            self._revision = Revision()
            self._plans = []
            self._torch_groups = []
            self._planned_revision = self._placed_revision = -1
            self._clock = (_backend.step_clock_class() or StepClock)()
            self._recorders = []
            self._captured_plans = []
            self._schedulers = weakref.WeakSet()
        self._revision.bump()
        self._state = OptimizerState(self._revision, entries)

    def _groups_are_adopted(self) -> bool:
        """Whether every group is the row of the group table that its place says."""
        plan_is_current = self._plans and self._planned_revision == self._revision.number
        if plan_is_current and not self._plans[0].groups_have_changed():
            return True
        groups = self._param_groups
        return len(self._table) == len(groups) and all(
            isinstance(group, ParamGroup) and group.belongs_to(self._table, index)
            for index, group in enumerate(groups)
        )

    def _placed_table(self) -> GroupTable:
        """The group table, with every group in it, on the device of the parameters."""
        if not self._groups_are_adopted():
            self._adopt_groups()
        if self._placed_revision != self._revision.number:
            planning.place_table(self)
            self._placed_revision = self._revision.number
        return self._table

    def _adopt_groups(self) -> None:
        """Makes every group a :class:`ParamGroup` with its row in a new group table."""
        groups = [definition_of(group) for group in self._param_groups]
        before = self.__dict__.get("_table")
        self._table = GroupTable(
            self.hyper_names,
            _backend.live_tensors_class() or LiveTensors,
            self._clock.completed,
            self._revision,
            _backend.moves_numbers(self._chosen_engine),
        )
        for index, group in enumerate(groups):
            self._table.append_row()
            self._param_groups[index] = ParamGroup(group, self._table, index, self._revision)
        if before is not None:
            self._table.take_devices_of(before)
        self._revision.bump()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch.optim; its state starts with its first gradient.

        Its schedules, its own and those of the defaults, go by the steps that the optimizer has
        completed, as all others.
        """
        # Numbers have stood in for schedules while torch's constructor checked them.
        self.defaults.update(self.__dict__.pop("_scheduled_defaults", {}))
        super().add_param_group(param_group)
        groups = self._param_groups
        index = self._table.append_row()
        if index != len(groups) - 1:  # somebody changed the list before
            self._adopt_groups()
            return
        try:
            groups[index] = ParamGroup(groups[index], self._table, index, self._revision)
        except (TypeError, ValueError):
            groups.pop()
            self._adopt_groups()
            raise

    # The step

    @_hooks_when_needed
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs a single optimization step.

        Args:
            closure: reevaluates the model and returns the loss; optional.

        Returns:
            What ``closure`` has returned, or None.

        Raises:
            RuntimeError: if a gradient is sparse, or its shape, dtype or device does not fit its
                parameter. Nothing has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._table.sync()
        # Plans notice a change of the list of groups by themselves.
        if self._planned_revision != self._revision.number or (
            not self._plans and not self._groups_are_adopted()
        ):
            self._build_plans()
        for group in self._torch_groups:
            self._refuse_sparse_grads(group)
        while self._plans and (obstacle := _backend.try_step_(self._plans, self._clock)):
            self._remove(obstacle)
        if self._torch_groups or not self._plans:
            self._finish_without_plans()
        return loss

    def materialize(self) -> None:
        """Creates all that steps need, without making one: state, and the tables on the device.

        Also brings the settings of the optimizer's schedulers there, if they are fusedlr's. For the
        capture of a CUDA graph without a step before it. Every parameter that requires a gradient
        is taken to have one by then, in the dtype and layout of the one that it has now, or else in
        its own. (A parameter with gaps in memory gets gradients without.)

        Example:
            >>> import torch, fusedlr
            >>> param = torch.nn.Parameter(torch.ones(3))
            >>> optimizer = fusedlr.AdamW([param])
            >>> optimizer.materialize()
            >>> sorted(optimizer.state[param])
            ['exp_avg', 'exp_avg_sq', 'step']
        """
        self._table.sync()
        if self._planned_revision != self._revision.number or not self._plans:
            self._build_plans()
        while self._plans and (obstacle := _backend.materialize_(self._plans)):
            self._remove(obstacle)
        for scheduler in list(self._schedulers):
            scheduler._materialize()

    def _finish_without_plans(self) -> None:
        """Does what the plans leave to be done: the groups of torch's functions, and the clock."""
        if not self._plans:
            self._clock.begin_()
        if self._torch_groups and not self._clock.is_skipped:
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                for group in self._torch_groups:
                    self._torch_step(group)
        self._clock.finish_()

    def _refuse_sparse_grads(self, group: ParamGroup) -> None:
        # torch's functions would find out after other groups have moved.
        for position, param in enumerate(group["params"]):
            if param.grad is not None and param.grad.is_sparse:
                where = f"param_groups[{group.index}]['params'][{position}]"
                raise RuntimeError(f"{self.sparse_error} ({where} has a sparse gradient)")

    def _remove(self, obstacle: str) -> None:
        """Removes what kept the plans from making their step; nothing has moved yet."""
        if obstacle == "stale":
            self._build_plans()
            return
        for plan in self._plans:
            planning.create_missing_state(self, plan)

    def _build_plans(self) -> None:
        """Fills the tables that a step walks, from scratch."""
        self._placed_table()
        self._captured_plans += [plan for plan in self._plans if plan.was_captured]
        self._plans, self._torch_groups = planning.build_plans(self)
        planning.configure_clock(self)
        self._planned_revision = self._revision.number

    # Saving and loading

    def state_dict(self) -> dict[str, Any]:
        """The state as plain dicts, as in torch.optim.

        State tensors alias the live ones; hypers (also those given as tensors) are snapshots. A
        group with schedules has two more keys: ``"schedules"``, as plain data, and
        ``"completed_steps"``, by which they go.
        """
        if not self._groups_are_adopted():
            self._adopt_groups()
        hooks = self._optimizer_state_dict_post_hooks
        self._optimizer_state_dict_post_hooks = type(hooks)()
        try:
            saved = super().state_dict()
        finally:
            self._optimizer_state_dict_post_hooks = hooks
        saved["state"] = checkpoint.plain_state(saved["state"], self.state_without_step)
        saved["param_groups"] = [self._table.snapshot(group) for group in saved["param_groups"]]
        checkpoint.add_schedules_(saved["param_groups"], self._param_groups, self.completed_steps)
        for hook in hooks.values():
            replaced = hook(self, saved)
            saved = saved if replaced is None else replaced
        return saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class or of the torch.optim class of the same name.

        Tensors are copied into the existing storage and keep their dtype (torch.optim allocates new
        ones in the dtype of the parameter), so that whoever holds them sees the loaded values.

        Hypers become what they were when the state was saved, as in torch.optim: where they
        followed a schedule they go on with it, from the step at which they were, and where they did
        not, a schedule of this optimizer ends. If the whole state has no schedule, as a state of
        torch.optim, a UserWarning says so.

        Raises:
            TypeError, ValueError: if the number of groups or of their parameters differs, or the
                state cannot be loaded as a whole. Nothing has changed then.
        """
        state_dict = state_dict.copy()
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced

        saved_groups = state_dict["param_groups"]
        params = checkpoint.match_params(self._param_groups, saved_groups)
        checkpoint.check(self._table, saved_groups, state_dict["state"])
        checkpoint.check_sharding(state_dict["state"], params)
        checkpoint.warn_of_ending_schedules(self._param_groups, saved_groups)
        completed = checkpoint.completed_steps(saved_groups)
        if completed is not None:
            self._clock.completed.fill_(completed)
        for group, saved in zip(self._param_groups, saved_groups, strict=True):
            checkpoint.load_group_(group, saved)
        super().__setstate__({})  # the defaults of keys that an old checkpoint lacks
        new_steps = functools.partial(planning.new_steps, self)
        checkpoint.load_state_(
            self._state, state_dict["state"], params, new_steps, keeps_memory=self._was_captured
        )
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _new_steps(self, count: int, place: torch.device) -> tuple[Tensor, ...]:
        """Step counts of `count` parameters on a device: views of one packed tensor."""
        is_fused = self.defaults.get("fused")
        dtype = torch_optimizer._get_scalar_dtype(is_fused)  # type: ignore[no-untyped-call]
        return torch.zeros(count, dtype=dtype, device=place).unbind()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            # Steps are views of packed storage; a pickle would hold all of it once per view.
            "state": checkpoint.plain_state(self._state, self.state_without_step, clone_steps=True),
            "param_groups": [definition_of(group) for group in self._param_groups],
            "completed_steps": self.completed_steps,
            "skipped_steps": self.skipped_steps,
            "backend": self._chosen_engine,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._chosen_engine = state.pop("backend", self._chosen_engine)
        self.state = state.pop("state", {})
        for counter, name in (
            (self._clock.completed, "completed_steps"),
            (self._clock.skipped, "skipped_steps"),
        ):
            counter.fill_(state.pop(name, counter.item()))
        self.param_groups = state.pop("param_groups", [])
        super().__setstate__(state)

    # torch.optim sets this on instances built with fused=True. GradScaler would then leave
    # unscaling and overflow to our step; without it, it does both before it calls our step.
    @property
    def _step_supports_amp_scaling(self) -> bool:
        return False

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        pass
