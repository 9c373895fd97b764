"""Jobs whose sandboxes, callers, store or own code fail them: each ends, alone, and its log says how."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.app import job_worker, run_opening
from perstackd.app.run_context import RunLimits
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import EgressDenied, SandboxAssigned, SandboxReleased
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import TextPart, ToolCallPart, ToolResultPart
from perstackd.domain.session import (
    Assign,
    NextTurn,
    Order,
    Progress,
    Ready,
    SkillPhase,
    SkillReport,
    ToolResults,
    TurnOrder,
)
from perstackd.ports.egress import EgressAccess
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Entry, Held, ScriptedModels
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio

IMPATIENT = RunLimits(tool_timeout_ms=150, skill_start_timeout_ms=150, answer_margin_ms=50)
FULL = PerstackError(Kind.UNAVAILABLE, "store_unavailable", "the disk is full; make room")
SKILLED = (
    '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills.web]\ntype="mcpStdioSkill"\ncommand="web"\n'
    'allowedDomains=["example.com"]\nisolation="shared"\n'
)
KEYED = (
    '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills."@perstack/base"]\n'
    'type="mcpStdioSkill"\nrequiredEnv=["TOKEN"]\n'
)

KEYED_TEAM = f'{KEYED}[experts.helper]\ninstruction="Help."\n'.replace(
    'instruction="Lead."', 'instruction="Lead."\ndelegates=["helper"]'
)


def play(monkeypatch: pytest.MonkeyPatch, assigned: tuple[Any, ...], turned: tuple[Any, ...] = ()) -> None:
    """Sandboxes answer Assign and the first Turn with these asks and with nothing else."""

    async def send(self: ActingRunnerLink, order: Order) -> None:
        await super(ActingRunnerLink, self).send(order)
        for ask in assigned if isinstance(order, Assign) else turned if isinstance(order, TurnOrder) else ():
            self.push(ask)

    monkeypatch.setattr(ActingRunnerLink, "send", send)


READY = Ready("/mnt/workspace")


@pytest.mark.parametrize(
    ("assigned", "turned", "state"),
    [
        ((), (), "assigned"),
        ((READY,), (), "preparing"),
        ((READY, NextTurn(1)), (), "running"),
        ((READY, NextTurn(1)), (Progress("a", 0, "x"),) * 40, "running"),
    ],
    ids=["never ready", "never asks", "never answers", "talks and never answers"],
)
async def test_a_run_whose_sandboxes_do_not_go_on_one_after_the_other_ends_and_all_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: tuple[Any, ...], turned: tuple[Any, ...], state: str
) -> None:
    play(monkeypatch, assigned, turned)
    async with world(tmp_path, {LEAD: [calls(("a", "readTextFile", {}))]}, limits=IMPATIENT) as daemon:
        record, events = await daemon.finished()
        assert not any(row.job_id for row in daemon.pool.records() if row.state == "claimed")
    assert (record.state, record.error_reason) == (JobState.FAILED, "sandbox_silent")
    assert f"while it was {state}" in record.error_message
    causes = [event.payload.cause for event in events if isinstance(event.payload, SandboxReleased)]
    assert causes == ["misbehaved"] * 3


async def test_a_run_whose_sandbox_hangs_in_a_call_goes_on_in_another_and_what_it_says_later_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, (READY, NextTurn(1)))
    later = Held(says("done"))
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), later]}, limits=IMPATIENT) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await later.reached.wait()
        first, *_ = [link for link in daemon.links.made.values() if any(isinstance(o, TurnOrder) for o in link.orders)]
        first.push(ToolResults(1, (ToolResultPart("a", (TextPart("RESURRECTED"),)),)))  # it is resurrected
        later.release.set()
        events = await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
        await eventually(lambda: first.sandbox_id not in daemon.sandboxes.containers)
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")
    assert "RESURRECTED" not in str(events)
    assert "did not go on in time while it was running; the call may or may not have taken effect" in str(events)
    fences = [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)]
    assert fences == [1, 2]


async def test_a_slow_model_does_not_count_against_the_sandbox(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}, limits=IMPATIENT) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        with anyio.move_on_after(0.2):  # several times what a sandbox would get
            await daemon.events(record.id)
        held.release.set()
        await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED


async def test_a_flood_of_skill_news_does_not_fill_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_opening, "NEWS_KEPT", 4096)
    noise = SkillReport("web", SkillPhase.STDERR, detail="x" * 1000)
    up = SkillReport("web", SkillPhase.CONNECTED)
    play(monkeypatch, (READY, up, *(noise,) * 500, NextTurn(1)))
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, events = await daemon.finished(SKILLED)
    assert record.state is JobState.COMPLETED
    assert 1 <= [event.payload.type for event in events].count("skillStderr") <= 4


async def test_news_of_a_skill_that_the_job_does_not_have_is_misbehaviour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = SkillReport("other", SkillPhase.CONNECTED)
    play(monkeypatch, (READY, forged, forged, forged, NextTurn(1)))
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record, events = await daemon.finished()
    assert record.error_reason == "runner_misbehaved"
    assert "skillConnected" not in [event.payload.type for event in events]


async def test_a_caller_that_hangs_up_while_its_job_is_stored_leaves_a_job_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = anyio.Event(), anyio.Event()
    create = FakeStore.create

    async def slow(self: FakeStore, *arguments: Any) -> Any:
        entered.set()
        await go_on.wait()
        return await create(self, *arguments)

    monkeypatch.setattr(FakeStore, "create", slow)
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        async with anyio.create_task_group() as callers:
            callers.start_soon(lambda: daemon.start(idempotency_key="k"))
            with anyio.fail_after(5):
                await entered.wait()
            callers.cancel_scope.cancel()
        go_on.set()
        again = await daemon.start(idempotency_key="k")
        await daemon.events(again.id)
        assert (await daemon.jobs.get(again.id)).state is JobState.COMPLETED
        assert len(await daemon.jobs.page(None, (), None, 10)) == 1


async def test_many_creates_with_one_key_make_one_job(tmp_path: Path) -> None:
    records: list[JobRecord] = []

    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:

        async def start() -> None:
            records.append(await daemon.start(idempotency_key="k"))

        async with anyio.create_task_group() as callers:
            for _ in range(8):
                callers.start_soon(start)
        await daemon.events(records[0].id)
    assert len({record.id for record in records}) == 1
    assert len(daemon.store.records) == 1


async def test_a_store_that_refuses_a_job_is_told_and_nothing_runs(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        daemon.store.fail_writes = True
        with pytest.raises(PerstackError) as caught:
            await daemon.start()
        assert daemon.jobs.counts() == (0, 0)
        daemon.store.fail_writes = False
    assert caught.value.reason == "store_unavailable"


async def test_no_job_is_taken_once_the_drain_began_while_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        resolve = daemon.jobs.resolve

        async def drains(*arguments: str) -> Any:
            await daemon.jobs.drain(0)
            return await resolve(*arguments)

        monkeypatch.setattr(daemon.jobs, "resolve", drains)
        with pytest.raises(PerstackError) as caught:
            await daemon.start()
    assert caught.value.reason == "draining"
    assert daemon.store.records == {}


async def test_one_jobs_unforeseen_error_ends_its_run_with_a_log_id_and_no_other_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Held(says("fine"))
    async with world(tmp_path, {LEAD: [calls(("d", "helper", {"query": "x"})), other], HELPER: [says("x")]}) as daemon:
        stream = ScriptedModels.stream

        def broken(self: ScriptedModels, request: Any) -> Any:
            if HELPER in request.system:
                raise KeyError("s3cret-text")
            return stream(self, request)

        monkeypatch.setattr(ScriptedModels, "stream", broken)
        record = await daemon.start()
        with anyio.fail_after(5):
            await other.reached.wait()
        other.release.set()
        events = await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED
    stops = [event.payload for event in events if event.payload.type == "stopRunByError"]
    assert [stop.reason for stop in stops] == ["internal"]
    assert "s3cret-text" not in str(events)


async def test_the_end_of_a_job_is_written_once_the_disk_has_room_also_after_patience_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_worker, "END_DELAYS", (0.01,) * 50)
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}, store_patience_s=0) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        daemon.store.fail_writes = True
        held.release.set()
        with anyio.move_on_after(0.05):
            await daemon.events(record.id)
        daemon.store.fail_writes = False
        events = await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
    assert events[-1].payload.type == "jobFinished"
    assert (ended.state, ended.error_reason) == (JobState.FAILED, "store_unavailable")


async def test_a_run_that_completed_before_the_cancel_came_keeps_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        end = daemon.workspaces.close

        async def cancelled_first(job_id: JobId) -> None:
            await daemon.jobs.cancel(job_id, "too late")
            await end(job_id)

        monkeypatch.setattr(daemon.workspaces, "close", cancelled_first)
        record, _ = await daemon.finished()
    assert (record.state, record.answer) == (JobState.COMPLETED, "done")


async def test_a_cancel_before_the_job_has_begun_ends_it(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        record = await daemon.start()
        await daemon.jobs.cancel(record.id, "at once")
        events = await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.CANCELLED
    assert events[-1].payload.type == "jobFinished"


async def test_ended_children_are_let_go(tmp_path: Path) -> None:
    held = Held(says("done"))
    turns: dict[str, list[Entry]] = {LEAD: [calls(("d", "helper", {"query": "x"})), held], HELPER: [says("x")]}
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        worker = daemon.jobs._workers[record.id]
        assert [run.plan.expert.key for run in worker.runs.values()] == ["lead"]
        held.release.set()
        await daemon.events(record.id)
        assert len(await daemon.jobs.runs(record.id)) == 2


async def test_half_of_a_surrogate_pair_from_a_model_breaks_nothing(tmp_path: Path) -> None:
    turn = calls(("a\ud800", "exec", {"x\udfff": ["\ud83d"]}))
    assert isinstance(turn.parts[0], ToolCallPart)
    async with world(tmp_path, {LEAD: [turn, says("an \ud83d end")]}) as daemon:
        sent: list[str] = []
        daemon.links.tool = lambda call: sent.append(call.arguments) or answered(call)  # type: ignore[func-returns-value]
        record, _ = await daemon.finished()
    assert (record.state, record.answer) == (JobState.COMPLETED, "an \ufffd end")
    assert sent[0].encode() == '{"x\ufffd":["\ufffd"]}'.encode()


async def test_a_cancel_at_any_moment_leaves_a_whole_log_and_no_sandbox(tmp_path: Path) -> None:
    turns: dict[str, list[Entry]] = {
        LEAD: [calls(("a", "exec", {})), calls(("d", "helper", {"query": "x"})), says("done")],
        HELPER: [calls(("b", "exec", {})), says("x")],
    }
    outcomes = set[JobState]()
    async with world(tmp_path, turns) as daemon:
        for moments in range(0, 160, 2):
            record = await daemon.start(KEYED_TEAM, env={"TOKEN": "t"})
            for _ in range(moments):
                await anyio.lowlevel.checkpoint()
            await daemon.jobs.cancel(record.id, "enough")
            events = await daemon.events(record.id)
            ended = await daemon.jobs.get(record.id)
            outcomes.add(ended.state)
            types = [event.payload.type for event in events]
            assert [event.seq for event in events] == list(range(1, ended.last_seq + 1))
            assert (types[-1], types.count("jobFinished")) == ("jobFinished", 1)
            assert types.count("sandboxAssigned") <= types.count("sandboxReleased")
            assert all(run.outcome for run in await daemon.jobs.runs(record.id))
            assert not any(row.job_id == record.id and row.state == "claimed" for row in daemon.pool.records())
            assert await daemon.store.jobs.sealed_env(record.id) == b""
        assert daemon.jobs.counts() == (0, 0)
    assert outcomes == {JobState.CANCELLED, JobState.COMPLETED}


async def test_connections_told_of_in_a_runs_last_moment_are_in_its_log(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (claimed,) = [row for row in daemon.pool.records() if row.job_id]
        (run,) = daemon.jobs._workers[record.id].runs.values()
        await daemon.jobs.cancel(record.id, "enough")
        for port in (1, 2):
            run.inbox.saw(EgressAccess(claimed.id, "example.com", port, allowed=False, reason="not_allowed"))
        events = await daemon.events(record.id)
    denied = [event.payload.port for event in events if isinstance(event.payload, EgressDenied)]
    assert denied == [1, 2]
