"""What every source of turns promises, over the fake, a recording, and the real SDKs against loopback servers; and what
every provider's adapter makes of a server that breaks.
"""

import logging
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import pytest

from perstackd.adapters.models.anthropic import AnthropicModels, AnthropicSettings
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import Dialect, OpenAiSettings, WireApi
from perstackd.adapters.models.recorder import RecordingModels
from perstackd.adapters.models.replay import ReplayModels
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
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
    ToolResultPart,
    ToolSpec,
    Turn,
    Usage,
)
from perstackd.ports.models import Models
from tests.fakes import chat_api, messages_api, responses_api
from tests.fakes.messages_api import Ending, MessagesApi, Reply, answer, scripted, serving
from tests.fakes.models import ScriptedModels

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"
CALLING = Turn(
    (
        ThinkingPart("Let me see what is there.", signature="c2ln"),
        ThinkingPart("", redacted="cmVk"),
        TextPart("I look at the log first."),
        ToolCallPart("call_1", "readTextFile", {"path": "fitness-log.md", "from": 0}),
        ToolCallPart("call_2", "listDirectory", {"path": "."}),
    ),
    FinishReason.TOOL_CALLS,
    Usage(1200, 80, 1000, 30),
    "claude-sonnet-5",
)
SPEAKING = Turn(
    (TextPart("Your log is empty: let us begin. 💪"),), FinishReason.STOP, Usage(1400, 20), "claude-sonnet-5"
)
CUT_OFF = Turn((TextPart("This is a very long"),), FinishReason.LENGTH, Usage(10, 8192), "claude-sonnet-5")
SCRIPT = (CALLING, SPEAKING, CUT_OFF)

TOOLS = (
    ToolSpec("listDirectory", "Lists.", {"type": "object", "properties": {"path": {"type": "string"}}}),
    ToolSpec("readTextFile", "Reads.", {"type": "object", "properties": {"path": {"type": "string"}}}),
)


def request(turns_done: int = 0) -> ModelRequest:
    """The request that the script's next turn answers."""
    messages = [Message(Role.USER, (TextPart("Start today's session"),))]
    for turn in SCRIPT[:turns_done]:
        messages.append(Message(Role.ASSISTANT, turn.parts))
        results = tuple(ToolResultPart(call.call_id, (TextPart("nothing"),)) for call in turn.calls)
        messages.append(Message(Role.TOOL, results) if results else Message(Role.USER, (TextPart("Go on"),)))
    return ModelRequest("anthropic", "claude-sonnet-5", "You are a coach.", TOOLS, tuple(messages), timeout_ms=20_000)


async def scripted_models(stack: AsyncExitStack, tmp_path: Path) -> Models:
    return ScriptedModels({"coach": SCRIPT})


async def replayed_models(stack: AsyncExitStack, tmp_path: Path) -> Models:
    path = tmp_path / "conversation.jsonl"
    recording = RecordingModels(ScriptedModels({"coach": SCRIPT}), path)
    for done in range(len(SCRIPT)):
        await collect(recording, request(done))
    return ReplayModels(path)


async def anthropic_models(stack: AsyncExitStack, tmp_path: Path) -> Models:
    api = await stack.enter_async_context(serving(fallback=scripted({"coach": SCRIPT})))
    return anthropic_at(api)


async def chat_models(stack: AsyncExitStack, tmp_path: Path) -> Models:
    api = await stack.enter_async_context(serving(fallback=chat_api.scripted({"coach": SCRIPT})))
    return chat_at(api)


async def responses_models(stack: AsyncExitStack, tmp_path: Path) -> Models:
    api = await stack.enter_async_context(serving(fallback=responses_api.scripted({"coach": SCRIPT})))
    return responses_at(api)


def anthropic_at(api: MessagesApi) -> Models:
    return AnthropicModels(lambda: KEY, AnthropicSettings(base_url=api.url))


def chat_at(api: MessagesApi) -> Models:
    return OpenAiModels(lambda: KEY, OpenAiSettings("openai", api.url, "OPENAI_API_KEY", Dialect.OPENAI))


