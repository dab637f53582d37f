"""The optimizers that are compared on a GPU, as data; those that are not installed are listed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fusedlr import _backend
from peers import COSINE_STEPS, Algorithm


@dataclass(frozen=True)
class Variant:
    """A class by name, its arguments beside lr, and what it needs to be captured in a graph."""

    class_name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: None: it cannot be captured.
    to_capture: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class GpuPeer:
    """A module with optimizers, and its variant of each algorithm."""

    name: str
    module: str
    variants: Mapping[str, Variant]
    schedulers: str = "torch.optim.lr_scheduler"
    #: Whether its schedulers may be captured together with a step.
    captures_schedulers: bool = False
    #: The engine of fusedlr that its variants ask for.
    engine: str | None = None

    def obstacle(self) -> str | None:
        """Why it cannot be used here, or None."""
        try:
            importlib.import_module(self.module)
            if self.engine is not None:
                device_type = "cuda" if torch.cuda.is_available() else "cpu"
                _backend.engine_for(device_type, self.engine)
        except Exception as error:  # a package may fail in any way where its libraries do not fit
            return f"{type(error).__name__}: {error}".splitlines()[0][:150]
        return None

    def optimizer(
        self, algorithm: Algorithm, groups: list[dict[str, Any]], *, to_capture: bool = False
    ) -> torch.optim.Optimizer:
        """An optimizer over these parameters, in groups of its own."""
        variant = self.variants[algorithm.name]
        arguments = {**variant.arguments, **((to_capture and variant.to_capture) or {})}
        constructor = getattr(importlib.import_module(self.module), variant.class_name)
        own_groups = [{**group, "params": list(group["params"])} for group in groups]
        optimizer: torch.optim.Optimizer = constructor(own_groups, **arguments)
        return optimizer

    def cosine(self, optimizer: torch.optim.Optimizer) -> Any:
        module = importlib.import_module(self.schedulers)
        return module.CosineAnnealingLR(optimizer, T_max=COSINE_STEPS)


_MOMENTUM = {"momentum": 0.9}
_DECAY = {"weight_decay": 0.01}

TORCH_FUSED = GpuPeer(
    "torch fused",
    "torch.optim",
    {
        "AdamW": Variant("AdamW", {"fused": True}, to_capture={"capturable": True}),
        "SGD": Variant("SGD", {"fused": True, **_MOMENTUM}, to_capture={}),
    },
)
FUSEDLR = GpuPeer(
    "fusedlr",
    "fusedlr",
    {
        "AdamW": Variant("AdamW", to_capture={}),
        "SGD": Variant("SGD", _MOMENTUM, to_capture={}),
    },
    schedulers="fusedlr.lr_scheduler",
    captures_schedulers=True,
)
_TRITON = {"backend": "triton"}
FUSEDLR_TRITON = GpuPeer(
    "fusedlr Triton",
    "fusedlr",
    {
        "AdamW": Variant("AdamW", _TRITON, to_capture={}),
        "SGD": Variant("SGD", {**_MOMENTUM, **_TRITON}, to_capture={}),
    },
    schedulers="fusedlr.lr_scheduler",
    captures_schedulers=True,
    engine="triton",
)
GPU_PEERS = (
    TORCH_FUSED,
    GpuPeer(
        "torch foreach capturable",
        "torch.optim",
        {
            "AdamW": Variant("AdamW", {"foreach": True, "capturable": True}, to_capture={}),
            "SGD": Variant("SGD", {"foreach": True, **_MOMENTUM}, to_capture={}),
        },
    ),
    GpuPeer(
        "Apex",
        "apex.optimizers",
        {"AdamW": Variant("FusedAdam", _DECAY), "SGD": Variant("FusedSGD", _MOMENTUM)},
    ),
    GpuPeer(
        "TransformerEngine",
        "transformer_engine.pytorch.optimizers",
        {"AdamW": Variant("FusedAdam", _DECAY), "SGD": Variant("FusedSGD", _MOMENTUM)},
    ),
    GpuPeer("DeepSpeed", "deepspeed.ops.adam", {"AdamW": Variant("FusedAdam", _DECAY)}),
    GpuPeer(
        "bitsandbytes",
        "bitsandbytes.optim",
        {
            "AdamW": Variant("AdamW", {"optim_bits": 32, **_DECAY}),
            "SGD": Variant("SGD", {"optim_bits": 32, **_MOMENTUM}),
        },
    ),
    FUSEDLR_TRITON,
    FUSEDLR,
)
