"""What a provider's failures mean to us: one table from status and error type to the port's reasons. Pure."""

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from perstackd.domain.errors import Kind, PerstackError

MAX_DETAIL: Final = 500
MAX_RETRY_AFTER_MS: Final = 3_600_000

_TOO_LONG: Final = ("prompt is too long", "exceed context limit", "context window", "context length", "too many tokens")

_BY_TYPE: Final = {
    "overloaded_error": "model_overloaded",
    "rate_limit_error": "model_overloaded",
    "timeout_error": "model_timeout",
    "api_error": "model_stream_broken",
    "authentication_error": "model_key_refused",
    "permission_error": "model_key_refused",
    "billing_error": "model_key_refused",
    "not_found_error": "model_not_found",
    "invalid_request_error": "model_refused_request",
    "request_too_large": "context_too_long",
}
# What OpenAI and those who follow it put beside or instead of a type; a code says more than the status.
_BY_CODE: Final = {
    "insufficient_quota": "model_key_refused",
    "billing_hard_limit_reached": "model_key_refused",
    "billing_not_active": "model_key_refused",
    "account_deactivated": "model_key_refused",
    "invalid_api_key": "model_key_refused",
    "context_length_exceeded": "context_too_long",
    "rate_limit_exceeded": "model_overloaded",
    "model_not_found": "model_not_found",
    "DeploymentNotFound": "model_not_found",
    "invalid_prompt": "model_refused_request",
    "bio_policy": "model_refused_request",
    "misalignment_policy_violation": "model_refused_request",
    "image_content_policy_violation": "model_refused_request",
    "data_residency_mismatch": "model_refused_request",
    "vector_store_timeout": "model_timeout",
}
_BAD_IMAGE: Final = ("invalid_image", "invalid_base64_image", "image_", "unsupported_image", "empty_image_file")
_BY_STATUS: Final = {
    401: "model_key_refused",
    402: "model_key_refused",
    403: "model_key_refused",
    404: "model_not_found",
    408: "model_timeout",
    409: "model_overloaded",
    413: "context_too_long",
    429: "model_overloaded",
    504: "model_timeout",
}
_KINDS: Final = {
    "model_overloaded": Kind.UNAVAILABLE,
    "model_unreachable": Kind.UNAVAILABLE,
    "model_timeout": Kind.UNAVAILABLE,
    "model_stream_broken": Kind.UNAVAILABLE,
    "model_key_missing": Kind.DENIED,
    "model_key_refused": Kind.DENIED,
    "base_url_not_allowed": Kind.DENIED,
    "context_too_long": Kind.INVALID,
    "model_answer_too_large": Kind.INVALID,
    "model_refused_request": Kind.INVALID,
    "model_not_found": Kind.NOT_FOUND,
}
_REMEDIES: Final = {
    "model_overloaded": "Try again later, or ask the provider for a higher limit.",
    "model_unreachable": "Check the base URL and the daemon's network.",
    "model_timeout": "Try again, or raise `timeout` in perstack.toml.",
    "model_stream_broken": "Try again.",
    "model_key_missing": "Or set it in the daemon's environment and restart it.",
    "model_key_refused": "Check the daemon's key for this provider, its permissions and its credit.",
    "base_url_not_allowed": "Ask the operator of perstackd to allow the host, or leave `baseUrl` out.",
    "context_too_long": "Start a new job, or give the expert less to read at once.",
    "model_answer_too_large": "Ask for less: maxUses, allowedDomains, maxContentTokens in providerToolOptions.",
    "model_refused_request": "Correct what the provider names.",
    "model_not_found": "Check `model` in perstack.toml.",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is an error. `status` 200 means that it came within the stream."""

    status: int
    type: str
    detail: str
    retry_after_ms: int | None = None
    code: str = ""


def from_failure(failure: Failure, model: str) -> PerstackError:
    """The error of the port for a provider's answer."""
    reason = _reason(failure)
    said = f" and said: {failure.detail[:MAX_DETAIL]}" if failure.detail else ""
    where = "in the stream" if failure.status == 200 else f"with status {failure.status}"
    retry = {} if failure.retry_after_ms is None else {"retry_after_ms": str(failure.retry_after_ms)}
    return model_error(reason, f"The provider failed {where} for the model {model!r}{said}.", retry)


def model_error(reason: str, what: str, fields: Mapping[str, str] | None = None) -> PerstackError:
    """`what` is a sentence about what was wrong; what to do is added by the reason."""
    kind = _KINDS[reason]
    return PerstackError(kind, reason, f"{what} {_REMEDIES[reason]}", fields=fields, retryable=kind is Kind.UNAVAILABLE)


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """What `retry-after-ms` or `retry-after` (seconds or a date, RFC 9110 10.2.3) ask for, at most an hour."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is None:
        milliseconds = _seconds(headers.get("retry-after", ""), now)
    return None if milliseconds is None else max(0, min(int(milliseconds), MAX_RETRY_AFTER_MS))


def _reason(failure: Failure) -> str:
    if failure.code in _BY_CODE:
        return _BY_CODE[failure.code]
    if failure.status in (200, 400, 413, 422) and any(words in failure.detail.lower() for words in _TOO_LONG):
        return "context_too_long"
    if failure.code.startswith(_BAD_IMAGE):
        return "model_refused_request"
    if failure.status == 200:
        return _BY_TYPE.get(failure.type, "model_stream_broken")
    if failure.status in _BY_STATUS:
        return _BY_STATUS[failure.status]
    return "model_overloaded" if failure.status >= 500 else "model_refused_request"


def _seconds(text: str, now: datetime) -> float | None:
    seconds = _number(text)
    if seconds is not None:
        return seconds * 1000
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return (aware - now).total_seconds() * 1000


def _number(text: str) -> float | None:
    """None for what is no finite number: `inf` and `nan` are floats to Python."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None
