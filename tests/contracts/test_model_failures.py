"""What every provider's adapter makes of a server that breaks, hangs or refuses."""

import logging
import traceback
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import pytest

from perstackd.adapters.models.anthropic import AnthropicModels
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import FinishReason, ModelRequest, Turn
from perstackd.ports.models import Models
from tests.contracts.model_sources import KEY, SPEAKING, anthropic_at, chat_at, collect, request, responses_at
from tests.fakes import chat_api, messages_api, responses_api
from tests.fakes.messages_api import Ending, MessagesApi, Reply, serving

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Wire:
    """A provider's protocol, and how its server says what went wrong."""

    models: Callable[[MessagesApi], Models]
    answer: Callable[[Turn], Reply]
    failure: Callable[..., Reply]
    overload: bytes
    damaged: bytes

    def frames(self, turn: Turn) -> tuple[bytes, ...]:
        return self.answer(turn).frames


def in_frame(event: str, type_: str) -> bytes:
    return messages_api.frame(event, messages_api.error_body(type_, "sorry, we are full"))


WIRES = {
    "anthropic": Wire(
        anthropic_at,
        messages_api.answer,
        messages_api.failure,
        in_frame("error", "overloaded_error"),
        b'event: content_block_delta\ndata: {"type": "content_blo\n\n',
    ),
    "openai-chat": Wire(
        chat_at,
        chat_api.answer,
        chat_api.failure,
        chat_api.frame(chat_api.error_body("server_error", "sorry, we are full", 503)),
        b'data: {"choices": [{"del\n\n',
    ),
    "openai-responses": Wire(
        responses_at,
        responses_api.answer,
        responses_api.failure,
        responses_api.failed("rate_limit_exceeded", "sorry, we are full"),
        b'event: response.output_text.delta\ndata: {"type": "response.out\n\n',
    ),
}
FAILING = replace(request(), timeout_ms=20_000)


@pytest.fixture(params=sorted(WIRES))
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


async def broken(wire: Wire, reply: Reply, asked: ModelRequest = FAILING) -> PerstackError:
    """The error of a reply. A second one is ready, and must not have been asked for."""
    async with serving(reply, wire.answer(SPEAKING)) as api:
        models = wire.models(api)
        with pytest.raises(PerstackError) as caught:
            await collect(models, asked)
        assert len(api.received) == 1
        await models.close()
    return caught.value


@pytest.mark.parametrize(
    ("status", "type_", "kind", "reason"),
    [
        (401, "authentication_error", Kind.DENIED, "model_key_refused"),
        (403, "permission_error", Kind.DENIED, "model_key_refused"),
        (404, "not_found_error", Kind.NOT_FOUND, "model_not_found"),
        (400, "invalid_request_error", Kind.INVALID, "model_refused_request"),
        (413, "request_too_large", Kind.INVALID, "context_too_long"),
        (429, "rate_limit_error", Kind.UNAVAILABLE, "model_overloaded"),
        (529, "overloaded_error", Kind.UNAVAILABLE, "model_overloaded"),
        (503, "server_error", Kind.UNAVAILABLE, "model_overloaded"),
        (504, "timeout_error", Kind.UNAVAILABLE, "model_timeout"),
    ],
)
async def test_a_status_has_one_reason_at_every_provider(
    wire: Wire, status: int, type_: str, kind: Kind, reason: str
) -> None:
    error = await broken(wire, wire.failure(status, type_, "the provider's own words"))
    assert (error.kind, error.reason, error.retryable) == (kind, reason, kind is Kind.UNAVAILABLE)
    assert "claude-sonnet-5" in error.message
    assert "the provider's own words" in error.message


async def test_a_provider_says_in_seconds_when_to_come_back(wire: Wire) -> None:
    error = await broken(wire, wire.failure(429, "rate_limit_error", "slow down", ("retry-after", "7")))
    assert error.fields["retry_after_ms"] == "7000"


async def test_a_provider_says_by_a_date_when_to_come_back(wire: Wire) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    error = await broken(wire, wire.failure(429, "rate_limit_error", "slow down", ("retry-after", date)))
    assert 30_000 < int(error.fields["retry_after_ms"]) <= 90_000


async def test_a_prompt_that_is_too_long_is_told_apart(wire: Wire) -> None:
    said = "prompt is too long: it is beyond the context window"
    error = await broken(wire, wire.failure(400, "invalid_request_error", said))
    assert (error.kind, error.reason) == (Kind.INVALID, "context_too_long")


