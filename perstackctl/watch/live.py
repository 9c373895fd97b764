"""The display on a terminal: the tree of runs, drawn again as it changes, and the answer printed plainly below.

While somebody is asked the last picture stands still above the question.
"""

import sys
import time
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

from perstackctl.client.values import Batch, Job
from perstackctl.standing import use
from perstackctl.terminal import clean, line
from perstackctl.watch.frame import Size, frame
from perstackctl.watch.screen import Screen
from perstackctl.watch.takeover import Takeover
from perstackctl.watch.trace import Trace, fold

_MIN_GAP: Final = 0.08
_STILL_LINES: Final = 8


class LiveView:
    """Draws at most 12 times a second, however many events come."""

    interval = _MIN_GAP
    tells_cost = True

    def __init__(self, out: TextIO | None = None, console: Console | None = None) -> None:
        self._out = out or sys.stdout
        self._console = console or Console(file=self._out)
        self._screen = Screen(self._out)
        self._takeover = Takeover(self._out, self._screen.lose)
        self._trace = Trace()
        self._drawn_at = 0.0
        self._moving = False
        self._held = False

    def paint(self, before: Trace, batch: Batch) -> Trace:
        self._trace = trace = fold(before, batch)
        if time.monotonic() - self._drawn_at >= _MIN_GAP:
            self._draw(trace, int(time.time() * 1000))
        return trace

    def tick(self, trace: Trace, now: int) -> None:
        self._draw(trace, now)

    def notice(self, text: str) -> None:
        self._screen.above(line(text), self._console.width)

    def hold(self) -> None:
        # Of several questions one after the other the first has the picture above it.
        if self._moving:
            height = self._console.size.height
            self._draw(self._trace, int(time.time() * 1000), max(_STILL_LINES, height // 2))
            self._screen.keep()
        self._moving, self._held = False, True
        self._takeover.give_back()

    def go_on(self) -> None:
        self._held = False
        self._takeover.take()

    def abandon(self) -> None:
        self._takeover.abandon()

    def close(self, trace: Trace, job: Job | None = None) -> None:
        self._held = False
        try:
            self._draw(trace, int(time.time() * 1000))
            self._screen.leave()
        finally:
            self._takeover.close()
        self._tell(trace, job)

    def _tell(self, trace: Trace, job: Job | None) -> None:
        if job is not None:
            self._out.write(f"{use(job)}\n")
        if trace.answer:
            self._out.write(f"\n{clean(trace.answer)}\n")
        elif trace.message:
            self._out.write(f"\n{clean(trace.message)}\n")
        self._out.flush()

    def _draw(self, trace: Trace, now: int, most: int = 0) -> None:
        """`most` is how many lines it may take; 0: all that there are."""
        if self._held:
            return
        self._takeover.take()
        self._drawn_at = time.monotonic()
        self._moving = True
        size = self._console.size
        picture = frame(trace, now, Size(size.width, min(size.height, most or size.height)))
        with self._console.capture() as capture:
            self._console.print(picture)
        lines = capture.get().rstrip("\n").split("\n")
        self._screen.draw(lines, [Text.from_ansi(each).cell_len for each in lines], size.width)
