"""What the suites of the models share: what the script says, the requests for it, and providers at loopback."""

import anyio

from perstackd.adapters.models.anthropic import AnthropicModels, AnthropicSettings
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import Dialect, OpenAiSettings, WireApi
from perstackd.domain.messages import (
    FinishReason,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Turn,
    Usage,
)
from perstackd.ports.models import Models
from tests.fakes.messages_api import MessagesApi

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


def anthropic_at(api: MessagesApi) -> Models:
    return AnthropicModels(lambda: KEY, AnthropicSettings(base_url=api.url))


def chat_at(api: MessagesApi) -> Models:
    return OpenAiModels(lambda: KEY, OpenAiSettings("openai", api.url, "OPENAI_API_KEY", Dialect.OPENAI))


def responses_at(api: MessagesApi) -> Models:
    settings = OpenAiSettings("openai", api.url, "OPENAI_API_KEY", Dialect.OPENAI, api=WireApi.RESPONSES)
    return OpenAiModels(lambda: KEY, settings)


async def collect(models: Models, asked: ModelRequest) -> list[ModelEvent]:
    with anyio.fail_after(30):
        return [event async for event in models.stream(asked)]
