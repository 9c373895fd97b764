"""The whole way to a model and back: real daemon, real SDK, and a loopback server that speaks the Messages API."""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, Turn, Usage
from tests.e2e.daemon import Daemon, one
from tests.fakes.messages_api import MessagesApi, Reply, failure, scripted, serving

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

SOLO = '[experts.solo]\ninstruction = "Work."\n'
KEY = "sk-ant-test-0123456789"
WORKING = {
    "You are solo": [
        Turn(
            (TextPart("I look."), ToolCallPart("c1", "listDirectory", {"path": "."})),
            FinishReason.TOOL_CALLS,
            Usage(1000, 20, 900),
        ),
        Turn((TextPart("It is empty."),), FinishReason.STOP, Usage(1100, 10, 1000)),
    ]
}


@asynccontextmanager
async def daemon_of(
    home: Path, *replies: Reply, turns: Mapping[str, Sequence[Turn]] | None = None
) -> AsyncIterator[tuple[Daemon, MessagesApi]]:
    """A daemon whose Anthropic API is a loopback server; an earlier test's state may be there."""
    async with serving(*replies, fallback=scripted(turns or {})) as api:
        settings = {
            "models.anthropic.base_url": f"http://127.0.0.1:{api.port}",
            "models.default_provider": "anthropic",
            "templates.base.min_idle": 1,
            "jobs.max_retries": 1,
        }
        daemon = Daemon(home, settings, real_providers=True, secrets={"ANTHROPIC_API_KEY": KEY})
        await anyio.to_thread.run_sync(daemon.start)
        try:
            yield daemon, api
        finally:
            await anyio.to_thread.run_sync(daemon.stop)


async def run(daemon: Daemon) -> tuple[int, list[dict[str, Any]], str]:
    directory = daemon.definition(SOLO)
    return await anyio.to_thread.run_sync(lambda: daemon.run(directory, "solo"))


async def test_a_job_runs_over_the_real_sdk_and_its_cached_tokens_are_counted(home: Path) -> None:
    async with daemon_of(home, turns=WORKING) as (daemon, api):
        code, events, stderr = await run(daemon)
        assert code == 0, stderr
        usage = one(events, "completeRun")["usage"]
        assert (usage["inputTokens"], usage["cachedInputTokens"]) == (2100, 1900)
        assert one(events, "jobFinished")["answer"] == "It is empty."
        tool_results = api.received[1].body["messages"][-1]["content"]
        assert [block["type"] for block in tool_results] == ["tool_result"]
        assert KEY not in daemon.log()
        for path in (home / "state").rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("reply", "reason", "part"),
    [
        (failure(401, "authentication_error", "invalid x-api-key"), "model_key_refused", "key"),
        (failure(400, "invalid_request_error", "prompt is too long: 300000 tokens"), "context_too_long", "long"),
        (failure(404, "not_found_error", "model: nope"), "model_not_found", "model"),
    ],
    ids=["key refused", "context too long", "unknown model"],
)
async def test_a_models_refusal_is_told_in_one_sentence(home: Path, reply: Reply, reason: str, part: str) -> None:
    async with daemon_of(home, reply) as (daemon, _):
        code, events, stderr = await run(daemon)
    assert code == 1
    assert one(events, "stopRunByError")["reason"] == reason
    assert part in stderr
    assert KEY not in stderr


async def test_an_overloaded_model_is_asked_again(home: Path) -> None:
    busy = failure(529, "overloaded_error", "Overloaded")
    async with daemon_of(home, busy, turns=WORKING) as (daemon, api):
        code, events, stderr = await run(daemon)
        assert code == 0, stderr
        assert one(events, "retry")["reason"] == "model_overloaded"
        assert len(api.received) == 3


async def test_an_unreachable_model_is_told_after_the_retries(home: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    settings = {
        "models.anthropic.base_url": f"http://127.0.0.1:{closed}",
        "models.default_provider": "anthropic",
        "jobs.max_retries": 1,
    }
    daemon = Daemon(home, settings, real_providers=True, secrets={"ANTHROPIC_API_KEY": KEY})
    await anyio.to_thread.run_sync(daemon.start)
    try:
        code, events, stderr = await run(daemon)
    finally:
        await anyio.to_thread.run_sync(daemon.stop)
    assert code == 1
    assert one(events, "stopRunByError")["reason"] == "model_unreachable"
    assert "base URL" in stderr
