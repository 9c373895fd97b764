"""Why a skill's server failed, in a sentence: never the name of a class, which tells whoever reads it nothing."""

from typing import Final

import anyio
import httpx2
import mcp_types as mcp
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from perstack_runner.log import log
from perstack_runner.tools.outcome import PROCESS_LIMIT

_CLOSED: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ConnectionError)


def reason(error: BaseException) -> str:
    """A sentence about `error`; of a group, about what is most telling in it."""
    cause = _cause(error)
    match cause:
        case OSError() | anyio.BrokenResourceError() | anyio.ClosedResourceError() | anyio.EndOfStream():
            return _of_process(cause)
        case MCPError(code=mcp.CONNECTION_CLOSED, message="Connection closed"):
            return "its server closed the connection"
        case MCPError() as answered:
            return f"its server answered: {answered.message}"
        case ValidationError() as invalid:
            return f"its server's answer is not what the protocol asks for: {_first(invalid)}"
        case httpx2.HTTPStatusError() as answered if answered.response.is_redirect:
            return "its server redirects to another host, which is not followed; use that address as the endpoint"
        case httpx2.HTTPError() as broken:
            return f"its event stream cannot be used: {str(broken)[:200]}"
        case ValueError() as unusable if str(unusable) and not isinstance(unusable, UnicodeError):
            return str(unusable)
        case other:
            log(f"a skill's server failed in the runner: {type(other).__name__}")
            return "its server could not be used; the sandbox's log says more"


def _of_process(error: BaseException) -> str:
    match error:
        case BlockingIOError():
            return f"could not be started: {PROCESS_LIMIT}"
        case FileNotFoundError() as missing:
            return f"{missing.filename or 'its program'}: no such program in the sandbox's image"
        case OSError() as refused if not isinstance(refused, ConnectionError):
            return f"could not be started: {refused.strerror or 'the system refused it'}"
        case _:
            return "its server closed the connection"


def _cause(error: BaseException) -> BaseException:
    """A connection that closed is mostly what follows from the rest."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(each) for each in error.exceptions]
    return next((cause for cause in causes if not isinstance(cause, _CLOSED)), causes[0])


def _first(error: ValidationError) -> str:
    """Where the first fault is and what it is; without what was there instead, which may be long."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:100]
    return f"{place}: {first['msg'][:200]}" if place else first["msg"][:200]
