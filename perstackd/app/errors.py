"""Errors of task groups, for callers that think of one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def single_errors() -> AsyncIterator[None]:
    """Raise the first error of an exception group instead of the group; the others are its context."""
    try:
        yield
    except ExceptionGroup as group:
        first: Exception = group
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from group
