"""Stored secrets: whose they are, what they may be called and hold, and which experts get them.

An owner is a tenant, `PROVIDERS` for the keys of model providers, which never leave the daemon, or `ROUTES` for what
headers of origin routes name, which goes to the proxy and into no sandbox.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId

PROVIDERS: Final = "providers"
ROUTES: Final = "routes"
MAX_VALUE: Final = 64 << 10
MAX_SECRETS: Final = 256
"""Of one owner."""
MAX_EXPERTS: Final = 64
MAX_SOURCE: Final = 1024

_TENANT: Final = "tenant:"
_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_EXPERT: Final = re.compile(r"[^\x00-\x20\x7f]{1,256}")


@dataclass(frozen=True, slots=True)
class Secret:
    """A stored value. `experts` are the keys of those that get it, none means all. `sealed` is under the data key of
    that owner and number. Times are milliseconds since the epoch.
    """

    owner: str
    name: str
    experts: tuple[str, ...]
    key_number: int
    sealed: bytes = field(repr=False)
    created_at: int
    updated_at: int

    @property
    def context(self) -> str:
        """What its value is sealed for: one that is moved to another name does not open."""
        return f"secret:{self.owner}:{self.name}"

    def granted_to(self, expert_key: str) -> bool:
        """Whether the expert gets it."""
        return not self.experts or expert_key in self.experts


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key of one owner, wrapped by the master key of `master_id`. The highest number seals, lower ones still open."""

    owner: str
    number: int
    master_id: str
    wrapped: bytes = field(repr=False)
    created_at: int

    @property
    def context(self) -> str:
        """What it is wrapped for."""
        return f"dataKey:{self.owner}:{self.number}"


@dataclass(frozen=True, slots=True)
class MasterRotation:
    """A change of the master key: the ids of both, and where each is found. What is sealed may be under either."""

    from_id: str
    from_source: str
    to_id: str
    to_source: str


@dataclass(frozen=True, slots=True)
class SealedEnv:
    """The values that a job was created with."""

    job_id: str
    sealed: bytes = field(repr=False)


def tenant_owner(tenant: TenantId) -> str:
    """The owner that a tenant is."""
    return f"{_TENANT}{tenant}"


def tenant_of(owner: str) -> str:
    """The tenant of an owner; empty for `PROVIDERS` and `ROUTES`."""
    return owner.removeprefix(_TENANT) if owner.startswith(_TENANT) else ""


def checked_name(owner: str, name: str) -> str:
    """The name, which is a variable's, or a provider's for `PROVIDERS`.

    Raises:
        PerstackError: INVALID `secret_name_invalid`.
    """
    form, says = (_PROVIDER, "a-z, 0-9 and -") if owner == PROVIDERS else (_NAME, "A-Z, 0-9 and _, not first a digit,")
    if form.fullmatch(name) is None:
        message = f"{name[:128]!r} is not the name of a secret: {says} and at most 128 characters"
        raise PerstackError(Kind.INVALID, "secret_name_invalid", message)
    return name


def checked_value(value: bytes) -> bytes:
    """The value: text of 1 byte to 64 KiB, as an environment can carry it.

    Raises:
        PerstackError: INVALID `secret_value_invalid`; its message holds nothing of the value.
    """
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad_value("it is not UTF-8; encode it, as with base64") from None
    if not value or len(value) > MAX_VALUE:
        raise _bad_value(f"it has {len(value)} bytes, 1 to {MAX_VALUE} are taken")
    if b"\0" in value:
        raise _bad_value("it holds a NUL, which no environment variable can; encode it, as with base64")
    return value


def checked_experts(owner: str, experts: Sequence[str]) -> tuple[str, ...]:
    """The keys of the experts that get it, sorted, each once.

    Raises:
        PerstackError: INVALID `secret_grant_invalid`.
    """
    if owner == PROVIDERS and experts:
        raise _bad_grant("the key of a provider is given to no expert: it never leaves the daemon; leave --expert out")
    if owner == ROUTES and experts:
        raise _bad_grant("a value of routes is given to no expert: it stays outside of sandboxes; leave --expert out")
    if len(experts) > MAX_EXPERTS:
        raise _bad_grant(f"a secret is granted to at most {MAX_EXPERTS} experts by name; name none for all")
    for key in experts:
        if _EXPERT.fullmatch(key) is None:
            raise _bad_grant(f"{key[:128]!r} is not the key of an expert; write it as [experts.KEY] has it")
    return tuple(sorted(set(experts)))


def without_value(required: Collection[str], sent: Collection[str]) -> tuple[str, ...]:
    """The required names whose value was not sent with the job; sorted."""
    return tuple(sorted(set(required) - set(sent)))


def _bad_value(why: str) -> PerstackError:
    return PerstackError(Kind.INVALID, "secret_value_invalid", f"the value cannot be stored: {why}")


def _bad_grant(message: str) -> PerstackError:
    return PerstackError(Kind.INVALID, "secret_grant_invalid", message)
