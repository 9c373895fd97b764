"""perstackctl's client against the daemon's own servicers, so that the fake API of the other tests cannot lie."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perstackctl import client as api
from perstackctl.client import Client, Definition, JobRequest, JobState
from perstackctl.watch.json_lines import event_line
from perstackctl.watch.plain import lines
from perstackctl.watch.trace import Trace, fold, fold_event
from perstackd.app.system import System, SystemFacts
from perstackd.rpc.server import AdminSocket, Api, admin_server
from tests.fakes.clock import FakeClock
from tests.unit.app.daemon_in_memory import TEAM, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
TIMEOUT = 20
TURNS = {
    LEAD: [calls(("a", "exec", {"command": "ls"})), calls(("d", "helper", {"query": "plan"})), says("done")],
    HELPER: [says("the plan")],
}
REQUEST = JobRequest(Definition(TEAM, "/p/perstack.toml"), "lead", "do it", idempotency_key="k")


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="pctl-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def daemon(root: Path) -> AsyncIterator[World]:
    async with world(root / "run", TURNS) as daemon:
        facts = SystemFacts("0.1.0", 1, ("/srv",), "/var/lib/perstackd", "scripted", "m")
        system = System(facts, daemon.sandboxes, daemon.pool, daemon.jobs)
        socket = AdminSocket(root / "admin" / "p.sock")
        async with admin_server(socket, Api(daemon.jobs, daemon.pool, system), FakeClock()):
            yield daemon


@pytest.fixture
async def client(daemon: World, root: Path) -> AsyncIterator[Client]:
    async with Client(str(root / "admin" / "p.sock"), timeout=10, reconnect_seconds=2) as client:
        yield client


async def watched(client: Client, job_id: str, after_seq: int = 0) -> list[api.Event]:
    async with asyncio.timeout(TIMEOUT):
        return [event async for batch in client.watch_job(job_id, after_seq) for event in batch.events]


async def test_a_job_is_made_watched_and_read_again(client: Client) -> None:
    created = await client.create_job(REQUEST)
    events = await watched(client, created.job.id)
    job = await client.get_job(created.job.id)
    assert [event.seq for event in events] == list(range(1, job.last_seq + 1))
    assert (job.state, job.answer, job.exit_code, job.workspace.kind) == (JobState.COMPLETED, "done", 0, "ephemeral")
    assert [each.id async for each in client.list_jobs(page_size=1)] == [job.id]
    assert (await client.create_job(REQUEST)).job.id == job.id


async def test_the_daemons_events_fold_into_the_same_job_that_it_tells(client: Client) -> None:
    created = await client.create_job(REQUEST)
    events = await watched(client, created.job.id)
    trace = fold(Trace(), api.Batch(tuple(events)))
    job, runs = await client.get_job(created.job.id), await client.list_runs(created.job.id)
    assert (trace.expert, trace.query, trace.outcome, trace.answer) == ("lead", "do it", "completed", "done")
    assert trace.usage == job.usage
    assert [(run.id, run.parent_id, run.outcome) for run in trace.runs.values()] == [
        (run.id, run.parent_run_id, run.outcome) for run in runs
    ]
    assert [run.sandboxes for run in trace.runs.values()] == [run.sandbox_ids for run in runs]
    lead = trace.runs[runs[0].id]
    assert [(call.name, call.expert, call.is_error) for call in lead.calls] == [
        ("exec", "", False),
        ("helper", "helper", False),
    ]
    assert all(call.ended_at for call in lead.calls)


async def test_the_daemons_events_can_be_shown(client: Client) -> None:
    created = await client.create_job(REQUEST)
    trace = Trace()
    shown: list[str] = []
    for event in await watched(client, created.job.id):
        assert event.payload.startswith(b"{")
        assert event_line(event).count('"type":') >= 1
        trace = fold_event(trace, event)
        shown.extend(lines(trace, event))
    text = "\n".join(shown)
    for words in (
        "created: lead",
        "calls exec command=ls",
        "exec done in",
        "delegates to helper: plan",
        "completed after",
    ):
        assert words in text


async def test_errors_arrive_with_their_reasons(client: Client) -> None:
    with pytest.raises(api.NotFoundError) as missing:
        await client.get_job("01JD3Z00000000000000000000")
    assert missing.value.reason == "job_not_found"
    with pytest.raises(api.InvalidError) as broken:
        await client.resolve(Definition("[experts", "p.toml"))
    assert broken.value.reason == "definition_invalid"
    assert "p.toml" in broken.value.message
    await client.create_job(REQUEST)
    other = JobRequest(REQUEST.definition, "lead", "something else", idempotency_key="k")
    with pytest.raises(api.ConflictError) as used:
        await client.create_job(other)
    assert used.value.reason == "idempotency_key_used"


async def test_everything_that_is_shown_can_be_asked_for(client: Client) -> None:
    resolution = await client.resolve(REQUEST.definition, "lead")
    assert [expert.key for expert in resolution.experts] == ["lead", "helper"]
    assert resolution.env_paths == (".env", ".env.local")
    assert (await client.pools())[0].template == "base"
    assert (await client.info()).workspace_roots == ("/srv",)
    for sandbox in await client.list_sandboxes():
        assert (await client.get_sandbox(sandbox.id)).id == sandbox.id


ROLES = """
maxSteps = 7
reasoningBudget = 2048
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
maxSteps = 3
tags = ["x"]
[experts.lead.skills."@perstack/base"]
pick = ["exec", "todo"]
requiredEnv = ["SHELL_KEY"]
[experts.lead.skills.tracker]
type = "mcpStdioSkill"
command = "uvx"
packageName = "tracker"
requiredEnv = ["TOKEN"]
allowedDomains = ["api.tracker.example"]
approval = "always"
[experts.lead.skills.wiki]
type = "mcpSseSkill"
endpoint = "https://wiki.example/sse"
headers = { x = "${WIKI}" }
approval = ["write"]
[experts.lead.skills.ask]
type = "interactiveSkill"
[experts.lead.skills.ask.tools.choose]
inputJsonSchema = "{}"
[experts.helper]
instruction = "Help."
model = "other"
[experts.cheap]
instruction = "Be cheap."
modelTier = "low"
"""


async def test_an_expert_is_resolved_as_a_job_would_have_it(client: Client) -> None:
    found = await client.resolve(Definition(ROLES, "p.toml"), "lead")
    lead, helper = found.experts
    assert (found.limits.max_steps, found.limits.max_retries, found.template) == (7, 5, "base")
    assert (lead.max_steps, lead.reasoning, lead.tags, helper.model) == (3, "2048", ("x",), "other")
    assert (found.required_env, lead.required_env) == (("SHELL_KEY", "TOKEN", "WIKI"),) * 2
    assert lead.digest.startswith("sha256:")
    base, tracker, wiki, ask = lead.skill_details
    assert (base.name, base.tools) == ("@perstack/base", ("attemptCompletion", "exec", "todo"))
    assert (tracker.isolation, tracker.target, tracker.workspace) == ("own", "uvx tracker", "ro")
    assert (tracker.approval, tracker.allowed_domains) == (("*",), ("api.tracker.example",))
    assert (wiki.type, wiki.target, wiki.workspace) == ("mcpSseSkill", "https://wiki.example/sse", "none")
    assert (wiki.required_env, wiki.approval) == (("WIKI",), ("write",))
    assert (ask.type, ask.isolation, ask.tools) == ("interactiveSkill", "", ("choose",))


async def test_a_tier_that_means_no_model_here_stops_neither_the_file_nor_its_other_experts(client: Client) -> None:
    found = await client.resolve(Definition(ROLES, "p.toml"))
    assert [(each.key, each.model, each.model_tier) for each in found.experts] == [
        ("lead", "m", ""),
        ("helper", "other", ""),
        ("cheap", "", "low"),
    ]


async def test_errors_and_warnings_of_a_definition_are_told_together(client: Client) -> None:
    broken = Definition("foo = 1\n[experts.a]\n", "p.toml")
    with pytest.raises(api.InvalidError):
        await client.resolve(broken)
    found = await client.resolve(broken, report_errors=True)
    assert [(each.severity.value, each.line) for each in found.findings] == [("warning", 1), ("error", 2)]
    assert found.experts == ()
    with pytest.raises(api.NotFoundError):
        await client.resolve(REQUEST.definition, "nobody", report_errors=True)
