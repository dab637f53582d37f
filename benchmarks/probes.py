"""What this process holds, as Linux and glibc count it, and what torch's allocator is asked for."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

from torch.autograd.profiler import profile

# Kineto announces every profiler on stderr unless told otherwise before its first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class _MallInfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`, see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


_libc = ctypes.CDLL(None)
_libc.mallinfo2.restype = _MallInfo2


def heap_bytes() -> int:
    """What malloc has given out and not yet got back. Python's small objects are not in it."""
    info = _libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def resident_bytes() -> int:
    return _status_bytes("VmRSS")


def peak_bytes_during(call: Callable[[], object]) -> int:
    """The most that was resident at any moment of the call."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from VmRSS, see proc(5)
    call()
    return _status_bytes("VmHWM")


def torch_allocations(call: Callable[[], object]) -> list[int]:
    """The size in bytes of every buffer that torch's CPU allocator handed out during the call."""
    with profile(profile_memory=True) as recorded:
        call()
    events = recorded.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return [size for size in sizes if size > 0]


def _status_bytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {field} in kB; this measurement needs Linux")
    return 1024 * int(match[1])
