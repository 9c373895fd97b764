"""The real SDK against a server that breaks in every way: each is told by its name, none is taken for a turn."""

import logging
import socket
import traceback
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import ModelEvent, TextDelta
from tests.fakes.chat_api import DONE, Ending, Reply, chunk, error_body, failure, frame, serving
from tests.unit.models.openai_world import ASKED, FRAMES, KEY, ask, failing, models_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        (failure(401, "invalid_request_error", "bad key", code="invalid_api_key"), Kind.DENIED, "model_key_refused"),
        (failure(403, "permission_error", "no access"), Kind.DENIED, "model_key_refused"),
        (failure(402, "unknown_error", "Insufficient Balance"), Kind.DENIED, "model_key_refused"),
        (
            failure(429, "insufficient_quota", "You exceeded your current quota", code="insufficient_quota"),
            Kind.DENIED,
            "model_key_refused",
        ),
        (
            failure(404, "invalid_request_error", "no such model", code="model_not_found"),
            Kind.NOT_FOUND,
            "model_not_found",
        ),
        (Reply((b"404 page not found",), 404, content_type="text/plain"), Kind.NOT_FOUND, "model_not_found"),
        (
            failure(400, "invalid_request_error", "too many", code="context_length_exceeded"),
            Kind.INVALID,
            "context_too_long",
        ),
        (
            failure(400, "BadRequestError", "This model's maximum context length is 8192 tokens."),
            Kind.INVALID,
            "context_too_long",
        ),
        (failure(413, "invalid_request_error", "Request too large"), Kind.INVALID, "context_too_long"),
        (failure(400, "invalid_request_error", "tools.0: bad"), Kind.INVALID, "model_refused_request"),
        (failure(400, "", "filtered", code="content_filter"), Kind.INVALID, "model_refused_request"),
        (failure(422, "invalid_request_error", "bad field"), Kind.INVALID, "model_refused_request"),
        (failure(429, "tokens", "slow down", code="rate_limit_exceeded"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(429, "requests", "slow down"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(500, "server_error", "Internal server error"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(503, "service_unavailable", "Overloaded"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(504, "timeout", "took too long"), Kind.UNAVAILABLE, "model_timeout"),
        (failure(408, "timeout", "took too long"), Kind.UNAVAILABLE, "model_timeout"),
        (Reply((b"<html>bad gateway</html>",), 502, content_type="text/html"), Kind.UNAVAILABLE, "model_overloaded"),
        (Reply((b'{"error": "busy"}',), 503, content_type="application/json"), Kind.UNAVAILABLE, "model_overloaded"),
        (Reply(status=307, headers=(("location", "https://evil.example/"),)), Kind.INVALID, "model_refused_request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_status_is_told_by_its_reason(reply: Reply, kind: Kind, reason: str) -> None:
    error = await failing(reply)
    assert (error.kind, error.reason) == (kind, reason)
    assert error.retryable is (kind is Kind.UNAVAILABLE)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (failure(400, "invalid_request_error", "Invalid schema for 'exec'"), "Invalid schema for 'exec'"),
        (Reply((b"404 page not found",), 404, content_type="text/plain"), "404 page not found"),
        (Reply((b'{"error": "busy"}',), 503, content_type="application/json"), "busy"),
        (Reply((b"<html>bad gateway</html>",), 502, content_type="text/html"), "Error code: 502"),
    ],
    ids=["message", "text", "error-is-text", "html"],
)
async def test_the_providers_own_words_are_in_the_message(reply: Reply, words: str) -> None:
    error = await failing(reply)
    assert f"for the model 'gpt-4.1-mini' and said: {words}. " in error.message


@pytest.mark.parametrize(
    "reply",
    [
        failure(401, "invalid_request_error", f"Incorrect API key provided: {KEY}"),
        Reply((*FRAMES[:3], frame(error_body("server_error", f"key {KEY} is odd")))),
        Reply((f"who is {KEY}?".encode(),), 403, content_type="text/plain"),
    ],
    ids=["status", "in-stream", "no-json"],
)
async def test_the_key_is_never_in_an_error_even_if_the_provider_repeats_it(
    reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error = await failing(reply)
    assert "***" in error.message
    assert KEY not in "".join(traceback.format_exception(error))
    assert KEY not in str(error.fields)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("header", "milliseconds"),
    [(("retry-after", "7"), "7000"), (("retry-after-ms", "250"), "250"), (("retry-after", "999999"), "3600000")],
)
async def test_when_to_come_back_is_a_field(header: tuple[str, str], milliseconds: str) -> None:
    error = await failing(failure(429, "requests", "slow down", header))
    assert error.fields["retry_after_ms"] == milliseconds


async def test_without_a_hint_there_is_no_such_field() -> None:
    assert "retry_after_ms" not in (await failing(failure(503, "server_error", "Overloaded"))).fields


def in_stream(type_: str, code: str | int | None = None, message: str = "sorry") -> Reply:
    return Reply((*FRAMES[:4], frame(error_body(type_, message, code))))


NOT_UTF8 = (*FRAMES[:3], b"data: \xff\xfe\n\n", *FRAMES[3:])
DAMAGED = (*FRAMES[:3], b'data: {"id": "chatc\n\n', *FRAMES[3:])
ODD_CHOICES = (*FRAMES[:3], frame({"model": "m", "choices": {"a": 1}}), *FRAMES[3:])
ODD_CONTENT = (*FRAMES[:3], chunk({"content": 7}), *FRAMES[3:])
HALF_A_CHARACTER = (*FRAMES[:3], chunk({"content": "\ud83d"}), *FRAMES[3:])
NO_ID = (*FRAMES[:3], chunk({"tool_calls": [{"index": 0, "function": {"name": "exec", "arguments": "{}"}}]}))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (in_stream("server_error"), "model_stream_broken"),
        (in_stream("requests", "rate_limit_exceeded"), "model_overloaded"),
        (in_stream("overloaded_error"), "model_overloaded"),
        (in_stream("", 502), "model_overloaded"),
        (in_stream("", 429), "model_overloaded"),
        (in_stream("", "9" * 5000), "model_stream_broken"),
        (in_stream("something_new"), "model_stream_broken"),
        (Reply((*FRAMES[:4], b'data: {"error": "out of memory"}\n\n')), "model_stream_broken"),
        (Reply((*FRAMES[:4], b'event: error\ndata: {"error": {"message": "no"}}\n\n')), "model_stream_broken"),
        (Reply((*FRAMES[:4], b"event: error\ndata: not json\n\n")), "model_stream_broken"),
        (Reply((*FRAMES[:4], frame({"object": "error", "message": "no", "code": 500}))), "model_stream_broken"),
        (Reply(FRAMES[:4], ending=Ending.CUT), "model_stream_broken"),
        (Reply(FRAMES[:5], ending=Ending.CUT), "model_stream_broken"),
        (Reply(FRAMES[:6], ending=Ending.CUT), "model_stream_broken"),
        (Reply(FRAMES[:4]), "model_stream_broken"),
        (Reply(FRAMES[:6]), "model_stream_broken"),
        (Reply((*FRAMES[:4], DONE)), "model_stream_broken"),
        (Reply((*FRAMES[:4], FRAMES[5], DONE)), "model_stream_broken"),
        (Reply(()), "model_stream_broken"),
        (Reply((DONE,)), "model_stream_broken"),
        (Reply((b"<html>log in first</html>",), content_type="text/html"), "model_stream_broken"),
        (Reply((b'{"choices": []}',), content_type="application/json"), "model_stream_broken"),
        (Reply(DAMAGED), "model_stream_broken"),
        (Reply(NOT_UTF8), "model_stream_broken"),
        (Reply(ODD_CHOICES), "model_stream_broken"),
        (Reply(ODD_CONTENT), "model_stream_broken"),
        (Reply(HALF_A_CHARACTER), "model_stream_broken"),
        (Reply((*NO_ID, *FRAMES[4:])), "model_stream_broken"),
        (Reply((*FRAMES[:4], chunk({}, "insufficient_system_resource"), DONE)), "model_stream_broken"),
    ],
    ids=[
        *(
            "server-error",
            "rate-limit",
            "overloaded",
            "status-as-code",
            "429-as-code",
            "odd-code",
            "new-error",
            "error-is-text",
        ),
        *("error-event", "error-not-json", "error-object", "cut", "cut-before-usage", "cut-before-done", "clean-end"),
        *("no-done", "no-reason", "no-reason-but-usage", "empty", "only-done", "html", "not-streamed", "damaged"),
        *("not-utf8", "odd-choices", "odd-content", "half-a-character", "call-without-id", "gave-up"),
    ],
)
async def test_a_stream_that_breaks_is_no_turn_and_may_be_tried_again(reply: Reply, reason: str) -> None:
    error = await failing(reply)
    assert (error.kind, error.reason, error.retryable) == (Kind.UNAVAILABLE, reason, True)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (in_stream("invalid_request_error", "context_length_exceeded"), "context_too_long"),
        (in_stream("invalid_request_error", message="Input exceeds the context window"), "context_too_long"),
        (in_stream("insufficient_quota", "insufficient_quota"), "model_key_refused"),
        (in_stream("invalid_request_error"), "model_refused_request"),
    ],
)
async def test_an_error_in_the_stream_that_will_not_pass_is_not_tried_again(reply: Reply, reason: str) -> None:
    error = await failing(reply)
    assert (error.reason, error.retryable) == (reason, False)


