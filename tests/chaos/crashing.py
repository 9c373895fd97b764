"""A daemon that kills itself at a durable boundary, which is a write of a job's log or of a claim's row.

`HOME/plan` says where, a line a process: `after 7 PLACE` dies as soon as the seventh write of that place in
`perstackd/app` is on disk, `before 7 PLACE` when it is about to be made: what led to it has happened, and nobody will
know. `any` is every place. Counting begins with the job that is created while there is a plan, or with the start of the
process. `HOME/boundaries` gets a line for each write: its number and its place.
"""

import os
import signal
import sys
from collections import Counter
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
_THE_LOG_ITSELF: Final = (APP / "job_log.py", APP / "store_trouble.py")


class Boundaries:
    """Of this process."""

    def __init__(self, home: Path) -> None:
        self._plan = home / "plan"
        self._told = home / "boundaries"
        self._counts: Counter[str] = Counter()
        self._when = self._place = ""
        self._at = 0
        self._read()

    def _read(self) -> None:
        """Take the first line of the plan; without one it lives on."""
        self._at = 0
        self._counts.clear()
        if self._plan.exists():
            first, *rest = self._plan.read_text().splitlines()
            self._when, number, self._place = first.split(" ")
            self._at = int(number)
            self._plan.write_text("\n".join(rest)) if rest else self._plan.unlink()

    def before(self, what: str, place: str) -> None:
        if what == "create":
            self._read()
        self._counts.update((place, "any"))
        with self._told.open("a") as file:
            file.write(f"{self._counts[place]} {place}\n")
        self._die("before", place)

    def after(self, place: str) -> None:
        self._die("after", place)

    def _die(self, when: str, place: str) -> None:
        if when == self._when and self._place in (place, "any") and self._counts[self._place] == self._at:
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
        place = place_of(sys._getframe(1))
        boundaries.before(name, place)
        result = await write(*arguments)
        boundaries.after(place)
        return result

    setattr(kind, name, watched)


def place_of(frame: FrameType | None) -> str:
    """`file:function` of the first caller in `perstackd/app` that is not the log itself."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(APP) and path not in _THE_LOG_ITSELF:
            return f"{path.relative_to(APP)}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "?"


def serve(home: str, settings: Mapping[str, Any], real_providers: bool, secrets: Mapping[str, str]) -> None:
    """As `tests.e2e.daemon.serve`, mortal."""
    install(Boundaries(Path(home)))
    daemon.serve(home, settings, real_providers, secrets)
