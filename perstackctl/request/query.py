"""The query of a job: an argument, or standard input."""

import sys
from typing import BinaryIO, Final

from perstackctl.client.errors import InvalidError
from perstackctl.request.text_file import decoded

MAX_BYTES: Final = 1 << 20


def read_query(argument: str | None, stdin: BinaryIO | None = None) -> str:
    """The argument; or standard input for `-`, and when there is no argument and it is not a terminal.

    Raises:
        InvalidError: none given, empty, over 1 MiB, not UTF-8.
    """
    source = stdin if stdin is not None else sys.stdin.buffer
    if argument is None and source.isatty():
        raise InvalidError(
            "there is no query: give it as the last argument, pipe it in, or use perstackctl start to be asked",
            reason="query_missing",
        )
    query = decoded(source, MAX_BYTES, "the query on standard input") if argument in {None, "-"} else argument
    return checked(query or "")


def checked(query: str) -> str:
    """The query, when it can be sent.

    Raises:
        InvalidError: empty, over 1 MiB, not UTF-8.
    """
    if not query.strip():
        raise InvalidError("the query is empty; say what the expert shall do", reason="query_missing")
    try:
        size = len(query.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidError(
            f"the query is not UTF-8: character {error.start} is byte 0x{ord(query[error.start]) & 0xFF:02x}; "
            "is your terminal's locale right?",
            reason="not_utf8",
        ) from None
    if size > MAX_BYTES:
        raise InvalidError(
            f"the query is {size:,} bytes, {MAX_BYTES:,} (1 MiB) are allowed; put it into a file of the workspace "
            "and name the file in the query",
            reason="too_large",
        )
    return query
