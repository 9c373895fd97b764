"""A program with one purpose: it makes user namespaces for idmapped mounts, so that the daemon never forks.

Started by `userns.UserNamespaces` by file path with `python -I -S`, standard library only. It speaks over an inherited
SOCK_SEQPACKET socket. A request is (number, uid, gid, foreign gid, shown as, spare); a reply is (number, errno, stage)
with the namespace's descriptor by SCM_RIGHTS when errno is 0. It ends with its parent and at the end of the socket.

A namespace needs a process while its maps are written. A few such children are kept ready, because making one costs
ten times as much as writing its maps.
"""

import array
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NoReturn

REQUEST: Final = struct.Struct("=QIIIII")
REPLY: Final = struct.Struct("=Qi16s")

_READY: Final = 4
_CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
# linux/capability.h
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7
_CAP_SYS_ADMIN: Final = 21
_CAP_SETFCAP: Final = 31

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _needed() -> int:
    """Capabilities to keep: to write a map that shows a file as uid 0 (user_namespaces(7)), nothing else.

    Two distributions tie the making of user namespaces to CAP_SYS_ADMIN by a sysctl of their own.
    """
    keep = 1 << _CAP_SETUID | 1 << _CAP_SETGID | 1 << _CAP_SETFCAP
    for name, restricting in (("unprivileged_userns_clone", "0"), ("apparmor_restrict_unprivileged_userns", "1")):
        with contextlib.suppress(FileNotFoundError):
            if Path("/proc/sys/kernel", name).read_text().strip() == restricting:
                keep |= 1 << _CAP_SYS_ADMIN
    return keep


def drop_privileges() -> None:
    """Keep only the capabilities of `_needed`, in every set, for good."""
    keep = _needed()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if not keep >> capability & 1:
            _checked(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl PR_CAPBSET_DROP")
    low, high = keep & 0xFFFFFFFF, keep >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)), "capset")
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS")


class Child:
    """A process in a fresh user namespace, with its maps and the namespace opened: looking them up is the slow part."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.maps: list[int] = []
        self.namespace = -1
        try:
            for name in ("uid_map", "gid_map"):
                self.maps.append(os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC))
            self.namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.end()
            raise

    def write_maps(self, owner: tuple[int, int, int], shown_as: int, spare: int) -> None:
        """Show `owner` (uid, gid, foreign gid) as `shown_as` and `spare` as 0; once per child.

        A foreign gid that differs from gid is shown as `spare`, a group that nobody inside has: the kernel lets nobody
        write to a file whose group has no place in the map.
        """
        uid, gid, foreign = owner
        groups = f"{gid} {shown_as} 1\n{spare} 0 1\n" + (f"{foreign} {spare} 1\n" if foreign != gid else "")
        for descriptor, lines in zip(self.maps, (f"{uid} {shown_as} 1\n{spare} 0 1\n", groups), strict=True):
            os.write(descriptor, lines.encode())

    def end(self) -> None:
        """Kill, reap and close."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for descriptor in (*self.maps, self.namespace):
            if descriptor >= 0:
                os.close(descriptor)


class Nursery:
    """Children that sit in a fresh user namespace each and wait for the end of a pipe that only this process holds."""

    def __init__(self) -> None:
        self._ready: list[Child] = []
        self._life = os.pipe()

    def refill(self) -> bool:
        """Make one child unless there are enough. Returns whether it made one."""
        if len(self._ready) >= _READY:
            return False
        self._ready.append(self._child())
        return True

    def take(self) -> Child:
        """A child whose maps are not written. The caller ends it."""
        return self._ready.pop() if self._ready else self._child()

    def _child(self) -> Child:
        said, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._wait_for_end(says)
        os.close(says)
        answer = os.read(said, 4)
        os.close(said)
        code = struct.unpack("=i", answer)[0] if len(answer) == 4 else errno.EIO  # it died before it could say
        if code:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise OSError(code, "unshare")
        return Child(pid)

    def _wait_for_end(self, says: int) -> NoReturn:
        try:
            code = ctypes.get_errno() if _libc.unshare(_CLONE_NEWUSER) < 0 else 0
            os.close(self._life[1])
            os.write(says, struct.pack("=i", code))
            os.close(says)
            os.read(self._life[0], 1)  # nobody writes: returns when the helper is gone
        finally:
            os._exit(0)


def _answer(link: socket.socket, nursery: Nursery, request: bytes) -> None:
    number, uid, gid, foreign, shown_as, spare = REQUEST.unpack(request)
    child, stage = None, b"fork"
    try:
        child = nursery.take()
        stage = b"map"
        child.write_maps((uid, gid, foreign), shown_as, spare)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [child.namespace]))]
        link.sendmsg([REPLY.pack(number, 0, b"")], rights)
    except OSError as error:
        link.sendmsg([REPLY.pack(number, error.errno or errno.EIO, stage)])
    if child is not None:
        child.end()


def serve(link: socket.socket) -> None:
    """Answer until the other side closes. Children are made while nothing is asked."""
    nursery = Nursery()
    while True:
        with contextlib.suppress(OSError):  # said when a request needs the child
            while not select.select([link], [], [], 0)[0] and nursery.refill():
                pass
        request = link.recv(REQUEST.size + 1)
        if len(request) != REQUEST.size:
            return
        _answer(link, nursery, request)


def main() -> None:
    """Run on the socket whose descriptor and the parent's pid are given as arguments."""
    link = socket.socket(fileno=int(sys.argv[1]))
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl PR_SET_PDEATHSIG")
    if os.getppid() != int(sys.argv[2]):  # it died before the line above
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C is the daemon's to handle
    drop_privileges()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon left before it heard the answer
        serve(link)


if __name__ == "__main__":
    main()