@pytest.mark.parametrize("kept", [1, 3, -1])
async def test_a_stream_that_is_cut_is_no_turn(wire: Wire, kept: int) -> None:
    error = await broken(wire, Reply(wire.frames(SPEAKING)[:kept], ending=Ending.CUT))
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "model_stream_broken")


@pytest.mark.parametrize("kept", [0, 1, 3, -1])
async def test_a_clean_end_before_the_end_is_no_turn(wire: Wire, kept: int) -> None:
    error = await broken(wire, Reply(wire.frames(SPEAKING)[:kept]))
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "model_stream_broken")


@pytest.mark.parametrize("damage", ["cut-json", "not-utf-8", "no-object"])
async def test_a_damaged_frame_is_no_turn(wire: Wire, damage: str) -> None:
    frames = wire.frames(SPEAKING)
    head = wire.damaged.partition(b"data: ")[0]
    bad = {"cut-json": wire.damaged, "not-utf-8": head + b"data: \xff\xfe\n\n", "no-object": head + b"data: 7\n\n"}
    error = await broken(wire, Reply((*frames[:3], bad[damage], *frames[4:])))
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "model_stream_broken")


async def test_an_error_within_the_stream_is_that_error(wire: Wire) -> None:
    error = await broken(wire, Reply((*wire.frames(SPEAKING)[:3], wire.overload)))
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "model_overloaded")
    assert "sorry, we are full" in error.message


@pytest.mark.parametrize("sent", [0, 3])
async def test_a_model_that_is_silent_for_too_long_is_a_timeout(wire: Wire, sent: int) -> None:
    slow = Reply(wire.frames(SPEAKING)[:sent], ending=Ending.HANG)
    async with serving(slow) as api:
        models = wire.models(api)
        await warmed(models)
        with pytest.raises(PerstackError) as caught:
            await collect(models, replace(FAILING, timeout_ms=1500))
        with anyio.fail_after(10):
            await api.caller_left.wait()
        await models.close()
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "model_timeout")
    assert "1500 ms" in caught.value.message


async def test_a_server_that_is_not_there_is_unreachable(wire: Wire) -> None:
    async with serving() as api:
        models = wire.models(api)
    with pytest.raises(PerstackError) as caught:
        await collect(models, FAILING)
    await models.close()
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "model_unreachable")


@pytest.mark.parametrize("reason", [FinishReason.CONTENT_FILTER, FinishReason.LENGTH])
async def test_a_turn_that_was_stopped_says_why(wire: Wire, reason: FinishReason) -> None:
    stopped = replace(SPEAKING, finish_reason=reason)
    async with serving(wire.answer(stopped)) as api:
        models = wire.models(api)
        assert (await collect(models, FAILING))[-1] == stopped
        await models.close()


async def test_cancelling_hangs_up(wire: Wire) -> None:
    async with serving(Reply(wire.frames(SPEAKING)[:3], ending=Ending.HANG)) as api:
        models = wire.models(api)
        async with anyio.create_task_group() as group:
            group.start_soon(collect, models, FAILING)
            with anyio.fail_after(20):
                await api.hanging.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await api.caller_left.wait()
        await models.close()


async def test_a_consumer_that_stops_early_hangs_up(wire: Wire) -> None:
    frames = wire.frames(SPEAKING)
    async with serving(Reply(frames[:-3], ending=Ending.HANG)) as api:
        models = wire.models(api)
        async with aclosing(models.stream(FAILING)) as events:  # type: ignore[type-var]
            with anyio.fail_after(20):
                async for _ in events:
                    break
        with anyio.fail_after(10):
            await api.caller_left.wait()
        await models.close()


async def test_the_key_is_in_no_error_and_in_no_log(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = f"the key {KEY} is wrong"
    in_the_stream = wire.overload.replace(b"sorry, we are full", body.encode())
    replies = [wire.failure(401, "authentication_error", body), Reply((*wire.frames(SPEAKING)[:3], in_the_stream))]
    for reply in replies:
        error = await broken(wire, reply)
        told = "".join(traceback.format_exception(error))
        assert KEY not in told + error.message + str(error.fields) + repr(error)
        assert "***" in error.message
    assert KEY not in caplog.text


async def warmed(models: Models) -> None:
    """The SDK is loaded, so that a short time-out is about the provider alone."""
    assert isinstance(models, AnthropicModels | OpenAiModels)
    await models.warm()
