"""A whole perstack.toml: the top level, its experts, and what goes between them."""

import re
import tomllib
from collections.abc import Callable
from typing import Any, Final

from perstackd.adapters.definition.allowed import Allowed
from perstackd.adapters.definition.experts import EXPERT_KEYS, read_expert
from perstackd.adapters.definition.model_choice import MODEL_KEYS, read_model
from perstackd.adapters.definition.positions import MAX_DEPTH, Path, Positions, TooDeepError
from perstackd.adapters.definition.provider_tools import check_providers
from perstackd.adapters.definition.table import Problems, Table, dotted, shown
from perstackd.domain.expert import Definition, Expert, Finding, Severity
from perstackd.domain.resolution import MAX_DEPTH as MAX_LEVELS
from perstackd.domain.resolution import cycles, find, too_deep
from perstackd.domain.tool_names import without_version
from perstackd.ports.definitions import ParsedDefinition

MAX_CHARACTERS: Final = 4 * 2**20
MAX_EXPERTS: Final = 10_000
"""A thousand take a third of a second."""
MAX_NEAR: Final = 100
"""Experts among which the nearest one to a missing delegate is looked for; it takes time for each."""

_TOP_KEYS: Final = (*MODEL_KEYS, "runtime", "maxSteps", "maxRetries", "timeout", "envPath", "experts")
_TEMPLATE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FOREIGN_RUNTIMES: Final = frozenset({"perstack", "local", "docker", "cursor", "claude-code", "gemini"})
_ORIGINALS: Final = {
    "perstackApiBaseUrl": "it is a setting of the original's registry client",
    "perstackBaseSkillCommand": "the base tools are built in",
}
_SYNTAX_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TWICE: Final = re.compile(r"Cannot (?:overwrite|declare)|Duplicate")


