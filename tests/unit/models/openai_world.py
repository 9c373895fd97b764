"""The real OpenAI SDK against a server of this process: the request that is made, and the turn that it may answer."""

from collections.abc import Callable
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS, OpenAiSettings
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import FinishReason, Message, ModelEvent, ModelRequest, Role, TextPart, Turn, Usage
from tests.fakes.chat_api import ChatApi, Reply, answer, frames_of, serving

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
