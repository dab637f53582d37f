"""What all fused optimizers share: the plan, the group table, and torch.optim's contract."""

from __future__ import annotations

import functools
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
from fusedlr.optim.param_group import ParamGroup
from fusedlr.optim.revision import OptimizerState, Revision


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

    _revision: Revision
    _table: GroupTable
    _plans: list[_backend.Plan]
    _torch_groups: list[ParamGroup]
    _planned_revision: int

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

    # The learning rate

    @property
    def lr(self) -> Tensor:
        """The learning rates: float64 ``[num_groups]``, the very memory that a step reads.

        Writing into it in place is seen by the next step. Adding a group makes a new tensor.
        """
        if not self._groups_are_adopted():
            self._adopt_groups()
        self._table.sync()
        return self._table.lr

    @lr.setter
    def lr(self, values: Any) -> None:
        lr = self.lr
        lr.copy_(torch.as_tensor(values))

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
            self._planned_revision = -1
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
        self._table.sync()
        # Plans notice a change of the list of groups by themselves.
        if self._planned_revision != self._revision.number or (
            not self._plans and not self._groups_are_adopted()
        ):
            self._build_plans()
        for group in self._torch_groups:
            self._refuse_sparse_grads(group)
        while self._plans and (obstacle := _backend.try_step_(self._plans)):
            self._remove(obstacle)
        if self._torch_groups:
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                for group in self._torch_groups:
                    self._torch_step(group)
        return loss

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
        if not self._groups_are_adopted():
            self._adopt_groups()
        self._plans, self._torch_groups = planning.build_plans(self)
        self._planned_revision = self._revision.number

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
        saved["state"] = checkpoint.plain_state(saved["state"])
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

        saved_groups = state_dict["param_groups"]
        params = checkpoint.match_params(self._param_groups, saved_groups)
        checkpoint.check(self._table, saved_groups, state_dict["state"])
        for group, saved in zip(self._param_groups, saved_groups, strict=True):
            checkpoint.load_group_(group, saved)
        super().__setstate__({})  # the defaults of keys that an old checkpoint lacks
        checkpoint.load_state_(self._state, state_dict["state"], params, self._new_steps)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _new_steps(self, count: int) -> tuple[Tensor, ...]:
        """Step counts of `count` parameters: views of one packed tensor."""
        is_fused = self.defaults.get("fused")
        dtype = torch_optimizer._get_scalar_dtype(is_fused)  # type: ignore[no-untyped-call]
        return torch.zeros(count, dtype=dtype, device="cpu").unbind()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            # Steps are views of packed storage; a pickle would hold all of it once per view.
            "state": checkpoint.plain_state(self._state, clone_steps=True),
            "param_groups": [dict(group) for group in self._param_groups],
        }

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
