"""The real SDK against a server that answers: the turn as it was said, its end, and calls that are given up."""

import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    Message,
    Role,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    Usage,
)
from tests.fakes.chat_api import DONE, Ending, Reply, answer, chunk, frames_of, serving
from tests.fakes.store import FakeStore
from tests.unit.models.openai_world import ASKED, FRAMES, KEY, TURN, ask, failing, models_of, settings_of, turn_of

pytestmark = pytest.mark.anyio


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
