"""Questions of servers to a person: numbered, bounded, each with one answer. Whose they are is the caller's to say.

A question that was given up keeps its place until its answer comes or the turn is over: so long the daemon counts it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from perstack_runner.clock import LONGEST_HOLD_SECONDS
from perstack_runner.messages import Elicit, Elicited

MAX_OPEN: Final = 8
MAX_IN_TURN: Final = 64
MAX_MESSAGE_BYTES: Final = 4 << 10

Send = Callable[[Elicit], bool]


class Elicitations:
    """Those of a sandbox. `send` hands one to the daemon, or returns False when none may be sent now."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._number = 0
        self._in_turn = 0
        self._unanswered: set[int] = set()
        self._waiting: dict[int, tuple[str, asyncio.Future[Elicited]]] = {}

    async def ask(self, call_id: str, skill: str, message: str, schema: bytes) -> Elicited:
        """The answer: declined at once when too many are open, cancelled when its call is, or after 7 days."""
        number = self._number + 1
        question = Elicit(call_id, skill, number, _cut(message), schema)
        if len(self._unanswered) >= MAX_OPEN or self._in_turn >= MAX_IN_TURN or not self._send(question):
            return Elicited(0, "decline")
        self._number = number
        self._in_turn += 1
        self._unanswered.add(number)
        answer: asyncio.Future[Elicited] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (call_id, answer)
        try:
            async with asyncio.timeout(LONGEST_HOLD_SECONDS):
                return await answer
        except TimeoutError:
            return Elicited(number, "cancel")
        finally:
            del self._waiting[number]

    def answer(self, elicited: Elicited) -> None:
        """Take an answer; to a question that nobody waits for it is nothing."""
        self._unanswered.discard(elicited.elicitation_id)
        if elicited.elicitation_id in self._waiting:
            _resolve(self._waiting[elicited.elicitation_id][1], elicited)

    def cancel(self, call_id: str) -> None:
        """The call has ended: its questions are cancelled."""
        for number, (owner, answer) in self._waiting.items():
            if owner == call_id:
                _resolve(answer, Elicited(number, "cancel"))

    def begin_turn(self) -> None:
        """The last turn's results were sent: nothing of it is open at the daemon."""
        self._in_turn = 0
        self._unanswered = set(self._waiting)


def _resolve(answer: "asyncio.Future[Elicited]", elicited: Elicited) -> None:
    if not answer.done():
        answer.set_result(elicited)


def _cut(message: str) -> str:
    """At most 4 KiB, whole characters, and none that the link does not carry."""
    return message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
