"""A perstack.toml as it is read, with what is said about it."""

from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.domain.expert import Definition, Expert, Finding, Severity
from perstackd.ports.definitions import ParsedDefinition

HEAD = '[experts.a]\ninstruction = "Do it."\n'


def parse(text: str) -> ParsedDefinition:
    return TomlDefinitions(frozenset({"models.intern"})).parse(text, "perstack.toml")


def good(text: str) -> Definition:
    parsed = parse(text)
    assert parsed.findings == ()
    assert parsed.definition is not None
    return parsed.definition


def expert(text: str) -> Expert:
    return good(HEAD + text).experts[0]


def only(text: str) -> Finding:
    """The one finding of a text."""
    parsed = parse(text)
    assert len(parsed.findings) == 1, parsed.findings
    finding = parsed.findings[0]
    assert (parsed.definition is None) is (finding.severity is Severity.ERROR)
    return finding
