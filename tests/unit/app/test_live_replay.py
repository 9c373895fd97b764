"""Jobs that do an ended job again with live tools, how they compare with it, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from perstackd.app.job_request import JobParent
from perstackd.app.live_replay import compared
from perstackd.app.retention import Retention
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import HistoryInherited, JobCreated, Retry
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobState
from perstackd.domain.reenactment import ReplayMode
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.clock import FakeClock
from tests.fakes.models import Flaky, Held
from tests.unit.app.daemon_in_memory import TEAM, world
from tests.unit.app.doing_again import TURNS, Counting, Turns, recorded, replayed
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
BUSY = PerstackError(Kind.UNAVAILABLE, "model_overloaded", "busy", retryable=True)


# --- live tools -----------------------------------------------------------------------------------------------------
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


# --- refusals -------------------------------------------------------------------------------------------------------
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
