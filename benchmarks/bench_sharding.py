"""Times AdamW's step over DTensors beside plain tensors, and beside torch.optim's fused step.

One process alone: what is measured is the cost of each parameter on the host. The gradients are
placed as the parameters, as those of FSDP2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import fusedlr
from measure import Samples, interleave
from report import console, environment, format_ratio, format_seconds, print_environment

#: Numbers of tensors, and of elements in each.
SIZES = ((2000, 64), (148, 4096), (6, 1000))

PLAIN, SHARDED = "plain tensors", "DTensors"
OURS, THEIRS = "fusedlr", "torch fused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="default: as many as a few seconds allow")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    screen = console()
    print_environment(screen, environment())
    table = Table("tensors", "elements", "step over", OURS, THEIRS, "ratio")
    with TemporaryDirectory() as folder:
        store = dist.FileStore(str(Path(folder) / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        mesh = init_device_mesh("cpu", (1,))
        for count, elements in SIZES:
            samples = _measure(count, elements, mesh, options.rounds)
            for kind in (PLAIN, SHARDED):
                ours, theirs = samples[kind, OURS], samples[kind, THEIRS]
                table.add_row(
                    f"{count:,}",
                    f"{elements:,}",
                    kind,
                    format_seconds(ours.spread.median),
                    format_seconds(theirs.spread.median),
                    format_ratio(ours.times_faster_than(theirs)),
                )
        dist.destroy_process_group()
    screen.print(table)


def _measure(
    count: int, elements: int, mesh: DeviceMesh, rounds: int | None
) -> dict[tuple[str, str], Samples]:
    contenders: dict[tuple[str, str], Callable[[], object]] = {}
    for kind in (PLAIN, SHARDED):
        for name, build in ((OURS, fusedlr.AdamW), (THEIRS, torch.optim.AdamW)):
            optimizer: Any = build(_params(count, elements, mesh, kind), fused=True)
            contenders[kind, name] = optimizer.step
    return interleave(contenders, rounds)


def _params(count: int, elements: int, mesh: DeviceMesh, kind: str) -> list[torch.nn.Parameter]:
    def tensor() -> torch.Tensor:
        local = torch.randn(elements)
        if kind == PLAIN:
            return local
        return DTensor.from_local(local, mesh, [Shard(0)], run_check=False)

    params = [torch.nn.Parameter(tensor()) for _ in range(count)]
    for param in params:
        param.grad = tensor()
    return params


if __name__ == "__main__":
    main()
