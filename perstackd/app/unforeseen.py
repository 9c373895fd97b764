"""Errors that nobody foresaw: where they came from goes to the log, a log id to the caller, their text to nobody.

An exception's text may hold anything, also a secret, and a printed traceback reads source files on the loop.
"""

from typing import NamedTuple

import structlog

from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.ports.clock import Clock

_log = structlog.get_logger()


class Told(NamedTuple):
    """What a caller may know."""

    log_id: str
    message: str


def unforeseen(clock: Clock, error: Exception, **about: str) -> Told:
    """Log the error with its place and `about`."""
    log_id = clock.new_id()
    _log.error("unforeseen error", log_id=log_id, error=_places(error), **about)
    return Told(log_id, f"an internal error; the daemon's log has it under {log_id}")


def _places(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(_places(each) for each in error.exceptions)
    return place_of(error)
