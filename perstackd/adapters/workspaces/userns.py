"""User namespaces for idmapped mounts, made by the helper program and kept by descriptor.

Above: `HostWorkspaces`. Below: `userns_helper`, a process of its own, because the daemon must not fork.
"""

import os
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces.userns_helper import REPLY, REQUEST
from perstackd.domain.errors import Kind, PerstackError

MIN_OWNER: Final = 1000
_PROGRAM: Final = str(Path(__file__).with_name("userns_helper.py"))
_CACHED: Final = 512
_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose files a workspace holds on the host: `uid`, and the group `gid` of what is made inside.

    `foreign_gid` is the directory's own group where that is a privileged one: shown, but never the sandbox's.
    """

    uid: int
    gid: int
    foreign_gid: int

    @classmethod
    def of(cls, uid: int, gid: int) -> "Owner":
        """The owner of a directory that belongs to `uid` and `gid`."""
        return cls(uid, gid if gid >= MIN_OWNER else uid, gid)


class UserNamespaces:
    """The helper and a bounded cache of what it made.

    `start` comes before the event loop and in the main thread (the helper dies with the thread that made it); `get`
    blocks, at most 5 s per question, and is safe from several threads.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[Owner, int], int] = OrderedDict()
        self._link: socket.socket | None = None
        self._helper: subprocess.Popen[bytes] | None = None
        self._number = 0

    def start(self) -> None:
        """Start the helper. Calling it again while it runs does nothing."""
        if self._helper is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_TIMEOUT)
        with theirs:
            command = [sys.executable, "-I", "-S", _PROGRAM, str(theirs.fileno()), str(os.getpid())]
            self._helper = subprocess.Popen(  # noqa: S603 - a constant program of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={},
                cwd="/",
            )
        self._link = ours

    def close(self) -> None:
        """End the helper and close every descriptor. Idempotent."""
        with self._lock:
            while self._cache:
                os.close(self._cache.popitem()[1])
            if self._link is not None:
                self._link.close()
                self._link = None
            if self._helper is not None:
                self._helper.kill()
                self._helper.wait(_TIMEOUT)
                self._helper = None

    def get(self, owner: Owner, shown_as: int) -> int:
        """A descriptor of the namespace that shows files of `owner` as `shown_as`; the caller closes it.

        Raises:
            PerstackError: DENIED `workspace_owner_refused`; UNAVAILABLE `userns_unavailable`.
        """
        self._refuse(owner, shown_as)
        with self._lock:
            key = (owner, shown_as)
            if key not in self._cache:
                self._cache[key] = self._ask(owner, shown_as)
            self._cache.move_to_end(key)
            while len(self._cache) > _CACHED:
                os.close(self._cache.popitem(last=False)[1])
            return os.dup(self._cache[key])

    def _refuse(self, owner: Owner, shown_as: int) -> None:
        """The last line: whoever asks, a privileged id and the spare one are never somebody's files."""
        if min(owner.uid, owner.gid, shown_as) < MIN_OWNER or self._spare in (owner.uid, owner.gid, shown_as):
            raise PerstackError(
                Kind.DENIED,
                "workspace_owner_refused",
                f"files of {owner.uid}:{owner.gid} cannot be shown as uid {shown_as}: ids below {MIN_OWNER} and "
                f"the spare id {self._spare} are never mapped; give the directory to another owner",
            )

    def _ask(self, owner: Owner, shown_as: int) -> int:
        if self._link is None:
            raise _unavailable("the user namespace helper was not started")
        self._number += 1
        try:
            self._link.send(REQUEST.pack(self._number, owner.uid, owner.gid, owner.foreign_gid, shown_as, self._spare))
            while True:
                number, code, stage, rights = self._reply(self._link)
                if number == self._number:
                    break
                _close(rights)  # the answer to a question that timed out
        except OSError as error:
            raise _unavailable(
                f"the user namespace helper did not answer: {error}; restart perstackd if it has ended"
            ) from error
        if code or len(rights) != 1:
            _close(rights)
            raise _unavailable(
                f"no user namespace could be made ({stage}): {os.strerror(code)}; see user.max_user_namespaces"
            )
        return rights[0]

    @staticmethod
    def _reply(link: socket.socket) -> tuple[int, int, str, list[int]]:
        reply, rights, _, _ = socket.recv_fds(link, REPLY.size, 4, socket.MSG_CMSG_CLOEXEC)
        if len(reply) != REPLY.size:
            _close(rights)
            raise ConnectionError("it closed the link")
        number, code, stage = REPLY.unpack(reply)
        return number, code, stage.rstrip(b"\0").decode(), rights


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _unavailable(message: str) -> PerstackError:
    return PerstackError(Kind.UNAVAILABLE, "userns_unavailable", message, retryable=True)
