"""The terminal while a view is drawn on it: nothing that is typed is echoed, and every way out gives it back.

The kernel echoes where the cursor is, which would shift the picture. It is told not to for as long as pictures come;
lines are still edited and kept by it, and Ctrl-C still is one. Signals that end or stop the program are handled by the
process and not by the event loop, which may be what hangs. Above: the live view. See termios(3), signal(7).
"""

import os
import select
import signal
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, TextIO

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SHOW_CURSOR: Final = b"\x1b[?25h"
_LOCAL: Final = 3  # the place of the local modes in what tcgetattr returns


class Takeover:
    """One terminal; a file that is none, or one of another process group, is left alone.

    `on_resume` is called when the program went on after a stop: what others wrote meanwhile stands on the terminal. It
    runs between any two instructions of the main thread.
    """

    def __init__(self, out: TextIO, on_resume: Callable[[], None]) -> None:
        self._descriptor = _terminal(out)
        self._on_resume = on_resume
        self._echoed = False
        self._handled: set[signal.Signals] = set()

    def take(self) -> None:
        """No echo from now on. To be called before each picture: a program that was stopped has given it back."""
        self._handle_signals()
        if self._descriptor is not None and _is_ours(self._descriptor):
            # Known before it is done: a signal between the two gives back what was not taken, which is harmless.
            self._echoed = self._echoed or _echoes(self._descriptor)
            _set_echo(self._descriptor, on=False)

    def give_back(self) -> None:
        """The echo is as it was. Does nothing where nothing was taken; may be called from a signal's handler."""
        if self._descriptor is not None and self._echoed and _is_ours(self._descriptor):
            _set_echo(self._descriptor, on=True)

    def abandon(self) -> None:
        """At once, in a program that ends or stops: the echo, and the cursor. For a signal's handler."""
        self.give_back()
        # A terminal that was stopped with Ctrl-S takes nothing, and must not hold up an end.
        if self._descriptor is not None and select.select([], [self._descriptor], [], 0)[1]:
            with suppress(OSError):  # it hung up
                os.write(self._descriptor, _SHOW_CURSOR)

    def close(self) -> None:
        """Give it back for good; signals mean what they meant before."""
        self.give_back()
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        self._handled.clear()

    def _handle_signals(self) -> None:
        if self._descriptor is None or self._handled or threading.current_thread() is not threading.main_thread():
            return
        wanted = {**dict.fromkeys(_ENDING, self._end), signal.SIGTSTP: self._stop, signal.SIGCONT: self._resumed}
        for number, handler in wanted.items():
            if signal.getsignal(number) is signal.SIG_DFL:  # else it is ignored, as under nohup, or somebody's own
                self._handled.add(number)
                signal.signal(number, handler)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.abandon()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.abandon()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # returns when somebody lets the program go on
        signal.signal(number, self._stop)
        self._on_resume()

    def _resumed(self, _number: int, _frame: FrameType | None) -> None:
        """Also after a stop that no handler saw, by SIGSTOP."""
        self._on_resume()


def _terminal(out: TextIO) -> int | None:
    try:
        return out.fileno() if out.isatty() else None
    except (OSError, ValueError):  # a text in memory has no descriptor, a closed file neither
        return None


def _is_ours(descriptor: int) -> bool:
    """Whether we may change it: a program in the background would be stopped for it, and spoil it for another."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True  # it is not the one that controls us: there is no background to be in


def _echoes(descriptor: int) -> bool:
    try:
        return bool(termios.tcgetattr(descriptor)[_LOCAL] & termios.ECHO)
    except termios.error:
        return False  # it hung up


def _set_echo(descriptor: int, *, on: bool) -> None:
    """The echo alone: whatever else was changed meanwhile stays so. Waits for no output."""
    try:
        modes = termios.tcgetattr(descriptor)
        local = modes[_LOCAL] | termios.ECHO if on else modes[_LOCAL] & ~termios.ECHO
        if local != modes[_LOCAL]:
            modes[_LOCAL] = local
            termios.tcsetattr(descriptor, termios.TCSANOW, modes)
    except termios.error:
        return  # it hung up: there is nobody whose echo it could be
