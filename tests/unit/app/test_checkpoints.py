"""Checkpoints of a job, and jobs that go on from one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.adapters.models.digest import Digester
from perstackd.app.job_request import JobParent
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import HistoryInherited, JobCreated, StartRun
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import Role, TextPart
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Entry, Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import TEAM, Machine, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
STEPS: list[Entry] = [calls(("a", "exec", {})), calls(("b", "todo", {"newTodos": ["x"]})), says("done"), says("again")]


async def branch(daemon: World, parent: JobRecord, checkpoint: str = "", **changes: Any) -> JobRecord:
    """A job that goes on from another, with today's file empty."""
    values = {"query": "", "toml": "", "expert": "", **changes}
    return await daemon.start(parent=JobParent(parent.id, checkpoint), **values)


async def ended(daemon: World, record: JobRecord) -> JobRecord:
    await daemon.events(record.id)
    return await daemon.jobs.get(record.id)


async def refusal(coroutine: Any) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await coroutine
    return caught.value


async def test_every_step_of_every_run_has_a_checkpoint(tmp_path: Path) -> None:
    turns = {LEAD: [calls(("d", "helper", {"query": "plan"})), says("done")], HELPER: [says("the plan")]}
    async with world(tmp_path, turns) as daemon:
        record, events = await daemon.finished()
        lines = await daemon.jobs.checkpoints.page(record.id, 0, 0)
        after = await daemon.jobs.checkpoints.page(record.id, lines[0].seq, 1)
    assert [(line.expert_key, line.step, line.outcome, line.messages) for line in lines] == [
        ("helper", 1, "completed", 2),
        ("lead", 1, "", 3),
        ("lead", 2, "completed", 4),
    ]
    types = {event.seq: event.payload.type for event in events}
    assert [types[line.seq] for line in lines] == ["completeRun", "continueToNextStep", "completeRun"]
    assert after == lines[1:2]


async def test_a_checkpoint_holds_what_its_run_was_made_of_and_its_link(tmp_path: Path) -> None:
    turns = {LEAD: [calls(("d", "helper", {"query": "plan"})), says("done")], HELPER: [says("the plan")]}
    async with world(tmp_path, turns) as daemon:
        record, _ = await daemon.finished()
        helper, *_ = await daemon.jobs.checkpoints.page(record.id, 0, 0)
        by_seq = await daemon.jobs.checkpoints.get(record.id, str(helper.seq))
        by_step = await daemon.jobs.checkpoints.get(record.id, f"{helper.run_id}/1")
        last = await daemon.jobs.checkpoints.get(record.id, "")
    assert by_seq == by_step
    assert (by_seq.expert.key, by_seq.expert.version, by_seq.definition_digest) == (
        "helper",
        "1.0.0",
        record.definition_digest,
    )
    assert by_seq.expert_digest.startswith("sha256:")
    assert (by_seq.checkpoint.call_id, by_seq.checkpoint.parent_run_id) == ("d", last.checkpoint.run_id)
    assert last.checkpoint.state.usage.input_tokens == 20
    assert last.checkpoint.outcome == "completed"


async def test_a_run_that_was_stopped_within_a_step_shows_what_is_pending_and_what_came(tmp_path: Path) -> None:
    held = Held(says("never"))
    turns: dict[str, list[Entry]] = {
        LEAD: [calls(("a", "exec", {}), ("d", "helper", {"query": "x"})), says("after")],
        HELPER: [held],
    }
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        await daemon.jobs.cancel(record.id, "enough")
        record = await ended(daemon, record)
        view = await daemon.jobs.checkpoints.get(record.id, "")
        gone_on = await ended(daemon, await branch(daemon, record))
        request = daemon.models.requests[-1]
    assert [call.call_id for call in view.checkpoint.pending] == ["d"]
    assert [result.call_id for result in view.checkpoint.partial] == ["a"]
    assert (gone_on.state, gone_on.answer) == (JobState.COMPLETED, "after")
    assert "exec done" in str(request.messages[-1])
    assert "may or may not have taken effect" in str(request.messages[-1])


async def test_a_branch_asks_its_model_byte_for_byte_what_the_parent_was_asked_at_that_step(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: STEPS}) as daemon:
        record, _ = await daemon.finished(STEPS_TOML)
        parents = list(daemon.models.requests)
        lines = await daemon.jobs.checkpoints.page(record.id, 0, 0)
        for line, asked in zip(lines[:-1], parents[1:], strict=True):
            daemon.models.requests.clear()
            await ended(daemon, await branch(daemon, record, str(line.seq)))
            first = daemon.models.requests[0]
            assert first == asked
            assert Digester().digest(first) == Digester().digest(asked)


STEPS_TOML = TEAM.replace('instruction = "Lead."', 'instruction = "Lead."\nreasoningBudget = "high"')


async def test_a_finished_job_is_continued_with_a_new_query_after_its_answer(tmp_path: Path) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [says("first answer"), says("second answer")]}
    async with world(tmp_path, turns) as daemon:
        record, _ = await daemon.finished()
        further = await branch(daemon, record, query="and now?")
        events = await daemon.events(further.id)
        further = await daemon.jobs.get(further.id)
        request = daemon.models.requests[-1]
    assert (further.answer, further.query, further.steps) == ("second answer", "and now?", 1)
    assert [message.role for message in request.messages] == [Role.USER, Role.ASSISTANT, Role.USER]
    assert request.messages[-1].parts == (TextPart("and now?"),)
    created = events[0].payload
    assert isinstance(created, JobCreated)
    assert (created.parent_job_id, further.parent_job_id) == (record.id, record.id)
    assert 0 < further.parent_seq == created.parent_seq < record.last_seq
    assert [event.payload.type for event in events][:2] == ["jobCreated", "historyInherited"]


