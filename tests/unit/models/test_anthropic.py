"""The real SDK against a server that breaks in every way: each is told by its name, none is taken for a turn."""

import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from perstackd.adapters.models.anthropic import AnthropicModels, AnthropicSettings, without_api_version
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    FinishReason,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    TextDelta,
    TextPart,
    ToolCallPart,
    Turn,
    Usage,
)
from tests.fakes.messages_api import Ending, MessagesApi, Reply, answer, error_body, failure, frame, frames_of, serving

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"
TURN = Turn((TextPart("Good morning"),), FinishReason.STOP, Usage(100, 5, 40, 2), "claude-sonnet-5")
FRAMES = tuple(frames_of(TURN))
ASKED = ModelRequest(
    "anthropic", "claude-sonnet-5", "Be kind.", (), (Message(Role.USER, (TextPart("Hello"),)),), timeout_ms=20_000
)


def models_of(api: MessagesApi, key: Callable[[], str | None] = lambda: KEY) -> AnthropicModels:
    return AnthropicModels(key, AnthropicSettings(base_url=f"{api.url}/v1/"))


async def ask(models: AnthropicModels, request: ModelRequest = ASKED) -> list[ModelEvent]:
    with anyio.fail_after(60):
        return [event async for event in models.stream(request)]


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
    assert received.path == "/v1/messages"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["x-team"] == "blue"
    assert received.body["stream"] is True
    assert received.body["model"] == "claude-sonnet-5"


