"""Definitions that callers sent, parsed once: `perstackctl run` asks for the same one twice."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from anyio import to_thread

from perstackd.app.job_request import ResolvedRequest, resolved
from perstackd.app.reach import Reach
from perstackd.domain.expert import Finding, Severity
from perstackd.ports.definitions import Definitions

REMEMBERED: Final = 1 << 20  # characters of definitions


class KnownDefinitions:
    """The last few. `templates` are those of this daemon, `template` the default one."""

    def __init__(self, definitions: Definitions, templates: Collection[str], template: str, reach: Reach) -> None:
        self.definitions = definitions
        self._templates = templates
        self._template = template
        self._reach = reach
        self._resolved: dict[tuple[str, str, str], ResolvedRequest] = {}

    async def resolve(self, toml: str, source: str, expert_key: str) -> ResolvedRequest:
        """What a job of this definition needs. Raises as `job_request.resolved` does.

        Parsed in a thread: a large definition takes seconds, and the loop is everyone's.
        """
        wanted = (toml, source, expert_key)
        found = self._resolved.pop(wanted, None)
        if found is None:
            found = self._placed(await to_thread.run_sync(resolved, self.definitions, *wanted))
        self._resolved[wanted] = found
        while sum(len(known) for known, _, _ in self._resolved) > REMEMBERED:
            self._resolved.pop(next(iter(self._resolved)))
        return found

    def _placed(self, found: ResolvedRequest) -> ResolvedRequest:
        """With a warning when the file's `runtime` names no template of this daemon, and with what the operator keeps
        its experts from.
        """
        found = replace(found, findings=(*found.findings, *self._reach.findings(found.experts)))
        wanted, known = found.definition.template, self._templates
        if not wanted or wanted in known:
            return found
        have = ", ".join(sorted(known))
        message = f"runtime {wanted!r} names no sandbox template of this daemon ({have}); {self._template!r} is used"
        return replace(found, findings=(*found.findings, Finding(Severity.WARNING, message, key="runtime")))
