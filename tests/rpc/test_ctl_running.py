"""A job that is made and watched in one call, by the client and by the real program, of a daemon that says what it is
told.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from perstack.v1 import jobs_pb2

from perstackctl import client as api
from perstackctl.client import Client, JobRequest
from tests.fakes.daemon_api import Cut, FakeDaemon
from tests.fakes.event_log import JOB
from tests.fakes.stories import story
from tests.rpc.ctl_program import LAST, TIMEOUT, Ctl, ended, endless

pytestmark = pytest.mark.anyio

EVERYTHING = list(range(1, LAST + 1))
PLAIN = JobRequest(api.Definition(""), "e", "q")
KEYED = JobRequest(api.Definition(""), "e", "q", idempotency_key="k")


@pytest.fixture
async def client(daemon: FakeDaemon) -> AsyncIterator[Client]:
    async with Client(daemon.path, timeout=5, reconnect_seconds=2) as client:
        yield client


async def seqs(running: api.RunningJob, told: list[int] | None = None) -> list[int]:
    def on_cut(_: api.ClientError, seq: int) -> None:
        if told is not None:
            told.append(seq)

    async with asyncio.timeout(TIMEOUT), aclosing(running.batches(on_cut)) as batches:
        return [event.seq async for batch in batches for event in batch.events]


class Holding(FakeDaemon):
    """Says nothing of a job before it may."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.asked, self.may, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def CreateJob(self, request: Any, context: Any) -> jobs_pb2.CreateJobResponse:  # noqa: N802
        self.asked.set()
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await super().CreateJob(request, context)


class Strange(FakeDaemon):
    """Answers RunJob with these replies."""

    replies: tuple[jobs_pb2.RunJobResponse, ...] = ()

    async def RunJob(self, request: Any, context: Any) -> AsyncIterator[jobs_pb2.RunJobResponse]:  # noqa: N802
        for reply in self.replies:
            yield reply


async def test_a_jobs_request_and_all_that_comes_of_it_are_one_call(daemon: FakeDaemon, client: Client) -> None:
    running = await client.run_job(KEYED, include_streaming=True)
    assert running.created.job.id == JOB
    async with asyncio.timeout(TIMEOUT), aclosing(running.batches()) as batches:
        found = [batch async for batch in batches]
    assert [event.seq for batch in found for event in batch.events] == EVERYTHING
    assert "".join(piece.delta for batch in found for piece in batch.pieces) == "Rowing, then rest."
    (sent,) = daemon.requests("RunJob")
    assert (sent.job.idempotency_key, sent.job.expert_key, sent.include_streaming) == ("k", "e", True)


@pytest.mark.parametrize(
    "cut",
    [Cut(7), Cut(7, grpc.StatusCode.ABORTED, "watch_cut"), Cut(7, grpc.StatusCode.CANCELLED)],
    ids=lambda cut: f"{cut.code.name}-{cut.reason}",
)
async def test_a_cut_is_mended_by_watching_from_the_last_event_and_never_by_another_job(
    daemon: FakeDaemon, client: Client, cut: Cut
) -> None:
    daemon.cuts, told = [cut], list[int]()
    assert await seqs(await client.run_job(PLAIN), told) == EVERYTHING
    assert len(daemon.requests("RunJob")) == 1
    _of_the_call, again = daemon.requests("WatchJob")
    assert [again.after_seq] == told
    assert again.after_seq >= 7
    assert again.job_id == JOB


async def test_a_cut_before_the_first_event_loses_none(daemon: FakeDaemon, client: Client) -> None:
    daemon.fail("WatchJob", grpc.StatusCode.UNAVAILABLE, "", "Socket closed")
    assert await seqs(await client.run_job(PLAIN)) == EVERYTHING
    assert [request.after_seq for request in daemon.requests("WatchJob")] == [0, 0]


async def test_a_reader_that_is_slower_than_the_job_gets_all_of_it(daemon: FakeDaemon, client: Client) -> None:
    """Also what arrives after the daemon has ended the call."""
    daemon.batch_size = 1
    running = await client.run_job(PLAIN)
    async with asyncio.timeout(TIMEOUT), aclosing(running.batches()) as batches:
        first = await anext(batches)
        for _ in range(20):
            await client.info()
        rest = [event.seq async for batch in batches for event in batch.events]
    assert [event.seq for event in first.events] + rest == EVERYTHING


async def test_a_job_is_asked_for_again_only_with_an_idempotency_key(daemon: FakeDaemon, client: Client) -> None:
    daemon.fail("RunJob", grpc.StatusCode.UNAVAILABLE, "", "Socket closed")
    with pytest.raises(api.UnreachableError):
        await client.run_job(PLAIN)
    assert len(daemon.requests("RunJob")) == 1
    daemon.fail("RunJob", grpc.StatusCode.UNAVAILABLE, "", "Socket closed")
    assert await seqs(await client.run_job(KEYED)) == EVERYTHING
    assert [request.job.idempotency_key for request in daemon.requests("RunJob")] == ["", "k", "k"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, api.InvalidError),
        (grpc.StatusCode.ALREADY_EXISTS, api.ConflictError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, api.RefusedError),
        (grpc.StatusCode.UNAVAILABLE, api.UnreachableError),
    ],
)
async def test_a_refusal_keeps_the_daemons_reason_words_and_fields(
    daemon: FakeDaemon, client: Client, code: grpc.StatusCode, error: type[api.ClientError]
) -> None:
    daemon.fail("CreateJob", code, "some_reason", "what was wrong, and what to do", job_id=JOB)
    with pytest.raises(error) as caught:
        await client.run_job(KEYED)
    failure = caught.value
    assert (failure.reason, failure.message) == ("some_reason", "what was wrong, and what to do")
    assert failure.metadata == {"job_id": JOB}
    assert len(daemon.requests("RunJob")) == 1