async def test_input_counts_what_came_from_the_cache_and_what_went_into_it() -> None:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 20}
    async with serving(Reply(tuple(frames_of(TURN, usage)))) as api:
        models = models_of(api)
        *_, turn = await ask(models)
        await models.close()
    assert isinstance(turn, Turn)
    assert turn.usage == Usage(100, 5, 70, 2, 20)


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        (failure(401, "authentication_error", "invalid x-api-key"), Kind.DENIED, "model_key_refused"),
        (failure(403, "permission_error", "no access"), Kind.DENIED, "model_key_refused"),
        (failure(402, "billing_error", "no credit"), Kind.DENIED, "model_key_refused"),
        (failure(404, "not_found_error", "model: claude-nope"), Kind.NOT_FOUND, "model_not_found"),
        (
            failure(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
            Kind.INVALID,
            "context_too_long",
        ),
        (failure(413, "request_too_large", "Request exceeds the maximum size"), Kind.INVALID, "context_too_long"),
        (failure(400, "invalid_request_error", "tools.0: bad"), Kind.INVALID, "model_refused_request"),
        (failure(429, "rate_limit_error", "slow down"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(529, "overloaded_error", "Overloaded"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(500, "api_error", "Internal server error"), Kind.UNAVAILABLE, "model_overloaded"),
        (failure(504, "timeout_error", "took too long"), Kind.UNAVAILABLE, "model_timeout"),
        (Reply((b"<html>bad gateway</html>",), 502, content_type="text/html"), Kind.UNAVAILABLE, "model_overloaded"),
        (Reply(status=307, headers=(("location", "https://evil.example/"),)), Kind.INVALID, "model_refused_request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_status_is_told_by_its_reason(reply: Reply, kind: Kind, reason: str) -> None:
    error = await failing(reply)
    assert (error.kind, error.reason) == (kind, reason)
    assert error.retryable is (kind is Kind.UNAVAILABLE)


async def test_the_providers_own_words_are_in_the_message() -> None:
    error = await failing(failure(400, "invalid_request_error", "tools.0.input_schema: bad"))
    assert "tools.0.input_schema: bad" in error.message
    assert "'claude-sonnet-5'" in error.message


async def test_the_key_is_never_in_an_error_even_if_the_provider_repeats_it() -> None:
    error = await failing(failure(401, "authentication_error", f"invalid x-api-key {KEY}"))
    assert KEY not in error.message
    assert KEY not in str(error.fields)
    assert "***" in error.message


@pytest.mark.parametrize(
    ("header", "milliseconds"),
    [(("retry-after", "7"), "7000"), (("retry-after-ms", "250"), "250"), (("retry-after", "999999"), "3600000")],
)
async def test_when_to_come_back_is_a_field(header: tuple[str, str], milliseconds: str) -> None:
    error = await failing(failure(429, "rate_limit_error", "slow down", header))
    assert error.fields["retry_after_ms"] == milliseconds


async def test_without_a_hint_there_is_no_such_field() -> None:
    assert "retry_after_ms" not in (await failing(failure(529, "overloaded_error", "Overloaded"))).fields


def in_stream(type_: str) -> Reply:
    return Reply((*FRAMES[:4], f"event: error\ndata: {json.dumps(error_body(type_, 'sorry'))}\n\n".encode()))


NO_STOP = FRAMES[:-1]
DAMAGED = (*FRAMES[:3], b'event: content_block_delta\ndata: {"type": "content_blo\n\n', *FRAMES[4:])
NOT_UTF8 = (*FRAMES[:3], b"event: content_block_delta\ndata: \xff\xfe\n\n", *FRAMES[4:])
UNKNOWN_BLOCK = (
    *FRAMES[:2],
    frame("content_block_delta", {"index": 7, "delta": {"type": "text_delta", "text": "x"}}),
    *FRAMES[2:],
)
FIELDLESS = (frame("message_start", {}), *FRAMES[1:])
OPEN_BLOCK = tuple(each for each in FRAMES if b"content_block_stop" not in each)
NO_REASON = tuple(each for each in FRAMES if b"event: message_delta" not in each)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (in_stream("overloaded_error"), "model_overloaded"),
        (in_stream("api_error"), "model_stream_broken"),
        (in_stream("rate_limit_error"), "model_overloaded"),
        (in_stream("something_new"), "model_stream_broken"),
        (Reply(FRAMES[:4], ending=Ending.CUT), "model_stream_broken"),
        (Reply(NO_STOP, ending=Ending.CUT), "model_stream_broken"),
        (Reply(NO_STOP), "model_stream_broken"),
        (Reply(()), "model_stream_broken"),
        (Reply(DAMAGED), "model_stream_broken"),
        (Reply(NOT_UTF8), "model_stream_broken"),
        (Reply(UNKNOWN_BLOCK), "model_stream_broken"),
        (Reply(FIELDLESS), "model_stream_broken"),
        (Reply(OPEN_BLOCK), "model_stream_broken"),
        (Reply(NO_REASON), "model_stream_broken"),
        (Reply((b"event: error\ndata: not json\n\n",)), "model_stream_broken"),
    ],
    ids=[
        *("overloaded", "api-error", "rate-limit", "new-error", "cut", "cut-at-the-end", "clean-end", "empty"),
        *("damaged", "not-utf8", "unknown-block", "fieldless", "open-block", "no-reason", "error-not-json"),
    ],
)
async def test_a_stream_that_breaks_is_no_turn_and_may_be_tried_again(reply: Reply, reason: str) -> None:
    error = await failing(reply)
    assert (error.kind, error.reason, error.retryable) == (Kind.UNAVAILABLE, reason, True)


async def test_deltas_before_a_break_were_shown_and_no_turn_follows() -> None:
    seen: list[ModelEvent] = []
    async with serving(Reply(FRAMES[:4], ending=Ending.CUT)) as api:
        models = models_of(api)

        async def watch() -> None:
            async for event in models.stream(ASKED):
                seen.append(event)

        with anyio.fail_after(30), pytest.raises(PerstackError):
            await watch()
        await models.close()
    assert seen == [TextDelta("Good m")]


@pytest.mark.parametrize("frames", [(), FRAMES[:4]], ids=["silent", "midway"])
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


async def test_cancelling_ends_the_providers_call() -> None:
    async with serving(Reply(FRAMES[:4], ending=Ending.HANG)) as api:
        models = models_of(api)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, models)
                await api.hanging.wait()
                group.cancel_scope.cancel()
            await api.caller_left.wait()
        await models.close()


async def test_closing_the_iterator_ends_the_providers_call() -> None:
    async with serving(Reply(FRAMES[:4], ending=Ending.HANG)) as api:
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
    assert "ANTHROPIC_API_KEY" in caught.value.message
    assert api.received == []


async def test_a_new_key_is_used_from_the_next_call_on() -> None:
    keys = iter(["sk-old", "sk-new"])
    async with serving(answer(TURN), answer(TURN)) as api:
        models = models_of(api, lambda: next(keys))
        await ask(models)
        await ask(models)
        await models.close()
    assert [received.headers["authorization"] for received in api.received] == ["Bearer sk-old", "Bearer sk-new"]


async def test_the_key_goes_to_no_host_that_the_operator_did_not_allow() -> None:
    async with serving(answer(TURN)) as api:
        with pytest.raises(PerstackError) as caught:
            await ask(AnthropicModels(lambda: KEY), replace(ASKED, base_url=api.url))
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "base_url_not_allowed")
    assert api.received == []


