"""Times steps of fusedlr on a GPU beside torch's and other packages', and counts launches.

Needs nothing but torch; draws a picture where matplotlib is there. With --device cpu it rehearses
on small workloads: such numbers mean nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import fusedlr
from contest import BEST_TORCH, BOTH, STEP
from gpu_contest import GRAPH, GRAPH_BOTH, GpuContest, GpuResult, with_launches
from gpu_peers import GPU_PEERS, TORCH_FUSED
from gpu_plot import draw
from gpu_targets import check
from gpu_timing import Stopwatch
from gpu_workloads import gpu_workloads
from measure import Spread
from peers import ALGORITHMS, Algorithm
from report import Verdict, format_seconds, three_digits, write_json
from workloads import Workload

# Of elements: parameter and gradient, state of every peer, and what an unfused step needs beside.
_BYTES_PER_ELEMENT = 4 * (2 + 2 * (len(GPU_PEERS) - 4) + 4)
_MAX_ELEMENTS_OF_REHEARSAL = 200_000
# SGD is timed where it tells something that AdamW does not.
_SGD_WORKLOADS = ("billion", "gpt2", "tiny-groups", "mlp")

LEGEND = f"""\
Medians of interleaved rounds. "device": from the first launch to the end of the last kernel, by
events; "host": until all is launched. "x fused", "x best": how many times faster than torch's fused
and best variant in the same rounds. "of copy": bytes per second (parameter, gradient and state read
once, all but the gradient written once) beside a large copy on the device. "{GRAPH}":
the same captured once; a scheduler is in the graph only for fusedlr."""


def main() -> int:
    options = _parse_options()
    warnings.simplefilter("ignore")  # torch's own, of capturable optimizers that are not captured
    start = perf_counter()
    is_cuda = options.device == "cuda"
    if not is_cuda:
        torch.set_num_threads(1)
    facts = _environment(options.device)
    _say(", ".join(f"{name} {value}" for name, value in facts.items()))
    missing = {peer.name: reason for peer in GPU_PEERS if (reason := peer.obstacle())}
    for name, reason in missing.items():
        _say(f"missing: {name} ({reason})")
    peers = [peer for peer in GPU_PEERS if peer.name not in missing]
    if not is_cuda:
        peers = [peer for peer in peers if "capturable" not in peer.name]
    workloads = gpu_workloads(_max_elements(options.device))

    results: list[GpuResult] = []
    failures: dict[str, str] = {f"missing: {name}": reason for name, reason in missing.items()}
    contests = list(_contests(workloads, options))
    # Profiling slows down what follows it, so that launches are counted when all has been timed.
    for is_timed in (True, False):
        for number, (workload, algorithm) in enumerate(contests, 1):
            label = f"[{number}/{len(contests)}] {workload}, {algorithm.name}"
            if options.deadline is not None and perf_counter() - start > options.deadline:
                failures[f"{label}: {'time' if is_timed else 'launches'}"] = "no time was left"
                continue
            _say(f"{'Timing' if is_timed else 'Counting launches of'} {label}")
            try:
                contest = GpuContest(
                    workload,
                    algorithm,
                    peers,
                    Stopwatch(options.device),
                    options.seconds,
                    lambda text: _say(f"    {text}"),
                )
                if is_timed:
                    results += contest.run()
                else:
                    found = contest.count_launches()
                    of_contest = (workload.name, algorithm.name)
                    results = [
                        with_launches(one, found) if _key(one) == of_contest else one
                        for one in results
                    ]
                failures |= {
                    f"{workload.name}, {algorithm.name}, {peer}, {timing}": reason
                    for (peer, timing), reason in contest.failures.items()
                }
                contest.close()
            except Exception as error:  # the other contests still tell something
                traceback.print_exc()
                failures[label] = f"{type(error).__name__}: {error}".splitlines()[0]
            if options.json:  # what is known so far survives whatever comes
                write_json(options.json, {**facts, "failures": failures}, results, check(results))

    verdicts = list(check(results))
    summary = _summary(failures, results, verdicts)
    if options.table:
        options.table.write_text("\n".join([_tables(results), summary]) + "\n")
    else:
        _say(_tables(results))
    _say(summary)
    if options.plot and not draw(results, options.plot, str(facts["device"])):
        _say("no picture: matplotlib is missing")
    contests_failed = [label for label in failures if label.startswith("[")]
    missed = [verdict for verdict in verdicts if not verdict.passed]
    return 1 if contests_failed or (options.check and missed) else 0


def _key(result: GpuResult) -> tuple[str, str]:
    return result.workload, result.algorithm


def _say(text: str) -> None:
    print(text, flush=True)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [workload.name for workload in gpu_workloads(10**10)]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--workload", nargs="+", choices=names, default=names)
    optimizers = [algorithm.name for algorithm in ALGORITHMS]
    parser.add_argument("--optimizer", nargs="+", choices=optimizers, default=optimizers)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each phase of a contest")
    parser.add_argument("--deadline", type=float, help="seconds after which no contest begins")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu rehearses")
    return options


def _contests(
    workloads: Iterable[Workload], options: argparse.Namespace
) -> Iterable[tuple[Workload, Algorithm]]:
    for algorithm in ALGORITHMS:
        for workload in workloads:
            is_chosen = workload.name in options.workload and algorithm.name in options.optimizer
            if is_chosen and (algorithm.name == "AdamW" or workload.name in _SGD_WORKLOADS):
                yield workload, algorithm


def _max_elements(device: str) -> int:
    if device != "cuda":
        return _MAX_ELEMENTS_OF_REHEARSAL
    free, _ = torch.cuda.mem_get_info()
    return int(0.8 * free) // _BYTES_PER_ELEMENT


def _environment(device: str) -> dict[str, Any]:
    """What a reader needs to judge the numbers, and nothing that tells whose machine it is."""
    facts = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "engine": fusedlr.backend_info()["devices"].get(device, {}).get("engine"),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return facts


# Tables of plain text


def _tables(results: Sequence[GpuResult]) -> str:
    """All that was measured."""
    parts = [LEGEND, ""]
    for key in dict.fromkeys(map(_key, results)):
        chosen = [one for one in results if _key(one) == key]
        chosen.sort(key=lambda one: _ORDER.get(one.timing, len(_ORDER)))
        first = chosen[0]
        parts.append(
            f"{first.workload}, {first.algorithm}: {first.tensors:,} tensors, "
            f"{first.elements:,} elements, {first.groups:,} groups; a copy moves "
            f"{first.copy_bytes_per_second / 1e9:,.0f} GB/s"
        )
        rows = [[cell(one) for _, cell in COLUMNS] for one in chosen]
        parts += [_table([heading for heading, _ in COLUMNS], rows), ""]
    return "\n".join(parts)


def _summary(
    failures: dict[str, str], results: Sequence[GpuResult], verdicts: Sequence[Verdict]
) -> str:
    """fusedlr alone, a line for each workload, and the targets."""
    rows = []
    for key in dict.fromkeys(map(_key, results)):
        ours = {one.timing: one for one in results if _key(one) == key and one.peer == "fusedlr"}
        cells = (cell(ours[timing]) if timing in ours else "" for _, timing, cell in SUMMARY)
        rows.append([", ".join(key), *cells])
    parts = [_table(["fusedlr", *(heading for heading, _, _ in SUMMARY)], rows)]
    parts += [f"not measured: {what}: {why}" for what, why in failures.items()]
    parts += [
        f"{'pass' if verdict.passed else 'FAIL'}  {verdict.target}: {verdict.measured}"
        for verdict in verdicts
    ]
    return "\n".join(parts)


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else three_digits(ratio.median)


def _launches(result: GpuResult) -> str:
    found = result.launches
    if found is None:
        return ""
    return f"{found.launches}" + (f"+{found.copies}" if found.copies else "")


def _kernels(result: GpuResult) -> str:
    found = result.launches
    return format_seconds(found.kernel_seconds) if found and found.kernel_seconds else ""


COLUMNS: tuple[tuple[str, Callable[[GpuResult], str]], ...] = (
    ("what", lambda one: one.timing),
    ("peer", lambda one: one.peer),
    ("device", lambda one: format_seconds(one.device_seconds.median)),
    ("host", lambda one: format_seconds(one.host_seconds.median)),
    ("GB/s", lambda one: three_digits(one.bytes_per_second / 1e9) if one.moved_bytes else ""),
    ("of copy", lambda one: f"{one.of_copy.median:.1%}" if one.of_copy else ""),
    ("x fused", lambda one: _ratio(one.device_ratios.get(TORCH_FUSED.name))),
    ("x best", lambda one: _ratio(one.device_ratios.get(BEST_TORCH))),
    ("host x fused", lambda one: _ratio(one.host_ratios.get(TORCH_FUSED.name))),
    ("launches", _launches),
    ("kernels", _kernels),
)
_ORDER = {timing: place for place, timing in enumerate((STEP, BOTH, GRAPH, GRAPH_BOTH))}


SUMMARY: tuple[tuple[str, str, Callable[[GpuResult], str]], ...] = (
    ("step", STEP, lambda one: format_seconds(one.device_seconds.median)),
    ("GB/s", STEP, lambda one: three_digits(one.bytes_per_second / 1e9)),
    ("of copy", STEP, lambda one: f"{one.of_copy.median:.1%}" if one.of_copy else ""),
    ("x fused", STEP, lambda one: _ratio(one.device_ratios.get(TORCH_FUSED.name))),
    ("launches", STEP, _launches),
    ("+scheduler", BOTH, lambda one: format_seconds(one.device_seconds.median)),
    ("x fused", BOTH, lambda one: _ratio(one.device_ratios.get(TORCH_FUSED.name))),
    ("host", BOTH, lambda one: format_seconds(one.host_seconds.median)),
    ("x fused", BOTH, lambda one: _ratio(one.host_ratios.get(TORCH_FUSED.name))),
    ("launches", BOTH, _launches),
    ("graph", GRAPH, lambda one: format_seconds(one.device_seconds.median)),
    ("x fused", GRAPH, lambda one: _ratio(one.device_ratios.get(TORCH_FUSED.name))),
)


def _table(headings: list[str], rows: list[list[str]]) -> str:
    """Columns of plain text, of which those of numbers end alike."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    are_numbers = [
        all(row[column][:1].isdigit() or not row[column] for row in rows)
        for column in range(len(headings))
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, are_numbers, strict=True)
        ).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
