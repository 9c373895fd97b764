"""The client library against a real gRPC server on a real Unix socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from perstack.v1 import events_pb2, experts_pb2, jobs_pb2, pools_pb2, runs_pb2, sandboxes_pb2, system_pb2

from perstackctl import client as api
from perstackctl.client import Batch, Client, JobRequest, JobState, Workspace, WorkspaceKind
from tests.fakes.daemon_api import Cut, FakeDaemon
from tests.fakes.event_log import JOB, EventLog
from tests.fakes.stories import story

pytestmark = pytest.mark.anyio
TIMEOUT = 20


@pytest.fixture
async def client(daemon: FakeDaemon) -> AsyncIterator[Client]:
    async with Client(daemon.path, timeout=5, reconnect_seconds=2) as client:
        yield client


async def watched(client: Client, after_seq: int = 0, *, streaming: bool = False, follow: bool = True) -> list[Batch]:
    async with asyncio.timeout(TIMEOUT):
        return [batch async for batch in client.watch_job(JOB, after_seq, streaming, follow=follow)]


def seqs(batches: list[Batch]) -> list[int]:
    return [event.seq for batch in batches for event in batch.events]


LAST = max(item.seq for item in story() if isinstance(item, events_pb2.Event))
EVERYTHING = list(range(1, LAST + 1))


async def test_a_job_is_made_from_a_request_without_loss(daemon: FakeDaemon, client: Client) -> None:
    request = JobRequest(
        definition=api.Definition("[experts.e]", "/p/perstack.toml"),
        expert_key="e",
        query="Grüße",
        workspace=Workspace(WorkspaceKind.NAMED, "reports", read_only=True),
        tenant="t",
        idempotency_key="k",
        env={"TOKEN": "secret"},
        allow_domains=("api.example",),
        max_steps=7,
        model="m",
        provider="p",
    )
    created = await client.create_job(request)
    sent = daemon.requests("CreateJob")[0]
    assert sent == jobs_pb2.CreateJobRequest(
        tenant="t",
        idempotency_key="k",
        definition=experts_pb2.Definition(source="/p/perstack.toml", toml="[experts.e]"),
        expert_key="e",
        query="Grüße",
        workspace=jobs_pb2.Workspace(name="reports", read_only=True),
        env={"TOKEN": "secret"},
        allow_domains=["api.example"],
        max_steps=7,
        model="m",
        provider="p",
    )
    assert (created.job.id, created.job.state) == (JOB, JobState.RUNNING)
    assert "secret" not in repr(request)


@pytest.mark.parametrize(
    ("workspace", "kind", "value"),
    [
        (Workspace(), "ephemeral", None),
        (Workspace(WorkspaceKind.PATH, "/srv/x"), "path", "/srv/x"),
        (Workspace(WorkspaceKind.NAMED, "x"), "name", "x"),
    ],
)
async def test_each_kind_of_workspace_is_sent_as_itself(
    daemon: FakeDaemon, client: Client, workspace: Workspace, kind: str, value: str | None
) -> None:
    await client.create_job(JobRequest(api.Definition(""), "e", "q", workspace))
    sent = daemon.requests("CreateJob")[0].workspace
    assert sent.WhichOneof("kind") == kind
    assert value is None or getattr(sent, kind) == value


async def test_jobs_are_listed_over_all_pages(daemon: FakeDaemon, client: Client) -> None:
    for number in range(7):
        daemon.add_job([], f"J{number}", state=jobs_pb2.JOB_STATE_FAILED if number % 2 else jobs_pb2.JOB_STATE_RUNNING)
    assert [job.id async for job in client.list_jobs(page_size=3)] == [f"J{n}" for n in reversed(range(7))]
    assert len(daemon.requests("ListJobs")) == 3
    failed = [job.id async for job in client.list_jobs(states=[JobState.FAILED])]
    assert failed == ["J5", "J3", "J1"]


async def test_a_state_of_a_later_daemon_is_not_taken_for_a_final_one(daemon: FakeDaemon, client: Client) -> None:
    daemon.add_job([]).record.state = 99  # type: ignore[assignment]
    job = await client.get_job(JOB)
    assert (job.state, job.state.final) == (JobState.UNSPECIFIED, False)


async def test_everything_else_that_is_told_arrives(daemon: FakeDaemon, client: Client) -> None:
    daemon.runs = [runs_pb2.Run(id="R", job_id=JOB, expert_key="e", phase="calling", sandbox_ids=["S"])]
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id="S", state=sandboxes_pb2.SANDBOX_STATE_CLAIMED, uid=200001, fence=3)]
    check = sandboxes_pb2.PostureCheck(name="CapEff", expected="0", actual="0", ok=True, cis="5.3", source="/proc")
    daemon.postures["S"] = sandboxes_pb2.GetPostureResponse(sandbox_id="S", checks=[check], ok=True, exceptions=["x"])
    daemon.pools = [pools_pb2.Pool(template="base", idle=2, max=16, refill_p50_ms=250.5)]
    daemon.info = system_pb2.GetInfoResponse(version="9", late_binding=True, workspace_roots=["/srv"])
    finding = experts_pb2.Finding(severity=experts_pb2.SEVERITY_ERROR, message="m", line=1, column=2, key="k")
    daemon.resolution = experts_pb2.ResolveResponse(required_env=["A"], env_paths=[".env"], findings=[finding])
    assert (await client.list_runs(JOB))[0].sandbox_ids == ("S",)
    assert (await client.list_sandboxes())[0].state is api.SandboxState.CLAIMED
    assert (await client.get_sandbox("S")).fence == 3
    posture = await client.posture("S")
    assert (posture.checks[0].cis, posture.exceptions) == ("5.3", ("x",))
    assert (await client.pools())[0].refill_p50_ms == 250.5
    assert (await client.info()).workspace_roots == ("/srv",)
    resolution = await client.resolve(api.Definition("x"))
    assert resolution.findings == (api.Finding(api.Severity.ERROR, "m", 1, 2, "k"),)


@pytest.mark.parametrize(
    ("code", "error", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, api.InvalidError, 2),
        (grpc.StatusCode.NOT_FOUND, api.NotFoundError, 1),
        (grpc.StatusCode.ALREADY_EXISTS, api.ConflictError, 1),
        (grpc.StatusCode.FAILED_PRECONDITION, api.PreconditionError, 1),
        (grpc.StatusCode.PERMISSION_DENIED, api.RefusedError, 6),
        (grpc.StatusCode.UNAUTHENTICATED, api.RefusedError, 6),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, api.RefusedError, 6),
        (grpc.StatusCode.UNIMPLEMENTED, api.UnsupportedError, 1),
        (grpc.StatusCode.INTERNAL, api.InternalError, 1),
        (grpc.StatusCode.UNAVAILABLE, api.UnreachableError, 7),
    ],
)
async def test_errors_keep_the_daemons_reason_words_and_fields(
    daemon: FakeDaemon, client: Client, code: grpc.StatusCode, error: type[api.ClientError], exit_code: int
) -> None:
    daemon.fail("GetJob", code, "some_reason", "what was wrong, and what to do", job_id=JOB)
    with pytest.raises(error) as caught:
        await client.get_job(JOB)
    failure = caught.value
    assert type(failure) is error
    assert (failure.reason, failure.message) == ("some_reason", "what was wrong, and what to do")
    assert (failure.metadata, failure.exit_code) == ({"job_id": JOB}, exit_code)
    assert len(daemon.requests("GetJob")) == 1


async def test_an_error_without_details_still_says_what_to_do(daemon: FakeDaemon, client: Client) -> None:
    daemon.fail("GetJob", grpc.StatusCode.INTERNAL, "", "boom")
    with pytest.raises(api.InternalError, match=r"the daemon failed \(boom\); its log"):
        await client.get_job(JOB)


async def test_a_daemon_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "p.sock"))
        silent.listen()
        async with Client(str(tmp_path / "p.sock"), timeout=0.3) as client, asyncio.timeout(TIMEOUT):
            with pytest.raises(api.UnreachableError, match="did not answer in time"):
                await client.get_job(JOB)


async def test_a_missing_and_a_dead_daemon_are_told_apart(tmp_path: Path) -> None:
    async with Client(str(tmp_path / "none.sock")) as client:
        with pytest.raises(api.SocketMissingError, match="does not exist"):
            await client.info()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead.sock"))
    async with Client(str(tmp_path / "dead.sock")) as client:
        with pytest.raises(api.DaemonDownError, match="nobody listens"):
            await client.info()


async def test_a_broken_connection_is_tried_once_more(daemon: FakeDaemon, client: Client) -> None:
    daemon.add_job([])
    daemon.fail("GetJob", grpc.StatusCode.UNAVAILABLE, "", "Socket closed")
    assert (await client.get_job(JOB)).id == JOB
    assert len(daemon.requests("GetJob")) == 2


async def test_a_job_is_sent_again_only_with_an_idempotency_key(daemon: FakeDaemon, client: Client) -> None:
    daemon.fail("CreateJob", grpc.StatusCode.UNAVAILABLE, "", "Socket closed")
    with pytest.raises(api.UnreachableError):
        await client.create_job(JobRequest(api.Definition(""), "e", "q"))
    assert len(daemon.requests("CreateJob")) == 1
    daemon.fail("CreateJob", grpc.StatusCode.UNAVAILABLE, "", "Socket closed")
    await client.create_job(JobRequest(api.Definition(""), "e", "q", idempotency_key="k"))
    assert [request.idempotency_key for request in daemon.requests("CreateJob")] == ["", "k", "k"]


async def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await Client("/x/p.sock").info()


# --- watching -------------------------------------------------------------------------------------------------------
async def test_a_watch_has_every_event_in_order_and_ends_with_the_job(daemon: FakeDaemon, client: Client) -> None:
    daemon.add_job(story())
    batches = await watched(client)
    assert seqs(batches) == EVERYTHING
    assert not any(batch.pieces for batch in batches)


async def test_streamed_pieces_come_when_they_are_asked_for(daemon: FakeDaemon, client: Client) -> None:
    daemon.add_job(story())
    batches = await watched(client, streaming=True)
    assert "".join(piece.delta for batch in batches for piece in batch.pieces) == "Rowing, then rest."


async def test_a_watch_goes_on_while_the_job_does(daemon: FakeDaemon, client: Client) -> None:
    items = story()
    daemon.add_job(items[:5])

    async def rest() -> None:
        await daemon.event_sent.wait()
        await daemon.append(JOB, *items[5:])

    async with asyncio.TaskGroup() as group:
        group.create_task(rest())
        batches = await watched(client)
    assert seqs(batches) == EVERYTHING


async def test_without_follow_a_watch_ends_with_the_log(daemon: FakeDaemon, client: Client) -> None:
    daemon.add_job(story()[:5])
    assert seqs(await watched(client, 2, follow=False)) == [3, 4, 5]


@pytest.mark.parametrize(
    "cut",
    [
        Cut(7),
        Cut(7, grpc.StatusCode.UNAVAILABLE, "draining"),
        Cut(7, grpc.StatusCode.ABORTED, "watch_cut"),
        Cut(7, grpc.StatusCode.CANCELLED),
    ],
    ids=lambda cut: f"{cut.code.name}-{cut.reason}",
)
async def test_a_cut_watch_goes_on_without_gap_or_repeat(daemon: FakeDaemon, client: Client, cut: Cut) -> None:
    daemon.add_job(story())
    daemon.cuts = [cut]
    told: list[tuple[str, int]] = []
    async with asyncio.timeout(TIMEOUT):
        batches = [
            batch async for batch in client.watch_job(JOB, on_cut=lambda error, seq: told.append((error.reason, seq)))
        ]
    assert seqs(batches) == EVERYTHING
    asked = [request.after_seq for request in daemon.requests("WatchJob")]
    assert len(asked) == 2
    assert asked[1] == told[0][1] >= 7


async def test_many_cuts_are_mended_as_long_as_something_new_comes(daemon: FakeDaemon) -> None:
    daemon.add_job(story())
    daemon.batch_size = 1
    daemon.cuts = [Cut(seq) for seq in range(1, LAST, 2)]
    async with Client(daemon.path, reconnect_seconds=0.2) as client:
        assert seqs(await watched(client)) == EVERYTHING


async def test_a_restarted_daemon_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "p.sock")
    received: list[int] = []
    half, everything = asyncio.Event(), asyncio.Event()

    async def watch() -> None:
        async with Client(path, reconnect_seconds=10) as client, asyncio.timeout(TIMEOUT):
            async for batch in client.watch_job(JOB):
                received.extend(event.seq for event in batch.events)
                if len(received) >= 6:
                    half.set()
        everything.set()

    async with asyncio.TaskGroup() as group:
        first = FakeDaemon(path)
        async with first:
            first.add_job(story()[:6])
            group.create_task(watch())
            await asyncio.wait_for(half.wait(), TIMEOUT)
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        async with FakeDaemon(path) as second:
            second.add_job(story())
            await asyncio.wait_for(everything.wait(), TIMEOUT)
            assert second.requests("WatchJob")[0].after_seq == 6
    assert received == EVERYTHING


async def test_a_daemon_that_stays_away_is_given_up_with_the_last_number(tmp_path: Path) -> None:
    path = str(tmp_path / "p.sock")
    received: list[int] = []
    async with Client(path, reconnect_seconds=0.3) as client, FakeDaemon(path) as daemon:
        daemon.add_job(story()[:6])
        async with aclosing(client.watch_job(JOB)) as batches, asyncio.timeout(TIMEOUT):
            async for batch in batches:
                received.extend(event.seq for event in batch.events)
                if len(received) == 6:
                    break
            await daemon.__aexit__(None, None, None)
            with pytest.raises(api.ConnectionLostError) as lost:
                await anext(batches)
    assert (lost.value.last_seq, lost.value.exit_code) == (6, 7)


async def test_repeats_are_dropped_and_a_gap_is_read_again(daemon: FakeDaemon, client: Client) -> None:
    items = story()
    daemon.batch_size = 5
    broken = items[:5]
    daemon.add_job([*broken, items[2], *items[7:]])  # 3 comes twice, 6 and 7 are missing

    def mend(error: api.ClientError, seq: int) -> None:
        assert (error.reason, seq) == ("watch_gap", 5)
        daemon.jobs[JOB].items = items

    async with asyncio.timeout(TIMEOUT):
        batches = [batch async for batch in client.watch_job(JOB, on_cut=mend)]
    assert seqs(batches) == EVERYTHING


async def test_what_trying_again_does_not_mend_is_told_at_once(daemon: FakeDaemon, client: Client) -> None:
    with pytest.raises(api.NotFoundError, match=f"there is no job {JOB}"):
        await watched(client)
    daemon.add_job(story())
    daemon.fail("WatchJob", grpc.StatusCode.PERMISSION_DENIED, "not_yours", "not your job")
    with pytest.raises(api.RefusedError, match="not your job"):
        await watched(client)
    assert len(daemon.requests("WatchJob")) == 2


async def test_a_watch_that_is_left_early_leaves_the_daemon(daemon: FakeDaemon, client: Client) -> None:
    log = EventLog()
    log.created()
    daemon.add_job(log.items)
    async with aclosing(client.watch_job(JOB)) as batches, asyncio.timeout(TIMEOUT):
        await anext(batches)
    await client.info()
