"""The real SDK against a server that breaks in every way: each is told by its name, none is taken for a turn."""

import json
import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS, Dialect, OpenAiSettings, tidied
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    Turn,
    Usage,
)
from tests.fakes.chat_api import (
    DONE,
    ChatApi,
    Ending,
    Reply,
    answer,
    chunk,
    error_body,
    failure,
    frame,
    frames_of,
    serving,
)
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"
TURN = Turn((TextPart("Good morning"),), FinishReason.STOP, Usage(100, 5, 40, 2), "gpt-4.1-mini")
FRAMES = tuple(frames_of(TURN))  # comment, role, "Good m", "orning", finish, usage, [DONE]
ASKED = ModelRequest(
    "openai", "gpt-4.1-mini", "Be kind.", (), (Message(Role.USER, (TextPart("Hello"),)),), timeout_ms=20_000
)


def settings_of(api: ChatApi) -> OpenAiSettings:
    return replace(DEFAULTS["openai"], base_url=api.url)


def models_of(api: ChatApi, key: Callable[[], str | None] = lambda: KEY) -> OpenAiModels:
    return OpenAiModels(key, settings_of(api))


async def ask(models: OpenAiModels, request: ModelRequest = ASKED) -> list[ModelEvent]:
    with anyio.fail_after(60):
        return [event async for event in models.stream(request)]


async def turn_of(*frames: bytes) -> Turn:
    """The turn that these frames make."""
    async with serving(Reply(frames)) as api:
        models = models_of(api)
        *_, turn = await ask(models)
        await models.close()
    assert isinstance(turn, Turn)
    return turn


async def failing(reply: Reply, request: ModelRequest = ASKED) -> PerstackError:
    """The error that a reply becomes; the SDK must not have tried again by itself."""
    async with serving(reply, answer(TURN)) as api:
        models = models_of(api)
        with pytest.raises(PerstackError) as caught:
            await ask(models, request)
        assert len(api.received) == 1
        await models.close()
    return caught.value


async def test_a_turn_arrives_with_its_usage_and_the_request_was_well_formed() -> None:
    async with serving(answer(TURN)) as api:
        models = models_of(api)
        events = await ask(models, replace(ASKED, headers=(("x-team", "blue"),)))
        await models.close()
    assert events == [TextDelta("Good m"), TextDelta("orning"), TURN]
    received = api.received[0]
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["x-team"] == "blue"
    assert received.body["stream"] is True
    assert received.body["stream_options"] == {"include_usage": True}
    assert received.body["model"] == "gpt-4.1-mini"


async def test_what_is_in_the_environment_for_openai_is_sent_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-secret: environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://environment.example")
    async with serving(answer(TURN)) as api:
        models = models_of(api)
        await ask(models)
        await models.close()
    headers = api.received[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "environment" not in json.dumps(dict(headers))


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_cache_hit_tokens": 8}, Usage(10, 3, 8, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": None}, Usage(10, 3)),
        ({"prompt_tokens": "many", "completion_tokens": -1, "prompt_cache_hit_tokens": True}, Usage()),
    ],
    ids=["deepseek", "no-details", "nonsense"],
)
async def test_tokens_are_counted_as_far_as_a_server_counts_them(usage: dict[str, object], counted: Usage) -> None:
    assert (await turn_of(*frames_of(TURN, usage))).usage == counted


async def test_a_server_that_does_not_count_still_makes_a_turn() -> None:
    assert await turn_of(*FRAMES[:5], DONE) == replace(TURN, usage=Usage())


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
    error = await failing(Reply(frames, ending=Ending.HANG), replace(ASKED, timeout_ms=400))
    assert (error.kind, error.reason, error.retryable) == (Kind.UNAVAILABLE, "model_timeout", True)
    assert "400 ms" in error.message


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


async def test_cancelling_ends_the_providers_call() -> None:
    async with serving(Reply(FRAMES[:3], ending=Ending.HANG)) as api:
        models = models_of(api)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, models)
                await api.hanging.wait()
                group.cancel_scope.cancel()
            await api.caller_left.wait()
        await models.close()


async def test_closing_the_iterator_ends_the_providers_call() -> None:
    async with serving(Reply(FRAMES[:3], ending=Ending.HANG)) as api:
        models = models_of(api)
        with anyio.fail_after(30):
            async with aclosing(models.stream(ASKED)) as events:  # type: ignore[type-var]
                assert await anext(events) == TextDelta("Good m")
            await api.caller_left.wait()
        await models.close()


@pytest.mark.parametrize("key", [None, "", "  ", "sk-ä", "sk-\n1"])
async def test_without_a_usable_key_nothing_is_sent(key: str | None) -> None:
    async with serving(answer(TURN)) as api:
        with pytest.raises(PerstackError) as caught:
            await ask(models_of(api, lambda: key))
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "model_key_missing")
    assert "OPENAI_API_KEY, the daemon's key for the provider openai," in caught.value.message
    assert api.received == []


