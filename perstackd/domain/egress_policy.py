"""What the operator lets sandboxes reach at most: `egress.allow_hosts`, and what is left of a wish under it.

Pairs are a host pattern (an exact name or `*.suffix`) and a port.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from perstackd.domain import host_pattern
from perstackd.domain.assignment import installer, reaches, served_skills
from perstackd.domain.expert import Expert, Finding, RemoteSkill, Severity

KEY: Final = "egress.allow_hosts"
DEFAULT_PORT: Final = 443
ROUTES: Final = frozenset({("127.0.0.1", 3129), ("localhost", 3129)})
"""Where a sandbox asks for origin routes: inside of it. Their origins are the configuration's to hold to the policy."""
MAX_SHOWN: Final = 5

HostPort: TypeAlias = tuple[str, int]
_PATTERN: Final = re.compile(r"(\[[0-9a-f:]+\]|[^:\[\]]*)(?::([1-9][0-9]{0,4}))?")


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """`hosts` None restricts nothing; an empty one lets nothing be reached."""

    hosts: tuple[HostPort, ...] | None = None

    def common(self, host: str, port: int) -> tuple[HostPort, ...]:
        """What is left of a wish: itself, the narrower patterns of the policy that it covers, or nothing."""
        wish = canonical(host)
        if self.hosts is None or (wish, port) in ROUTES:
            return ((wish, port),)
        allowed = [pattern for pattern, at in self.hosts if at == port]
        if any(covers(pattern, wish) for pattern in allowed):
            return ((wish, port),)
        return tuple((pattern, port) for pattern in allowed if covers(wish, pattern))

    def permits(self, host: str, port: int) -> bool:
        """Whether all of it may be reached."""
        return self.common(host, port) == ((canonical(host), port),)

    def within(self, wishes: Iterable[HostPort]) -> set[HostPort]:
        """What is left of all of them."""
        return {left for wish in wishes for left in self.common(*wish)}

    @property
    def text(self) -> str:
        """What it allows, the first of it, for a sentence."""
        if not self.hosts:
            return "nothing" if self.hosts is not None else "everything"
        shown = ", ".join(show(*each) for each in self.hosts[:MAX_SHOWN])
        return f"{shown} and {len(self.hosts) - MAX_SHOWN} more" if len(self.hosts) > MAX_SHOWN else shown


def canonical(host: str) -> str:
    """As patterns are compared."""
    return host.lower().removesuffix(".")


def covers(pattern: str, host: str) -> bool:
    """Whether every name of `host`, which may be a pattern too, is one of `pattern`. Both in canonical form. A suffix
    stands for the names below it, never for itself, and never for an address.
    """
    if not pattern.startswith("*."):
        return pattern == host
    return host.removeprefix("*").endswith(pattern[1:]) and (host.startswith("*.") or not _is_address(host))


def show(host: str, port: int) -> str:
    """A pair as the operator writes it."""
    named = f"[{host}]" if ":" in host else host
    return named if port == DEFAULT_PORT else f"{named}:{port}"


def parse_pattern(text: str) -> HostPort:
    """A pattern of the operator's: a name, `*.` and a suffix, or an address in its canonical form; with a port where it
    is not 443.

    Raises:
        ValueError: the end of a sentence that begins with the pattern.
    """
    found = _PATTERN.fullmatch(text)
    if found is None or int(found[2] or DEFAULT_PORT) > 65535:
        raise ValueError("is not a host, nor HOST:PORT; an IPv6 address stands in brackets")
    host, port = found[1].removeprefix("[").removesuffix("]"), int(found[2] or DEFAULT_PORT)
    if not _is_address(host) and (why := host_pattern.problem(host)):
        raise ValueError(why)
    return canonical(host), port


def refusals(
    policy: EgressPolicy, expert: Expert, indexes: Iterable[tuple[str, tuple[HostPort, ...]]] = ()
) -> Iterator[Finding]:
    """What an expert's skills need and cannot have: an error for a host that is left out, a warning for a pattern of
    which only a part is left. `indexes` are the hosts that a package runner installs from, by its command.
    """
    if policy.hosts is None:
        return
    installs = dict(indexes)
    for skill in served_skills(expert):
        where = f"experts.{expert.key}.skills.{skill.name}"
        endpoint = isinstance(skill, RemoteSkill)
        for number, (host, port) in enumerate(reaches(skill)):
            key = "endpoint" if endpoint and number == len(skill.allowed_domains) else "allowedDomains"
            if found := _judged(policy, f"the skill {skill.name!r} of {expert.key!r}", host, port):
                severity, message = found
                yield Finding(severity, message, key=f"{where}.{key}")
        sources = installs.get(installer(skill), ())
        if sources and not policy.within(sources):
            hosts = ", ".join(show(*source) for source in sources)
            message = (
                f"the skill {skill.name!r} of {expert.key!r} is installed by {installer(skill)} from {hosts}, which "
                f"{KEY} of this daemon's operator leaves out ({policy.text})"
            )
            yield Finding(Severity.ERROR, message, key=where)


def left_out(policy: EgressPolicy, who: str, host: str, port: int = DEFAULT_PORT) -> str:
    """The sentence about a host that cannot be reached at all; empty when some of it can."""
    found = _judged(policy, who, host, port)
    return found[1] if found and found[0] is Severity.ERROR else ""


def _judged(policy: EgressPolicy, who: str, host: str, port: int) -> tuple[Severity, str] | None:
    if policy.permits(host, port):
        return None
    named = show(canonical(host), port)
    if left := policy.common(host, port):
        parts = ", ".join(show(*each) for each in left)
        return Severity.WARNING, f"{who} asks for {named}, of which {KEY} of this daemon's operator leaves {parts}"
    return (
        Severity.ERROR,
        f"{who} needs {named}, which {KEY} of this daemon's operator leaves out ({policy.text})",
    )


def _is_address(host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False
