"""The questions of a job while it is watched: what the desk says of those that close."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from perstackctl.client.errors import ClientError, InvalidError
from perstackctl.client.questions import Answer, Question, QuestionKind
from perstackctl.questions.desk import Desk

pytestmark = pytest.mark.anyio
FIRST = Question("RUNA.1-1", QuestionKind.TOOL, "RUNA", "a", "ask", "ask", {}, "One?")
SECOND = Question("RUNB.1-1", QuestionKind.TOOL, "RUNB", "b", "ask", "ask", {}, "Two?")


@dataclass
class Person:
    """Says what it is told to say, when it is told to."""

    shown: list[str] = field(default_factory=list)
    typed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def say(self, text: str = "") -> None:
        self.shown.append(text)

    def forget(self) -> None:
        pass

    async def line(self, prompt: str) -> str:
        self.asked.release()
        return await self.typed.get()


@dataclass
class Daemon:
    """Takes answers as a daemon does: the stream tells of the answer before the call returns."""

    desk: Desk | None = None
    answered: list[str] = field(default_factory=list)
    refusal: ClientError | None = None
    closes: bool = True

    async def answer_question(self, job_id: str, question_id: str, answer: Answer) -> None:
        assert self.desk is not None
        if self.closes:
            self.desk.update(tuple(each for each in (FIRST, SECOND) if each.id not in {*self.answered, question_id}))
        for _ in range(5):
            await asyncio.sleep(0)
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        self.answered.append(question_id)


class Display:
    def hold(self) -> None:
        pass

    def go_on(self) -> None:
        pass


@asynccontextmanager
async def desk(daemon: Daemon, person: Person) -> AsyncIterator[Desk]:
    daemon.desk = Desk(cast("Any", daemon), "J", person, Display(), "perstackctl job answer J")
    daemon.desk.update((FIRST, SECOND))
    serving = asyncio.create_task(daemon.desk.serve())
    try:
        async with asyncio.timeout(5):
            yield daemon.desk
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_an_answer_that_the_stream_tells_of_first_is_still_this_persons_own() -> None:
    daemon, person = Daemon(), Person()
    async with desk(daemon, person):
        for text in ("one", "two"):
            await person.asked.acquire()
            person.typed.put_nowait(text)
        while len(daemon.answered) < 2:
            await asyncio.sleep(0)
    assert daemon.answered == [FIRST.id, SECOND.id]
    assert not [row for row in person.shown if "elsewhere" in row]


async def test_a_question_that_closes_while_nothing_is_on_its_way_was_answered_elsewhere() -> None:
    daemon, person = Daemon(), Person()
    async with desk(daemon, person) as served:
        await person.asked.acquire()
        served.update((SECOND,))
        await person.asked.acquire()
    assert "  RUNA.1-1 was answered elsewhere, or is not asked any more" in person.shown


async def test_an_answer_that_is_refused_is_asked_for_again_unless_the_question_closed_meanwhile() -> None:
    for closes, asked_again in ((False, True), (True, False)):
        person = Person()
        daemon = Daemon(refusal=InvalidError("say a number", reason="answer_invalid"), closes=closes)
        async with desk(daemon, person):
            await person.asked.acquire()
            person.typed.put_nowait("one")
            await person.asked.acquire()
        assert "  say a number" in person.shown
        assert any("Two?" in row for row in person.shown) is not asked_again


async def test_questions_with_one_short_name_are_told_apart() -> None:
    daemon, person = Daemon(), Person()
    async with desk(daemon, person):
        await person.asked.acquire()
    assert person.shown[0].startswith("? a asks (ask.ask)  [RUNA.1-1]")