async def test_a_new_key_is_used_from_the_next_call_on() -> None:
    keys = iter(["sk-old", "sk-new"])
    async with serving(answer(TURN), answer(TURN)) as api:
        models = models_of(api, lambda: next(keys))
        await ask(models)
        await ask(models)
        await models.close()
    assert [received.headers["authorization"] for received in api.received] == ["Bearer sk-old", "Bearer sk-new"]


@pytest.mark.parametrize(
    ("key", "headers", "sent"),
    [
        (None, (), None),
        ("  ", (), None),
        ("sk-cloud", (), "Bearer sk-cloud"),
        (None, (("Authorization", "Basic eA=="),), "Basic eA=="),
    ],
)
async def test_ollama_needs_no_key_and_is_sent_none_that_is_not_there(
    key: str | None, headers: tuple[tuple[str, str], ...], sent: str | None
) -> None:
    async with serving(answer(TURN)) as api:
        models = OpenAiModels(lambda: key, replace(DEFAULTS["ollama"], base_url=api.url))
        assert (await ask(models, replace(ASKED, headers=headers)))[-1] == TURN
        await models.close()
    assert api.received[0].headers.get("authorization") == sent


async def test_azure_is_asked_by_deployments_if_it_has_an_api_version() -> None:
    async with serving(answer(TURN)) as api:
        settings = replace(DEFAULTS["azure-openai"], base_url=f"{api.url}/openai/", api_version="2024-10-21")
        models = OpenAiModels(lambda: KEY, settings)
        assert (await ask(models))[-1] == TURN
        await models.close()
    received = api.received[0]
    assert received.path == "/openai/deployments/gpt-4.1-mini/chat/completions?api-version=2024-10-21"
    assert received.headers["api-key"] == KEY
    assert "authorization" not in received.headers


def test_a_provider_without_an_address_is_a_mistake_of_the_wiring() -> None:
    with pytest.raises(ValueError, match="azure-openai has no base URL"):
        OpenAiModels(lambda: KEY, DEFAULTS["azure-openai"])


async def test_the_key_goes_to_no_host_that_the_operator_did_not_allow() -> None:
    async with serving(answer(TURN)) as api:
        with pytest.raises(PerstackError) as caught:
            await ask(OpenAiModels(lambda: KEY, DEFAULTS["openai"]), replace(ASKED, base_url=api.url))
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "base_url_not_allowed")
    assert api.received == []


@pytest.mark.parametrize(
    "evil",
    [
        *("https://{host}@evil.example", "https://evil.example/{host}", "file://{host}/x"),
        *("https://{host}/v1?key=1", "https://[{host}/", "https://evil.example/v1", "http://127.0.0.1:1/v1"),
    ],
)
async def test_an_allowed_host_elsewhere_in_the_url_does_not_count(evil: str) -> None:
    settings = replace(DEFAULTS["openai"], allowed_hosts=frozenset({"models.example"}))
    with pytest.raises(PerstackError) as caught:
        await ask(OpenAiModels(lambda: KEY, settings), replace(ASKED, base_url=evil.format(host="models.example")))
    assert caught.value.reason == "base_url_not_allowed"


async def test_an_allowed_host_is_asked_at_its_own_address() -> None:
    async with serving(answer(TURN)) as api:
        settings = replace(DEFAULTS["openai"], allowed_hosts=frozenset({api.host}))
        models = OpenAiModels(lambda: KEY, settings)
        *_, turn = await ask(models, replace(ASKED, base_url=f"{api.url}/proxy"))
        await models.close()
    assert turn == TURN
    assert api.received[0].path == "/proxy/v1/chat/completions"


@pytest.mark.parametrize(
    ("dialect", "api_version", "url", "tidy"),
    [
        (Dialect.OPENAI, "", "https://x.example", "https://x.example/v1"),
        (Dialect.OPENAI, "", "https://x.example/v1/", "https://x.example/v1"),
        (Dialect.FIREWORKS, "", "https://x.example/inference", "https://x.example/inference/v1"),
        (Dialect.COMPATIBLE, "", "https://x.example/v1beta/openai/", "https://x.example/v1beta/openai"),
        (Dialect.COMPATIBLE, "", "https://x.example/api/paas/v4", "https://x.example/api/paas/v4"),
        (Dialect.COMPATIBLE, "", "https://x.example/vault", "https://x.example/vault/v1"),
        (Dialect.AZURE, "", "https://x.example", "https://x.example/openai/v1"),
        (Dialect.AZURE, "", "https://x.example/openai", "https://x.example/openai/v1"),
        (Dialect.AZURE, "", "https://x.example/openai/v1/", "https://x.example/openai/v1"),
        (Dialect.AZURE, "2024-10-21", "https://x.example/openai/v1", "https://x.example"),
        (Dialect.AZURE, "2024-10-21", "https://x.example/", "https://x.example"),
    ],
)
def test_a_base_url_may_leave_the_api_version_out(dialect: Dialect, api_version: str, url: str, tidy: str) -> None:
    settings = OpenAiSettings("any", url, "KEY", dialect, api_version=api_version)
    assert tidied(url, settings) == tidy
    assert tidied(tidy, settings) == tidy


