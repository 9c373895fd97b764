"""What the caller of a group chooses."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.targets import Result


@dataclass(frozen=True, slots=True)
class Options:
    """`full`: as many repetitions as published figures have. `directory`: where daemons keep their state."""

    full: bool = False
    directory: Path = Path("/var/tmp")  # a disk, unlike /tmp on many machines: durable figures need one

    def of(self, quick: int, full: int) -> int:
        """One of two numbers."""
        return full if self.full else quick


Measure: TypeAlias = Callable[[Options], Iterable[Result]]


def progress(text: str) -> None:
    """One line for whoever waits; the report itself is on standard output."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
