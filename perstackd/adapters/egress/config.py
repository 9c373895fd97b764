"""The `[egress]` section of perstackd.toml."""

import ipaddress
import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from perstackd.adapters.config_section import AbsolutePath, Section
from perstackd.adapters.egress.routes import SECRET, OriginRoute
from perstackd.domain import host_pattern
from perstackd.domain.egress_policy import EgressPolicy, parse_pattern, show

_ORIGIN: Final = re.compile(r"https://([A-Za-z0-9._-]{1,253})(:[1-9][0-9]{0,4})?")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
# The proxy writes these itself; `expect` and the like are for one hop.
_OURS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
)

RouteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class RouteConfig(Section):
    """One origin that sandboxes reach as `http://127.0.0.1:3129/NAME/`, with headers that they never see. `${NAME}` in
    a header's value is the daemon's variable of that name, `${secret:NAME}` the stored value.
    """

    origin: str
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    experts: tuple[str, ...] = Field(min_length=1)
    skills: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> "RouteConfig":
        found = _ORIGIN.fullmatch(self.origin)
        if found is None or (urlsplit(self.origin).port or 443) > 65535:
            raise ValueError(f"origin {self.origin!r} must be https://HOST or https://HOST:PORT, and nothing behind it")
        if wrong := host_pattern.problem(found[1]):
            raise ValueError(f"origin's host {found[1]!r} {wrong}")
        for name, value in self.headers.items():
            if name.lower() in _OURS:
                raise ValueError(f"header {name} is the proxy's own and cannot be set")
            if not _VALUE.fullmatch(value):
                raise ValueError(f"the value of header {name} must be printable ASCII")
            if "${secret:" in SECRET.sub("", value):
                raise ValueError(
                    f"the value of header {name} names no secret: write ${{secret:NAME}}, NAME of A-Z, 0-9, _"
                )
        return self

    def route(self, name: str) -> OriginRoute:
        """The route's value."""
        address = urlsplit(self.origin)
        headers = tuple(sorted(self.headers.items()))
        host, port = address.hostname or "", address.port or 443
        return OriginRoute(name, host, port, headers, frozenset(self.experts), frozenset(self.skills))


class EgressConfig(Section):
    """The way out of the sandboxes. `allow_hosts` is what they may reach at most, whatever definitions and jobs
    ask for: without it all of that, and nothing when it is empty. `allow_addresses` are CIDR blocks of non-global
    addresses that names may resolve to. `ca_bundle` is a PEM file of all authorities that programs in sandboxes
    believe, and the proxy for origin routes. Bytes are both directions together; 0 is no limit.
    """

    allow_hosts: tuple[str, ...] | None = None
    allow_addresses: tuple[str, ...] = ()
    ca_bundle: AbsolutePath | None = None
    uid: int = Field(65534, ge=1)
    max_tunnels: int = Field(64, ge=1, le=4096)
    max_tunnel_bytes: int = Field(4 << 30, ge=0)
    max_sandbox_bytes: int = Field(16 << 30, ge=0)
    idle_s: float = Field(600, gt=0, le=86_400)
    routes: dict[RouteName, RouteConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _blocks(self) -> "EgressConfig":
        for block in self.allow_addresses:
            ipaddress.ip_network(block)
        return self

    @model_validator(mode="after")
    def _within_policy(self) -> "EgressConfig":
        policy = self.policy()
        for route in self.origin_routes():
            if not policy.permits(route.host, route.port):
                host = show(route.host, route.port)
                raise ValueError(f"routes.{route.name} leads to {host}, which allow_hosts leaves out; add it there")
        return self

    def policy(self) -> EgressPolicy:
        """What sandboxes may reach at most. Raises ValueError for a pattern that is none."""
        return EgressPolicy(None if self.allow_hosts is None else tuple(map(_pattern, self.allow_hosts)))

    def origin_routes(self) -> tuple[OriginRoute, ...]:
        """The routes' values."""
        return tuple(config.route(name) for name, config in self.routes.items())


def _pattern(text: str) -> tuple[str, int]:
    try:
        return parse_pattern(text)
    except ValueError as error:
        raise ValueError(f"allow_hosts: {text[:255]!r} {error}") from None
