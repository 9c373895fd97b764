"""What every source of turns promises, over the fake, a recording, and the real SDKs against loopback servers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.recorder import RecordingModels
from perstackd.adapters.models.replay import ReplayModels
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import Message, ModelEvent, Role, TextDelta, TextPart, ThinkingDelta, ThinkingPart, Turn
from perstackd.ports.models import Models
from tests.contracts.model_sources import (
    CALLING,
    SCRIPT,
    SPEAKING,
    anthropic_at,
    chat_at,
    collect,
    request,
    responses_at,
)
from tests.fakes import chat_api, responses_api
from tests.fakes.messages_api import answer, scripted, serving
from tests.fakes.models import ScriptedModels

pytestmark = pytest.mark.anyio


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
