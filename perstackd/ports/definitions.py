"""Definitions: the text of a perstack.toml into values."""

from dataclasses import dataclass
from typing import Protocol

from perstackd.domain.expert import Definition, Finding, Severity


@dataclass(frozen=True, slots=True)
class ParsedDefinition:
    """`definition` is None when a finding is an error."""

    definition: Definition | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stop a job."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)


class Definitions(Protocol):
    """Reads definitions. Never raises for bad content: it is told in the findings, all at once."""

    def parse(self, text: str, source: str) -> ParsedDefinition:
        """Parse and check one file; `source` is shown in messages and never opened."""
        ...
