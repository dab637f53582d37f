"""Processes that train together: the ranks of a gloo group on this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Processes are forked from one that has imported everything: starting one takes no time.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "torch.distributed.optim",
        "torch.distributed.tensor",
        "fusedlr",
    ]
)

#: How long a rank waits for the others: a hang is an error of the test.
COLLECTIVE_SECONDS = 60
#: How long a test waits for its ranks, on a machine that does a lot besides.
TASK_SECONDS = 150


def join_group(rank: int, world_size: int, store: str) -> None:
    """Makes this process a rank of a gloo group that meets in the file `store`."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, world_size),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )


def _serve(connection: Connection) -> None:
    import torch.distributed as dist

    while True:
        try:
            rank, world_size, store, backend, function, arguments = connection.recv()
        except EOFError:
            return
        try:
            os.environ["FUSEDLR_BACKEND"] = backend
            join_group(rank, world_size, store)
            result = function(*arguments)
            dist.destroy_process_group()
            connection.send((True, result))
        except BaseException:
            # The group is broken, and with it this process.
            connection.send((False, traceback.format_exc()))
            return


class RankProcesses:
    """Processes that wait for work, started when they are needed."""

    def __init__(self) -> None:
        self._workers: list[tuple[Any, Connection]] = []

    def run(
        self,
        world_size: int,
        function: Callable[..., Any],
        *arguments: Any,
        backend: str = "cpu",
    ) -> list[Any]:
        """What ``function(*arguments)`` returns on each rank of a group of its own.

        Raises:
            AssertionError: with the traceback of the first rank that has raised, or if one took too
                long.
        """
        while len(self._workers) < world_size:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "store")
            try:
                for rank in range(world_size):
                    task = (rank, world_size, store, backend, function, arguments)
                    self._workers[rank][1].send(task)
                return self._results(world_size)
            except BaseException:
                self.stop()
                raise

    def _results(self, world_size: int) -> list[Any]:
        results: dict[int, Any] = {}
        deadline = time.monotonic() + TASK_SECONDS
        while len(results) < world_size:
            for rank in range(world_size):
                connection = self._workers[rank][1]
                if rank in results or not connection.poll(0.005):
                    continue
                try:
                    has_returned, results[rank] = connection.recv()
                except (EOFError, OSError) as error:
                    raise AssertionError(f"rank {rank} has died") from error
                if not has_returned:
                    raise AssertionError(f"rank {rank}:\n{results[rank]}")
            if time.monotonic() > deadline:
                waiting = sorted(set(range(world_size)) - results.keys())
                raise AssertionError(f"ranks {waiting} took more than {TASK_SECONDS} s")
        return [results[rank] for rank in range(world_size)]

    def stop(self) -> None:
        workers, self._workers = self._workers, []
        for process, connection in workers:
            connection.close()
            process.kill()
            process.join()
