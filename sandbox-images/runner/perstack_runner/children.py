"""Processes that the runner starts: each in a session and a Landlock domain of its own, and ended with all it left.

Which process belongs to which child is told by its ancestors, its session and, for an orphan that left both (a
setsid'ed grandchild comes back to the runner, the subreaper), by a mark in its environment. An orphan that hides its
mark belongs to nobody and dies with whatever child ends next. A child is reaped last, so that its number names nothing
else meanwhile.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from perstack_runner import landlock
from perstack_runner.threads import Threads, run_apart

MARK: Final = "PERSTACK_CHILD"
KILL_SECONDS: Final = 2.0
NICE: Final = 19
"""Of what is started: with hundreds of processes that never sleep, the runner's own share would be too small to end
them in time. It changes nothing between sandboxes, and nothing while the processor is free.
"""
_ROUND_SECONDS: Final = 0.003
_REAP_SECONDS: Final = 0.25
_MARK_BYTES: Final = 256 << 10

T = TypeVar("T")


class Spec(NamedTuple):
    """What to start. `directory` opens the working directory, on the starting thread; the rest is the caller's.

    `hidden` is a directory of the root that it must not reach, where the kernel has Landlock.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    directory: Callable[[], int]
    stdin: int = subprocess.DEVNULL
    stdout: int = subprocess.DEVNULL
    stderr: int = subprocess.DEVNULL
    hidden: str = ""


class Child:
    """A started process. `exited` is set when its main process is gone, whatever it left behind."""

    def __init__(self, process: "subprocess.Popen[bytes]", mark: str) -> None:
        self.pid = process.pid
        self.mark = mark
        self.exited = asyncio.Event()
        self.process = process

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal's number when one ended it; None before Children.end returned."""
        return self.process.returncode


