"""What all fused optimizers share: the plan, the group table, and torch.optim's contract."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor
from torch.optim import Optimizer

from fusedlr import _backend
from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.live_tensors import LiveTensors
from fusedlr.optim.param_group import ParamGroup
from fusedlr.optim.revision import OptimizerState, ParamState, Revision


def _hooks_when_needed(step: Callable[..., Any]) -> Callable[..., Any]:
    # torch's wrapper opens a profiler range and walks the hooks on every call, which takes longer
    # than a whole step of a small model. It runs only where somebody would notice.
    with_hooks = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
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

    def __new__(cls, *args: Any, **kwargs: Any) -> FusedOptimizer:
        self = super().__new__(cls)
        # Also before unpickling, which calls no constructor.
        self._revision = Revision()
        self._plans: list[Any] = []
        self._torch_groups: list[ParamGroup] = []
        self._planned_revision = -1
        return self

    # What a subclass tells of its rule

    def _rule_name(self, group: ParamGroup) -> str:
        """The rule (of ``csrc/math/rules.h``) that this group follows."""
        raise NotImplementedError

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        """The per-element state that the rule keeps, in the order of its ``update``."""
        raise NotImplementedError

    def _counts_steps(self, group: ParamGroup) -> bool:
        """Whether the rule needs to know how many steps a parameter has made."""
        raise NotImplementedError

    def _torch_step(self, group: ParamGroup) -> None:
        """One step of this group by torch.optim's functional API."""
        raise NotImplementedError

    # The learning rate

    @property
    def lr(self) -> Tensor:
        """The learning rates: float64 ``[num_groups]``, the very memory that a step reads.

        Writing into it in place is seen by the next step.
        """
        self._table.refresh()
        return self._table.lr

    # Groups and state: attributes that others replace as a whole

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self._param_groups

    @param_groups.setter
    def param_groups(self, groups: Iterable[dict[str, Any]]) -> None:
        self._param_groups = list(groups)
        self._adopt_groups()

    @property
    def state(self) -> OptimizerState:  # type: ignore[override]
        return self._state

    @state.setter
    def state(self, entries: dict[Any, Any]) -> None:
        self._revision.bump()
        self._state = OptimizerState(self._revision, entries)

    def _adopt_groups(self) -> None:
        """Makes every group a :class:`ParamGroup` with its row in a new group table."""
        groups = [dict(group) for group in self._param_groups]
        self._table = GroupTable(self.hyper_names, _backend.live_tensors_class() or LiveTensors)
        for index, group in enumerate(groups):
            self._table.append_row()
            self._param_groups[index] = ParamGroup(group, self._table, index, self._revision)
        self._revision.bump()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch.optim; its state starts with its first gradient."""
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
        self._table.refresh()
        if self._planned_revision != self._revision.number:
            self._build_plans()
        while self._plans and (obstacle := _backend.try_step_(self._plans)):
            self._remove(obstacle)
        if self._torch_groups:
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                for group in self._torch_groups:
                    self._torch_step(group)
        return loss

    def _remove(self, obstacle: str) -> None:
        """Removes what kept the plans from making their step; nothing has moved yet."""
        if obstacle == "stale":
            self._build_plans()
            return
        for plan in self._plans:
            if rows := plan.missing:
                self._create_state(plan, rows)

    def _build_plans(self) -> None:
        """Fills the tables that a step walks, from scratch."""
        for index, group in enumerate(self._param_groups):
            if not isinstance(group, ParamGroup) or group._index != index:
                self._adopt_groups()
                break
        if len(self._table) != len(self._param_groups):
            self._adopt_groups()

        self._plans = []
        self._torch_groups = []
        # A parameter that is listed n times is updated n times, one after the other: in n plans.
        occurrences: dict[int, int] = {}
        for index, group in enumerate(self._param_groups):
            missing_keys = self._table.keys - group.keys()
            if missing_keys:
                raise KeyError(f"param_groups[{index}] has lost its {sorted(missing_keys)}")
            if group["fused"]:
                for param in group["params"]:
                    torch_optimizer._device_dtype_check_for_fused(param)
            served = not group["differentiable"] and all(map(_backend.can_update, group["params"]))
            if not served:
                self._torch_groups.append(group)  # type: ignore[arg-type]
                continue
            positions: dict[int, list[int]] = {}
            for position, param in enumerate(group["params"]):
                occurrence = occurrences.get(id(param), 0)
                occurrences[id(param)] = occurrence + 1
                positions.setdefault(occurrence, []).append(position)
            for occurrence, chosen in positions.items():
                while len(self._plans) <= occurrence:
                    self._plans.append(self._new_plan())
                self._add_to_plan(self._plans[occurrence], index, chosen)
        self._planned_revision = self._revision.number

    def _new_plan(self) -> Any:
        plan = _backend.new_plan(self._table.lr, self._table.hypers, self.sparse_error)
        plan.watch_(self._param_groups)
        return plan

    def _add_to_plan(self, plan: Any, group_index: int, positions: list[int]) -> None:
        group: Any = self._param_groups[group_index]
        row = plan.num_tensors
        plan.add_params_(group_index, self._rule_name(group), group["params"], positions)
        if not self._state_names(group):
            return
        for offset, position in enumerate(positions):
            state = self._complete_state(group, group["params"][position])
            if state is not None:
                plan.set_state_(row + offset, *state)

    # State

    def _step_dtype(self, group: dict[str, Any]) -> torch.dtype:
        return torch_optimizer._get_scalar_dtype(group["fused"] or group.get("capturable"))

    def _complete_state(
        self, group: Any, param: Tensor
    ) -> tuple[Tensor | None, list[Tensor]] | None:
        """The parameter's step and state tensors, if all of them exist."""
        state = self._state.get(param)
        if state is None:
            return None
        buffers = [state.get(name) for name in self._state_names(group)]
        if any(buffer is None for buffer in buffers):
            return None
        if not self._counts_steps(group):
            return None, buffers
        if not self.step_is_visible:
            if state.completed_steps is None:  # a buffer that came from outside has been used
                state.completed_steps = torch.ones((), dtype=torch.float32)
            return state.completed_steps, buffers
        step = state.get("step")
        if step is None:
            return None
        if not isinstance(step, Tensor) or not step.is_floating_point():
            step = torch.tensor(float(step), dtype=self._step_dtype(group))
            state.set_unnoticed("step", step)
        return step, buffers

    @torch.no_grad()
    def _create_state(self, plan: Any, rows: list[tuple[int, int, int]]) -> None:
        """Creates what is missing of the state of these rows: (row, group index, position)."""
        first_group = self._param_groups[rows[0][1]]
        # Packed: one allocation for the step counts of all these parameters.
        steps = torch.zeros(len(rows), dtype=self._step_dtype(first_group)).unbind()
        for (row, group_index, position), step in zip(rows, steps, strict=True):
            group: Any = self._param_groups[group_index]
            param = group["params"][position]
            state: ParamState = self._state[param]
            if self._counts_steps(group):
                if not self.step_is_visible:
                    if state.get(self._state_names(group)[0]) is None:
                        state.completed_steps = step
                elif state.get("step") is None:
                    state.set_unnoticed("step", step)
            for name in self._state_names(group):
                if state.get(name) is None:
                    state.set_unnoticed(
                        name, torch.zeros_like(param, memory_format=torch.preserve_format)
                    )
            complete = self._complete_state(group, param)
            assert complete is not None
            plan.set_state_(row, *complete)

    # Saving and loading

    def state_dict(self) -> dict[str, Any]:
        """The state as plain dicts, as in torch.optim.

        State tensors alias the live ones; hypers (also those given as tensors) are snapshots.
        """
        hooks = self._optimizer_state_dict_post_hooks
        self._optimizer_state_dict_post_hooks = type(hooks)()
        try:
            saved = super().state_dict()
        finally:
            self._optimizer_state_dict_post_hooks = hooks
        saved["state"] = {
            key: dict(entries) if isinstance(entries, ParamState) else entries
            for key, entries in saved["state"].items()
        }
        saved["param_groups"] = [self._table.snapshot(group) for group in saved["param_groups"]]
        for hook in hooks.values():
            replaced = hook(self, saved)
            saved = saved if replaced is None else replaced
        return saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class or of the torch.optim class of the same name.

        Tensors are copied into the existing storage and keep their dtype (torch.optim allocates new
        ones in the dtype of the parameter), so that whoever holds them sees the loaded values.

        Raises:
            ValueError: if the number of groups or of their parameters differs.
        """
        state_dict = state_dict.copy()
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced

        groups = self._param_groups
        saved_groups = state_dict["param_groups"]
        if len(groups) != len(saved_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        for group, saved in zip(groups, saved_groups, strict=True):
            if len(group["params"]) != len(saved["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group "
                    "that doesn't match the size of optimizer's group"
                )
        params = dict(
            zip(
                chain.from_iterable(saved["params"] for saved in saved_groups),
                chain.from_iterable(group["params"] for group in groups),
                strict=True,
            )
        )

        for index, saved in enumerate(saved_groups):
            self._load_group(index, saved)
        super().__setstate__({})  # the defaults of keys that an old checkpoint lacks
        self._load_state(state_dict["state"], params)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _load_group(self, index: int, saved: dict[str, Any]) -> None:
        loaded = deepcopy({key: value for key, value in saved.items() if key != "params"})
        group = self._param_groups[index]
        own, given = group.get("lr"), loaded.get("lr")
        if isinstance(own, Tensor) and isinstance(given, Tensor):
            own.fill_(given.item())  # the user's tensor stays live
            loaded["lr"] = dict.__getitem__(group, "lr")
        for key in [key for key in group if key not in loaded]:
            if key not in ("params", "param_names"):
                del group[key]
        group.update(loaded)

    def _load_state(self, saved_state: dict[Any, Any], params: dict[Any, Tensor]) -> None:
        for param in [key for key in self._state if key not in set(params.values())]:
            del self._state[param]
        loaded_params = {params[key] for key in saved_state if key in params}
        for param in params.values():
            if param not in loaded_params:
                self._state.pop(param, None)
        group_of = {
            id(param): group for group in self._param_groups for param in group["params"]
        }
        steps = torch.zeros(len(saved_state), dtype=torch.float32)
        for position, (key, saved) in enumerate(saved_state.items()):
            if key not in params:
                self._state[key] = saved  # not a parameter's: kept as it is
                continue
            param = params[key]
            state = self._state[param]
            for name in [name for name in state if name not in saved]:
                del state[name]
            for name, value in saved.items():
                if name == "step":
                    dtype = self._step_dtype(group_of[id(param)])
                    current = steps[position] if dtype == torch.float32 else steps.new_zeros((), dtype=dtype)
                    current = state.get("step", current)
                    state["step"] = current.fill_(float(value))
                else:
                    state[name] = _loaded(value, state.get(name), param)
            if state.completed_steps is not None:
                state.completed_steps.fill_(1)
        self._revision.bump()

    def __getstate__(self) -> dict[str, Any]:
        # Steps are views of packed storage; a pickle would hold the whole of it once per view.
        state = {
            param: {
                name: value.clone() if name == "step" and isinstance(value, Tensor) else value
                for name, value in entries.items()
            }
            if isinstance(entries, ParamState)
            else entries
            for param, entries in self._state.items()
        }
        groups = [dict(group) for group in self._param_groups]
        return {"defaults": self.defaults, "state": state, "param_groups": groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.state = state.pop("state", {})
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


def _loaded(value: Any, current: Any, param: Tensor) -> Any:
    """A loaded entry of the state of `param`, in the storage of the current one if there is one."""
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if isinstance(current, Tensor) and current.shape == value.shape:
        return current.copy_(value)
    dtype = param.dtype if param.is_floating_point() else value.dtype
    if value.shape == param.shape:
        return torch.empty_like(param, dtype=dtype).copy_(value)
    return value.to(device=param.device, dtype=dtype, copy=True)
