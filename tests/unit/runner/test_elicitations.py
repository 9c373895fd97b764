import asyncio

import pytest
from perstack_runner import elicitations
from perstack_runner.elicitations import MAX_IN_TURN, MAX_OPEN, Elicitations
from perstack_runner.messages import Elicit, Elicited

pytestmark = pytest.mark.anyio


class Daemon:
    """Keeps what it is sent; takes nothing with `deaf`."""

    def __init__(self) -> None:
        self.asked: list[Elicit] = []
        self.deaf = False

    def take(self, question: Elicit) -> bool:
        if not self.deaf:
            self.asked.append(question)
        return not self.deaf


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def desk(daemon: Daemon) -> Elicitations:
    return Elicitations(daemon.take)


async def asked(desk: Elicitations, call_id: str = "c") -> "asyncio.Task[Elicited]":
    task = asyncio.ensure_future(desk.ask(call_id, "s", "Who?", b"{}"))
    await asyncio.sleep(0)
    return task


async def test_an_answer_reaches_the_question_of_its_number(desk: Elicitations, daemon: Daemon) -> None:
    first, second = await asked(desk), await asked(desk)
    assert daemon.asked == [Elicit("c", "s", 1, "Who?", b"{}"), Elicit("c", "s", 2, "Who?", b"{}")]
    desk.answer(Elicited(2, "accept", b"{}"))
    desk.answer(Elicited(2, "decline"))
    desk.answer(Elicited(1, "decline"))
    assert (await first, await second) == (Elicited(1, "decline"), Elicited(2, "accept", b"{}"))


async def test_one_too_many_is_declined_until_one_was_answered(desk: Elicitations, daemon: Daemon) -> None:
    tasks = [await asked(desk) for _ in range(MAX_OPEN)]
    assert (await desk.ask("c", "s", "Who?", b"{}")).action == "decline"
    desk.answer(Elicited(3, "cancel"))
    assert (await tasks[2]).action == "cancel"
    tasks[2] = await asked(desk)
    assert [question.elicitation_id for question in daemon.asked] == list(range(1, MAX_OPEN + 2))
    desk.cancel("c")
    assert {(await task).action for task in tasks} == {"cancel"}


async def test_a_question_that_is_given_up_keeps_its_place_until_its_answer_or_the_next_turn(
    desk: Elicitations, daemon: Daemon
) -> None:
    for _ in range(MAX_OPEN):
        task = await asked(desk)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await desk.ask("c", "s", "Who?", b"{}")).action == "decline"
    desk.answer(Elicited(1, "accept", b"{}"))
    again = await asked(desk)
    assert daemon.asked[-1].elicitation_id == MAX_OPEN + 1
    desk.cancel("c")
    await again
    desk.begin_turn()
    more = [await asked(desk) for _ in range(MAX_OPEN)]
    assert len(daemon.asked) == 2 * MAX_OPEN + 1
    desk.cancel("c")
    await asyncio.gather(*more)


async def test_a_turn_has_so_many_questions_and_no_more(desk: Elicitations, daemon: Daemon) -> None:
    for number in range(1, MAX_IN_TURN + 1):
        task = await asked(desk)
        desk.answer(Elicited(number, "decline"))
        await task
    assert (await desk.ask("c", "s", "Who?", b"{}")).action == "decline"
    assert len(daemon.asked) == MAX_IN_TURN


async def test_what_the_daemon_does_not_take_now_is_declined(desk: Elicitations, daemon: Daemon) -> None:
    daemon.deaf = True
    assert (await desk.ask("c", "s", "Who?", b"{}")).action == "decline"
    daemon.deaf = False
    task = await asked(desk)
    assert daemon.asked[0].elicitation_id == 1
    desk.cancel("other")
    desk.cancel("c")
    assert (await task).action == "cancel"


async def test_nobody_waits_for_ever(desk: Elicitations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elicitations, "LONGEST_HOLD_SECONDS", 0.01)
    assert (await desk.ask("c", "s", "Who?", b"{}")).action == "cancel"


async def test_a_message_is_cut_at_a_character_and_has_none_that_the_link_does_not_carry(
    desk: Elicitations, daemon: Daemon
) -> None:
    task = asyncio.ensure_future(desk.ask("c", "s", "\ud800x" + "€" * 2000, b"{}"))
    await asyncio.sleep(0)
    assert daemon.asked[0].message == "?x" + "€" * 1364
    desk.cancel("c")
    await task
