"""After a daemon was killed, or stopped in the middle of its jobs, they go on in the sandboxes that they had.

Nothing is done or told twice.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from perstackd.app.standing import OpenQuestion
from perstackd.app.warm_pool import PoolLimits
from perstackd.domain.events import (
    Event,
    InitializeRuntime,
    QuestionAnswered,
    ResumeToolCalls,
    SandboxAssigned,
    SandboxReleased,
    SkillConnected,
)
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobState
from perstackd.domain.messages import TextPart, ToolResultPart
from perstackd.domain.sandbox import SandboxState
from perstackd.domain.session import Elicit, ElicitAnswer, NextTurn, RoutedCall, ToolResults
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Entry, Held
from tests.unit.app.daemon_in_memory import SKILLS, Machine, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.test_taking_up import types_of
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio
SOON = PoolLimits(return_seconds=0.2)
SKILLED = (
    '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills.web]\ntype="mcpStdioSkill"\ncommand="web"\n'
    'allowedDomains=["example.com"]\n'
)


@pytest.fixture(params=["killed", "stopped"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="back-", dir="/tmp") as directory:
        machine = Machine(Path(directory) / "run")
        machine.stops = request.param == "stopped"
        yield machine


def claimed(daemon: World) -> list[ActingRunnerLink]:
    """The links of sandboxes that runs have, by the order of their claims."""
    rows = [row for row in daemon.pool.records() if row.state is SandboxState.CLAIMED and row.job_id]
    links = [daemon.links.made[row.id] for row in rows]
    return [link for link in links if isinstance(link, ActingRunnerLink)]


def hanging(daemon: World, *names: str) -> anyio.Event:
    """Calls of these tools do not answer; set once one was made."""
    begun = anyio.Event()

    def tool(call: RoutedCall) -> ToolResultPart | None:
        if call.tool not in names:
            return answered(call)
        begun.set()
        return None

    daemon.links.tool = tool
    return begun


async def ended(daemon: World, job_id: JobId) -> list[Event]:
    """The events of a job that came to its end, without a gap and in one sandbox."""
    events = await daemon.events(job_id)
    record = await daemon.jobs.get(job_id)
    assert record.state is JobState.COMPLETED, record.error_message
    assert [event.seq for event in events] == list(range(1, record.last_seq + 1))
    return events


async def asked(daemon: World, job_id: JobId, count: int) -> Sequence[OpenQuestion]:
    """The open questions, once there are so many."""
    with anyio.fail_after(5):
        while len(found := await daemon.jobs.questions(job_id)) != count:
            await anyio.sleep(0.001)
    return found


def assigned(events: Sequence[Event]) -> int:
    return sum(isinstance(event.payload, SandboxAssigned) for event in events)


# --- it goes on in them ---------------------------------------------------------------------------------------------
async def test_a_call_that_runs_through_the_restart_is_made_once_and_its_result_is_taken(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
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
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
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
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
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


# --- it does not ----------------------------------------------------------------------------------------------------
async def test_when_one_of_a_runs_sandboxes_does_not_come_back_it_goes_on_in_fresh_ones(
    machine: Machine,
) -> None:
    machine.links.tools = {"web": ("fetch",)}
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}, skills=SKILLS) as first:
        record = await first.start(SKILLED)
        with anyio.fail_after(5):
            await held.reached.wait()
        one, other = (link.sandbox_id for link in claimed(first))
    machine.links.tokens[one] = "another"
    async with world(machine.runtime, {LEAD: [says("done")]}, machine=machine, skills=SKILLS, bounds=SOON) as d:
        events = await ended(d, record.id)
        await eventually(lambda: {one, other} <= set(machine.sandboxes.removed))
    assert assigned(events) == 4
    fences = [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)]
    assert fences == [1, 1, 2, 2]
    gone = [event.payload for event in events if isinstance(event.payload, SandboxReleased)][:2]
    assert {each.sandbox_id for each in gone} == {one, other}
    assert all(each.cause == "lost" and "restarted" in each.detail for each in gone)


async def test_one_whose_workspace_is_not_mounted_any_more_is_given_up(machine: Machine) -> None:
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (link,) = claimed(first)
    machine.workspaces.mounts.clear()
    async with world(machine.runtime, {LEAD: [says("done")]}, machine=machine) as second:
        events = await ended(second, record.id)
        await eventually(lambda: link.sandbox_id in machine.sandboxes.removed)
    assert assigned(events) == 2


async def test_one_that_a_later_claim_has_replaced_does_not_come_back_and_its_fence_is_not_used_again(
    machine: Machine,
) -> None:
    """The row of a claim was written, the event of it was not."""
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (link,) = claimed(first)
    row = machine.store.rows[link.sandbox_id]
    machine.store.rows[link.sandbox_id] = replace(row, fence=7)
    async with world(machine.runtime, {LEAD: [says("done")]}, machine=machine) as second:
        events = await ended(second, record.id)
    fences = [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)]
    assert fences == [1, 8]


async def test_the_sandbox_of_a_job_that_has_ended_goes(machine: Machine) -> None:
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (link,) = claimed(first)
    known = machine.store.records[record.id]
    machine.store.records[record.id] = known.finished(JobState.CANCELLED, 1, reason="cancelled", message="by hand")
    async with world(machine.runtime, {}, machine=machine) as second:
        await eventually(lambda: link.sandbox_id in machine.sandboxes.removed)
        assert not claimed(second)


async def test_a_sandbox_that_came_back_and_then_ends_is_one_that_was_lost(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
    machine.links.tool = answered
    async with world(machine.runtime, turns, machine=machine) as second:
        with anyio.fail_after(5):
            await eventually(lambda: bool(claimed(second)) and claimed(second)[0].token_hash != "")
        (again,) = claimed(second)
        machine.sandboxes.kill(again.sandbox_id)
        again.lose()
        events = await ended(second, record.id)
    assert assigned(events) == 2
    assert "may or may not have taken effect" in str(events)


async def test_one_that_is_not_as_its_template_asks_is_taken_from_its_run(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
    machine.sandboxes.weak_sandboxes.add(link.sandbox_id)
    machine.links.tool = answered
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
        assert link.sandbox_id in machine.sandboxes.removed
    assert assigned(events) == 2


async def test_a_job_that_is_cancelled_while_its_sandboxes_come_back_gives_back_those_of_all_its_runs(
    machine: Machine,
) -> None:
    held = Held(says("never"))
    lead: list[Entry] = [calls(("d", "helper", {"query": "x"}))]
    async with machine.interrupted({LEAD: lead, HELPER: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        links = claimed(first)
    machine.links.hold_hellos()
    async with world(machine.runtime, {}, machine=machine) as second:
        await second.jobs.cancel(record.id, "enough")
        machine.links.release_hellos()
        events = await second.events(record.id)
        assert (await second.jobs.get(record.id)).state is JobState.CANCELLED
        await eventually(lambda: {link.sandbox_id for link in links} <= set(machine.sandboxes.removed))
        assert not claimed(second)
    assert len(links) == 2
    released = [(event.origin, event.payload) for event in events if isinstance(event.payload, SandboxReleased)]
    assert {payload.sandbox_id for _, payload in released} == {link.sandbox_id for link in links}
    assert all(origin.expert_key for origin, _ in released)


async def test_jobs_go_on_while_the_engine_is_away(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
    machine.links.tool = answered
    link.complete()
    machine.sandboxes.available = False
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
        machine.sandboxes.available = True
    assert assigned(events) == 1
