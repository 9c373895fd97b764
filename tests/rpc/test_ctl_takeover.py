"""The real program on a terminal that is its own, below a shell: what is typed while it draws, and every way out."""

import asyncio
import json
import os
import pty
import signal
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.fakes.daemon_api import Cut, FakeDaemon
from tests.fakes.event_log import JOB
from tests.fakes.stories import asking, story
from tests.rpc.ctl_program import ROOT, TIMEOUT, Ctl, endless

pytestmark = pytest.mark.anyio

SHELL = Path(__file__).with_name("job_shell.py")
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
DRAWN = "fitness-assistant"


@dataclass
class Screen:
    """What the program wrote, what its shell tells, and a person's hands."""

    fd: int
    reports: asyncio.StreamReader
    orders: int
    pid: int = 0
    written: str = ""

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    async def until(self, text: str, after: int = 0) -> None:
        """Until it wrote this."""
        async with asyncio.timeout(TIMEOUT):
            while text not in self.written[after:]:
                self.written += await asyncio.to_thread(self._read)

    def _read(self) -> str:
        return os.read(self.fd, 65536).decode(errors="replace").replace("\r\n", "\n")

    async def until_quiet(self) -> None:
        """Until nothing is echoed."""
        async with asyncio.timeout(TIMEOUT):
            while self.echoes:
                self.written += await asyncio.to_thread(self._read)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    async def report(self) -> dict[str, int]:
        """What the shell tells next; what was written until then is read as well."""
        told = asyncio.ensure_future(self.reports.readline())
        try:
            async with asyncio.timeout(TIMEOUT):
                while not told.done():
                    await asyncio.wait({told}, timeout=0.05)
                    self._drain()
        finally:
            told.cancel()
        self._drain()
        answer: dict[str, int] = json.loads(told.result())
        return answer

    def _drain(self) -> None:
        os.set_blocking(self.fd, False)
        try:
            while True:
                self.written += self._read()
        except OSError:  # nothing is there, or the other side is closed
            return
        finally:
            os.set_blocking(self.fd, True)


class shell:  # noqa: N801 - reads as a word: async with shell(...)
    """perstackctl below a shell that has a terminal of its own."""

    def __init__(self, ctl: Ctl, *args: str, place: str = "fg", stdout: int | None = None) -> None:
        self._ctl, self._args, self._place, self._stdout = ctl, args, place, stdout

    async def __aenter__(self) -> Screen:
        ours, theirs = pty.openpty()
        (reads, reports), (orders, commands) = os.pipe(), os.pipe()
        env = {"PATH": os.environ["PATH"], "HOME": str(self._ctl.cwd), "TERM": "xterm"}
        env |= {"PERSTACK_ADDRESS": self._ctl.address, "PYTHONPATH": f"{ROOT}:{ROOT}/proto", **self._ctl.env}
        program = (sys.executable, "-m", "perstackctl", *self._args)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SHELL), str(reports), str(orders), self._place, *program),
            stdin=theirs,
            stdout=theirs if self._stdout is None else self._stdout,
            stderr=theirs,
            cwd=self._ctl.cwd,
            env=env,
            pass_fds=(reports, orders),
        )
        for descriptor in (theirs, reports, orders):
            os.close(descriptor)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reads, "rb"))
        self._pipe, self._screen = pipe, Screen(ours, reader, commands)
        self._screen.pid = (await self._screen.report())["pid"]
        return self._screen

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()  # the program is hung up on
            await self._process.wait()
        self._pipe.close()
        os.close(self._screen.fd)
        os.close(self._screen.orders)


async def finish(daemon: FakeDaemon) -> None:
    await daemon.append(JOB, *story()[6:])


def given_back(screen: Screen, told: dict[str, int]) -> None:
    """The echo is there, and the cursor, which was away."""
    assert told["echo"]
    assert screen.written.rindex(SHOWN) > screen.written.rindex(HIDDEN)


