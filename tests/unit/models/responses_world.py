"""OpenAI's Responses API at a server of this process: the request, turns that it may answer, and what was sent."""

from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from perstackd.adapters.models import provider_document
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_responses_request import response_arguments
from perstackd.adapters.models.openai_settings import DEFAULTS, OpenAiSettings, WireApi
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import (
    FinishReason,
    JsonObject,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolSpec,
    Turn,
    Usage,
)
from tests.fakes.responses_api import Reply, ResponsesApi, frames_of, serving

KEY = "sk-test-0123456789"
SETTINGS = replace(DEFAULTS["openai"], api=WireApi.RESPONSES)
TOOLS = (ToolSpec("exec", "Runs.", {"properties": {"command": {"type": "string"}}}), ToolSpec("todo", "Notes.", {}))
ASKED = ModelRequest(
    "openai", "gpt-5.6-sol", "Be kind.", TOOLS, (Message(Role.USER, (TextPart("Hello"),)),), "high", timeout_ms=20_000
)
CALLING = Turn(
    (
        ThinkingPart("**Plan**", "rs_1", provider="openai"),
        ThinkingPart("\n\nLook first.", "rs_1", "gAAAAencrypted", provider="openai"),
        TextPart("I look.", provider="openai", document='{"phase":"commentary"}'),
        ToolCallPart("call_1", "exec", {"command": "ls"}),
        ToolCallPart("call_2", "todo", {}),
    ),
    FinishReason.TOOL_CALLS,
    Usage(1200, 80, 1000, 30, 100),
    "gpt-5.6-sol-2026-07-09",
)
SAID = Turn((TextPart("Good morning"),), FinishReason.STOP, Usage(100, 5, 40, 2), "gpt-5.6-sol")
FRAMES = tuple(frames_of(SAID))


def document(**values: object) -> str:
    return provider_document.canonical(cast("JsonObject", values))


def models_of(api: ResponsesApi, settings: OpenAiSettings = SETTINGS) -> OpenAiModels:
    return OpenAiModels(lambda: KEY, replace(settings, base_url=api.url))


async def ask(models: OpenAiModels, request: ModelRequest = ASKED) -> list[ModelEvent]:
    with anyio.fail_after(60):
        return [event async for event in models.stream(request)]


async def exchange(*replies: Reply, request: ModelRequest = ASKED) -> tuple[list[ModelEvent], list[dict[str, Any]]]:
    """The events, and the bodies that the server got."""
    async with serving(*replies) as api:
        models = models_of(api)
        try:
            events = await ask(models, request)
        finally:
            await models.close()
    assert all(received.path == "/v1/responses" for received in api.received)
    return events, [received.body for received in api.received]


async def failing(reply: Reply) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await exchange(reply)
    return caught.value


def sent(*messages: Message, request: ModelRequest = ASKED, blobs: dict[str, str] | None = None) -> dict[str, Any]:
    asked = replace(request, messages=(*request.messages, *messages))
    return cast("dict[str, Any]", response_arguments(asked, SETTINGS, blobs or {}, summaries=True))
