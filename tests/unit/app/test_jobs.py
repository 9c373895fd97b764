"""Jobs from their request to their last event, with everything outside faked."""

from pathlib import Path

import anyio
import pytest

from perstackd.domain.budget import Budgets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.job import JobState
from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, Turn, Usage
from perstackd.domain.sandbox import Template
from tests.fakes.models import Entry, Held
from tests.unit.app.daemon_in_memory import world

pytestmark = pytest.mark.anyio

LEAD, HELPER = "You are lead", "You are helper"


def says(text: str) -> Turn:
    return Turn((TextPart(text),), FinishReason.STOP, Usage(10, 2))


def calls(*named: tuple[str, str, dict[str, object]]) -> Turn:
    parts = tuple(ToolCallPart(call_id, name, arguments) for call_id, name, arguments in named)  # type: ignore[arg-type]
    return Turn(parts, FinishReason.TOOL_CALLS, Usage(10, 2))


async def test_a_job_with_a_tool_step_completes_and_its_log_has_no_gap(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}) as daemon:
        record, events = await daemon.finished()
    assert (record.state, record.answer, record.exit_code, record.steps) == (JobState.COMPLETED, "done", 0, 2)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    types = [event.payload.type for event in events]
    assert types == [
        "jobCreated",
        "jobAdmitted",
        "sandboxAssigned",
        "initializeRuntime",
        "startRun",
        "startGeneration",
        "callTools",
        "resolveToolResults",
        "finishToolCall",
        "continueToNextStep",
        "startGeneration",
        "completeRun",
        "sandboxReleased",
        "jobFinished",
    ]
    assert record.last_seq == len(events)


async def test_a_delegate_has_its_own_sandbox_and_its_answer_reaches_the_parent(tmp_path: Path) -> None:
    turns = {LEAD: [calls(("d", "helper", {"query": "plan"})), says("done")], HELPER: [says("the plan")]}
    async with world(tmp_path, turns) as daemon:
        record, events = await daemon.finished()
        runs = await daemon.jobs.runs(record.id)
    assert record.runs == 2
    sandboxes = [run.sandbox_ids for run in runs]
    assert len({*sandboxes[0], *sandboxes[1]}) == 2
    assert runs[1].parent_run_id == runs[0].id
    (finish,) = [event for event in events if event.payload.type == "finishToolCall"]
    assert "the plan" in str(finish.payload)
    assert "Lead." not in str(daemon.models.requests[1])


async def test_a_childs_failure_is_its_parents_error_result(tmp_path: Path) -> None:
    refused = PerstackError(Kind.DENIED, "model_key_refused", "the key is not accepted")
    turns: dict[str, list[Entry]] = {
        LEAD: [calls(("d", "helper", {"query": "plan"})), says("done anyway")],
        HELPER: [refused],
    }
    async with world(tmp_path, turns) as daemon:
        record, events = await daemon.finished()
    assert record.state is JobState.COMPLETED
    (finish,) = [event for event in events if event.payload.type == "finishToolCall"]
    assert "model_key_refused" in str(finish.payload)


async def test_two_sandboxes_are_enough_for_ten_delegating_jobs(tmp_path: Path) -> None:
    turns = {LEAD: [calls(("d", "helper", {"query": "plan"})), says("done")], HELPER: [says("ok")]}
    template = Template("base", "perstack/base:latest", min_idle=2, max=2)
    async with world(tmp_path, turns, template) as daemon:
        records = [await daemon.start() for _ in range(10)]
        for record in records:
            await daemon.events(record.id)
        ended = [await daemon.jobs.get(record.id) for record in records]
    assert [record.state for record in ended] == [JobState.COMPLETED] * 10


async def test_cancel_ends_the_job_and_gives_the_sandbox_back(tmp_path: Path) -> None:
    held = Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        await daemon.jobs.cancel(record.id, "enough")
        events = await daemon.events(record.id)
        record = await daemon.jobs.get(record.id)
        assert not any(row.job_id for row in daemon.pool.records() if row.state == "claimed")
    assert (record.state, record.exit_code) == (JobState.CANCELLED, 5)
    assert [event.payload.type for event in events[-3:]] == ["sandboxReleased", "stopRunByCancel", "jobFinished"] or (
        [event.payload.type for event in events[-3:]] == ["stopRunByCancel", "sandboxReleased", "jobFinished"]
    )