async def test_a_branch_keeps_the_definition_model_and_hosts_of_its_parent(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: STEPS}) as daemon:
        record, events = await daemon.finished(
            query="q", allow_domains=("a.example",), model=ModelChoice("scripted", "special"), workspace=NAMED
        )
        other = TEAM.replace("Lead.", "Something else.")
        kept = await daemon.start(
            other, "helper", query="go", parent=JobParent(record.id, same_workspace=True), allow_domains=("b.example",)
        )
        kept_events = await daemon.events(kept.id)
        moved = await daemon.start(
            "", "", query="go", parent=JobParent(record.id), model=ModelChoice("scripted", "newer"), workspace=NAMED
        )
        moved_events = await daemon.events(moved.id)
    created = kept_events[0].payload
    assert isinstance(created, JobCreated)
    assert (created.definition_digest, created.expert_key) == (record.definition_digest, "lead")
    assert (created.model, created.allow_domains, created.workspace) == (
        "special",
        ("a.example", "b.example"),
        str(NAMED),
    )
    assert kept.workspace == NAMED
    (parent, start, renewed) = (
        next(event.payload for event in each if isinstance(event.payload, StartRun))
        for each in (events, kept_events, moved_events)
    )
    assert (start.system, start.tools, start.model) == (parent.system, parent.tools, "special")
    assert (renewed.model, renewed.system) == ("newer", parent.system)


async def test_a_child_s_checkpoint_becomes_a_coordinator(tmp_path: Path) -> None:
    turns = {
        LEAD: [calls(("d", "helper", {"query": "plan"})), says("done")],
        HELPER: [calls(("a", "exec", {})), says("the plan"), says("a better plan")],
    }
    async with world(tmp_path, turns) as daemon:
        record, _ = await daemon.finished()
        line = next(line for line in await daemon.jobs.checkpoints.page(record.id, 0, 0) if line.outcome)
        further = await ended(daemon, await branch(daemon, record, str(line.seq), query="better"))
    assert (further.expert_key, further.answer, further.state) == ("helper", "a better plan", JobState.COMPLETED)


async def test_todos_go_with_the_history(tmp_path: Path) -> None:
    turns = [calls(("a", "todo", {"newTodos": ["x"]})), calls(("b", "attemptCompletion", {})), says("done")]
    async with world(tmp_path, {LEAD: turns}) as daemon:
        record, _ = await daemon.finished()
        first, *_ = await daemon.jobs.checkpoints.page(record.id, 0, 0)
        events = await daemon.events((await branch(daemon, record, str(first.seq))).id)
    inherited = next(event.payload for event in events if isinstance(event.payload, HistoryInherited))
    assert [todo.title for todo in inherited.todos] == ["x"]
    assert "these todos are open" in str([event.payload for event in events])


async def test_a_branch_that_had_not_begun_goes_on_after_a_restart_without_its_parent(tmp_path: Path) -> None:
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [says("first"), held]}, store=store) as first:
        parent, _ = await first.finished(workspace=NAMED)
        record = await branch(first, parent, query="go on", workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    store.log[record.id] = [stored for stored in store.log[record.id] if stored.event.seq <= 2]
    store.records[record.id] = replace(record, last_seq=2)
    del store.log[parent.id], store.records[parent.id]
    async with world(
        tmp_path, {LEAD: [says("first"), says("second")]}, machine=Machine.rebooted(tmp_path, store)
    ) as second:
        record = await ended(second, record)
        assert len(second.models.requests[0].messages) == 3
    assert (record.answer, record.runs) == ("second", 1)


async def test_the_same_key_gives_the_same_branch(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: STEPS}) as daemon:
        record, _ = await daemon.finished(STEPS_TOML)
        one = await branch(daemon, record, query="x", idempotency_key="k")
        two = await branch(daemon, record, query="x", idempotency_key="k")
        error = await refusal(branch(daemon, record, "9", query="x", idempotency_key="k"))
        await daemon.events(one.id)
    assert one.id == two.id
    assert error.reason == "idempotency_key_used"


@pytest.mark.parametrize("wanted", ["x", "1/", "/1", "-1", "1" * 13, "٣", "a/b/1"])
async def test_what_names_no_checkpoint_is_refused(tmp_path: Path, wanted: str) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, _ = await daemon.finished()
        error = await refusal(branch(daemon, record, wanted, query="x"))
    assert (error.kind, error.reason) == (Kind.INVALID, "checkpoint_invalid")


async def test_an_event_that_ends_no_step_is_no_checkpoint(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, _ = await daemon.finished()
        for call in (branch(daemon, record, "1", query="x"), daemon.jobs.checkpoints.get(record.id, "9999")):
            error = await refusal(call)
            assert (error.kind, error.reason) == (Kind.NOT_FOUND, "checkpoint_not_found")
        unknown = await refusal(daemon.jobs.checkpoints.page(JobId("0" * 26), 0, 0))
        spoken = await refusal(branch(daemon, record))
    assert unknown.reason == "job_not_found"
    assert spoken.reason == "query_empty"


async def test_a_job_that_goes_on_is_branched_only_from_a_checkpoint_that_is_named(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        error = await refusal(branch(daemon, record, query="x"))
        (line,) = await daemon.jobs.checkpoints.page(record.id, 0, 0)
        held.release.set()
        further = await ended(daemon, await branch(daemon, record, str(line.seq)))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "job_not_ended")
    assert further.state is JobState.COMPLETED
