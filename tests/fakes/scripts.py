"""Models for a daemon in a process of its own: each expert's turns are in a file that the test writes.

`{"turns": [{"text": ..., "calls": [{"id", "name", "arguments"}], "delay": seconds}]}` in DIRECTORY/EXPERT.json. The
turn that is played is
told by the number of assistant messages in the history, so that the same request gets the same turn.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    FinishReason,
    ModelEvent,
    ModelRequest,
    Role,
    TextDelta,
    TextPart,
    ToolCallPart,
    Turn,
    Usage,
)
from perstackd.domain.prompt import expert_of


class FileScripts:
    """Implements `Models` over a directory of scripts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        expert = expert_of(request.system)
        place = sum(message.role is Role.ASSISTANT for message in request.messages)
        turns = await anyio.to_thread.run_sync(self._turns, expert)
        if place >= len(turns):
            raise PerstackError(Kind.NOT_FOUND, "no_recorded_turn", f"the script of {expert} has no turn {place + 1}")
        await anyio.sleep(turns[place].get("delay", 0))
        turn = _turn(turns[place])
        if turn.text:
            yield TextDelta(turn.text)
        yield turn

    async def close(self) -> None:
        return None

    def _turns(self, expert: str) -> list[dict[str, Any]]:
        return list(json.loads((self._directory / f"{expert}.json").read_text())["turns"])


def _turn(turn: dict[str, Any]) -> Turn:
    calls = [ToolCallPart(call["id"], call["name"], call.get("arguments", {})) for call in turn.get("calls", [])]
    text = [TextPart(turn["text"])] if turn.get("text") else []
    return Turn((*text, *calls), FinishReason.TOOL_CALLS if calls else FinishReason.STOP, Usage(100, 10))
