"""What a base tool gives back, and how it fails."""

import errno
from typing import Any, Final, NamedTuple

from perstack_runner.messages import Blob

JsonObject = dict[str, Any]


class Outcome(NamedTuple):
    """A result as a JSON object, and bytes that go with it."""

    value: JsonObject
    attachment: Blob | None = None
    is_error: bool = False


class ToolFailure(Exception):  # noqa: N818 - it is an answer for the model, not a fault of the program
    """A tool that could not do it: a stable name, and a message that says what to do."""

    def __init__(self, name: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.more = more

    def outcome(self) -> Outcome:
        """The error form of a result."""
        return Outcome({"error": self.name, "message": self.message, **self.more}, is_error=True)


PROCESS_LIMIT: Final = (
    "process limit reached: the sandbox has as many processes and threads as it may; "
    "end some, or do fewer things at once"
)
_BY_ERRNO: Final = {
    errno.ENOENT: ("not_found", "there is nothing at this path"),
    errno.ENOTDIR: ("not_a_directory", "a part of this path is not a directory"),
    errno.EISDIR: ("is_a_directory", "this is a directory; use listDirectory"),
    errno.EEXIST: ("already_exists", "something is already at this path"),
    errno.ENOTEMPTY: ("not_empty", "the directory is not empty; pass recursive"),
    errno.EACCES: ("permission_denied", "this may not be accessed"),
    errno.EPERM: ("permission_denied", "this may not be done"),
    errno.EROFS: ("read_only", "the workspace is read-only for this expert"),
    errno.ENOSPC: ("no_space", "the workspace is full; delete something first"),
    errno.EDQUOT: ("no_space", "the workspace's quota is used up; delete something first"),
    errno.ENXIO: ("not_a_file", "this is not a regular file"),
    errno.ELOOP: ("path_changed", "the path changed while it was used, or has too many links; try again"),
    errno.ENAMETOOLONG: ("invalid_path", "the path is too long"),
    errno.EMFILE: ("too_many_files", "the sandbox has too many open files; do fewer things at once"),
    errno.ENOMEM: ("no_memory", "the sandbox is out of memory; end processes first"),
    errno.EAGAIN: ("process_limit_reached", PROCESS_LIMIT),
    errno.EXDEV: ("cross_device", "source and destination are on different file systems; copy it with exec"),
}


def from_os_error(error: OSError, shown: str = "") -> ToolFailure:
    """The failure that a model can act on; `shown` is the path as the model gave it."""
    name, text = _BY_ERRNO.get(error.errno or 0, ("io_error", error.strerror or "the operation failed"))
    return ToolFailure(name, f"{shown}: {text}" if shown else text)
