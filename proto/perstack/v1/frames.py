"""Frames of the link into a sandbox: four bytes that say how many follow, big-endian, then a message of runner.proto.

Written by hand, beside what is generated, because both ends must agree on it.
"""

import struct
from asyncio import IncompleteReadError, StreamReader
from typing import Final, Protocol

LENGTH: Final = struct.Struct(">I")


class Message(Protocol):
    """What a frame is made of: any protobuf message."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class FrameTooLargeError(ValueError):
    """A frame says that more follows than the reader takes. `size` is what it says, in bytes."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"a message of {size} bytes; {most} are taken")
        self.size = size


def frame(message: Message) -> bytes:
    """The message as it goes over the socket."""
    body = message.SerializeToString()
    return LENGTH.pack(len(body)) + body


async def read_frame(reader: StreamReader, most: int) -> bytes | None:
    """The next message's bytes, None at the end of the stream, also within a frame. Raises FrameTooLargeError before
    anything of a frame over `most` bytes is read.
    """
    try:
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if size > most:
            raise FrameTooLargeError(size, most)
        return await reader.readexactly(size)
    except (IncompleteReadError, OSError):
        return None
