"""Where the fields of the tables lie that kernels walk, as the compiled extension tells.

Kernels import this module and write ``layouts.TensorRow.step`` for the offset of a field in bytes,
``layouts.TensorRow.size`` for the size of a struct, and ``layouts.Dtype.float32`` for a value of an
enumeration. A name that Python keeps for itself has an underscore behind it: ``not_``.
"""

from __future__ import annotations

import hashlib
import json
import keyword
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton.language as tl

from fusedlr import _C

_LAYOUTS = _C.kernel_layouts()


def _namespace(values: Mapping[str, int]) -> Any:
    return SimpleNamespace(
        **{
            name + "_" * keyword.iskeyword(name): tl.constexpr(value)
            for name, value in values.items()
        }
    )


def _fingerprint() -> int:
    text = json.dumps(_LAYOUTS, sort_keys=True)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text += path.read_text(encoding="utf-8")
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


#: Triton keeps compiled kernels on disk, by the source of what they name. That shows no offset, and
#: no twin that they find in a table; whoever reads memory mentions this number, too.
FINGERPRINT = tl.constexpr(_fingerprint())

_structs = _LAYOUTS["structs"]
TensorRow = _namespace(_structs["TensorRow"])
Chunk = _namespace(_structs["Chunk"])
TablePlace = _namespace(_structs["TablePlace"])
StepCounters = _namespace(_structs["StepCounters"])
ScheduleFormula = _namespace(_structs["ScheduleFormula"])
ScheduledPlace = _namespace(_structs["ScheduledPlace"])
LiveLink = _namespace(_structs["LiveLink"])
StepRecord = _namespace(_structs["StepRecord"])
StepTables = _namespace(_structs["StepTables"])
Instruction = _namespace(_structs["Instruction"])
StepFunction = _namespace(_structs["StepFunction"])
Move = _namespace(_structs["Move"])
Moves = _namespace(_structs["Moves"])
ScheduleClock = _namespace(_structs["ScheduleClock"])
SchedulerRow = _namespace(_structs["SchedulerRow"])

_enums = _LAYOUTS["enums"]
Dtype = _namespace(_enums["Dtype"])
Storage = _namespace(_enums["Storage"])
Composition = _namespace(_enums["Composition"])
MoveKind = _namespace(_enums["MoveKind"])
ExpressionOp = _namespace(_enums["ExpressionOp"])
CyclicMode = _namespace(_enums["CyclicMode"])
CyclicColumn = _namespace(_enums["CyclicColumn"])
Rule = _namespace(_enums["Rule"])
Schedule = _namespace(_enums["Schedule"])

_constants = _LAYOUTS["constants"]
MAX_COEFFS = tl.constexpr(_constants["MAX_COEFFS"])
CHUNK_ELEMENTS = tl.constexpr(_constants["CHUNK_ELEMENTS"])
BASE_LR_COLUMN = tl.constexpr(_constants["BASE_LR_COLUMN"])
SWA_LR_COLUMN = tl.constexpr(_constants["SWA_LR_COLUMN"])
ONE_CYCLE_PHASE_SIZE = tl.constexpr(_constants["ONE_CYCLE_PHASE_SIZE"])