async def test_deltas_before_a_break_were_shown_and_no_turn_follows() -> None:
    seen: list[ModelEvent] = []
    async with serving(Reply(FRAMES[:3], ending=Ending.CUT)) as api:
        models = models_of(api)

        async def watch() -> None:
            async for event in models.stream(ASKED):
                seen.append(event)

        with anyio.fail_after(30), pytest.raises(PerstackError):
            await watch()
        await models.close()
    assert seen == [TextDelta("Good m")]


@pytest.mark.parametrize("frames", [(), FRAMES[:3], FRAMES[:6]], ids=["silent", "midway", "before-done"])
async def test_a_model_that_takes_too_long_is_a_timeout(frames: tuple[bytes, ...]) -> None:
    error = await failing(Reply(frames, ending=Ending.HANG), replace(ASKED, timeout_ms=1500))
    assert (error.kind, error.reason, error.retryable) == (Kind.UNAVAILABLE, "model_timeout", True)
    assert "1500 ms" in error.message


async def test_nobody_at_the_address_is_unreachable() -> None:
    async with serving() as api:
        models = models_of(api)
    with pytest.raises(PerstackError) as caught:
        await ask(models)
    await models.close()
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "model_unreachable")


async def test_a_name_that_does_not_resolve_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    models = OpenAiModels(lambda: KEY, replace(DEFAULTS["openai"], base_url="http://nowhere.invalid/v1"))
    with pytest.raises(PerstackError) as caught:
        await ask(models)
    await models.close()
    assert caught.value.reason == "model_unreachable"
