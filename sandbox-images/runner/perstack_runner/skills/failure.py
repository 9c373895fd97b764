"""Why a skill's server failed, in a sentence: never the name of a class, which tells whoever reads it nothing."""

from typing import Final

import anyio
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from perstack_runner.log import log
from perstack_runner.tools.outcome import PROCESS_LIMIT

_CLOSED: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ConnectionError)


def reason(error: BaseException) -> str:
    """A sentence about `error`; of a group, about what is most telling in it."""
    match _cause(error):
        case BlockingIOError():
            return f"could not be started: {PROCESS_LIMIT}"
        case FileNotFoundError() as missing:
            return f"{missing.filename or 'its program'}: no such program in the sandbox's image"
        case anyio.BrokenResourceError() | anyio.ClosedResourceError() | anyio.EndOfStream() | ConnectionError():
            return "its server closed the connection"
        case OSError() as refused:
            return f"could not be started: {refused.strerror or 'the system refused it'}"
        case MCPError() as answered:
            return f"its server answered: {answered.message}"
        case ValidationError() as invalid:
            return f"its server's answer is not what the protocol asks for: {_first(invalid)}"
        case ValueError() as unusable if str(unusable):
            return str(unusable)
        case other:
            log(f"a skill's server failed in the runner: {type(other).__name__}")
            return "its server could not be used; the sandbox's log says more"


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
