"""Reads what pytest -v prints while it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic

# Names without the way to the folder of the tests.
_RESULT = re.compile(r"^(?:\.\./)*(?P<test>\S+::.*?) (?P<result>PASSED|FAILED|ERROR)\b")
_STARTED = re.compile(r"^(?:\.\./)*(?P<test>\S+::\S+)")
_SUMMARY = re.compile(r"^(FAILED|ERROR) (?:\.\./)*(?P<what>\S+::.*)$")
_SAY_EVERY_SECONDS = 10.0


class PytestOutput:
    """Counts results, and tells of them now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = monotonic()
        self.passed = 0
        self.last_test = "none"
        self._failed: dict[str, str] = {}

    @property
    def counts(self) -> str:
        return f"{self.passed} passed, {len(self._failed)} failed"

    @property
    def failures(self) -> list[str]:
        """The names of failed tests, with what they said where pytest came to tell it."""
        return list(self._failed.values())

    def read_line(self, line: str) -> None:
        if match := _SUMMARY.match(line):
            name = match["what"].split(" - ")[0]
            self._failed[name] = match["what"]
        elif match := _RESULT.match(line):
            self.last_test = match["test"]
            if match["result"] == "PASSED":
                self.passed += 1
            elif self.last_test not in self._failed:
                self._failed[self.last_test] = self.last_test
                if len(self._failed) <= 30:
                    self._say(f"    {match['result']} {self.last_test}")
        elif match := _STARTED.match(line):
            self.last_test = match["test"]
        if monotonic() - self._said > _SAY_EVERY_SECONDS:
            self._said = monotonic()
            self._say(f"    {self.counts}; at {self.last_test}")
