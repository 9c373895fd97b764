"""Watching one job to its end: stream in, display out, Ctrl-C, questions, and the exit code.

Tasks in one group: the reader of the stream, a ticker for the display and for jobs that wait for a person, one that
waits for Ctrl-C, one that asks the job's questions. The reader's end ends the others.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perstackctl.client.address import DEFAULT_ADDRESS, socket_path
from perstackctl.client.errors import ClientError, ConnectionLostError, JobWaitsError, UnreachableError
from perstackctl.client.values import EXIT_CODES, Batch, Job, JobState
from perstackctl.output import note
from perstackctl.questions.choose import distinct
from perstackctl.questions.show import ways
from perstackctl.terminal import line
from perstackctl.watch.interrupts import Interrupts
from perstackctl.watch.painter import Painter
from perstackctl.watch.trace import Trace
from perstackctl.watch.words import question_words

if TYPE_CHECKING:
    from perstackctl.client.client import Client
    from perstackctl.client.running import RunningJob
    from perstackctl.questions.desk import Desk

_SHOWN: Final = 8
_ASK_SECONDS: Final = 1.0


@dataclass(slots=True)
class Follower:
    """One job being followed. With `interrupts` the first Ctrl-C cancels the job; `tail` waits for what comes.

    `stay` goes on watching while the job waits for a person; without it that is the end. A `desk` asks the questions.
    A job that is `running` from its own call is not watched by another.
    """

    client: "Client"
    job_id: str
    painter: Painter
    after_seq: int = 0
    streaming: bool = False
    tail: bool = True
    interrupts: Interrupts | None = None
    stay: bool = False
    desk: "Desk | None" = None
    running: "RunningJob | None" = None
    _trace: Trace = field(default_factory=Trace, init=False)
    _waiting: Job | None = field(default=None, init=False)

    async def run(self) -> int:
        """The job's exit code, once it ended; 0 at the end of the log without `tail`.

        Raises:
            JobWaitsError: it waits for a person.
            UnreachableError: the daemon went away; the message has the command to go on with.
        """
        ended: Job | None = None
        if self.interrupts is not None:
            self.interrupts.before_leaving(self.painter.abandon)
        try:
            await self._tasks()
            ended = await self._record()
        except ConnectionLostError as lost:
            raise UnreachableError(self._lost(lost), reason=lost.reason, metadata=lost.metadata) from None
        except BrokenPipeError:
            if not self._trace.outcome:
                note(f"nobody reads the output any more; job {self.job_id} goes on: {self._command(self.after_seq)}")
            raise
        finally:
            self.painter.close(self._trace, ended)
        if self._waiting is not None:
            raise JobWaitsError(self._asks(self._waiting))
        return await self._exit_code()

    async def _record(self) -> Job | None:
        """The record of a job that ended, for a display that shows it. The end is told without it as well."""
        if not (self._trace.outcome and self.painter.tells_cost):
            return None
        try:
            return await self.client.get_job(self.job_id)
        except ClientError:
            return None

    async def _tasks(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                helpers = [group.create_task(self._tick(reader))]
                if self.desk is not None:
                    helpers.append(group.create_task(self.desk.serve()))
                if self.interrupts is not None:
                    helpers.append(group.create_task(self._cancel_when_asked(self.interrupts)))
                reader.add_done_callback(lambda _: [helper.cancel() for helper in helpers])
        except BaseExceptionGroup as failures:
            # The first one cancelled the others, so it is the cause.
            raise failures.exceptions[0] from None

    async def _read(self) -> None:
        async with aclosing(self._batches()) as batches:
            async for batch in batches:
                self._trace = self.painter.paint(self._trace, batch)
                if self.desk is not None:
                    self.desk.update(self._trace.questions)

    def _batches(self) -> AsyncGenerator[Batch, None]:
        if self.running is not None:
            return self.running.batches(self._on_cut)
        return self.client.watch_job(self.job_id, self.after_seq, self.streaming, follow=self.tail, on_cut=self._on_cut)

    async def _tick(self, reader: "asyncio.Task[None]") -> None:
        asked_at = time.monotonic()
        while True:
            await asyncio.sleep(self.painter.interval)
            self.painter.tick(self._trace, int(time.time() * 1000))
            if not self._may_wait() or time.monotonic() - asked_at < _ASK_SECONDS:
                continue
            asked_at = time.monotonic()
            if await self._waits():
                reader.cancel()
                return

    def _may_wait(self) -> bool:
        """Whether it is worth asking the daemon if nothing but answers is missing."""
        there = bool(self._trace.questions) and not self.stay
        return there and (self.desk is None or self.desk.left_all)

    async def _waits(self) -> bool:
        try:
            job = await self.client.get_job(self.job_id)
        except UnreachableError:
            return False  # the reader sees the same and has the patience for it
        waits = job.state is JobState.WAITING or (job.open_questions > 0 and self._trace.stalled)
        # A person who is asked here answers here: only what they left open ends the watch.
        self._waiting = job if waits and self._may_wait() else None
        return self._waiting is not None

    def _asks(self, job: Job) -> str:
        """What it waits for, with the commands that answer."""
        questions = self._trace.questions
        if not questions:
            return f"job {job.id} waits for an answer; see perstackctl job questions {job.id}"
        command = answer_command(self.client.path, job.id)
        asked = [
            f"\n  {line(q.expert_key)}: {question_words(q)}\n    "
            + "\n    ".join(ways(q, command, distinct(q, questions)))
            for q in questions[:_SHOWN]
        ]
        more = f"\n  … and {len(questions) - _SHOWN} more" if len(questions) > _SHOWN else ""
        return f"job {job.id} waits for an answer, and goes on when it has one{''.join(asked)}{more}"

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
        return f"{program(self.client.path)} job watch {self.job_id} --after {last_seq}"


def program(path: Path) -> str:
    """`perstackctl`, with the daemon's address where it is not the one that it finds by itself."""
    known = os.environ.get("PERSTACK_ADDRESS") or DEFAULT_ADDRESS
    return "perstackctl" if socket_path(known) == path else f"perstackctl --address {path}"


def answer_command(path: Path, job_id: str) -> str:
    """What answers a question of a job, but for its name and the answer."""
    return f"{program(path)} job answer {job_id}"


def outcome_code(trace: Trace) -> int:
    """The exit code of a job that ended; 1 for an outcome that this client does not know."""
    try:
        return EXIT_CODES[JobState(trace.outcome)]
    except (KeyError, ValueError):
        return 1
