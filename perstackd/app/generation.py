"""One model call of a run: the request from the run's state, its pieces to the watchers, its end as a command."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import anyio

from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.domain.assignment import chosen_model
from perstackd.domain.commands import Generated, GenerationFailed
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import StreamPiece
from perstackd.domain.messages import ModelEvent, ModelRequest, TextDelta, ThinkingDelta, Turn
from perstackd.domain.repair import repaired, repaired_turn
from perstackd.domain.run import request_messages
from perstackd.domain.run_state import RunState


def model_request(context: JobContext, plan: RunPlan, state: RunState) -> ModelRequest:
    """All that the next turn depends on."""
    start = state.start
    if start is None:
        raise ValueError("a run that has not started has no request")
    choice = chosen_model(context.model, plan.expert.model, context.definition.model, context.default_model)
    return ModelRequest(
        provider=start.provider,
        model=start.model,
        system=start.system,
        tools=start.tools,
        messages=request_messages(state),
        reasoning=start.reasoning,
        base_url=choice.base_url,
        headers=choice.headers,
        timeout_ms=context.definition.timeout_ms or context.limits.generation_timeout_ms,
        provider_tools=start.provider_tools,
        provider_tool_options=start.provider_tool_options,
        provider_skills=start.provider_skills,
    )


async def generate(
    services: RunServices, context: JobContext, plan: RunPlan, state: RunState
) -> Generated | GenerationFailed:
    """Ask the model for a turn; returns what came of it and raises nothing that a model can cause."""
    pieces = _Pieces(services, context, plan, state.step)
    turn = await ask_model(services, model_request(context, plan, state), pieces)
    return Generated(turn) if isinstance(turn, Turn) else turn


async def ask_model(
    services: RunServices, request: ModelRequest, pieces: "_Pieces | None" = None
) -> Turn | GenerationFailed:
    """One call; `pieces` go to the watchers. Raises nothing that a model can cause."""
    try:
        with anyio.fail_after(request.timeout_ms / 1000):
            turn = await _read(services, request, pieces)
    except TimeoutError:
        message = (
            f"the model did not finish its turn within {request.timeout_ms / 1000:g} s; raise timeout or try again"
        )
        return GenerationFailed("model_timeout", message, retryable=True)
    except PerstackError as error:
        wait = error.fields.get("retry_after_ms", "0")
        return GenerationFailed(error.reason, error.message, error.retryable, int(wait) if wait.isdecimal() else 0)
    if turn is None:
        return GenerationFailed(
            "model_stream_broken", "the model's answer ended before it was complete", retryable=True
        )
    return repaired_turn(turn)


async def _read(services: RunServices, request: ModelRequest, pieces: "_Pieces | None") -> Turn | None:
    """The turn, or None when the stream ended without one. Closing the stream is what ends the provider's call."""
    stream = cast("AsyncGenerator[ModelEvent, None]", services.models.stream(request))
    async with aclosing(stream) as events:
        async for event in events:
            if pieces is not None:
                pieces.heard(event)
            if isinstance(event, Turn):
                return event
    return None


class _Pieces:
    """Numbers the pieces of a turn's texts: one stream of reasoning, one of visible text."""

    def __init__(self, services: RunServices, context: JobContext, plan: RunPlan, step: int) -> None:
        self._log = context.log
        self._origin = plan.origin(step)
        self._clock = services.clock
        self._streams: dict[str, tuple[str, int]] = {}

    def heard(self, event: ModelEvent) -> None:
        match event:
            case TextDelta(text=text):
                self.add("RunResult", text)
            case ThinkingDelta(text=text):
                self.add("Reasoning", text)
            case Turn():
                self.complete()

    def add(self, kind: str, text: str) -> None:
        if kind not in self._streams:
            self._streams[kind] = (self._clock.new_id(), 0)
            self._send(f"startStreaming{kind}", kind, "")
        self._send(f"stream{kind}", kind, text)

    def complete(self) -> None:
        for kind in self._streams:
            self._send(f"completeStreaming{kind}", kind, "")

    def _send(self, event_type: str, kind: str, text: str) -> None:
        delta = repaired(text)
        stream_id, offset = self._streams[kind]
        record = self._log.record
        piece = StreamPiece(record.last_seq, stream_id, offset, event_type, record.id, self._origin, delta)
        self._streams[kind] = (stream_id, offset + len(delta.encode()))
        self._log.stream(piece)
