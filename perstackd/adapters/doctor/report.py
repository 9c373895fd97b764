"""Findings for people, as they come, or for programs, all at once."""

import json
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from perstackd.domain.checkup import Finding, Level, exit_code

_MARKS: Final = {Level.OK: "ok", Level.WARNING: "warning", Level.ERROR: "ERROR"}
_WIDTH: Final = 110
_INDENT: Final = 11


class Report:
    """`add` each finding, then `end`, which returns the exit code."""

    def __init__(self, *, as_json: bool, say: Callable[[str], object]) -> None:
        self._as_json = as_json
        self._say = say
        self._findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Tell it, at once when people read."""
        previous = self._findings[-1].area if self._findings else ""
        self._findings.append(finding)
        if self._as_json:
            return
        if finding.area != previous:
            self._say(f"\n{finding.area}" if previous else finding.area)
        self._say(_wrapped(f"  {_MARKS[finding.level]:<9}{finding.check}: {finding.found}"))
        if finding.remedy:
            self._say(_wrapped(f"{'':<{_INDENT}}→ {finding.remedy}"))

    def end(self) -> int:
        """0, or 1 when something is to be repaired."""
        if self._as_json:
            self._say(json.dumps([asdict(finding) for finding in self._findings], indent=2, ensure_ascii=False))
        else:
            self._say(f"\n{_verdict(self._findings)}")
        return exit_code(self._findings)


def _verdict(findings: list[Finding]) -> str:
    errors = sum(finding.level is Level.ERROR for finding in findings)
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    said = f"{len(findings)} looked at, {errors} to be repaired, {warnings} to know about"
    return f"{said}: perstackd will work here" if not errors else said


def _wrapped(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return textwrap.fill(
        printable,
        _WIDTH,
        subsequent_indent=" " * (_INDENT + 2),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
