"""What an examination of the machine found. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: an error keeps something from working, a warning will one day or makes it worse."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do, and is empty when nothing is."""

    area: str
    check: str
    level: Level
    found: str
    remedy: str = ""


def good(area: str, check: str, found: str) -> Finding:
    """All is well."""
    return Finding(area, check, Level.OK, found)


def warning(area: str, check: str, found: str, remedy: str) -> Finding:
    """Something to know about."""
    return Finding(area, check, Level.WARNING, found, remedy)


def error(area: str, check: str, found: str, remedy: str) -> Finding:
    """Something to repair."""
    return Finding(area, check, Level.ERROR, found, remedy)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when something is to be repaired, else 0."""
    return int(any(finding.level is Level.ERROR for finding in findings))
