"""`model`, `provider` and `reasoningBudget`: the same at the top level and at an expert."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from perstackd.adapters.definition.credentials import looks_like_key
from perstackd.adapters.definition.table import MAX_INTEGER, Table, kind, shown
from perstackd.domain.expert import ModelChoice

MODEL_KEYS: Final = ("model", "provider", "reasoningBudget")
LEVELS: Final = ("none", "minimal", "low", "medium", "high")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\t]{0,8192}")
_TRANSPORT_HEADERS: Final = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
# Models that Anthropic no longer serves or has announced the end of, as listed by the SDK 2.11.
_RETIRED: Final[Mapping[str, str]] = {
    r"claude-(instant|1|2|3-)": "is retired",
    r"claude-(opus|sonnet)-4(-0|-20250514)?$": "is retired since June 15th, 2026",
    r"claude-mythos-preview": "is retired since June 30th, 2026",
    r"claude-sonnet-4-5": "is deprecated and ends on November 30th, 2026",
}


def read_model(table: Table, allowed_hosts: frozenset[str], elsewhere: Mapping[str, str]) -> ModelChoice:
    """The choice that a table makes; what it does not say stays empty."""
    model = table.matching("model", _NAME, "a model's name")
    retired = next((says for pattern, says in _RETIRED.items() if re.match(pattern, model)), "")
    if retired:
        table.warning("model", f"the model {model!r} {retired}; name a newer one")
    reasoning = _reasoning(table)
    provider = table.table("provider")
    if provider is None:
        return ModelChoice(model=model, reasoning=reasoning)
    provider.only(("providerName", "setting"), elsewhere)
    name = provider.matching("providerName", _NAME, "a provider's name")
    setting = provider.table("setting")
    if setting is None:
        return ModelChoice(name, model, reasoning)
    setting.only(("baseUrl", "headers"), elsewhere)
    return ModelChoice(name, model, reasoning, _base_url(setting, allowed_hosts), read_headers(setting))


def read_headers(table: Table) -> tuple[tuple[str, str], ...]:
    """HTTP headers of a request to a provider or a skill's endpoint."""
    found = table.pairs("headers", _header_problem)
    below = table.table("headers") if found else None
    for name, value in found:
        if below is not None and looks_like_key(name, value):
            below.warning(name, "looks like a key written into the definition; whoever reads the file has it")
    return found


def url_problem(url: str, allowed_hosts: frozenset[str], *, loopback: bool) -> str:
    """Why `url` cannot be called, as the end of a sentence; empty when it can.

    Plain http is for `allowed_hosts`, and for this machine if `loopback`.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "is not a URL"
    if not host or parts.scheme not in ("https", "http") or not url.isprintable() or " " in url:
        return "is not an https URL"
    if parts.username is not None or parts.password is not None:
        return "has a user name or password in it; use headers"
    if parts.fragment:
        return "has a fragment (#), which is never sent"
    plain_allowed = (loopback and host in _LOOPBACK) or bool({host, f"{host}:{port}"} & allowed_hosts)
    if parts.scheme == "http" and not plain_allowed:
        return "must be https; plain http is for loopback only" if loopback else "must be https"
    return ""


def _base_url(setting: Table, allowed_hosts: frozenset[str]) -> str:
    url = setting.text("baseUrl", limit=2048)
    wrong = url_problem(url, allowed_hosts, loopback=True) if url else ""
    if not wrong and "?" in url:
        wrong = "has a query (?), which cannot be kept"
    if wrong:
        setting.error("baseUrl", f"{shown(url)} {wrong}")
    return "" if wrong else url


def _header_problem(name: str, value: str) -> str:
    if not _HEADER.fullmatch(name):
        return "is not the name of a header"
    if name.lower() in _TRANSPORT_HEADERS:
        return "is a header of the connection itself and cannot be set"
    return "" if _HEADER_VALUE.fullmatch(value) else "has a value with control characters, not in ASCII, or too long"


def _reasoning(table: Table) -> str | int:
    value = table.values.get("reasoningBudget", "")
    if value == "" and "reasoningBudget" not in table.values:
        return ""
    if isinstance(value, str):
        if value in LEVELS:
            return value
        table.error("reasoningBudget", f"{shown(value)} is not one of {', '.join(LEVELS)}", (value, LEVELS))
    elif isinstance(value, bool) or not isinstance(value, int):
        table.error("reasoningBudget", f"must be one of {', '.join(LEVELS)} or a number of tokens, not {kind(value)}")
    elif not 0 <= value <= MAX_INTEGER:
        table.error("reasoningBudget", f"must be 0 or more tokens, not {shown(value)}")
    else:
        return value
    return ""