class TomlDefinitions:
    """Implements `Definitions`. `allowed_hosts` are those to which a base URL may be plain http, beside loopback;
    `loopback_endpoints` says whether a skill's endpoint may be plain http on loopback; `provider_problem` why a
    provider cannot be asked here, or nothing."""

    def __init__(
        self,
        allowed_hosts: frozenset[str] = frozenset(),
        *,
        loopback_endpoints: bool = False,
        provider_problem: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._allowed = Allowed(allowed_hosts, loopback_endpoints)
        self._provider_problem = provider_problem

    def parse(self, text: str, source: str) -> ParsedDefinition:
        """All findings of one file, by place."""
        text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        if len(text) > MAX_CHARACTERS:
            message = f"the file has {len(text):,} characters, {MAX_CHARACTERS:,} are allowed; split it"
            return ParsedDefinition(None, (Finding(Severity.ERROR, message),))
        try:
            positions = Positions(text)
        except TooDeepError as error:
            line = text.count("\n", 0, error.offset) + 1
            message = f"keys, tables or arrays are nested deeper than {MAX_DEPTH}"
            return ParsedDefinition(None, (Finding(Severity.ERROR, message, line, 1),))
        try:
            values = tomllib.loads(text)
        except ValueError as error:  # also what is not TOMLDecodeError, such as a number of 5,000 digits
            return ParsedDefinition(None, (_repeated(positions, str(error)) or _syntax_error(text, str(error)),))
        problems = Problems()
        top = Table(values, (), problems)
        definition = self._read(top, source)
        _check_delegates(definition, top)
        check_providers(definition, problems, self._provider_problem)
        return ParsedDefinition(None if problems.any_error else definition, _findings(positions, problems))

    def _read(self, top: Table, source: str) -> Definition:
        elsewhere = {key: "it belongs at the top level" for key in _TOP_KEYS}
        top.only(_TOP_KEYS, _ORIGINALS | {key: "it belongs under [experts.KEY]" for key in EXPERT_KEYS})
        return Definition(
            source=source,
            experts=self._experts(top, elsewhere),
            model=read_model(top, self._allowed.plain_hosts, elsewhere),
            template=_template(top),
            max_steps=top.integer("maxSteps", 0, 1),
            max_retries=top.integer("maxRetries", -1, 0),
            timeout_ms=top.integer("timeout", 0, 1),
            env_paths=top.texts("envPath") if "envPath" in top.values else (".env", ".env.local"),
        )

    def _experts(self, top: Table, elsewhere: dict[str, str]) -> tuple[Expert, ...]:
        experts = top.table("experts")
        if experts is None or not experts.values:
            if "experts" not in top.values or experts is not None:
                top.error("experts", "the file has no experts; add a table [experts.NAME] with an instruction")
            return ()
        if len(experts.values) > MAX_EXPERTS:
            top.error("experts", f"has {len(experts.values):,} experts, {MAX_EXPERTS:,} are allowed; split the file")
            return ()
        return tuple(
            read_expert(key, table, self._allowed, elsewhere)
            for key in experts.values
            if (table := experts.table(key)) is not None
        )


def _template(top: Table) -> str:
    runtime = top.matching("runtime", _TEMPLATE, "the name of a sandbox template")
    if runtime not in _FOREIGN_RUNTIMES:
        return runtime
    top.warning("runtime", f"{shown(runtime)} is a runtime of the original; the tenant's default template is used")
    return ""


def _check_delegates(definition: Definition, top: Table) -> None:
    """A delegate that is not there stops only jobs that reach it; a circle is always wrong."""
    experts = {expert.key: expert for expert in definition.experts}
    keys = tuple(experts) if len(experts) <= MAX_NEAR else ()
    for expert in definition.experts:
        for reference in expert.delegates:
            if find(experts, reference) is None:
                index = top.values["experts"][expert.key]["delegates"].index(reference)
                message = f"the file has no expert {shown(reference)}, and no registry is configured"
                place = ("experts", expert.key, "delegates", index)
                top.problems.warning(place, message, (without_version(reference), keys))
    loops = cycles(definition)
    for loop in loops:
        path = ("experts", loop[-2], "delegates")
        top.problems.error(path, f"delegation goes round in a circle: {' -> '.join(loop)}")
    for deep in () if loops else too_deep(definition):
        path = ("experts", deep[0], "delegates")
        top.problems.warning(path, f"delegation goes deeper than {MAX_LEVELS} levels: {' -> '.join(deep)}")


def _findings(positions: Positions, problems: Problems) -> tuple[Finding, ...]:
    findings = [_finding(positions, *problem) for problem in problems.found]
    findings.sort(key=lambda finding: (finding.line, finding.column))
    if problems.left_out:
        severity = Severity.ERROR if problems.any_error else Severity.WARNING
        findings.append(Finding(severity, f"there are {problems.left_out} more problems"))
    return tuple(findings)


def _finding(positions: Positions, severity: Severity, path: Path, message: str) -> Finding:
    line, column = positions.place(path)
    return Finding(severity, message, line, column, dotted(path))


def _repeated(positions: Positions, message: str) -> Finding | None:
    """A key that is there twice, by its name; tomllib tells the end of its value only."""
    if positions.repeated is None or not _TWICE.match(message):
        return None
    path, first, second = positions.repeated
    before, _ = positions.place_of(first)
    line, column = positions.place_of(second)
    return Finding(Severity.ERROR, f"{dotted(path)} is there twice, first in line {before}", line, column, dotted(path))


def _syntax_error(text: str, message: str) -> Finding:
    """tomllib's messages end in their place."""
    found: Any = _SYNTAX_PLACE.search(message)
    what = _SYNTAX_PLACE.sub("", message)
    if found is None:
        return Finding(Severity.ERROR, f"not TOML: {what}")
    if found[1] is None:
        lines = text.split("\n")
        return Finding(Severity.ERROR, f"not TOML: {what} at the end", len(lines), len(lines[-1]) + 1)
    return Finding(Severity.ERROR, f"not TOML: {what}", int(found[1]), int(found[2]))