@pytest.mark.parametrize("evil", ["https://{host}@evil.example", "https://evil.example/{host}", "file://{host}/x"])
async def test_an_allowed_host_elsewhere_in_the_url_does_not_count(evil: str) -> None:
    models = AnthropicModels(lambda: KEY, AnthropicSettings(allowed_hosts=frozenset({"models.example"})))
    with pytest.raises(PerstackError) as caught:
        await ask(models, replace(ASKED, base_url=evil.format(host="models.example")))
    assert caught.value.reason == "base_url_not_allowed"


async def test_an_allowed_host_is_asked_at_its_own_address() -> None:
    async with serving(answer(TURN)) as api:
        models = AnthropicModels(lambda: KEY, AnthropicSettings(allowed_hosts=frozenset({api.host})))
        *_, turn = await ask(models, replace(ASKED, base_url=f"{api.url}/proxy/v1"))
        await models.close()
    assert turn == TURN
    assert api.received[0].path == "/proxy/v1/messages"


@pytest.mark.parametrize(
    "url", ["https://x.example", "https://x.example/", "https://x.example/v1", "https://x.example/v1/"]
)
def test_a_base_url_may_end_in_the_api_version(url: str) -> None:
    assert without_api_version(url) == "https://x.example"


def call_frames(arguments: str, stop_reason: str) -> tuple[bytes, ...]:
    """A turn with one call whose arguments are that text."""
    block = {"type": "tool_use", "id": "call_1", "name": "exec", "input": {}}
    return (
        FRAMES[0],
        frame("content_block_start", {"index": 0, "content_block": block}),
        frame("content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": arguments}}),
        frame("content_block_stop", {"index": 0}),
        frame("message_delta", {"delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 9}}),
        frame("message_stop", {}),
    )


@pytest.mark.parametrize("arguments", ['{"command": "ls', "[1]", "5", '"x"'])
async def test_arguments_that_are_no_object_are_a_broken_stream(arguments: str) -> None:
    assert (await failing(Reply(call_frames(arguments, "tool_use")))).reason == "model_stream_broken"


async def test_a_call_that_the_bound_cut_off_is_a_turn_that_says_so() -> None:
    async with serving(Reply(call_frames('{"command": "ls', "max_tokens"))) as api:
        models = models_of(api)
        *_, turn = await ask(models)
        await models.close()
    assert isinstance(turn, Turn)
    assert turn.finish_reason is FinishReason.LENGTH
    assert turn.calls == (ToolCallPart("call_1", "exec", {}),)


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("a_reason_of_tomorrow", FinishReason.STOP),
    ],
)
async def test_why_a_turn_ended_is_told(stop_reason: str, finish: FinishReason) -> None:
    frames = (
        *FRAMES[:-2],
        frame("message_delta", {"delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 1}}),
        FRAMES[-1],
    )
    async with serving(Reply(frames)) as api:
        models = models_of(api)
        *_, turn = await ask(models)
        await models.close()
    assert isinstance(turn, Turn)
    assert turn.finish_reason is finish


async def test_what_comes_after_the_end_is_not_waited_for() -> None:
    async with serving(Reply(FRAMES, ending=Ending.HANG)) as api:
        models = models_of(api)
        assert (await ask(models))[-1] == TURN
        await models.close()