class Children:
    """All that the runner started and has not ended.

    With adopts_orphans every other child of this process counts as an orphan and is killed: only for a process that
    starts nothing else.
    """

    def __init__(self, landlock_abi: int, *, adopts_orphans: bool) -> None:
        self._abi = landlock_abi
        self._adopts = adopts_orphans
        self._alive: dict[int, Child] = {}
        self._lock = threading.Lock()
        self._reaper: asyncio.TimerHandle | None = None
        self._killer = Threads(1, "killer")
        self._left: set[Child] = set()

    async def start(self, spec: Spec) -> Child:
        """Start it. Cancelling leaves no process.

        Raises:
            BlockingIOError: the sandbox's process limit is reached.
            OSError, ValueError: as subprocess does.
        """
        self._killer.prepare()  # before there is anything that could leave no room for it
        try:
            return await self._start_one(spec)
        except BlockingIOError:
            if not self._left:
                raise
        for child in tuple(self._left):  # what could not be ended in its time may be what takes the room
            await self.end(child)
        return await self._start_one(spec)

    async def _start_one(self, spec: Spec) -> Child:
        mark = os.urandom(12).hex()
        child, cancelled = await _uninterrupted(run_apart(lambda: self._start(spec, mark)))
        if cancelled:
            await self.end(child)
            raise asyncio.CancelledError
        self._watch(child)
        return child

    def _start(self, spec: Spec, mark: str) -> Child:
        directory = spec.directory()
        try:
            landlock.restrict_thread(self._abi, spec.hidden)
            os.setpriority(os.PRIO_PROCESS, 0, NICE)  # on Linux of this thread alone, and of what it starts
            # Held over the start, so that no sweep finds a child that is not in the table yet.
            with self._lock:
                process = subprocess.Popen(  # noqa: S603 - argv as it was asked for, no shell; the sandbox is the boundary
                    list(spec.argv),
                    env={MARK: mark, **spec.env},
                    cwd=f"/proc/self/fd/{directory}",
                    stdin=spec.stdin,
                    stdout=spec.stdout,
                    stderr=spec.stderr,
                    start_new_session=True,
                )
                child = Child(process, mark)
                self._alive[child.pid] = child
        finally:
            os.close(directory)
        return child

    def _watch(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        if self._adopts and self._reaper is None:
            self._reaper = loop.call_later(_REAP_SECONDS, self._reap_adopted)
        try:
            descriptor = os.pidfd_open(child.pid)
        except OSError:  # a kernel without pidfd_open
            _poll_exit(loop, child)
            return

        def exited() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            child.exited.set()

        loop.add_reader(descriptor, exited)

    def _reap_adopted(self) -> None:
        """Orphans that end while a child runs would fill the pid limit with zombies."""
        self._reaper = None
        if self._lock.acquire(blocking=False):  # a start that is going on holds it; the next round will do
            try:
                _reap(self._alive)
            finally:
                self._lock.release()
        if self._alive:
            self._reaper = asyncio.get_running_loop().call_later(_REAP_SECONDS, self._reap_adopted)

    async def end(self, child: Child, grace: float = 0.0) -> bool:
        """End the child and all that descends from it: SIGTERM, at most `grace` seconds, SIGKILL until none is left.

        Returns whether none is left; False after 2 s of trying. Idempotent. Not interrupted by cancellation.
        """
        try:
            gone, cancelled = await _uninterrupted(self._ended(child, grace))
        finally:
            child.exited.set()
        (self._left.discard if gone else self._left.add)(child)
        if cancelled:
            raise asyncio.CancelledError
        return gone

    async def _ended(self, child: Child, grace: float) -> bool:
        """Ends go side by side while there is room for threads. With none left the killer ends one after the other."""
        try:
            return await run_apart(lambda: self._end(child, grace))
        except BlockingIOError:
            return await self._killer.run(lambda: self._end(child, 0.0))

    def close(self) -> None:
        """Nothing is started or ended any more. Idempotent."""
        self._killer.close()

    def _end(self, child: Child, grace: float) -> bool:
        if child.pid not in self._alive:
            return True
        deadline = time.monotonic() + grace
        if grace:
            _signal(self._members(child), signal.SIGTERM)
            while time.monotonic() < deadline and self._members(child):
                time.sleep(_ROUND_SECONDS)
        gone = self._kill(child, time.monotonic() + KILL_SECONDS)
        if gone:
            child.process.wait(timeout=KILL_SECONDS)
        with self._lock:
            if gone:
                del self._alive[child.pid]
            if self._adopts:
                _reap(self._alive)
        return gone

    def _kill(self, child: Child, deadline: float) -> bool:
        found = self._members(child)
        clean = not found  # nothing was there to start something while it was looked for
        while not clean:
            if time.monotonic() > deadline:
                return False
            _signal(found, signal.SIGKILL)
            time.sleep(_ROUND_SECONDS)
            before, found = found, self._members(child)
            clean = not before and not found
        return True

    def _members(self, child: Child) -> set[int]:
        """Living processes of the child and, where orphans are adopted, those of nobody."""
        with self._lock:
            table = process_table()
            live = {root.mark: root.pid for root in self._alive.values()}
        own = os.getpid()
        seeds = {pid for pid, row in table.items() if child.pid in (pid, row.session)}
        for pid, row in table.items():
            if row.parent == own and pid not in self._alive and not row.zombie:
                mark = _mark(pid)
                nobody = self._adopts and mark not in live and row.session not in self._alive
                if mark == child.mark or nobody:
                    seeds.add(pid)
        return {pid for pid in descendants(table, seeds - {own}) if not table[pid].zombie}


class Process(NamedTuple):
    """A row of /proc/PID/stat."""

    parent: int
    session: int
    zombie: bool


def process_table() -> dict[int, Process]:
    """All processes that /proc shows, by number. Blocking; about 15 µs each."""
    table = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and (row := _stat(entry.name)) is not None:
                table[int(entry.name)] = row
    return table


def _stat(pid: str) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            # proc(5): pid (comm) state ppid pgrp session ...; comm may hold anything, also ")"
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return None  # gone since it was listed
    return Process(int(fields[1]), int(fields[3]), fields[0] in (b"Z", b"X")) if len(fields) > 3 else None


def descendants(table: Mapping[int, Process], seeds: set[int]) -> set[int]:
    """`seeds` and everything below them."""
    below: dict[int, list[int]] = {}
    for pid, row in table.items():
        below.setdefault(row.parent, []).append(pid)
    found: set[int] = set()
    pending = [pid for pid in seeds if pid in table]
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += below.get(pid, [])
    return found


def _mark(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            variables = file.read(_MARK_BYTES).split(b"\0")
    except OSError:
        return ""  # gone, or non-dumpable: it hides, and is nobody's
    prefix = MARK.encode() + b"="
    return next((v[len(prefix) :].decode("ascii", "replace") for v in variables if v.startswith(prefix)), "")


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in sorted(pids):  # parents before what they started last
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(kept: Mapping[int, Child]) -> None:
    """Collect ended orphans. Stops at a child of ours: its owner will collect it, and then the rest."""
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in kept:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def _poll_exit(loop: asyncio.AbstractEventLoop, child: Child) -> None:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        ended = os.waitid(os.P_PID, child.pid, flags) is not None
    except ChildProcessError:
        ended = True
    if ended:
        child.exited.set()
    else:
        loop.call_later(0.02, _poll_exit, loop, child)


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """The outcome of `work`, which has its own bound, and whether the caller was cancelled meanwhile, once or more."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    return task.result(), cancelled


def executable() -> str:
    """The interpreter for helper programs."""
    return sys.executable or "/usr/bin/python3"
