"""Jobs that do an ended job again: with live tools, with a live model, and how they compare with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.app.job_request import JobParent
from perstackd.app.live_replay import compared
from perstackd.app.retention import Retention
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    CallTools,
    ContextCompacted,
    Event,
    HistoryInherited,
    JobCreated,
    Retry,
    StartRun,
    StoredEvent,
)
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.job_comparison import Comparison
from perstackd.domain.messages import ModelRequest, TextPart, ToolResultPart, Turn
from perstackd.domain.reenactment import ReplayMode
from perstackd.domain.replay import replay
from perstackd.domain.session import RoutedCall
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.clock import FakeClock
from tests.fakes.models import Entry, Flaky, Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import SKILLS, TEAM, Machine, World, world
from tests.unit.app.test_context import ALONE, OLD, ThinkingModel, asks_for_a_summary, with_model
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.test_people import MAIL, asked

pytestmark = pytest.mark.anyio
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
ALL = """
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
[experts.lead.skills.people]
type = "interactiveSkill"
[experts.lead.skills.people.tools.ask]
description = "Ask"
inputJsonSchema = '{"type": "object"}'
[experts.helper]
instruction = "Help."
"""
Turns = dict[str, Sequence[Entry]]
TURNS: Turns = {
    LEAD: [
        calls(("a", "exec", {"n": 1}), ("b", "exec", {"n": 1})),
        calls(("d", "helper", {"query": "plan"}), ("e", "helper", {"query": "plan"}), ("c", "exec", {"n": 2})),
        calls(("q", "ask", {"question": "Where?"})),
        says("done"),
    ],
    HELPER: [calls(("x", "exec", {"n": 3})), says("the plan")],
}
BUSY = PerstackError(Kind.UNAVAILABLE, "model_overloaded", "busy", retryable=True)


class Counting:
    """Tools whose results tell which call of them it is."""

    def __init__(self, first: int = 0) -> None:
        self.count = first

    def __call__(self, call: RoutedCall) -> ToolResultPart:
        self.count += 1
        return ToolResultPart(call.call_id, (TextPart(f"result {self.count}"),))


async def recorded(daemon: World, toml: str = ALL, answer: bytes = b'"there"', **changes: Any) -> JobRecord:
    """An ended job that asked one question."""
    record = await daemon.start(toml, **changes)
    if toml is not TEAM:
        (question,) = await asked(daemon, record.id)
        await daemon.jobs.answer(record.id, question.id, "answer", answer)
    await daemon.events(record.id)
    return record


async def replayed(
    daemon: World, record: JobRecord, mode: ReplayMode, *, same: bool = True, **changes: Any
) -> tuple[JobRecord, list[Event], Comparison]:
    """A job that does another again, once it ended. Its own log is one that the law makes."""
    parent = JobParent(record.id, "", same, mode)
    again, events = await daemon.finished("", "", **{"parent": parent, "query": "", **changes})
    assert replay(events).divergence is None
    return again, events, (await compared(daemon.store, again.id))[1]


async def one_after_the_other(
    path: Path, before: Mapping[str, Sequence[Entry]], after: Mapping[str, Sequence[Entry]], mode: ReplayMode
) -> tuple[World, JobRecord, list[Event], Comparison]:
    """Recorded by one daemon, replayed by the next with another model."""
    machine = Machine(path)
    async with world(path, before, machine=machine) as daemon:
        daemon.links.tool = Counting()
        record = await recorded(daemon)
    async with world(path, after, machine=machine) as daemon:
        return daemon, *await replayed(daemon, record, mode)


# --- live tools -------------------------------------------------------------------------------------------------------
async def test_live_tools_run_again_and_neither_the_model_nor_a_person_is_asked(tmp_path: Path) -> None:
    async with world(tmp_path, TURNS) as daemon:
        record = await recorded(daemon)
        spoken = len(daemon.models.requests)
        again, events, found = await replayed(daemon, record, ReplayMode.TOOLS)
        assert len(daemon.models.requests) == spoken
    assert (again.state, again.answer, again.microdollars) == (JobState.COMPLETED, "done", 0)
    assert (found.difference, found.runs, found.unrecorded) == (None, 3, ())
    assert [event.payload.type for event in events].count("sandboxAssigned") >= 3
    assert (again.parent_job_id, again.replay) == (record.id, "liveTools")
    created = events[0].payload
    assert isinstance(created, JobCreated)
    assert (created.parent_job_id, created.replay, created.query) == (record.id, "liveTools", "do it")


async def test_the_first_result_that_is_another_is_named_and_the_turns_go_on_as_recorded(tmp_path: Path) -> None:
    async with world(tmp_path, TURNS) as daemon:
        record = await recorded(daemon)
        daemon.links.tool = Counting(40)
        again, events, found = await replayed(daemon, record, ReplayMode.TOOLS)
    assert again.state is JobState.COMPLETED
    difference = found.difference
    assert difference is not None
    assert difference.recorded is not None
    assert difference.made is not None
    assert (difference.recorded.type, difference.made.type) == ("resolveToolResults", "resolveToolResults")
    assert (difference.field, difference.step) == ("results[0].content[0].text", 1)
    assert events[difference.made_seq - 1].payload == difference.made


async def test_a_replay_has_the_definition_limits_and_workspace_of_the_job_that_it_does_again(tmp_path: Path) -> None:
    async with world(tmp_path, TURNS) as daemon:
        record = await recorded(daemon, workspace=NAMED, allow_domains=("example.com",))
        again, events, found = await replayed(daemon, record, ReplayMode.TOOLS)
        other, _, _ = await replayed(daemon, record, ReplayMode.TOOLS, same=False)
    assert (again.definition_digest, again.budgets, again.workspace) == (
        record.definition_digest,
        record.budgets,
        NAMED,
    )
    assert other.workspace == WorkspaceSpec()
    created = events[0].payload
    assert isinstance(created, JobCreated)
    assert created.allow_domains == ("example.com",)
    assert found.difference is None


async def test_failed_generations_are_not_repeated_and_are_no_difference(tmp_path: Path) -> None:
    turns: Turns = {LEAD: [Flaky((BUSY,), calls(("a", "exec", {}))), says("done")]}
    async with world(tmp_path, turns) as daemon:
        record, before = await daemon.finished(TEAM)
        _, events, found = await replayed(daemon, record, ReplayMode.TOOLS)
    assert any(isinstance(event.payload, Retry) for event in before)
    assert not any(isinstance(event.payload, Retry) for event in events)
    assert found.difference is None


async def test_a_job_that_failed_fails_again_for_the_same_reason(tmp_path: Path) -> None:
    refused = PerstackError(Kind.DENIED, "model_key_refused", "the key is not accepted")
    turns: Turns = {
        LEAD: [calls(("a", "exec", {})), calls(("d", "helper", {"query": "x"})), refused],
        HELPER: [refused],
    }
    async with world(tmp_path, turns) as daemon:
        record, _ = await daemon.finished(TEAM)
        again, _, found = await replayed(daemon, record, ReplayMode.TOOLS)
    assert (again.state, again.error_reason) == (JobState.FAILED, "model_key_refused")
    assert found.difference is None


async def test_a_job_that_was_cancelled_agrees_as_far_as_it_went(tmp_path: Path) -> None:
    held = Held(says("never"))
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), held]}) as daemon:
        record = await daemon.start(TEAM)
        await held.reached.wait()
        await daemon.jobs.cancel(record.id, "enough")
        await daemon.events(record.id)
        again, _, found = await replayed(daemon, record, ReplayMode.TOOLS)
    assert again.error_reason == "no_recorded_turn"
    assert (found.difference, found.compared) == (None, 5)


async def test_a_job_that_went_on_from_another_is_done_again_from_the_same_history(tmp_path: Path) -> None:
    turns: Turns = {LEAD: [calls(("a", "exec", {})), says("done"), calls(("b", "exec", {})), says("more")]}
    async with world(tmp_path, turns) as daemon:
        first, _ = await daemon.finished(TEAM)
        second, _ = await daemon.finished("", "", query="and then?", parent=JobParent(first.id))
        for mode in ReplayMode:
            again, events, found = await replayed(daemon, second, mode)
            assert isinstance(events[1].payload, HistoryInherited)
            assert (again.answer, found.difference) == ("more", None)


async def test_values_that_the_experts_require_are_needed_anew_for_live_tools_only(tmp_path: Path) -> None:
    toml = TEAM + '[experts.lead.skills."@perstack/base"]\ntype = "mcpStdioSkill"\nrequiredEnv = ["TOKEN"]\n'
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}) as daemon:
        record, _ = await daemon.finished(toml, env={"TOKEN": "s3cret-value"})
        with pytest.raises(PerstackError, match=r"TOKEN \(lead\)") as caught:
            await replayed(daemon, record, ReplayMode.TOOLS)
        _, _, found = await replayed(daemon, record, ReplayMode.TOOLS, env={"TOKEN": "s3cret-value"})
        _, events, other = await replayed(daemon, record, ReplayMode.MODEL)
    assert caught.value.reason == "env_missing"
    assert (found.difference, other.difference) == (None, None)
    assert "secretReleased" not in [event.payload.type for event in events]


# --- a live model -----------------------------------------------------------------------------------------------------
async def test_a_live_model_gets_the_recorded_results_and_no_sandbox_is_claimed(tmp_path: Path) -> None:
    daemon, again, events, found = await one_after_the_other(tmp_path, TURNS, TURNS, ReplayMode.MODEL)
    assert (again.state, again.answer) == (JobState.COMPLETED, "done")
    assert (found.difference, found.unrecorded, found.runs) == (None, (), 3)
    types = [event.payload.type for event in events]
    assert not {"sandboxAssigned", "initializeRuntime", "skillStarting"} & set(types)
    assert types[:4] == ["jobCreated", "jobAdmitted", "startRun", "startGeneration"]
    told = str(daemon.models.requests[-1].messages)
    assert "result 1" in told
    assert "result 2" in told
    assert "there" in told
    assert again.replay == "liveModel"


async def test_calls_get_the_results_of_the_same_calls_whatever_their_ids_and_their_order(tmp_path: Path) -> None:
    before: Turns = {LEAD: [calls(("a", "exec", {"n": 1}), ("b", "exec", {"n": 2})), *TURNS[LEAD][2:]]}
    after: Turns = {LEAD: [calls(("y", "exec", {"n": 2}), ("z", "exec", {"n": 1})), *TURNS[LEAD][2:]]}
    daemon, _, _, found = await one_after_the_other(tmp_path, before, after, ReplayMode.MODEL)
    (results,) = [message for message in daemon.models.requests[1].messages if message.role == "tool"]
    assert [(part.call_id, part.content[0].text) for part in results.parts] == [("y", "result 2"), ("z", "result 1")]  # type: ignore[union-attr]
    assert found.difference is not None
    assert (found.difference.field, found.unrecorded) == ("turn.parts[0].arguments.n", ())


async def test_a_call_that_the_record_does_not_know_is_an_error_result_and_is_named(tmp_path: Path) -> None:
    turn = calls(("a", "exec", {"n": 9}), ("b", "exec", {"n": 1}))
    daemon, again, _, found = await one_after_the_other(
        tmp_path, TURNS, {**TURNS, LEAD: [turn, *TURNS[LEAD][1:]]}, ReplayMode.MODEL
    )
    assert again.state is JobState.COMPLETED
    assert "not_recorded" in str(daemon.models.requests[1].messages)
    (call,) = found.unrecorded
    assert (call.tool, call.arguments, call.step, call.expert_key) == ("exec", '{"n":9}', 1, "lead")
    assert found.difference is not None
    assert isinstance(found.difference.recorded, CallTools)
    assert (found.difference.field, found.difference.seq > 0) == ("turn.parts[0].arguments.n", True)


async def test_the_third_call_is_unknown_when_the_record_has_two(tmp_path: Path) -> None:
    again: Turns = {**TURNS, LEAD: [*TURNS[LEAD][:3], calls(("z", "exec", {"n": 1})), says("done")]}
    _, _, _, found = await one_after_the_other(tmp_path, TURNS, again, ReplayMode.MODEL)
    assert [(call.tool, call.arguments, call.step) for call in found.unrecorded] == [("exec", '{"n":1}', 4)]


async def test_a_delegation_or_a_question_that_the_record_does_not_know_is_an_error_too(tmp_path: Path) -> None:
    turn = calls(("d", "helper", {"query": "another"}), ("q", "ask", {"question": "Why?"}))
    _, again, events, found = await one_after_the_other(tmp_path, TURNS, {LEAD: [turn, says("so")]}, ReplayMode.MODEL)
    assert again.answer == "so"
    assert [event.payload.type for event in events].count("startRun") == 1
    assert [(call.tool, call.step) for call in found.unrecorded] == [("helper", 1), ("ask", 1)]


async def test_another_model_may_be_asked_and_is_no_difference(tmp_path: Path) -> None:
    async with world(tmp_path, TURNS) as daemon:
        record = await recorded(daemon)
        again, events, found = await replayed(daemon, record, ReplayMode.MODEL, model=ModelChoice("other", "better"))
        request = daemon.models.requests[-1]
    assert (request.provider, request.model, again.provider, again.model) == ("other", "better", "other", "better")
    starts = [event.payload for event in events if isinstance(event.payload, StartRun)]
    assert {(start.provider, start.model) for start in starts} == {("other", "better")}
    assert found.difference is None


async def test_what_people_allowed_is_allowed_again_and_what_they_did_not_is_not(tmp_path: Path) -> None:
    turns: Turns = {LEAD: [calls(("a", "send", {"to": "x"}), ("b", "send", {"to": "y"})), says("done")]}
    async with world(tmp_path, turns, skills=SKILLS) as daemon:
        daemon.links.tools = {"mail": ("send",)}
        record = await daemon.start(MAIL)
        one, two = await asked(daemon, record.id, 2)
        await daemon.jobs.answer(record.id, one.id, "approve", b"")
        await daemon.jobs.answer(record.id, two.id, "deny", b'"no"')
        await daemon.events(record.id)
        for mode in ReplayMode:
            again, _, found = await replayed(daemon, record, mode)
            assert (again.state, found.difference, found.unrecorded) == (JobState.COMPLETED, None, ())
            assert "did not allow" in str(daemon.models.requests[-1].messages)


@pytest.mark.parametrize("mode", ReplayMode)
async def test_a_history_is_summed_up_again_at_the_same_place(tmp_path: Path, mode: ReplayMode) -> None:
    def answer(request: ModelRequest) -> Turn:
        if asks_for_a_summary(request):
            return says("the summary")
        place = sum(not asks_for_a_summary(each) for each in model.requests) % 4
        return says("done") if not place else calls((f"c{place}", "exec", {"n": place}))

    model = ThinkingModel(answer)
    async with world(tmp_path, {}, change=with_model(model)) as daemon:
        daemon.links.tool = lambda call: ToolResultPart(call.call_id, (TextPart(OLD * 4),))
        record, before = await daemon.finished(ALONE)
        asked_until_now = len(model.requests)
        again, events, found = await replayed(daemon, record, mode)
    summaries = [event.payload for event in (*before, *events) if isinstance(event.payload, ContextCompacted)]
    assert [summary.summary for summary in summaries] == ["the summary"] * len(summaries)
    assert len(summaries) == 2 * sum(isinstance(event.payload, ContextCompacted) for event in before) > 0
    assert (again.answer, found.difference) == ("done", None)
    assert (len(model.requests) == asked_until_now) is (mode is ReplayMode.TOOLS)
    assert (again.microdollars == 0) is (mode is ReplayMode.TOOLS)


# --- restarts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("held", [1, 2, 3])
async def test_a_replay_goes_on_after_a_restart_where_it_was(tmp_path: Path, held: int) -> None:
    machine = Machine(tmp_path)
    async with world(machine.runtime, TURNS, machine=machine) as daemon:
        daemon.links.tool = Counting()
        record = await recorded(daemon)
    script = list(TURNS[LEAD])
    waits = Held(script[held])  # type: ignore[arg-type]
    script[held] = waits
    async with machine.interrupted({**TURNS, LEAD: script}) as daemon:
        parent = JobParent(record.id, "", True, ReplayMode.MODEL)
        again = await daemon.start("", "", parent=parent, query="")
        await waits.reached.wait()
    async with world(machine.runtime, TURNS, machine=machine) as daemon:
        with anyio.fail_after(10):
            await daemon.events(again.id)
        _, found = await compared(daemon.store, again.id)
        ended = await daemon.jobs.get(again.id)
    assert (ended.state, found.difference, found.unrecorded) == (JobState.COMPLETED, None, ())


class Remembering(FakeStore):
    """A store that can go back to where it was after each of a job's writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[JobRecord, int]] = []

    async def create(self, job: JobRecord, events: Sequence[Event], sealed_env: bytes = b"") -> tuple[StoredEvent, ...]:
        stored = await super().create(job, events, sealed_env)
        self.writes.append((self.records[job.id], len(self.log[job.id])))
        return stored

    async def append(self, job: JobRecord, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
        stored = await super().append(job, events)
        self.writes.append((self.records[job.id], len(self.log[job.id])))
        return stored

    def go_back(self, record: JobRecord, length: int) -> None:
        """As if nothing had been written after that."""
        self.records[record.id] = record
        del self.log[record.id][length:]


async def test_a_replay_with_a_live_model_goes_on_after_each_of_its_writes_even_on_another_host(tmp_path: Path) -> None:
    store = Remembering()
    async with world(tmp_path, TURNS, machine=Machine(tmp_path, store=store)) as daemon:
        daemon.links.tool = Counting()
        record = await recorded(daemon)
        store.writes.clear()
        again, whole, first = await replayed(daemon, record, ReplayMode.MODEL)
    writes = [(each, length) for each, length in store.writes if each.id == again.id and not each.state.final]
    assert len(writes) > 12
    for each, length in reversed(writes):
        store.go_back(each, length)
        async with world(tmp_path, TURNS, machine=Machine.rebooted(tmp_path, store)) as daemon:
            events = await daemon.events(again.id)
            _, found = await compared(store, again.id)
        where = [event.payload.type for event in events[:length]][-3:]
        assert (first.difference, found) == (None, first), where
        assert len(events) <= len(whole), where


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "mode", "reason"),
    [
        ({"query": "else"}, ReplayMode.MODEL, "replay_invalid"),
        ({"model": ModelChoice("", "better")}, ReplayMode.TOOLS, "replay_invalid"),
        ({"parent": JobParent(JobId("0" * 26), "", True, ReplayMode.TOOLS)}, ReplayMode.TOOLS, "job_not_found"),
    ],
)
async def test_what_has_no_place_in_a_replay_is_refused(
    tmp_path: Path, changes: dict[str, Any], mode: ReplayMode, reason: str
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, _ = await daemon.finished(TEAM)
        with pytest.raises(PerstackError) as caught:
            await replayed(daemon, record, mode, **changes)
    assert caught.value.reason == reason


async def test_a_job_that_is_being_done_again_is_not_deleted(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, _ = await daemon.finished(TEAM)
        daemon.models._scripts[LEAD] = (held,)
        again = await daemon.start("", "", parent=JobParent(record.id, "", True, ReplayMode.MODEL), query="")
        await held.reached.wait()
        writing, clock = daemon.jobs.checkpoints.writing, FakeClock()
        clock.advance(400 * 86_400)
        async with Retention(daemon.store, clock, keep_days=1, oldest_live=lambda: None, writing=writing) as retention:
            with pytest.raises(PerstackError, match=again.id) as caught:
                await retention.delete([record.id])
            assert (await retention.sweep()).jobs == 0
            held.release.set()
            await daemon.events(again.id)
            assert await retention.delete([record.id]) == (record.id,)
    assert caught.value.reason == "job_replayed"


async def test_only_an_ended_job_is_replayed_and_only_a_replay_compared(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start(TEAM)
        await held.reached.wait()
        with pytest.raises(PerstackError, match="wait for its end"):
            await replayed(daemon, record, ReplayMode.TOOLS)
        held.release.set()
        await daemon.events(record.id)
        with pytest.raises(PerstackError) as caught:
            await compared(daemon.store, record.id)
    assert caught.value.reason == "job_not_replay"
