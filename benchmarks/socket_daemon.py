"""The daemon's way from a sandbox's socket to a watcher's, without the rest of it: link, scrubbing, feed, WatchJob.

`python -m benchmarks.socket_daemon DIRECTORY` serves both sockets there until SIGTERM. The bounds of what one sandbox
may send are lifted: they are 200 messages a second, and what is measured is what the daemon takes from all of them.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import grpc.aio
import uvloop
from perstack.v1 import jobs_pb2_grpc

from benchmarks.finished_job import record
from perstackd.adapters.clock import SystemClock
from perstackd.adapters.store.sqlite import open_store
from perstackd.app.feed import Batch, Feed
from perstackd.app.jobs import Jobs
from perstackd.app.scrubbing import AskScrubber, Scrubber
from perstackd.domain.events import Origin, StreamPiece
from perstackd.domain.ids import JobId, RunId, SandboxId
from perstackd.domain.session import Progress
from perstackd.rpc.jobs import JobServicer
from perstackd.rpc.runner import SocketRunnerLink, SocketRunnerLinks
from perstackd.rpc.runner_stream import LinkLimits

ADMIN: Final = "admin.sock"
RUNNER: Final = "runner.sock"
MAX_SECONDS: Final = 300.0
SECRET: Final = "a-secret-value-of-the-run"
ENDLESS: Final = LinkLimits(
    messages_per_second=1e9, messages_burst=1e9, bytes_per_second=1e12, bytes_burst=1e12, throttled_seconds=60
)


class Watched:
    """What WatchJob needs of `Jobs`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def watch(self, job_id: JobId, after_seq: int, *, streaming: bool, follow: bool) -> AsyncIterator[Batch]:
        """As Jobs.watch, of a job that is known."""
        return self._feed.watch(job_id, after_seq, streaming=streaming, follow=follow)


async def serve(directory: Path) -> None:
    """Until SIGTERM, at most `MAX_SECONDS`."""
    clock = SystemClock()
    job_id = JobId(directory.name)
    async with await open_store(directory) as store:
        feed = Feed(store)
        await store.create(record(job_id, clock.now_ms()), ())
        feed.open(job_id)
        server = grpc.aio.server()
        jobs_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(cast("Jobs", Watched(feed))), server)
        server.add_insecure_port(f"unix:{directory / ADMIN}")
        link = await SocketRunnerLinks(clock, ENDLESS).listen(SandboxId(job_id), str(directory / RUNNER))
        await server.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(_take(link, feed, job_id))
            with suppress(TimeoutError):  # who started it may be dead
                await asyncio.wait_for(stop.wait(), MAX_SECONDS)
            taking.cancel()
        await link.close()
        await server.stop(1)


async def _take(link: SocketRunnerLink, feed: Feed, job_id: JobId) -> None:
    said, origin = AskScrubber(Scrubber({"SECRET": SECRET})), Origin(RunId(job_id), RunId(""), "stepper", 1)
    await link.hello(60)
    async for ask in link.asks():
        for heard in said.heard(ask):
            if isinstance(heard, Progress):
                feed.stream(_piece(heard, job_id, origin))


def _piece(progress: Progress, job_id: JobId, origin: Origin) -> StreamPiece:
    call = progress.call_id
    return StreamPiece(0, call, progress.offset, "streamToolOutput", job_id, origin, progress.delta, call)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
