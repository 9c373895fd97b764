"""A daemon that kills itself at a durable boundary, which is a write of a job's log or of a claim's row.

`HOME/plan` says where, a line a process: `after 7` dies as soon as the seventh write is on disk, `before 7` when it is
about to be made: what led to it has happened, and nobody will know. Counting begins with the job that is created while
there is a plan, or with the start of the process. `HOME/boundaries` gets a line for each write: its number, what it is,
and the place in `perstackd/app` that asked for it.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, Final

import perstackd
from perstackd.adapters.store.sqlite import SqliteSandboxes, SqliteStore
from perstackd.domain.sandbox import SandboxState
from tests.e2e import daemon

APP: Final = Path(perstackd.__file__).parent / "app"
_THE_LOG_ITSELF: Final = APP / "job_log.py"


class Boundaries:
    """Of this process."""

    def __init__(self, home: Path) -> None:
        self._plan = home / "plan"
        self._told = home / "boundaries"
        self._count = 0
        self._when = ""
        self._at = 0
        self._read()

    def _read(self) -> None:
        """Take the first line of the plan."""
        if self._plan.exists():
            first, *rest = self._plan.read_text().splitlines()
            self._when, _, number = first.partition(" ")
            self._at, self._count = int(number), 0
            self._plan.write_text("\n".join(rest)) if rest else self._plan.unlink()

    def before(self, what: str, place: str) -> None:
        if what == "create":
            self._read()
        self._count += 1
        with self._told.open("a") as file:
            file.write(f"{self._count} {what} {place}\n")
        self._die("before")

    def after(self) -> None:
        self._die("after")

    def _die(self, when: str) -> None:
        if when == self._when and self._count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def install(boundaries: Boundaries) -> None:
    """Have every write of jobs and claims pass by."""
    _watch(SqliteStore, "create", boundaries, lambda *_: True)
    _watch(SqliteStore, "append", boundaries, lambda *_: True)
    _watch(SqliteSandboxes, "put", boundaries, lambda _, record: record.state is SandboxState.CLAIMED)


def _watch(kind: type, name: str, boundaries: Boundaries, counts: Callable[..., bool]) -> None:
    write = getattr(kind, name)

    @wraps(write)
    async def watched(*arguments: Any) -> Any:
        if not counts(*arguments[:2]):
            return await write(*arguments)
        boundaries.before(name, place_of(sys._getframe(1)))
        result = await write(*arguments)
        boundaries.after()
        return result

    setattr(kind, name, watched)


def place_of(frame: FrameType | None) -> str:
    """`file:function` of the first caller in `perstackd/app` that is not the log itself."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(APP) and path != _THE_LOG_ITSELF:
            return f"{path.relative_to(APP)}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "?"


def serve(home: str, settings: Mapping[str, Any], real_providers: bool, secrets: Mapping[str, str]) -> None:
    """As `tests.e2e.daemon.serve`, mortal."""
    install(Boundaries(Path(home)))
    daemon.serve(home, settings, real_providers, secrets)