async def test_what_is_typed_while_the_view_is_drawn_leaves_no_trace(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        assert not screen.echoes
        screen.type(b"typed\n\ntyped again")
        await screen.until("\x1b[", len(screen.written))  # another picture
        await finish(daemon)
        told = await screen.report()
    assert told == {"ended": 0, "echo": True}
    assert "typed" not in screen.written
    given_back(screen, told)


async def test_the_picture_stands_above_the_question_and_the_answer_is_echoed(daemon: FakeDaemon, ctl: Ctl) -> None:
    items = asking(of="tool")
    daemon.items = lambda _job: items
    (ctl.cwd / "perstack.toml").write_text('[experts.bot]\ninstruction = "x"\n')
    async with shell(ctl, "start", "bot", "q") as screen:
        await screen.until("\n> ")
        assert screen.echoes
        screen.type(b"b2\n")
        told = await screen.report()
    assert told == {"ended": 0, "echo": True}
    picture, _, rest = screen.written.partition("? fitness-assistant asks (board.askMove)  [1-1]\n  │ Your move?")
    assert "asks (board.askMove): Your move?" in picture.rpartition("\x1b[?25h")[0], "its last picture, and the cursor"
    assert "\n> b2\n" in rest
    assert "\x1b[J" not in picture.rpartition("\x1b[?25h")[2], "nothing of it was erased"
    assert rest.endswith("\nAll done.\n")


async def test_of_several_questions_one_after_the_other_only_the_first_has_the_picture_above_it(
    daemon: FakeDaemon, ctl: Ctl
) -> None:
    daemon.items = lambda job: asking(job, of="all")
    (ctl.cwd / "perstack.toml").write_text('[experts.bot]\ninstruction = "x"\n')
    async with shell(ctl, "start", "bot", "q") as screen:
        await screen.until("\n> ")
        at = len(screen.written)
        screen.type(b"b2\n")
        await screen.until("May it? (y/n) ")
        assert screen.written[at:].count("job 01JD3Z") <= 1
        screen.type(b"y\n")
        assert (await screen.report())["ended"] == 0


async def test_leaving_with_a_second_ctrl_c_gives_the_terminal_back(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items, daemon.on_cancel = endless, ""
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        screen.type(b"\x03")
        await screen.until("Ctrl-C again leaves at once")
        assert not screen.echoes
        screen.type(b"\x03")
        told = await screen.report()
    assert told == {"ended": 130, "echo": True}
    given_back(screen, told)
    assert "^C" not in screen.written


async def test_ctrl_c_at_a_watch_gives_the_terminal_back(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(endless(JOB))
    async with shell(ctl, "job", "watch", JOB) as screen:
        await screen.until(DRAWN)
        screen.type(b"\x03")
        told = await screen.report()
    assert told == {"ended": 130, "echo": True}
    given_back(screen, told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
async def test_a_signal_that_ends_it_gives_the_terminal_back(
    daemon: FakeDaemon, ctl: Ctl, number: signal.Signals
) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        assert not screen.echoes
        os.kill(screen.pid, number)
        told = await screen.report()
    assert told == {"ended": -number, "echo": True}
    given_back(screen, told)


async def test_a_failure_gives_the_terminal_back(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        assert not screen.echoes
        daemon.cuts = [Cut(0, grpc.StatusCode.INTERNAL, "internal")]
        await finish(daemon)
        told = await screen.report()
    assert told == {"ended": 1, "echo": True}
    assert "the stream ends here" in screen.written
    given_back(screen, told)


async def test_a_stop_gives_the_terminal_back_and_going_on_takes_it_again(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        for _ in range(2):
            screen.type(b"\x1a")  # Ctrl-Z
            told = await screen.report()
            assert told == {"stopped": signal.SIGTSTP, "echo": True}
            given_back(screen, told)
            at = len(screen.written)
            os.write(screen.orders, b"fg")
            await screen.until(DRAWN, at)
            assert not screen.echoes
            # A picture of its own, below what the shell wrote; the old one is not drawn over.
            assert screen.written[at:].startswith(HIDDEN)
        await finish(daemon)
        told = await screen.report()
    assert told == {"ended": 0, "echo": True}


async def test_a_stop_that_no_program_sees_is_made_up_for_when_it_goes_on(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        os.kill(screen.pid, signal.SIGSTOP)
        assert (await screen.report())["stopped"] == signal.SIGSTOP
        modes = termios.tcgetattr(screen.fd)
        modes[3] |= termios.ECHO  # as shells do
        termios.tcsetattr(screen.fd, termios.TCSANOW, modes)
        os.write(screen.orders, b"fg")
        await screen.until_quiet()
        await finish(daemon)
        assert await screen.report() == {"ended": 0, "echo": True}


async def test_in_the_background_it_draws_and_leaves_the_terminals_modes_to_whoever_is_in_front(
    daemon: FakeDaemon, ctl: Ctl
) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q", place="bg") as screen:
        await screen.until(DRAWN)
        assert screen.echoes
        await finish(daemon)
        assert await screen.report() == {"ended": 0, "echo": True}


async def test_a_stopped_program_that_goes_on_in_the_background_leaves_the_terminal_alone(
    daemon: FakeDaemon, ctl: Ctl
) -> None:
    daemon.items = endless
    async with shell(ctl, "run", "fitness-assistant", "q") as screen:
        await screen.until(DRAWN)
        screen.type(b"\x1a")
        assert (await screen.report())["echo"]
        at = len(screen.written)
        os.write(screen.orders, b"bg")
        await screen.until(DRAWN, at)
        assert screen.echoes
        await finish(daemon)
        assert await screen.report() == {"ended": 0, "echo": True}


async def test_with_its_output_in_a_pipe_it_never_touches_the_terminal(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    read, write = os.pipe()
    try:
        async with shell(ctl, "run", "fitness-assistant", "q", stdout=write) as screen:
            assert await asyncio.wait_for(asyncio.to_thread(os.read, read, 1), TIMEOUT)
            assert screen.echoes
            screen.type(b"typed\n")
            await screen.until("typed")  # the terminal's own echo
            await finish(daemon)
            assert await screen.report() == {"ended": 0, "echo": True}
    finally:
        os.close(read)
        os.close(write)
    assert "\x1b" not in screen.written