async def test_an_image_of_the_history_is_shown_from_the_store() -> None:
    blobs = FakeStore().blobs
    digest = await blobs.put(b"PNG")
    asked = replace(ASKED, messages=(Message(Role.USER, (BlobPart(digest, 3, "image/png"), TextPart("What is it?"))),))
    async with serving(answer(TURN)) as api:
        models = OpenAiModels(lambda: KEY, settings_of(api), blobs)
        await ask(models, asked)
        await models.close()
    assert api.received[0].body["messages"][1]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,UE5H"}},
        {"type": "text", "text": "What is it?"},
    ]


def calling(arguments: str, finish_reason: str = "tool_calls") -> tuple[bytes, ...]:
    """A turn with one call whose arguments are that text."""
    function = {"name": "exec", "arguments": arguments}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return chunk({"tool_calls": [call]}), chunk({}, finish_reason), DONE


@pytest.mark.parametrize(
    "arguments", ['{"command": "ls', "[1]", "5", '"x"', '{"n": NaN}', '{"n": 1e999}', '{"p": "\\ud83d"}', "[" * 10_000]
)
async def test_arguments_that_are_no_object_are_a_broken_stream(arguments: str) -> None:
    error = await failing(Reply(calling(arguments)))
    assert (error.reason, error.retryable) == ("model_stream_broken", True)
    assert "'exec'" in error.message


@pytest.mark.parametrize("arguments", ["", "  ", "{}"])
async def test_a_call_without_arguments_has_an_empty_object(arguments: str) -> None:
    assert (await turn_of(*calling(arguments))).calls == (ToolCallPart("call_1", "exec", {}),)


@pytest.mark.parametrize(
    ("finish_reason", "finish"), [("length", FinishReason.LENGTH), ("content_filter", FinishReason.CONTENT_FILTER)]
)
async def test_a_call_that_was_cut_off_is_a_turn_that_says_so(finish_reason: str, finish: FinishReason) -> None:
    turn = await turn_of(*calling('{"command": "ls', finish_reason))
    assert turn.finish_reason is finish
    assert turn.calls == (ToolCallPart("call_1", "exec", {}),)


@pytest.mark.parametrize(
    ("finish_reason", "finish"),
    [
        ("stop", FinishReason.STOP),
        ("tool_calls", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("a_reason_of_tomorrow", FinishReason.STOP),
    ],
)
async def test_why_a_turn_ended_is_told(finish_reason: str, finish: FinishReason) -> None:
    turn = await turn_of(*FRAMES[:4], chunk({}, finish_reason), DONE)
    assert turn.finish_reason is finish


async def test_a_turn_with_calls_ended_for_them_whatever_the_server_calls_it() -> None:
    assert (await turn_of(*calling("{}", "stop"))).finish_reason is FinishReason.TOOL_CALLS


async def test_a_refusal_is_text_and_ends_as_filtered() -> None:
    turn = await turn_of(chunk({"refusal": "I can't"}), chunk({}, "stop"), DONE)
    assert (turn.text, turn.finish_reason) == ("I can't", FinishReason.CONTENT_FILTER)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_shown_as_such_and_stands_before_the_answer(name: str) -> None:
    frames = (chunk({name: "Hm. "}), chunk({name: "Yes.", "content": None}), *FRAMES[2:])
    async with serving(Reply(frames)) as api:
        models = models_of(api)
        events = await ask(models)
        await models.close()
    assert events[:2] == [ThinkingDelta("Hm. "), ThinkingDelta("Yes.")]
    assert events[-1] == replace(TURN, parts=(ThinkingPart("Hm. Yes."), *TURN.parts))


async def test_what_a_server_says_after_the_end_is_not_waited_for() -> None:
    async with serving(Reply(FRAMES, ending=Ending.HANG)) as api:
        models = models_of(api)
        assert (await ask(models))[-1] == TURN
        await models.close()


async def test_the_sdk_is_loaded_only_when_it_is_asked_for() -> None:
    program = (
        "import sys, anyio\n"
        "from perstackd.adapters.models.openai import OpenAiModels\n"
        "from perstackd.adapters.models.openai_settings import DEFAULTS\n"
        "models = OpenAiModels(lambda: 'k', DEFAULTS['openai'])\n"
        "assert 'openai' not in sys.modules and 'httpx2' not in sys.modules\n"
        "async def main():\n"
        "    await models.warm()\n"
        "    await models.warm()\n"
        "    assert 'openai.resources.chat.completions' in sys.modules\n"
        "    await models.close()\n"
        "anyio.run(main)\n"
        "assert 'anthropic' not in sys.modules\n"
    )
    run = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=100
        )
    )
    assert run.returncode == 0, run.stderr
