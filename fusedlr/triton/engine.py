"""Launches the kernels of the Triton engine, as the compiled extension asks (TritonDevice)."""

from __future__ import annotations

from typing import Any

import torch
import triton

from fusedlr import _C
from fusedlr.triton import update_kernel, write_kernels
from fusedlr.triton.prologue_kernel import prologue_kernel
from fusedlr.triton.schedule_kernel import schedule_kernel

#: The warps of the one program that steps a clock or a scheduler: a thread for each of the lanes
#: that work at a time, each on a row, a group or a formula.
_PHASED_WARPS = 4


class Launcher:
    """Makes launches on the current device. Addresses are numbers, doubles their bits."""

    def load(self) -> None:
        """Loads all kernels but those of updates: no stream that is captured could do so."""
        self.write_numbers(0, 0, 0, 0)
        self.set_grads(0, 0, 0, 0, 0)
        self._launch(prologue_kernel, 0, _PHASED_WARPS, *[0] * 8)
        self._launch(schedule_kernel, 0, _PHASED_WARPS, *[0] * 10)

    def load_update(self, rule: int, storage: int) -> None:
        self.update(0, 0, 0, 0, 0, 0, rule, storage)

    def write_numbers(self, tables: int, places: int, values: int, count: int) -> None:
        blocks = triton.cdiv(count, write_kernels.BLOCK.value)
        kernel = write_kernels.write_numbers_kernel
        self._launch(kernel, blocks, write_kernels.NUM_WARPS, tables, places, values, count)

    def set_grads(self, rows: int, active: int, grads: int, first: int, count: int) -> None:
        blocks = triton.cdiv(count, write_kernels.BLOCK.value)
        kernel = write_kernels.set_grads_kernel
        self._launch(kernel, blocks, write_kernels.NUM_WARPS, rows, active, grads, first, count)

    def prologue(self, *arguments: int) -> None:
        self._launch(prologue_kernel, 1, _PHASED_WARPS, *arguments)

    def update(
        self,
        tables: int,
        rows: int,
        layouts: int,
        chunks: int,
        num_chunks: int,
        coeffs: int,
        rule: int,
        storage: int,
    ) -> None:
        arguments = (tables, rows, layouts, chunks, coeffs, rule, storage)
        self._launch(update_kernel.update_kernel, num_chunks, update_kernel.NUM_WARPS, *arguments)

    def schedule(self, *arguments: int) -> None:
        self._launch(schedule_kernel, 1, _PHASED_WARPS, *arguments)

    def is_capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def _launch(self, kernel: Any, num_programs: int, num_warps: int, *arguments: int) -> None:
        # Without fused multiply-adds the bits are those of the other engines. No programs: the
        # kernel is loaded, and compiled if that has never been done.
        kernel[(num_programs,)](*arguments, num_warps=num_warps, enable_fp_fusion=False)


_C.set_triton_launcher(Launcher())
