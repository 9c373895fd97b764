"""Ctrl-C, and readers that leave, while the real program shows a job."""

import asyncio
import contextlib
import os
import signal

import pytest

from tests.fakes.daemon_api import FakeDaemon
from tests.fakes.event_log import JOB, EventLog
from tests.fakes.stories import story
from tests.rpc.ctl_program import TIMEOUT, Ctl, ended, endless

pytestmark = pytest.mark.anyio


async def interrupted(daemon: FakeDaemon, ctl: Ctl, *args: str) -> asyncio.subprocess.Process:
    """A call that shows a job, with the first Ctrl-C sent once an event was shown."""
    process = await ctl.start(*args)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), TIMEOUT)
    process.send_signal(signal.SIGINT)
    return process


async def test_the_first_interrupt_cancels_the_job_and_waits_for_its_end(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    done = await ended(await interrupted(daemon, ctl, "run", "e", "q"))
    assert done.code == 5
    assert [request.job_id for request in daemon.requests("CancelJob")] == [JOB]
    assert done.rows[-1]["outcome"] == "cancelled"
    assert f"cancelling job {JOB}" in done.err


async def test_a_job_that_completes_in_spite_of_the_interrupt_completed(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items, daemon.on_cancel = endless, "completed"
    assert (await ended(await interrupted(daemon, ctl, "run", "e", "q"))).code == 0


async def test_the_second_interrupt_leaves_at_once(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items, daemon.on_cancel = endless, ""
    process = await interrupted(daemon, ctl, "run", "e", "q")
    assert process.stderr is not None
    assert b"cancelling" in await asyncio.wait_for(process.stderr.readline(), TIMEOUT)
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert done.code == 130
    command = f"perstackctl job watch {JOB}"
    assert done.err == f"\nperstackctl: left job {JOB}, which was asked to end; see its end with {command}\n"
    assert "Traceback" not in done.err


async def test_the_second_interrupt_leaves_though_nobody_reads_the_output(daemon: FakeDaemon, ctl: Ctl) -> None:
    log = EventLog()
    for _ in range(400):
        log.add("skillStderr", {"text": "x" * 4000})
    daemon.items, daemon.batch_size = lambda _job: log.items, 400
    unread, written = os.pipe()
    try:
        process = await ctl.start("run", "e", "q", stdout=written)
        assert await asyncio.wait_for(asyncio.to_thread(os.read, unread, 1), TIMEOUT)  # the rest is more than fits
        async with asyncio.timeout(TIMEOUT):
            while process.returncode is None:  # signals that wait at the same time are one: send until it went
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.2)
        done = await ended(process)
    finally:
        os.close(unread)
        os.close(written)
    assert (done.code, "left job" in done.err) == (130, True)


async def test_leaving_a_watch_does_not_cancel_the_job(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(endless(JOB))
    done = await ended(await interrupted(daemon, ctl, "job", "watch", JOB))
    assert done.code == 130
    assert not daemon.requests("CancelJob")
    assert "Traceback" not in done.err


async def test_a_reader_that_leaves_ends_the_output_quietly(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    process = await ctl.start("run", "e", "q")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), TIMEOUT)
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # as `head -1` does
    await daemon.append(JOB, *story()[6:])
    async with asyncio.timeout(TIMEOUT):
        code = await process.wait()
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
    assert code == 141
    assert "Traceback" not in said
    assert "Exception ignored" not in said
