"""One call of a tool of a server: the request, what it asks for meanwhile, its result."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import mcp_types as mcp
from mcp.client import ClientRequestContext, ClientSession
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter

from perstack_runner.messages import Part
from perstack_runner.skills.content import result_parts, size

MAX_ROUNDS: Final = 10
ROUND_SECONDS: Final = 0.25
_APART_BYTES: Final = 256 << 10
_RESULT: Final[TypeAdapter[mcp.CallToolResult | mcp.InputRequiredResult]] = TypeAdapter(
    mcp.CallToolResult | mcp.InputRequiredResult
)


class Answer(NamedTuple):
    """What a tool of a server gave back."""

    parts: tuple[Part, ...]
    is_error: bool


async def call_tool(
    session: ClientSession, tool: str, arguments: dict[str, object], show: Callable[[str], None]
) -> Answer:
    """Call it, however long it takes; cancelling cancels it at the server. Progress goes to `show`, a line each.

    A server of the newer protocol answers with what it has to know first, and is called again with that, 10 times.

    Raises:
        MCPError: it answered with an error, or the connection is gone.
        ValueError, RuntimeError: its answer is not what the protocol asks for.
    """

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        of = f" of {total:g}" if total is not None else ""
        show((message or f"{progress:g}{of}") + "\n")

    params = mcp.CallToolRequestParams(name=tool, arguments=arguments)
    for _ in range(MAX_ROUNDS):
        # Not call_tool(): it checks the result against the server's own schema, an expression of hostile origin.
        result = await session.send_request(mcp.CallToolRequest(params=params), _RESULT, progress_callback=on_progress)
        if isinstance(result, mcp.CallToolResult):
            parts = (
                result_parts(result) if size(result) < _APART_BYTES else await asyncio.to_thread(result_parts, result)
            )
            return Answer(parts, result.is_error)
        params = await _with_input(session, params, result)
    raise ValueError(f"its server asked for more input {MAX_ROUNDS} times")


async def _with_input(
    session: ClientSession, params: mcp.CallToolRequestParams, wanted: mcp.InputRequiredResult
) -> mcp.CallToolRequestParams:
    answers: mcp.InputResponses = {}
    for key, request in (wanted.input_requests or {}).items():
        context = ClientRequestContext(session=session, request_id=key)
        answer = await session.dispatch_input_request(context, request)
        if isinstance(answer, mcp.ErrorData):
            raise MCPError.from_error_data(answer)
        answers[key] = answer
    if not answers:
        await asyncio.sleep(ROUND_SECONDS)
    return params.model_copy(update={"input_responses": answers or None, "request_state": wanted.request_state})
