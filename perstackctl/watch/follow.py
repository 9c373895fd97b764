"""Watching one job to its end: stream in, display out, Ctrl-C, and the exit code.

Three tasks in one group: the reader of the stream, a ticker for the display and for jobs that wait for a person, and
one that waits for Ctrl-C. The reader's end ends the others.
"""

import asyncio
import os
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from perstackctl.client.address import DEFAULT_ADDRESS, socket_path
from perstackctl.client.errors import ClientError, ConnectionLostError, JobWaitsError, UnreachableError
from perstackctl.client.values import EXIT_CODES, Job, JobState
from perstackctl.output import note
from perstackctl.watch.interrupts import Interrupts
from perstackctl.watch.painter import Painter
from perstackctl.watch.trace import Trace

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_ASK_SECONDS: Final = 1.0


@dataclass(slots=True)
class Follower:
    """One job being followed. With `interrupts` the first Ctrl-C cancels the job; `tail` waits for what comes."""

    client: "Client"
    job_id: str
    painter: Painter
    after_seq: int = 0
    streaming: bool = False
    tail: bool = True
    interrupts: Interrupts | None = None
    _trace: Trace = field(default_factory=Trace, init=False)
    _waiting: Job | None = field(default=None, init=False)

    async def run(self) -> int:
        """The job's exit code, once it ended; 0 at the end of the log without `tail`.

        Raises:
            JobWaitsError: it waits for a person.
            UnreachableError: the daemon went away; the message has the command to go on with.
        """
        try:
            await self._tasks()
        except ConnectionLostError as lost:
            raise UnreachableError(self._lost(lost), reason=lost.reason, metadata=lost.metadata) from None
        except BrokenPipeError:
            if not self._trace.outcome:
                note(f"nobody reads the output any more; job {self.job_id} goes on: {self._command(self.after_seq)}")
            raise
        finally:
            self.painter.close(self._trace)
        if self._waiting is not None:
            question = next((run.note for run in self._trace.runs.values() if run.phase == "asking"), "")
            raise JobWaitsError(f"job {self.job_id} waits for an answer{f' ({question})' if question else ''}")
        return await self._exit_code()

    async def _tasks(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                helpers = [group.create_task(self._tick(reader))]
                if self.interrupts is not None:
                    helpers.append(group.create_task(self._cancel_when_asked(self.interrupts)))
                reader.add_done_callback(lambda _: [helper.cancel() for helper in helpers])
        except BaseExceptionGroup as failures:
            # The first one cancelled the others, so it is the cause.
            raise failures.exceptions[0] from None

    async def _read(self) -> None:
        batches = self.client.watch_job(
            self.job_id, self.after_seq, self.streaming, follow=self.tail, on_cut=self._on_cut
        )
        async with aclosing(batches):
            async for batch in batches:
                self._trace = self.painter.paint(self._trace, batch)

    async def _tick(self, reader: "asyncio.Task[None]") -> None:
        asked_at = time.monotonic()
        while True:
            await asyncio.sleep(self.painter.interval)
            self.painter.tick(self._trace, int(time.time() * 1000))
            if not self._trace.asking or time.monotonic() - asked_at < _ASK_SECONDS:
                continue
            asked_at = time.monotonic()
            if await self._waits():
                reader.cancel()
                return

    async def _waits(self) -> bool:
        try:
            job = await self.client.get_job(self.job_id)
        except UnreachableError:
            return False  # the reader sees the same and has the patience for it
        self._waiting = job if job.state is JobState.WAITING else None
        return self._waiting is not None

    async def _cancel_when_asked(self, interrupts: Interrupts) -> None:
        await interrupts.wait()
        self.painter.notice(f"cancelling job {self.job_id}; Ctrl-C again leaves at once")
        try:
            await self.client.cancel_job(self.job_id, "interrupted at the terminal")
        except ClientError as error:
            self.painter.notice(f"job {self.job_id} was not cancelled: {error.message}")

    def _on_cut(self, failure: ClientError, last_seq: int) -> None:
        self.painter.notice(f"the watch broke after event {last_seq}, trying again ({failure.reason})")

    async def _exit_code(self) -> int:
        if self._trace.outcome:
            return outcome_code(self._trace)
        if not self.tail:
            return 0
        # The stream was joined after the end, or the daemon ended it early: ask.
        job = await self.client.get_job(self.job_id)
        if job.state.final:
            return EXIT_CODES[job.state]
        last = max(self._trace.last_seq, self.after_seq)
        raise UnreachableError(
            f"the daemon ended the watch of job {self.job_id} before the job ended; go on with: {self._command(last)}"
        )

    def _lost(self, lost: ConnectionLostError) -> str:
        return (
            f"lost the daemon while watching job {self.job_id} ({lost.message}); when it is back, "
            f"go on with: {self._command(lost.last_seq)}"
        )

    def _command(self, last_seq: int) -> str:
        known = os.environ.get("PERSTACK_ADDRESS") or DEFAULT_ADDRESS
        address = "" if socket_path(known) == self.client.path else f" --address {self.client.path}"
        return f"perstackctl{address} job watch {self.job_id} --after {last_seq}"


def outcome_code(trace: Trace) -> int:
    """The exit code of a job that ended; 1 for an outcome that this client does not know."""
    try:
        return EXIT_CODES[JobState(trace.outcome)]
    except (KeyError, ValueError):
        return 1
