"""The real program on a terminal: the live view, what cannot act on it, and `start`, which asks."""

import asyncio
import os
import pty

import pytest
from perstack.v1 import experts_pb2

from tests.fakes.daemon_api import FakeDaemon
from tests.fakes.stories import story
from tests.rpc.ctl_program import TIMEOUT, Ctl

pytestmark = pytest.mark.anyio


async def test_start_sends_programs_to_run(ctl: Ctl) -> None:
    done = await ctl("start")
    assert done.code == 2
    assert "use perstackctl run" in done.err


async def on_a_terminal(ctl: Ctl, *args: str, typed: bytes = b"") -> tuple[int, str]:
    """A call whose standard input and output are a terminal; returns its code and all that was written to it."""
    ours, theirs = pty.openpty()
    process = await ctl.start(*args, stdin=theirs, stdout=theirs)
    os.close(theirs)
    os.write(ours, typed)

    def read() -> bytes:
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                return written
            written += piece

    try:
        written, code = await asyncio.wait_for(asyncio.gather(asyncio.to_thread(read), process.wait()), TIMEOUT)
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)
    return code, written.decode().replace("\r\n", "\n")


async def test_on_a_terminal_a_run_is_a_live_view_and_the_answer_stands_below(ctl: Ctl) -> None:
    code, written = await on_a_terminal(ctl, "run", "fitness-assistant", "q")
    assert code == 0
    assert "\x1b[?25l" in written  # the cursor is hidden, and shown again
    assert written.index("\x1b[?25h") > written.index("\x1b[?25l")
    assert written.endswith("\nTen minutes of rowing, then rest.\n")
    assert "pro-trainer" in written


async def test_an_answer_cannot_act_on_the_terminal(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = lambda job: story(job, answer="a\x1b]0;owned\x07b\x1b[2J\x9b31mc")
    _, written = await on_a_terminal(ctl, "run", "fitness-assistant", "q")
    assert written.endswith("\nabc\n")
    assert "owned" not in written
    assert "\x1b[2J" not in written
    assert "\x9b" not in written


async def test_a_dumb_terminal_gets_the_log(ctl: Ctl) -> None:
    ctl.env["TERM"] = "dumb"
    code, written = await on_a_terminal(ctl, "run", "fitness-assistant", "q")
    assert code == 0
    assert "\x1b" not in written
    assert "delegates to pro-trainer" in written


async def test_start_asks_for_expert_and_query(daemon: FakeDaemon, ctl: Ctl) -> None:
    experts = [
        experts_pb2.ResolvedExpert(key="pro-trainer", description="plans"),
        experts_pb2.ResolvedExpert(key="fitness-assistant", description="interviews", delegates=["pro-trainer"]),
    ]
    daemon.resolution = experts_pb2.ResolveResponse(experts=experts)
    code, written = await on_a_terminal(ctl, "start", typed=b"1\nGo\n")
    assert code == 0
    assert "1  fitness-assistant  - interviews" in written
    sent = daemon.requests("CreateJob")[0]
    assert (sent.expert_key, sent.query) == ("fitness-assistant", "Go")
