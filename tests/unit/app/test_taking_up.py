"""Runs outlive their sandboxes, and jobs the process that began them."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from perstackd.app.run_context import RunLimits
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, ResumeToolCalls, SandboxAssigned, SandboxReleased
from perstackd.domain.job import JobState
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import RoutedCall
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Entry, Flaky, Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import Machine, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")


def types_of(events: Sequence[Event]) -> list[str]:
    return [event.payload.type for event in events]


def kill_claimed(daemon: World, run_of: str = "") -> None:
    (claimed,) = [row for row in daemon.pool.records() if row.job_id and row.state == "claimed"]
    daemon.sandboxes.kill(claimed.id)
    daemon.links.made[claimed.id].lose()


async def test_a_run_whose_sandbox_dies_while_the_model_thinks_goes_on_in_another(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        kill_claimed(daemon)
        held.release.set()
        events = await daemon.events(record.id)
        record = await daemon.jobs.get(record.id)
    assert (record.state, record.answer) == (JobState.COMPLETED, "done")
    fences = [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)]
    assert fences in ([1], [1, 2])
    causes = [event.payload.cause for event in events if isinstance(event.payload, SandboxReleased)]
    assert causes[0] == "exited"


async def test_a_call_that_may_have_taken_effect_is_told_to_the_model_and_not_made_again(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}) as daemon:
        made: list[RoutedCall] = []

        def dies(call: RoutedCall) -> ToolResultPart | None:
            made.append(call)
            kill_claimed(daemon)
            return None

        daemon.links.tool = dies
        record, events = await daemon.finished()
    (resumed,) = [event.payload for event in events if isinstance(event.payload, ResumeToolCalls)]
    assert (record.state, len(made)) == (JobState.COMPLETED, 1)
    assert "may or may not have taken effect" in str(resumed.results)
    assert "exited" in str(resumed.results)


async def test_a_run_that_loses_one_sandbox_after_the_other_in_a_step_fails(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls(("a", "readTextFile", {})), says("done")]}) as daemon:

        def dies(call: RoutedCall) -> ToolResultPart | None:
            kill_claimed(daemon)
            return None

        daemon.links.tool = dies
        record, events = await daemon.finished()
    assert (record.state, record.error_reason) == (JobState.FAILED, "sandbox_lost")
    assert types_of(events).count("sandboxAssigned") == 3


async def test_a_job_goes_on_where_the_process_before_left_it(tmp_path: Path) -> None:
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), held]}, store=store) as first:
        record = await first.start(workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    assert store.records[record.id].state is JobState.RUNNING
    async with world(
        tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}, machine=Machine.rebooted(tmp_path, store)
    ) as second:
        events = await second.events(record.id)
        ended = await second.jobs.get(record.id)
        (request,) = second.models.requests
    assert (ended.state, ended.answer, ended.steps) == (JobState.COMPLETED, "done", 2)
    assert [event.seq for event in events] == list(range(1, ended.last_seq + 1))
    assert types_of(events).count("startRun") == 1
    assert "exec done" in str(request.messages)


async def test_a_child_that_was_under_way_answers_its_parent_after_the_restart(tmp_path: Path) -> None:
    store, held = FakeStore(), Held(says("never"))
    lead: list[Entry] = [calls(("d", "helper", {"query": "x"}))]
    async with world(tmp_path, {LEAD: lead, HELPER: [held]}, store=store) as first:
        record = await first.start(workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    turns: dict[str, list[Entry]] = {LEAD: [*lead, says("done")], HELPER: [says("from the child")]}
    async with world(tmp_path, turns, machine=Machine.rebooted(tmp_path, store)) as second:
        await second.events(record.id)
        ended = await second.jobs.get(record.id)
        runs = await second.jobs.runs(record.id)
    assert (ended.state, len(runs)) == (JobState.COMPLETED, 2)
    assert all(run.outcome == "completed" for run in runs)


async def test_a_call_without_a_result_is_not_made_again_after_a_restart(tmp_path: Path) -> None:
    store = FakeStore()
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {}))]}, store=store) as first:
        begun = anyio.Event()

        def hangs(call: RoutedCall) -> None:
            begun.set()

        first.links.tool = hangs
        record = await first.start(workspace=NAMED)
        with anyio.fail_after(5):
            await begun.wait()
    made: list[RoutedCall] = []
    async with world(
        tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}, machine=Machine.rebooted(tmp_path, store)
    ) as second:
        second.links.tool = lambda call: made.append(call) or answered(call)  # type: ignore[func-returns-value]
        await second.events(record.id)
        assert (await second.jobs.get(record.id)).state is JobState.COMPLETED
    assert made == []


async def test_secrets_are_there_again_after_a_restart_and_go_at_the_end(tmp_path: Path) -> None:
    toml = '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills."@perstack/base"]\n'
    toml += 'type="mcpStdioSkill"\nrequiredEnv=["TOKEN"]\n'
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}, store=store) as first:
        record = await first.start(toml, env={"TOKEN": "s3cret"}, workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    async with world(tmp_path, {LEAD: [says("done")]}, machine=Machine.rebooted(tmp_path, store)) as second:
        await second.events(record.id)
        told = [link.assigned for link in second.links.made.values() if isinstance(link, ActingRunnerLink)]
    assert [assign.exec_env for assign in told if assign] == [(("TOKEN", "s3cret"),)]
    assert not any(store.envs.values())


async def test_a_job_whose_definition_is_gone_ends_with_the_reason(tmp_path: Path) -> None:
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}, store=store) as first:
        record = await first.start(workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    store.contents.clear()
    async with world(tmp_path, {}, machine=Machine.rebooted(tmp_path, store)) as second:
        events = await second.events(record.id)
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.error_reason) == (JobState.FAILED, "blob_not_found")
    assert types_of(events)[-2:] == ["stopRunByError", "jobFinished"]


async def test_a_job_whose_ephemeral_workspace_is_gone_does_not_go_on_in_an_empty_one(tmp_path: Path) -> None:
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}, store=store) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
    async with world(tmp_path, {LEAD: [says("done")]}, machine=Machine.rebooted(tmp_path, store)) as second:
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.error_reason) == (JobState.FAILED, "workspace_lost")


async def test_a_sandbox_that_comes_while_a_retry_waits_does_not_make_the_run_wait_for_ever(tmp_path: Path) -> None:
    busy = PerstackError(Kind.UNAVAILABLE, "model_overloaded", "busy", retryable=True)
    turns: list[Entry] = [calls(("q", "ask", {"question": "which?"})), Flaky((busy,), says("done"))]
    toml = '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills.people]\ntype="interactiveSkill"\n'
    toml += '[experts.lead.skills.people.tools.ask]\ndescription="Ask"\ninputJsonSchema=\'{"type":"object"}\'\n'
    async with world(tmp_path, {LEAD: turns}, limits=RunLimits(ask_hold_ms=1)) as daemon:
        record = await daemon.start(toml)
        with anyio.fail_after(5):
            while "sandboxReleased" not in types_of([each.event for each in daemon.store.log[record.id]]):
                await anyio.sleep(0.01)
        (question,) = await daemon.jobs.questions(record.id)
        await daemon.jobs.answer(record.id, question.id, "answer", b'"this"')
        events = await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")
    assert types_of(events).count("retry") == 1
