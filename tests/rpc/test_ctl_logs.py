"""What is done with jobs' logs, from the command line and the client to the daemon's own servicers and back."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from perstackctl import client as api
from perstackctl.client import Client, Definition, JobRequest
from perstackctl.client.logs import ErasedTenant
from perstackctl.client.values import Parent
from perstackd.adapters.models.conversation_lines import ConversationLines
from perstackd.adapters.models.digest import Digester
from perstackd.adapters.models.replay import load
from perstackd.adapters.store.documents import StoreDocuments
from perstackd.app.erasure import Erasure
from perstackd.app.replay import Replays
from perstackd.app.retention import Retention
from perstackd.app.system import System, SystemFacts
from perstackd.app.transfer import Transfer
from perstackd.domain.ids import JobId
from perstackd.domain.messages import TextPart
from perstackd.rpc.server import AdminSocket, Api, JobLogs, admin_server
from tests.fakes.clock import FakeClock
from tests.unit.app.daemon_in_memory import TEAM, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
TURNS = {
    LEAD: [calls(("a", "exec", {})), calls(("d", "helper", {"query": "plan"})), says("done"), says("more"), says("x")],
    HELPER: [says("the plan")],
}


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="pctl-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def daemon(root: Path) -> AsyncIterator[World]:
    async with world(root / "run", TURNS) as daemon:
        writing, documents = daemon.jobs.checkpoints.writing, StoreDocuments()
        oldest = daemon.jobs.oldest_live
        logs = JobLogs(
            Replays(daemon.store, ConversationLines()),
            Transfer(daemon.store, documents, root, writing),
            Erasure(Retention(daemon.store, FakeClock(), keep_days=0, oldest_live=oldest, writing=writing)),
            documents,
        )
        facts = SystemFacts("0.1.0", 1, ("/srv",), "/var/lib/perstackd", "scripted", "m")
        system = System(facts, daemon.sandboxes, daemon.pool, daemon.jobs)
        async with admin_server(
            AdminSocket(root / "admin" / "p.sock"), Api(daemon.jobs, daemon.pool, system, logs), FakeClock()
        ):
            yield daemon


@pytest.fixture
async def client(daemon: World, root: Path) -> AsyncIterator[Client]:
    async with Client(str(root / "admin" / "p.sock"), timeout=10, reconnect_seconds=2) as client:
        yield client


async def finished(client: Client, **changes: object) -> api.Job:
    values = {"definition": Definition(TEAM, "/p/perstack.toml"), "expert_key": "lead", "query": "do it", **changes}
    created = await client.create_job(JobRequest(**values))  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        async for _ in client.watch_job(created.job.id):
            pass
    return await client.get_job(created.job.id)


async def test_checkpoints_are_listed_and_shown(client: Client) -> None:
    job = await finished(client)
    found = [each async for each in client.logs.list_checkpoints(job.id)]
    assert [(each.expert_key, each.step_number, each.outcome) for each in found] == [
        ("lead", 1, ""),
        ("helper", 1, "completed"),
        ("lead", 2, ""),
        ("lead", 3, "completed"),
    ]
    last = await client.logs.get_checkpoint(job.id)
    assert (last.checkpoint, last.messages[0]["role"], last.pending, last.todos) == (found[-1], "user", [], [])
    assert last.messages[-1]["parts"] == [{"text": "done", "type": "text"}]
    with pytest.raises(api.NotFoundError) as missing:
        await client.logs.get_checkpoint(job.id, "1")
    assert missing.value.reason == "checkpoint_not_found"


async def test_a_job_is_continued_over_the_wire(client: Client) -> None:
    job = await finished(client)
    parent = Parent(job.id, same_workspace=True)
    further = await finished(client, definition=Definition(""), expert_key="", query="and?", parent=parent)
    assert (further.answer, further.parent_job_id, further.workspace) == ("more", job.id, job.workspace)
    with pytest.raises(api.InvalidError) as spoken:
        await finished(client, query="", parent=parent)
    assert spoken.value.reason == "query_empty"


async def test_a_job_s_law_makes_its_log_again(client: Client, daemon: World) -> None:
    job = await finished(client)
    found = await client.logs.replay_job(job.id)
    assert (found.events, found.runs, found.divergence) == (job.last_seq, 2, None)
    log = daemon.store.log[JobId(job.id)]
    place = next(place for place, each in enumerate(log) if each.event.payload.type == "continueToNextStep")
    del log[place]
    differing = (await client.logs.replay_job(job.id)).divergence
    assert differing is not None
    assert (differing.seq, differing.recorded["type"], differing.made["type"]) == (
        log[place].event.seq,
        "startGeneration",
        "continueToNextStep",
    )


async def test_a_recorded_conversation_has_a_turn_for_every_request_of_the_job(
    client: Client, daemon: World, tmp_path: Path
) -> None:
    job = await finished(client)
    file = anyio.Path(tmp_path / "conversation.jsonl")
    await file.write_bytes(b"".join([piece async for piece in client.logs.record_job(job.id)]))
    turns = await anyio.to_thread.run_sync(load, tmp_path / "conversation.jsonl")
    asked = [Digester().digest(request) for request in daemon.models.requests]
    assert set(turns) == set(asked)
    assert len(asked) == 4
    assert turns[asked[-1]].parts == (TextPart("done"),)


async def test_a_job_goes_out_is_deleted_and_comes_in_again(client: Client, daemon: World) -> None:
    job = await finished(client)
    data = b"".join([piece async for piece in client.logs.export_job(job.id)])
    assert await client.logs.delete_jobs([job.id]) == (job.id,)
    with pytest.raises(api.NotFoundError):
        await client.get_job(job.id)
    assert daemon.store.records == {}

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    found = await client.logs.import_job(pieces())
    assert (found.known, found.job.id, found.job.answer) == (False, job.id, "done")
    assert (await client.logs.import_job(pieces())).known

    async def cut() -> AsyncIterator[bytes]:
        yield data[:-9]

    with pytest.raises(api.InvalidError) as invalid:
        await client.logs.import_job(cut())
    assert invalid.value.reason == "import_invalid"


async def test_a_tenant_is_erased_only_when_it_is_named(client: Client, daemon: World) -> None:
    await finished(client)
    with pytest.raises(api.InvalidError):
        await client.logs.erase_tenant("")
    assert await client.logs.erase_tenant("default") == ErasedTenant(1, 0, 0, 0, ())
    assert daemon.store.records == {}


# --- the command line -----------------------------------------------------------------------------------------------
async def ctl(root: Path, *arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "perstackctl", "--address", str(root / "admin" / "p.sock"), *arguments]
    with anyio.fail_after(60):
        done = await anyio.run_process(command, check=False, cwd=cwd or root, stdin=None)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_the_commands_work_on_one_job_from_its_end_to_its_deletion(client: Client, root: Path) -> None:
    job = await finished(client)
    code, said, _ = await ctl(root, "job", "checkpoints", job.id)
    assert (code, said.count("lead"), "MESSAGES" in said) == (0, 3, True)
    code, said, _ = await ctl(root, "job", "checkpoint", job.id, "-o", "json")
    assert json.loads(said)["checkpoint"]["outcome"] == "completed"
    code, said, _ = await ctl(root, "job", "checkpoint", job.id)
    assert "assistant:\n  done" in said
    assert "{'" not in said, "Python's way of writing a value"
    code, said, _ = await ctl(root, "job", "replay", job.id)
    assert (code, said.startswith("the same")) == (0, True)
    code, said, _ = await ctl(root, "job", "record", job.id)
    assert (code, len(said.splitlines())) == (0, 4)
    file = root / "job.jsonl"
    assert (await ctl(root, "job", "export", job.id, "-f", str(file)))[0] == 0
    code, _, error = await ctl(root, "job", "export", job.id, "-f", str(file))
    assert (code, "is there already" in error) == (1, True)
    assert (await ctl(root, "job", "import", str(file)))[1].endswith("the same\n")
    assert (await ctl(root, "job", "rm", job.id))[0] == 0
    assert (await ctl(root, "job", "import", str(file)))[1].endswith("is here now\n")
    assert (await ctl(root, "job", "erase", "--tenant", "default", "--yes"))[0] == 0
    names = [path.name async for path in anyio.Path(root).iterdir() if path.name.startswith(".job")]
    assert names == []


async def test_run_goes_on_from_the_newest_job_a_named_one_and_a_checkpoint(client: Client, root: Path) -> None:
    job = await finished(client)
    project = root / "project"
    await anyio.Path(project).mkdir()
    await anyio.Path(project / "perstack.toml").write_text(TEAM)
    code, said, error = await ctl(root, "run", "lead", "and?", "--continue", "-o", "text", cwd=project)
    assert (code, "more" in said) == (0, True), error
    code, said, error = await ctl(root, "run", "and?", "--continue-job", job.id, "-o", "text", cwd=root)
    assert (code, "more" in said) == (0, True), error
    first = await anext(client.logs.list_checkpoints(job.id))
    code, said, error = await ctl(root, "run", "--resume-from", f"{job.id}:{first.seq}", "-o", "text", cwd=root)
    assert (code, "done" in said) == (0, True), error
    made = [each async for each in client.list_jobs()]
    assert [each.parent_job_id for each in made] == [job.id, job.id, job.id, ""]
    code, said, _ = await ctl(root, "job", "get", made[0].id)
    assert f"{job.id}:{first.seq}" in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--resume-from", "12"), "--continue-job"),
        (("--continue", "--continue-job", "01JD3Z"), "not both"),
        (("--continue-job", "01JD3Z", "--resume-from", "01JD40:1"), "two jobs"),
        ((), "EXPERT"),
    ],
)
async def test_options_that_contradict_each_other_are_usage_errors(
    root: Path, arguments: tuple[str, ...], word: str
) -> None:
    code, _, error = await ctl(root, "run", *arguments)
    assert (code, word in error) == (2, True)
