"""Runs the parts of a check on a GPU; see scripts/gpu_check.sh."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

from pytest_output import PytestOutput

ROOT = Path(__file__).resolve().parents[2]
# A place of its own: what .venv has built for another torch stays as it is.
BUILD = ROOT / "build" / f"gpu-check-{sys.implementation.cache_tag}"
LIBRARY = BUILD / "lib"

PASSED, FAILED, LEFT_OUT = "passed", "FAILED", "left out"
NO_GPU_EXIT = 3

# Time on a GPU is scarce; elsewhere a build may have few cores.
MINUTES, MINUTES_WITHOUT_GPU = 9, 90


@dataclass
class Result:
    """How a part went."""

    part: str
    status: str = FAILED
    seconds: float = 0.0
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part, the most seconds of MINUTES it may take, and those that parts before leave to it."""

    name: str
    limit: float
    reserved: float
    run: Callable[[Check, Result], None]


class Check:
    """One run over several parts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out: Path = options.out.resolve()
        self.is_rehearsal: bool = options.rehearse
        self.start = monotonic()
        self.minutes: float | None = options.minutes
        self.limit = 0.0  # of the present part
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = (self.out / "log.txt").open("w", encoding="utf-8")
        self.results: list[Result] = []
        self.facts: dict[str, Any] = {}
        self.environment = {
            **os.environ,
            # Where the ninja of an environment is that nobody has activated.
            "PATH": os.pathsep.join(
                [os.fspath(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
            ),
            "PYTHONPATH": os.fspath(LIBRARY),
            "PYTHONUNBUFFERED": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            # Products of matrices that come out the same in a graph and out of it.
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.log.write(text + "\n")
        self.log.flush()

    def call(
        self,
        command: list[str | Path],
        on_line: Callable[[str], None] = lambda line: None,
        limit: float | None = None,
        cwd: Path = ROOT,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Runs a command with its output in the log; ends it, and returns 124, at the limit."""
        limit = self.limit if limit is None else min(limit, self.limit)
        self.log.write(f"$ {' '.join(map(str, command))}\n")
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(1.0, limit), end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                self.log.write(line)
                on_line(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            end()
            raise
        finally:
            timer.cancel()
        self.log.write(f"exit code {code} after {self.elapsed:.0f} s\n")
        self.log.flush()
        return 124 if is_late.is_set() else code

    @property
    def elapsed(self) -> float:
        return monotonic() - self.start

    def probe(self) -> None:
        """What there is to run on."""
        lines: list[str] = []
        self.limit = 120
        code = self.call([sys.executable, ROOT / "scripts/gpu_check/probe.py"], lines.append)
        if code != 0:
            self.say("\n".join(lines[-5:]))
            raise SystemExit(f"{sys.executable} cannot import torch")
        self.facts = json.loads(lines[-1])
        self.facts["cuda_home"] = os.environ.get("CUDA_HOME") or find_cuda_home()
        self.say(", ".join(f"{name} {value}" for name, value in self.facts.items()))

    @property
    def has_gpu(self) -> bool:
        return self.facts["gpu"] is not None

    def run(self, names: list[str]) -> int:
        self.probe()
        if "build" in names:  # which would take a while to find out, or all of its time
            for missing in missing_for_build(self.facts, needs_cuda=not self.is_rehearsal):
                self.say(f"MISSING: {missing}")
        chosen = [part for part in PARTS if part.name in names]
        minutes = self.minutes or (MINUTES if self.has_gpu else MINUTES_WITHOUT_GPU)
        scale = minutes / MINUTES
        lacks_gpu = False
        for place, part in enumerate(chosen):
            if part.name != "build" and not (self.has_gpu or self.is_rehearsal):
                lacks_gpu = True
                self.results.append(Result(part.name, LEFT_OUT, detail="needs a GPU"))
                continue
            reserved = scale * sum(later.reserved for later in chosen[place + 1 :])
            left = 60 * minutes - self.elapsed - reserved
            self.limit = max(part.reserved, min(scale * part.limit, left))
            self.say(f"== {part.name} (at {self.elapsed:.0f} s, at most {self.limit:.0f} s)")
            self.results.append(self.run_part(part))
            self.write_report()
        self.write_report()
        self.summarize(lacks_gpu)
        if any(result.status == FAILED for result in self.results):
            return 1
        return NO_GPU_EXIT if lacks_gpu else 0

    def run_part(self, part: Part) -> Result:
        result = Result(part.name)
        start = monotonic()
        try:
            if part.name != "build" and not LIBRARY.exists():
                result.detail = "nothing is built yet; run the part build first"
            else:
                part.run(self, result)
        except Exception as error:  # of this script: the other parts go on
            result.detail = f"{type(error).__name__}: {error}"
        result.seconds = round(monotonic() - start, 1)
        self.say(f"== {part.name}: {result.status} in {result.seconds:.0f} s. {result.detail}")
        return result

    def write_report(self) -> None:
        content = {"facts": self.facts, "parts": [asdict(result) for result in self.results]}
        (self.out / "report.json").write_text(json.dumps(content, indent=1) + "\n")

    def summarize(self, lacks_gpu: bool) -> None:
        self.say("")
        for result in self.results:
            for failure in result.facts.get("failures", [])[:20]:
                self.say(f"  {result.part}: {failure[:220]}")
        self.say("")
        for result in self.results:
            line = f"{result.status:9} {result.part:9} {result.seconds:6.0f} s  {result.detail}"
            self.say(line[:400])
        if lacks_gpu:
            self.say("No CUDA device is visible to torch: run this on a machine with a GPU.")


# The parts


def build(check: Check, result: Result) -> None:
    """Compiles the extension into a folder of its own, imports it and asks which engines it has."""
    environment = {
        "FUSEDLR_CUDA": "0" if check.is_rehearsal else "1",
        "TORCH_CUDA_ARCH_LIST": check.facts["arch_list"],
        "CUDA_HOME": check.facts["cuda_home"],
    }
    environment = {
        name: value
        for name, value in environment.items()
        if value is not None and name not in os.environ
    }
    problems: list[str] = []

    def on_line(line: str) -> None:
        if line.startswith("[") and "/" in line[:9]:
            check.say(f"    {line.split(']')[0]}] at {check.elapsed:.0f} s")
        elif "error" in line.lower() and "-Werror" not in line:
            problems.append(line.strip())

    command: list[str | Path] = [sys.executable, "setup.py", "build"]
    command += ["--build-base", BUILD, "--build-lib", LIBRARY]
    command += ["build_ext", "--build-temp", BUILD / "objects"]
    code = check.call(command, on_line, environment=environment)
    if code == 124:
        result.detail = "took too long"
    elif code != 0:
        result.detail = "; ".join(problems[:3]) or f"exit code {code}, see log.txt"
        result.facts["failures"] = problems[:20]
    else:
        import_built(check, result)


def missing_for_build(facts: Mapping[str, Any], needs_cuda: bool) -> list[str]:
    """What the build needs and does not find, with the repair."""
    missing = []
    setuptools = facts["setuptools"]
    if setuptools is None or int(setuptools.partition(".")[0]) < 77:
        missing.append(
            f'setuptools 77 or newer (found: {setuptools}): pip install "setuptools>=77.0.3"'
        )
    if facts["ninja"] is None:
        missing.append("ninja: pip install ninja (one compiler after the other takes too long)")
    if needs_cuda and facts["cuda_home"] is None:
        missing.append("nvcc with its headers, in CUDA_HOME, on PATH or in /usr/local/cuda*")
    return missing


def find_cuda_home() -> str | None:
    """A CUDA toolkit that has headers: the nvcc on the path may be a link to one elsewhere."""
    nvcc = shutil.which("nvcc")
    homes = [Path(nvcc).resolve().parents[1]] if nvcc else []
    homes += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    for home in homes:
        headers = (home / "include", *home.glob("targets/*/include"))
        if (home / "bin/nvcc").exists() and any(
            (folder / "cuda_runtime_api.h").exists() for folder in headers
        ):
            return os.fspath(home)
    return None


def import_built(check: Check, result: Result) -> None:
    lines: list[str] = []
    statement = "import json, fusedlr; print(json.dumps(fusedlr.backend_info()))"
    code = check.call([sys.executable, "-c", statement], lines.append, cwd=BUILD)
    if code != 0:
        result.detail = f"built, but cannot be imported: {lines[-1] if lines else code}"
        return
    info = json.loads(lines[-1])
    result.facts["backend_info"] = info
    if not str(info["extension"]).startswith(os.fspath(LIBRARY)):
        result.detail = f"another fusedlr is imported: {info['extension']}"
    elif not check.is_rehearsal and "cuda" not in info["built_for"]:
        result.detail = f"built without CUDA: {info['not_built']['cuda']}"
    elif check.has_gpu and not check.is_rehearsal and info["devices"]["cuda"]["engine"] != "cuda":
        result.detail = f"no engine for CUDA: {info['devices']['cuda']['reason']}"
    else:
        result.status = PASSED
        engines = {device: facts["engine"] for device, facts in info["devices"].items()}
        result.detail = f"engines {engines}, not built {sorted(info['not_built'])}"


def run_tests(check: Check, result: Result, marks: str, *arguments: str | Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml"]
    command += ["--rootdir", ROOT, "-m", marks, "-v", "--tb=short", "-rfE", "--durations=8"]
    # Other versions of packages may deprecate what ours do not: no reason to fail here.
    command += ["-p", "no:cacheprovider", "-W", "default", *arguments]
    if check.is_rehearsal:
        command.append("--rehearse")
    output = PytestOutput(check.say)
    # From the folder of the library: `-m` puts the working folder first on the path.
    code = check.call(command, output.read_line, cwd=LIBRARY)
    result.detail = output.counts
    result.facts = {"passed": output.passed, "failures": output.failures}
    if code == 124:
        result.detail += f"; took too long, in {output.last_test}"
    elif code != 0 and not output.failures:
        result.detail += f"; exit code {code}, see log.txt"
    elif code == 0 and output.passed > 0:
        result.status = PASSED


OF_CUDA = "gpu and not triton"


def test(check: Check, result: Result) -> None:
    """The tables of all tests on the engine for CUDA; every step must not wait for the device."""
    folder = ROOT / "tests/gpu"
    run_tests(check, result, OF_CUDA, folder, f"--ignore-glob={folder}/test_graph*")


def graph(check: Check, result: Result) -> None:
    """Captures and replays; 1,000 of them with the bits of eager steps."""
    run_tests(check, result, OF_CUDA, *sorted((ROOT / "tests/gpu").glob("test_graph*.py")))


def triton(check: Check, result: Result) -> None:
    """The same tests on Triton's kernels, which are compiled as they are met."""
    run_tests(check, result, "gpu and triton", ROOT / "tests/gpu")


def time(check: Check, result: Result) -> None:
    """The benchmark: device and host time beside torch and others."""
    numbers, tables = check.out / "bench.json", check.out / "tables.txt"
    command: list[str | Path] = [sys.executable, ROOT / "benchmarks/bench_gpu.py"]
    command += ["--json", numbers, "--table", tables, "--plot", check.out / "steps.png"]
    command += ["--deadline", f"{check.limit - 25:.0f}"]
    if check.is_rehearsal:
        command += ["--device", "cpu", "--seconds", "0.05"]
    else:
        command.append("--check")
    code = check.call(command, check.say, cwd=BUILD)
    if numbers.exists():
        result.facts["benchmark"] = content = json.loads(numbers.read_text())
        numbers.unlink()
        missed = [one["target"] for one in content["targets"] if not one["passed"]]
        result.detail = f"{len(content['targets']) - len(missed)} targets kept, {len(missed)} not"
        result.facts["failures"] = [
            f"{one['target']}: {one['measured']}" for one in content["targets"] if not one["passed"]
        ]
    if code == 0:
        result.status = PASSED
    elif code == 124:
        result.detail += "; took too long"
    elif not result.facts.get("failures"):
        result.detail += f"; exit code {code}, see log.txt"


#: The options of each tool. racecheck is not among them: it watches shared memory, of which no
#: kernel of ours has any. initcheck must watch all kernels, as those of torch write what ours read;
#: the others watch ours alone, which takes a fraction of the time.
OUR_KERNELS = ("--kernel-name", "kernel_substring=fusedlr")
SANITIZERS: Mapping[str, tuple[str, ...]] = {
    "memcheck": OUR_KERNELS,
    "synccheck": OUR_KERNELS,
    "initcheck": (),
}


def sanitize(check: Check, result: Result) -> None:
    """A small case under compute-sanitizer: bad accesses, barriers, and reads of unset memory."""
    environment = {
        "PYTHONPATH": os.pathsep.join(map(os.fspath, (LIBRARY, ROOT / "tests"))),
        # Every tensor in memory of its own: an access beside it is an error.
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    small_case: list[str | Path] = [sys.executable, ROOT / "scripts/gpu_check/small_case.py"]
    if check.is_rehearsal:
        code = check.call([*small_case, "cpu"], check.say, cwd=BUILD, environment=environment)
        result.status = PASSED if code == 0 else FAILED
        return
    tool = find_sanitizer()
    if tool is None:
        result.status, result.detail = LEFT_OUT, "compute-sanitizer is not here"
        return
    verdicts: list[str] = []
    end = monotonic() + check.limit
    for place, (name, options) in enumerate(SANITIZERS.items()):
        found: list[str] = []

        def on_line(line: str, found: list[str] = found) -> None:
            if "=========" in line:
                found.append(line.replace("=========", "").strip())

        command = [tool, "--tool", name, "--error-exitcode", "86", *options, *small_case, "cuda"]
        share = (end - monotonic()) / (len(SANITIZERS) - place)
        code = check.call(command, on_line, share, cwd=BUILD, environment=environment)
        verdict = {0: "ok", 124: "took too long"}.get(code, f"exit code {code}")
        verdicts.append(f"{name} {verdict}")
        check.say(f"    {verdicts[-1]}; {found[-1] if found else 'it said nothing'}")
        if code != 0:
            result.facts.setdefault("failures", []).extend(found[1:9])
    result.detail = ", ".join(verdicts)
    if all(verdict.endswith(" ok") for verdict in verdicts):
        result.status = PASSED


def find_sanitizer() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), find_cuda_home()]
    folders = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


PARTS = (
    Part("build", limit=330, reserved=0, run=build),
    Part("test", limit=200, reserved=70, run=test),
    Part("graph", limit=120, reserved=50, run=graph),
    Part("time", limit=200, reserved=90, run=time),
    Part("triton", limit=120, reserved=40, run=triton),
    Part("sanitize", limit=150, reserved=60, run=sanitize),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for the results")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; or all")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"for all parts together ({MINUTES}; without a GPU {MINUTES_WITHOUT_GPU})",
    )
    parser.add_argument("--rehearse", action="store_true", help="run everything on the CPU")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return Check(options).run(options.parts or names)


if __name__ == "__main__":
    sys.exit(main())
