"""The terminal while a view is drawn on it: its echo, and what signals mean meanwhile."""

import io
import os
import pty
import signal
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import pytest
from rich.console import Console

from perstackctl.watch.live import LiveView
from perstackctl.watch.takeover import Takeover
from perstackctl.watch.trace import Trace

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT)


@dataclass
class Terminal:
    """Both ends of one, and how often a view was told that it lost its picture."""

    ours: int
    out: TextIO
    lost: int = 0

    def lose(self) -> None:
        self.lost += 1

    def modes(self) -> int:
        return int(termios.tcgetattr(self.out.fileno())[3])

    def switch(self, *, off: int = 0, on: int = 0) -> None:
        modes = termios.tcgetattr(self.out.fileno())
        modes[3] = modes[3] & ~off | on
        termios.tcsetattr(self.out.fileno(), termios.TCSANOW, modes)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    before = [signal.getsignal(number) for number in SIGNALS]
    with os.fdopen(theirs, "w") as out:
        yield Terminal(ours, out)
    os.close(ours)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_nothing_is_echoed_until_it_is_given_back(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    before = terminal.modes()
    takeover.take()
    takeover.take()
    assert terminal.modes() == before & ~termios.ECHO
    takeover.give_back()
    assert terminal.modes() == before
    takeover.take()
    assert not terminal.modes() & termios.ECHO
    takeover.close()
    assert terminal.modes() == before


def test_lines_are_edited_and_ctrl_c_is_one_as_ever(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    wanted = termios.ICANON | termios.ISIG
    assert terminal.modes() & wanted == wanted
    takeover.close()


def test_a_terminal_that_echoed_nothing_echoes_nothing_afterwards(terminal: Terminal) -> None:
    terminal.switch(off=termios.ECHO)
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    takeover.close()
    assert not terminal.modes() & termios.ECHO


def test_what_others_change_meanwhile_stays(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    terminal.switch(off=termios.ECHOE)
    takeover.close()
    assert terminal.modes() & termios.ECHO
    assert not terminal.modes() & termios.ECHOE


def test_without_having_been_taken_it_stays_as_it_is(terminal: Terminal) -> None:
    terminal.switch(off=termios.ECHO)
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.give_back()
    takeover.close()
    assert not terminal.modes() & termios.ECHO


def test_leaving_gives_back_the_echo_and_the_cursor(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    takeover.abandon()
    assert terminal.modes() & termios.ECHO
    assert os.read(terminal.ours, 100) == b"\x1b[?25h"
    takeover.close()


def test_leaving_does_not_wait_for_a_terminal_that_takes_nothing(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    termios.tcflow(terminal.out.fileno(), termios.TCOOFF)  # Ctrl-S
    takeover.abandon()
    assert terminal.modes() & termios.ECHO
    termios.tcflow(terminal.out.fileno(), termios.TCOON)
    takeover.close()


def test_a_terminal_that_hung_up_does_no_harm(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    spare = os.open(os.devnull, os.O_RDONLY)
    os.dup2(spare, terminal.ours)  # its other side is gone; the fixture closes this one
    os.close(spare)
    takeover.take()
    takeover.abandon()
    takeover.close()


@pytest.mark.parametrize("kind", ["text in memory", "pipe", "closed"])
def test_what_is_no_terminal_is_left_alone_and_so_are_signals(kind: str) -> None:
    read, write = os.pipe()
    before = handlers()
    with os.fdopen(write, "w") as pipe:
        out: TextIO = pipe if kind == "pipe" else io.StringIO()
        if kind == "closed":
            out.close()
        takeover = Takeover(out, lambda: None)
        takeover.take()
        assert handlers() == before
        takeover.abandon()
        takeover.close()
    with os.fdopen(read) as reader:
        assert reader.read() == ""


def test_a_view_that_fails_in_the_middle_of_its_last_picture_gives_it_back(terminal: Terminal) -> None:
    class FailingConsole(Console):
        def print(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no picture")

    view = LiveView(terminal.out, FailingConsole(file=terminal.out))
    with pytest.raises(RuntimeError):
        view.tick(Trace(), 0)
    assert not terminal.modes() & termios.ECHO
    with pytest.raises(RuntimeError):
        view.close(Trace())
    assert terminal.modes() & termios.ECHO


def test_a_signal_that_is_ignored_stays_so(terminal: Terminal) -> None:
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        takeover = Takeover(terminal.out, terminal.lose)
        takeover.take()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        takeover.close()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_a_stop_the_picture_is_told_that_it_is_lost(terminal: Terminal) -> None:
    takeover = Takeover(terminal.out, terminal.lose)
    takeover.take()
    signal.raise_signal(signal.SIGCONT)  # what comes after a stop that cannot be handled
    assert terminal.lost == 1
    takeover.close()
