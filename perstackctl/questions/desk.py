"""Answers a job's questions while it is watched: one after the other, on the terminal, the display held meanwhile.

Above: the follower, which tells of every change. A question that is closed elsewhere ends its prompt; Ctrl-C leaves it
open, and it is not asked again.
"""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from perstackctl.client.errors import ClientError
from perstackctl.client.questions import Answer, Question
from perstackctl.questions.choose import distinct
from perstackctl.questions.dialogue import ask, ask_again
from perstackctl.questions.show import ways
from perstackctl.questions.terminal import Asker, LeftOpen

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_CLOSED: Final = frozenset({"question_closed", "question_not_found", "job_not_found"})


class Display(Protocol):
    """What else writes to the terminal."""

    def hold(self) -> None:
        """Keep off it."""
        ...

    def go_on(self) -> None:
        """It is free again."""
        ...


@dataclass(slots=True)
class Desk:
    """The questions of one job. `command` is `perstackctl job answer JOB`, with what it needs to find the daemon."""

    client: "Client"
    job_id: str
    asker: Asker
    display: Display
    command: str
    _open: tuple[Question, ...] = field(default=(), init=False)
    _done: set[str] = field(default_factory=set, init=False)
    _left: set[str] = field(default_factory=set, init=False)
    _sending: bool = field(default=False, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def update(self, questions: tuple[Question, ...]) -> None:
        """These are open now."""
        if questions != self._open:
            self._open = questions
            self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to ask: all that is open was left open, or its answer is on its way."""
        return self._next() is None

    @property
    def left_all(self) -> bool:
        """Whether the person left open every question that there is."""
        return all(question.id in self._left for question in self._open)

    async def serve(self) -> None:
        """Ask until cancelled."""
        while True:
            question = self._next()
            if question is None:
                await self._changed.wait()
                self._changed.clear()
                continue
            self.display.hold()
            try:
                await self._one(question)
            finally:
                self.display.go_on()

    def _next(self) -> Question | None:
        return next((each for each in self._open if each.id not in self._done | self._left), None)

    async def _one(self, question: Question) -> None:
        """Returns when it is answered, left open, or closed by somebody else."""
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask(question))
            closing = group.create_task(self._cancel_when_closed(question, asking))
            asking.add_done_callback(lambda _: closing.cancel())
        if asking.cancelled():
            name = distinct(question, (question, *self._open))
            self.asker.say(f"  {name} was answered elsewhere, or is not asked any more")
            self._done.add(question.id)

    async def _cancel_when_closed(self, question: Question, asking: "asyncio.Task[None]") -> None:
        while self._is_open(question):
            await self._changed.wait()
            self._changed.clear()
        # Our own answer closes it too, and the stream may tell so before the call returns: that is no news.
        if not self._sending:
            asking.cancel()

    def _is_open(self, question: Question) -> bool:
        return any(each.id == question.id for each in self._open)

    async def _ask(self, question: Question) -> None:
        try:
            answer = await ask(self.asker, question, self.job_id, distinct(question, self._open))
            while not await self._sent(question, answer):
                answer = await ask_again(self.asker, question)
        except LeftOpen:
            self._left.add(question.id)
            name = distinct(question, self._open)
            commands = "\n  ".join(ways(question, self.command, name))
            self.asker.say(f"  {name} stays open; answer it later with\n  {commands}")
        except ClientError as error:
            self._left.add(question.id)
            self.asker.say(f"  {error.message}")

    async def _sent(self, question: Question, answer: Answer) -> bool:
        """Whether the question is closed now."""
        self._sending = True
        try:
            await self.client.answer_question(self.job_id, question.id, answer)
        except ClientError as error:
            self.asker.say(f"  {error.message}")
            if error.reason not in _CLOSED and self._is_open(question):
                return False
        finally:
            self._sending = False
        self._done.add(question.id)
        return True
