"""Lines typed at a terminal, read on the event loop without blocking it. The kernel edits the line (termios(3))."""

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable
from typing import Final, Protocol, TextIO, TypeAlias

from perstackctl.terminal import clean

_MOST: Final = 65_536

Divert: TypeAlias = Callable[[Callable[[], None] | None], None]


class LeftOpen(Exception):  # noqa: N818 - not an error: a person's decision
    """The person does not answer now: Ctrl-C or Ctrl-D."""


class Asker(Protocol):
    """Where a person is asked."""

    def say(self, text: str = "") -> None:
        """Show lines, cleaned."""
        ...

    def forget(self) -> None:
        """Drop what was typed before the question was seen: it was not meant for it."""
        ...

    async def line(self, prompt: str) -> str:
        """The line typed after a prompt, without its end.

        Raises:
            LeftOpen: Ctrl-C or Ctrl-D.
        """
        ...


class Terminal:
    """The terminal of standard input. `divert` is told where Ctrl-C goes while a line is read, and None afterwards."""

    def __init__(self, divert: Divert, out: TextIO | None = None, descriptor: int | None = None) -> None:
        self._divert = divert
        self._out = out or sys.stdout
        self._in = sys.stdin.fileno() if descriptor is None else descriptor
        self._waiter: asyncio.Future[str] | None = None

    def say(self, text: str = "") -> None:
        self._out.write(clean(text) + "\n")
        self._out.flush()

    def forget(self) -> None:
        termios.tcflush(self._in, termios.TCIFLUSH)

    async def line(self, prompt: str) -> str:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[str] = loop.create_future()
        self._waiter = waiter
        loop.add_reader(self._in, self._readable)
        self._divert(self._interrupt)
        try:
            # Last, so that whoever sees the prompt and presses Ctrl-C means the question.
            self._out.write(clean(prompt))
            self._out.flush()
            return await waiter
        except BaseException:
            self.say()  # the cursor stands behind the prompt
            raise
        finally:
            self._divert(None)
            loop.remove_reader(self._in)
            self._waiter = None

    def _interrupt(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LeftOpen())

    def _readable(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        try:
            typed = os.read(self._in, _MOST)  # one line: the terminal gives nothing before its end
        except OSError:  # it hung up
            typed = b""
        if typed:
            waiter.set_result(typed.decode("utf-8", "surrogateescape").rstrip("\n"))
        else:
            waiter.set_exception(LeftOpen())


def divert_signal(to: Callable[[], None] | None) -> None:
    """Ctrl-C goes to `to`, or ends the program again. For commands that have no other use for it."""
    loop = asyncio.get_running_loop()
    if to is None:
        loop.remove_signal_handler(signal.SIGINT)
    else:
        loop.add_signal_handler(signal.SIGINT, to)