async def test_a_daemon_that_does_not_answer_is_given_up_in_time_and_hung_up_on(tmp_path: Path) -> None:
    async with (
        Holding(str(tmp_path / "h.sock")) as daemon,
        Client(daemon.path, timeout=0.2) as client,
        asyncio.timeout(TIMEOUT),
    ):
        with pytest.raises(api.UnreachableError, match="did not answer in time"):
            await client.run_job(KEYED)
        await daemon.left.wait()
        assert len(daemon.requests("RunJob")) == 1


async def test_only_the_first_reply_has_a_deadline(daemon: FakeDaemon) -> None:
    daemon.pace, daemon.batch_size = 0.4, 100
    async with Client(daemon.path, timeout=0.2) as client:
        assert await seqs(await client.run_job(PLAIN)) == EVERYTHING


async def test_a_caller_that_is_cancelled_hangs_up(tmp_path: Path) -> None:
    async with Holding(str(tmp_path / "h.sock")) as daemon, Client(daemon.path) as client, asyncio.timeout(TIMEOUT):
        asking = asyncio.ensure_future(client.run_job(KEYED))
        await daemon.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await daemon.left.wait()


async def test_an_older_daemon_is_said_to_be_older(daemon: FakeDaemon, client: Client) -> None:
    daemon.fail("RunJob", grpc.StatusCode.UNIMPLEMENTED, "", "Method not found!")
    with pytest.raises(api.UnsupportedError, match="it is older than this perstackctl"):
        await client.run_job(KEYED)
    assert len(daemon.requests("RunJob")) == 1


async def test_a_daemon_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    async with Client(str(tmp_path / "none.sock")) as client:
        with pytest.raises(api.SocketMissingError):
            await client.run_job(KEYED)


@pytest.mark.parametrize(
    "replies",
    [(), (jobs_pb2.RunJobResponse(),), (jobs_pb2.RunJobResponse(watched=jobs_pb2.WatchJobResponse()),)],
    ids=["none", "an empty one", "of the watch"],
)
async def test_a_daemon_that_does_not_say_first_which_job_it_made_is_not_understood(
    tmp_path: Path, replies: tuple[jobs_pb2.RunJobResponse, ...]
) -> None:
    async with Strange(str(tmp_path / "s.sock")) as daemon, Client(daemon.path) as client:
        daemon.replies = replies
        with pytest.raises(api.ProtocolError, match="another version"):
            await client.run_job(KEYED)


async def test_replies_of_a_kind_that_is_not_known_yet_are_passed_over(tmp_path: Path) -> None:
    async with Strange(str(tmp_path / "s.sock")) as daemon, Client(daemon.path, reconnect_seconds=2) as client:
        daemon.add_job(story())
        created = jobs_pb2.RunJobResponse(created=jobs_pb2.CreateJobResponse(job=jobs_pb2.Job(id=JOB)))
        daemon.replies = (created, jobs_pb2.RunJobResponse())
        assert await seqs(await client.run_job(KEYED)) == []


# --- perstackctl ------------------------------------------------------------------------------------------------------
async def test_run_makes_one_call_and_a_detached_one_does_not_watch(daemon: FakeDaemon, ctl: Ctl) -> None:
    done = await ctl("run", "fitness-assistant", "q", "--stream")
    assert (done.code, len(daemon.requests("RunJob")), len(daemon.requests("WatchJob"))) == (0, 1, 1)
    assert daemon.requests("RunJob")[0].include_streaming
    detached = await ctl("run", "fitness-assistant", "q", "--detach")
    assert (detached.code, detached.out) == (0, f"{JOB}\n")
    assert (len(daemon.requests("RunJob")), len(daemon.requests("WatchJob"))) == (1, 1)
    assert len(daemon.requests("CreateJob")) == 2


async def test_run_goes_on_over_a_cut_and_prints_each_event_once(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.cuts = [Cut(7)]
    done = await ctl("run", "fitness-assistant", "q")
    assert (done.code, [row["seq"] for row in done.rows]) == (0, EVERYTHING)
    assert len(daemon.requests("RunJob")) == 1


async def test_run_says_of_an_older_daemon_that_it_is_older(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.fail("RunJob", grpc.StatusCode.UNIMPLEMENTED, "", "Method not found!")
    done = await ctl("run", "fitness-assistant", "q")
    assert (done.code, done.out) == (1, "")
    assert "older than this perstackctl" in done.err
    assert "Traceback" not in done.err


async def test_an_interrupt_while_the_job_is_made_cancels_it_once_it_is_there(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "perstack.toml").write_text('[experts."e"]\ninstruction = "x"\n')
    async with Holding(str(tmp_path / "h.sock")) as daemon, asyncio.timeout(TIMEOUT):
        daemon.items = endless
        process = await Ctl(daemon.path, project).start("run", "e", "q")
        await daemon.asked.wait()
        process.send_signal(signal.SIGINT)
        daemon.may.set()
        done = await ended(process)
    assert done.code == 5
    assert [request.job_id for request in daemon.requests("CancelJob")] == [JOB]
