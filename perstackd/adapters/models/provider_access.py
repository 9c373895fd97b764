"""Whom a provider's key is for: the configured address and what the operator allows, nobody else.

A definition comes from a client and may name any base URL; the daemon's key must not follow it there.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from perstackd.adapters.models.provider_errors import model_error
from perstackd.domain.errors import PerstackError

_CLIENTS_KEPT: Final = 16

Client = TypeVar("Client")


def usable_key(key: str | None, key_name: str, provider: str) -> str:
    """The key without blanks around it. Raises `model_key_missing` for none and for one that no header can carry."""
    found = (key or "").strip()
    if not found or not found.isascii() or not found.isprintable():
        state = "is damaged: it has characters that no key has" if found else "is not set"
        stored = f"{key_name}, the daemon's key for the provider {provider}, {state}."
        raise model_error("model_key_missing", f"{stored} Store one: perstackctl secret put --provider {provider}.")
    return found


def allowed_base_url(wanted: str, own: str, allowed_hosts: frozenset[str], tidy: Callable[[str], str]) -> str:
    """The address to call: `own` if `wanted` is empty or the same, `wanted` if its host (`name` or `name:port`) is
    allowed. `tidy` brings an address into the form that the SDK takes.

    Raises `base_url_not_allowed`.
    """
    if not wanted:
        return tidy(own)
    try:
        parts = urlsplit(wanted)
    except ValueError:
        raise _not_allowed(wanted) from None
    if tidy(wanted) == tidy(own):
        return tidy(own)
    plain = parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment
    host = parts.netloc.lower()
    if plain or not {host, parts.hostname} & allowed_hosts:
        raise _not_allowed(host)
    return tidy(wanted)


def _not_allowed(host: str) -> PerstackError:
    what = f"The base URL's host {host[:200]!r} is not one that this daemon sends its key to."
    return model_error("base_url_not_allowed", what, {"host": host[:200]})


class ClientCache(Generic[Client]):
    """The clients of the last few addresses and keys; one that is forgotten holds nothing open."""

    def __init__(self) -> None:
        self._clients: OrderedDict[tuple[str, str], Client] = OrderedDict()

    def get(self, base_url: str, key: str, make: Callable[[], Client]) -> Client:
        """The client of the pair, made now if it was not yet."""
        if (base_url, key) not in self._clients:
            self._clients[base_url, key] = make()
            if len(self._clients) > _CLIENTS_KEPT:
                self._clients.popitem(last=False)
        self._clients.move_to_end((base_url, key))
        return self._clients[base_url, key]

    def clear(self) -> None:
        """Forget them all."""
        self._clients.clear()