def responses_at(api: MessagesApi) -> Models:
    settings = OpenAiSettings("openai", api.url, "OPENAI_API_KEY", Dialect.OPENAI, api=WireApi.RESPONSES)
    return OpenAiModels(lambda: KEY, settings)


def carried(models: Models, turn: Turn) -> Turn:
    """The turn as a source can give it: OpenAI has no signatures of this form, and nothing that is redacted."""
    if not isinstance(models, OpenAiModels):
        return turn
    kept = (replace(part, signature="") if isinstance(part, ThinkingPart) else part for part in turn.parts)
    return replace(turn, parts=tuple(part for part in kept if not isinstance(part, ThinkingPart) or part.text))


@pytest.fixture(
    params=[scripted_models, replayed_models, anthropic_models, chat_models, responses_models],
    ids=["scripted", "replay", "anthropic", "openai-chat", "openai-responses"],
)
async def models(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Models]:
    async with AsyncExitStack() as stack:
        made = await request.param(stack, tmp_path)
        stack.push_async_callback(made.close)
        yield made


async def collect(models: Models, asked: ModelRequest) -> list[ModelEvent]:
    with anyio.fail_after(30):
        return [event async for event in models.stream(asked)]


async def test_a_turn_comes_complete_and_nothing_follows_it(models: Models) -> None:
    *deltas, last = await collect(models, request())
    assert last == carried(models, CALLING)
    assert not any(isinstance(event, Turn) for event in deltas)


async def test_the_deltas_joined_are_the_text_and_the_reasoning_of_the_turn(models: Models) -> None:
    events = await collect(models, request())
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == CALLING.text
    reasoning = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    assert reasoning == "Let me see what is there."
    assert all(event.text for event in events if not isinstance(event, Turn))


async def test_a_conversation_goes_on_turn_by_turn(models: Models) -> None:
    turns = [(await collect(models, request(done)))[-1] for done in range(3)]
    assert turns == [carried(models, turn) for turn in SCRIPT]


async def test_equal_requests_have_equal_turns(models: Models) -> None:
    first, again = await collect(models, request(1)), await collect(models, request(1))
    assert first[-1] == again[-1] == SPEAKING


async def test_calls_at_the_same_time_do_not_mix(models: Models) -> None:
    answers: dict[int, ModelEvent] = {}

    async def ask(done: int) -> None:
        answers[done] = (await collect(models, request(done)))[-1]

    async with anyio.create_task_group() as group:
        for done in range(3):
            group.start_soon(ask, done)
    assert answers == {done: carried(models, turn) for done, turn in enumerate(SCRIPT)}


async def test_a_request_that_nobody_knows_is_an_error_of_the_port(models: Models) -> None:
    odd = replace(request(), messages=(*request(3).messages, Message(Role.USER, (TextPart("And now?"),))))
    with pytest.raises(PerstackError) as caught:
        await collect(models, odd)
    assert (caught.value.kind, caught.value.reason) in {
        (Kind.NOT_FOUND, "no_recorded_turn"),
        (Kind.INVALID, "model_refused_request"),
    }


async def test_a_consumer_may_stop_early(models: Models) -> None:
    stream = models.stream(request())
    async with aclosing(stream) as events:  # type: ignore[type-var]
        async for _ in events:
            break
    assert (await collect(models, request(1)))[-1] == SPEAKING


async def test_closing_twice_is_no_error(models: Models) -> None:
    await collect(models, request())
    await models.close()
    await models.close()


def test_the_scripts_of_this_suite_are_what_the_api_can_say() -> None:
    frames: Sequence[bytes] = answer(CALLING).frames
    assert frames[0].startswith(b"event: message_start")
    assert frames[-1].startswith(b"event: message_stop")
    assert chat_api.answer(CALLING).frames[-1] == chat_api.DONE
    assert responses_api.answer(CALLING).frames[-1].startswith(b"event: response.completed")


# --- how providers break --------------------------------------------------------------------------------------------
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
            await collect(models, replace(FAILING, timeout_ms=400))
        with anyio.fail_after(10):
            await api.caller_left.wait()
        await models.close()
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "model_timeout")
    assert "400 ms" in caught.value.message


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