async def test_cancel_reaches_a_child(tmp_path: Path) -> None:
    held = Held(says("never"))
    async with world(tmp_path, {LEAD: [calls(("d", "helper", {"query": "x"}))], HELPER: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        await daemon.jobs.cancel(record.id, "")
        events = await daemon.events(record.id)
    assert [event.payload.type for event in events].count("stopRunByCancel") == 2


async def test_the_same_key_gives_the_same_job_and_another_request_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        first = await daemon.start(idempotency_key="k")
        again = await daemon.start(idempotency_key="k")
        assert first.id == again.id
        with pytest.raises(PerstackError) as caught:
            await daemon.start(idempotency_key="k", query="something else")
    assert caught.value.reason == "idempotency_key_used"


async def test_the_jobs_step_limit_stops_it_with_exit_code_3(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls((f"a{step}", "exec", {})) for step in range(5)]}) as daemon:
        record, events = await daemon.finished(budgets=Budgets(max_steps=2))
    assert (record.state, record.exit_code, record.steps) == (JobState.STOPPED, 3, 2)
    assert "stopRunByExceededMaxSteps" in [event.payload.type for event in events]


async def test_secret_values_are_sealed_delivered_by_name_and_forgotten(tmp_path: Path) -> None:
    toml = (
        '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills."@perstack/base"]\n'
        'type="mcpStdioSkill"\nrequiredEnv=["TOKEN"]\n'
    )
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, events = await daemon.finished(toml, env={"TOKEN": "s3cret-value"})
        released = [event.payload for event in events if event.payload.type == "secretReleased"]
        assert await daemon.store.jobs.sealed_env(record.id) == b""
    assert len(released) == 1
    assert "s3cret-value" not in str(events)
    assert "s3cret-value" not in str(daemon.store.__dict__)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"query": "  "}, "query_empty"),
        ({"query": "x" * (1 << 20) + "x"}, "query_too_large"),
        ({"env": {"OTHER": "x"}}, "env_not_required"),
        ({"allow_domains": ("127.0.0.1",)}, "domain_invalid"),
        ({"expert": "laed"}, "expert_not_found"),
        ({"toml": "[experts.lead]\ninstruction = 3"}, "definition_invalid"),
        ({"toml": '[experts.lead]\ninstruction = "x"\ndelegates = ["none"]'}, "delegate_missing"),
        ({"toml": '[experts.lead]\ninstruction = "x"\ndelegates = ["lead"]'}, "delegation_cycle"),
    ],
)
async def test_what_cannot_be_carried_out_is_refused_before_anything_is_kept(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    async with world(tmp_path, {}) as daemon:
        with pytest.raises(PerstackError) as caught:
            await daemon.start(**changes)  # type: ignore[arg-type]
        assert await daemon.jobs.page(None, (), None, 10) == ()
    assert caught.value.reason in {reason, "definition_invalid"}


async def test_a_definition_is_refused_with_the_place_and_the_key_of_each_problem(tmp_path: Path) -> None:
    async with world(tmp_path, {}) as daemon:
        with pytest.raises(PerstackError) as caught:
            await daemon.start(toml="maxSteps = 0\n[experts.lead]\ninstruction = 3")
    first, second = caught.value.message.splitlines()
    assert first.endswith(":1:1: must be 1 to 2147483647, not 0 [maxSteps]")
    assert second.endswith(":3:1: must be a string, not a number [experts.lead.instruction]")


async def test_a_watcher_sees_pieces_of_text_before_the_whole(tmp_path: Path) -> None:
    held = Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        held.release.set()
        with anyio.fail_after(5):
            seen = [batch async for batch in daemon.jobs.watch(record.id, 0, streaming=True, follow=True)]
    assert seen[-1].last
    seqs = [stored.event.seq for batch in seen for stored in batch.events]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_cursor_past_the_log_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, events = await daemon.finished()
        with pytest.raises(PerstackError) as caught:
            async for _ in daemon.jobs.watch(record.id, len(events) + 1, streaming=False, follow=True):
                pass
    assert caught.value.reason == "cursor_invalid"


async def test_a_watch_from_the_last_event_of_an_ended_job_ends_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, events = await daemon.finished()
        with anyio.fail_after(5):
            rest = [batch async for batch in daemon.jobs.watch(record.id, len(events), streaming=False, follow=True)]
    assert rest == []
