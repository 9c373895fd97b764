"""After a daemon was killed, or stopped in the middle of its jobs, they go on in the sandboxes that they had.

Nothing is done or told twice.
"""

import anyio
import pytest

from perstackd.domain.events import (
    InitializeRuntime,
    QuestionAnswered,
    ResumeToolCalls,
    SandboxReleased,
    SkillConnected,
)
from perstackd.domain.messages import TextPart, ToolResultPart
from perstackd.domain.session import Elicit, ElicitAnswer, NextTurn, RoutedCall, ToolResults
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Entry, Held
from tests.unit.app.coming_back import SKILLED, asked, assigned, claimed, ended, hanging, left_in_a_call
from tests.unit.app.daemon_in_memory import SKILLS, Machine, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.test_taking_up import types_of
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio


async def test_a_call_that_runs_through_the_restart_is_made_once_and_its_result_is_taken(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    record, link = await left_in_a_call(machine, turns)
    made: list[RoutedCall] = []
    async with world(machine.runtime, turns, machine=machine) as second:
        second.links.tool = lambda call: made.append(call) or answered(call)  # type: ignore[func-returns-value]
        with anyio.fail_after(5):
            await eventually(lambda: bool(claimed(second)) and claimed(second)[0].assigned is not None)
        (again,) = claimed(second)
        assert again.sandbox_id == link.sandbox_id
        again.complete()
        events = await ended(second, record.id)
        await eventually(lambda: link.sandbox_id in machine.sandboxes.removed)
    assert len(made) == 1
    assert assigned(events) == 1
    assert "exec done" in str(events)
    assert [event.payload.cause for event in events if isinstance(event.payload, SandboxReleased)] == ["finished"]
    assert not any(isinstance(event.payload, ResumeToolCalls) for event in events)


async def test_results_that_came_while_no_daemon_was_there_are_taken(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    record, link = await left_in_a_call(machine, turns)
    machine.links.tool = answered
    link.complete()
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
    assert assigned(events) == 1
    assert str(events).count("exec done") == 1


async def test_a_run_whose_model_was_thinking_asks_it_again_and_stays_where_it_is(machine: Machine) -> None:
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [calls(("a", "exec", {})), held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
    turns = {LEAD: [calls(("a", "exec", {})), calls(("a", "exec", {})), says("done")]}  # the same id in a later turn
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
    assert assigned(events) == 1
    assert str(events).count("exec done") == 2
    assert sum(isinstance(event.payload, InitializeRuntime) for event in events) == 1


async def test_results_that_are_stored_and_said_again_are_not_taken_for_those_of_a_later_call(machine: Machine) -> None:
    """A daemon that dies between the append and the acknowledgement, before a call with the id of an earlier one."""
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), calls(("a", "exec", {})), says("done")]}
    async with machine.interrupted(turns) as first:
        count = 0
        begun = anyio.Event()

        def second_hangs(call: RoutedCall) -> ToolResultPart | None:
            nonlocal count
            count += 1
            if count == 2:
                begun.set()
            return None if count == 2 else ToolResultPart(call.call_id, (TextPart("first"),))

        first.links.tool = second_hangs
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
    stale = ToolResults(1, (ToolResultPart("a", (TextPart("first"),)),))
    link.runner.kept = [stale, *[ask for ask in link.runner.kept if ask != stale]]
    machine.links.tool = lambda call: ToolResultPart(call.call_id, (TextPart("second"),))
    link.complete()
    async with world(machine.runtime, turns, machine=machine) as later:
        events = await ended(later, record.id)
    results = [part for event in events for part in getattr(event.payload, "results", ())]
    assert [part.content[0].text for part in results] == ["first", "second"]


async def test_an_order_that_died_with_the_daemon_is_given_again(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    record, link = await left_in_a_call(machine, turns)
    runner = link.runner
    order = runner.running
    assert order is not None  # as if it had never come
    runner.question, runner.running, runner.step = NextTurn(order.step), None, order.step
    machine.links.tool = answered
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
    assert assigned(events) == 1
    assert str(events).count("exec done") == 1


async def test_parent_and_child_both_go_on_in_theirs(machine: Machine) -> None:
    held = Held(says("never"))
    lead: list[Entry] = [calls(("d", "helper", {"query": "x"}))]
    async with machine.interrupted({LEAD: lead, HELPER: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
    turns: dict[str, list[Entry]] = {LEAD: [*lead, says("done")], HELPER: [says("from the child")]}
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
    assert assigned(events) == 2
    assert types_of(events).count("startRun") == 2


async def test_a_skills_own_sandbox_comes_back_with_its_experts_and_its_news_are_told_once(machine: Machine) -> None:
    machine.links.tools = {"web": ("fetch",)}
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "fetch", {}), ("b", "exec", {})), says("done")]}
    async with machine.interrupted(turns, skills=SKILLS) as first:
        begun = hanging(first, "fetch")
        record = await first.start(SKILLED)
        with anyio.fail_after(5):
            await begun.wait()
        web = next(link for link in claimed(first) if link.runner.running is not None)
        lead = next(link for link in claimed(first) if link is not web)
        await eventually(lambda: any(isinstance(ask, ToolResults) for ask in lead.runner.kept))
    # What the lead's sandbox has reported waits for the other's result, so it may not forget it yet.
    machine.links.tool = answered
    web.complete()
    async with world(machine.runtime, turns, machine=machine, skills=SKILLS) as second:
        events = await ended(second, record.id)
    assert assigned(events) == 2
    assert sum(isinstance(event.payload, SkillConnected) for event in events) == 1
    assert str(events).count("exec done") == 1


async def test_a_servers_question_is_asked_once_and_its_answer_comes_to_it_after_the_restart(machine: Machine) -> None:
    machine.links.tools = {"web": ("fetch",)}
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "fetch", {})), says("done")]}
    async with machine.interrupted(turns, skills=SKILLS) as first:
        begun = hanging(first, "fetch")
        record = await first.start(SKILLED)
        with anyio.fail_after(5):
            await begun.wait()
        web = next(link for link in claimed(first) if link.runner.running is not None)
        for number in (1, 2):
            web.push(Elicit("a", "web", number, f"question {number}?", {"type": "object"}))
        one, _ = await asked(first, record.id, 2)
        await first.jobs.answer(record.id, one.id, "accept", b"{}")
        kept = [Elicit("a", "web", number, f"question {number}?", {"type": "object"}) for number in (1, 2)]
    web.runner.kept = [*[ask for ask in web.runner.kept if not isinstance(ask, Elicit)], *kept]
    machine.links.tool = answered
    async with world(machine.runtime, turns, machine=machine, skills=SKILLS) as second:
        (two,) = await asked(second, record.id, 1)
        assert two.question.message == "question 2?"
        await second.jobs.answer(record.id, two.id, "decline", b"")
        again = second.links.made[web.sandbox_id]
        await eventually(lambda: sum(isinstance(order, ElicitAnswer) for order in again.orders) == 2)
        assert isinstance(again, ActingRunnerLink)
        again.complete()
        events = await ended(second, record.id)
    assert types_of(events).count("elicitationRequested") == 2
    assert sum(isinstance(event.payload, QuestionAnswered) for event in events) == 2
    answers = [(order.elicitation, order.action) for order in again.orders if isinstance(order, ElicitAnswer)]
    assert sorted(answers) == [(1, "accept"), (2, "decline")]
