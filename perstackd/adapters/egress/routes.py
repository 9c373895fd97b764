"""The operator's origin routes: which sandboxes have them, and the headers that are filled in when one moves in."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from perstack.v1 import egress_pb2 as pb

from perstackd.domain.errors import Kind, PerstackError
from perstackd.ports.egress import Occupant

SECRET: Final = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)|secret:([A-Z_][A-Z0-9_]{0,127}))\}")
"""`${NAME}`, a variable of the daemon, or `${secret:NAME}`, a stored value, in a header's value."""
_SENDABLE: Final = re.compile(r"[\x20-\x7e\t]*")


@dataclass(frozen=True, slots=True)
class OriginRoute:
    """One origin under a name. It is for the sandboxes of these experts: for their own when no skill is named, else
    for those that host one of the skills.
    """

    name: str
    host: str
    port: int
    headers: tuple[tuple[str, str], ...]
    experts: frozenset[str]
    skills: frozenset[str] = frozenset()

    def is_for(self, occupant: Occupant) -> bool:
        """Whether the sandbox of the occupant has it."""
        if occupant.expert not in self.experts:
            return False
        return not self.skills.isdisjoint(occupant.skills) if self.skills else not occupant.own


@dataclass(frozen=True, slots=True)
class OriginRoutes:
    """All of them. `variable` gives the value of a name in the daemon's environment, `stored` in its store; now, or
    None.
    """

    routes: tuple[OriginRoute, ...] = ()
    variable: Callable[[str], str | None] = field(default=lambda _name: None, repr=False)
    stored: Callable[[str], str | None] = field(default=lambda _name: None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.routes)

    def of(self, occupant: Occupant) -> Sequence[pb.OriginRoute]:
        """Those that a sandbox has, with the values as they are now: never log them.

        Raises:
            PerstackError: PRECONDITION `egress_secret_missing`; it names the route and the secret.
        """
        return [self._filled(route) for route in self.routes if route.is_for(occupant)]

    def _filled(self, route: OriginRoute) -> pb.OriginRoute:
        headers = [pb.RouteHeader(name=name, value=self._value(route, value)) for name, value in route.headers]
        return pb.OriginRoute(name=route.name, host=route.host, port=route.port, headers=headers)

    def _value(self, route: OriginRoute, template: str) -> str:
        def value(found: re.Match[str]) -> str:
            variable, kept = found[1], found[2]
            known = self.stored(kept) if kept else self.variable(variable)
            if known is not None and _SENDABLE.fullmatch(known):
                return known
            wrong = "is not there" if known is None else "has characters that no header can carry"
            remedy = f"store it: perstackctl secret put --route {kept}" if kept else "give it to the daemon"
            message = f"egress.routes.{route.name} needs {found[0]}, which {wrong}; {remedy}"
            raise PerstackError(Kind.PRECONDITION, "egress_secret_missing", message)

        return SECRET.sub(value, template)
