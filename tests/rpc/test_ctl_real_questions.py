"""Questions, pauses and the log against the daemon's own servicers: the fake API of the other tests cannot lie."""

import asyncio
import io
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perstackctl import client as api
from perstackctl.client import Action, Answer, Client, JobState, QuestionKind
from perstackctl.client.errors import JobWaitsError
from perstackctl.client.values import Job
from perstackctl.joblog.choice import TYPES
from perstackctl.watch.follow import Follower
from perstackctl.watch.plain import PlainLog
from perstackctl.watch.trace import Trace, fold
from perstackd.app.system import System, SystemFacts
from perstackd.rpc.server import AdminSocket, Api, admin_server
from tests.fakes.clock import FakeClock
from tests.fakes.models import Entry
from tests.rpc.ctl_program import Ctl
from tests.unit.app.daemon_in_memory import SKILLS, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.test_people import GAME, MAIL, asked

pytestmark = pytest.mark.anyio
TIMEOUT = 20
ASKS: dict[str, list[Entry]] = {LEAD: [calls(("q", "askMove", {"question": "Where?"})), says("done")]}


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="pctl-", dir="/tmp") as path:
        yield Path(path)


@asynccontextmanager
async def served(root: Path, turns: Mapping[str, Sequence[Entry]], **more: Any) -> AsyncIterator[tuple[World, Client]]:
    async with world(root / "run", turns, **more) as daemon:
        facts = SystemFacts("0.1.0", 1, ("/srv",), "/var/lib/perstackd", "scripted", "m")
        system = System(facts, daemon.sandboxes, daemon.pool, daemon.jobs)
        socket = root / "admin" / "p.sock"
        async with (
            admin_server(AdminSocket(socket), Api(daemon.jobs, daemon.pool, system), FakeClock()),
            Client(str(socket), timeout=10, reconnect_seconds=2) as client,
        ):
            yield daemon, client


async def watched(client: Client, job_id: str, *, follow: bool = True) -> list[api.Event]:
    async with asyncio.timeout(TIMEOUT):
        batches = client.watch_job(job_id, follow=follow)
        return [event async for batch in batches for event in batch.events]


async def test_what_the_events_ask_is_what_the_daemon_lists(root: Path) -> None:
    async with served(root, ASKS) as (daemon, client):
        record = await daemon.start(GAME)
        await asked(daemon, record.id)
        trace = fold(Trace(), api.Batch(tuple(await watched(client, record.id, follow=False))))
        (listed,) = await client.list_questions(record.id)
        (seen,) = trace.questions
        assert (seen, trace.stalled) == (listed, True)
        assert (listed.kind, listed.message, listed.tool) == (QuestionKind.TOOL, "Where?", "askMove")
        assert (await client.get_job(record.id)).open_questions == 1


async def test_an_answer_is_taken_once_and_the_job_goes_on(root: Path) -> None:
    async with served(root, ASKS) as (daemon, client):
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        for wrong in (Answer(Action.APPROVE), Answer.of(Action.ANSWER, 7)):
            with pytest.raises(api.InvalidError) as refused:
                await client.answer_question(record.id, question.id, wrong)
            assert refused.value.reason == "answer_invalid"
        for _ in range(2):
            answered = await client.answer_question(record.id, question.id, Answer.of(Action.ANSWER, "here"))
            assert answered.id == question.id
        with pytest.raises(api.PreconditionError) as closed:
            await client.answer_question(record.id, question.id, Answer.of(Action.ANSWER, "there"))
        assert closed.value.reason == "question_closed"
        trace = fold(Trace(), api.Batch(tuple(await watched(client, record.id))))
    assert (trace.outcome, trace.questions) == ("completed", ())


@pytest.mark.parametrize(("answer", "denied"), [(Answer(Action.APPROVE), 0), (Answer(Action.DENY, b'"no"'), 1)])
async def test_an_approval_is_decided(root: Path, answer: Answer, denied: int) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("s", "send", {"to": "all"})), says("done")]}
    async with served(root, turns, skills=SKILLS) as (daemon, client):
        daemon.links.tools["mail"] = ("read", "send")
        record = await daemon.start(MAIL)
        await asked(daemon, record.id)
        (question,) = await client.list_questions(record.id)
        assert (question.kind, question.arguments) == (QuestionKind.APPROVAL, {"to": "all"})
        await client.answer_question(record.id, question.id, answer)
        events = await watched(client, record.id)
    (decided,) = [json.loads(event.payload) for event in events if event.type == "approvalDecided"]
    assert decided["approved"] is not bool(denied)
    assert fold(Trace(), api.Batch(tuple(events))).questions == ()


async def test_a_follower_leaves_a_job_that_waits_and_says_how_to_answer(root: Path) -> None:
    async with served(root, ASKS) as (daemon, client):
        record = await daemon.start(GAME)
        out = io.StringIO()
        with pytest.raises(JobWaitsError) as waits:
            async with asyncio.timeout(TIMEOUT):
                await Follower(client, record.id, PlainLog(out)).run()
        (question,) = await client.list_questions(record.id)
    assert f"job answer {record.id} {question.short_id} TEXT" in waits.value.message
    assert f"asks (player.askMove): Where? [{question.short_id}]" in out.getvalue()


async def test_a_job_rests_and_goes_on(root: Path) -> None:
    async with served(root, ASKS) as (daemon, client):
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        for _ in range(2):
            assert (await client.pause_job(record.id)).paused
        for _ in range(2):
            assert not (await client.resume_job(record.id)).paused
        await client.answer_question(record.id, question.id, Answer.of(Action.ANSWER, "here"))
        events = await watched(client, record.id)
        ended: Job = await client.get_job(record.id)
    assert ended.state is JobState.COMPLETED
    assert {"jobPaused", "jobResumed"} <= {event.type for event in events} <= set(TYPES)


async def test_limits_arrive_and_are_told_again(root: Path) -> None:
    budgets = api.Budgets(wall_clock_ms=600_000, tokens=5000, tool_calls=9)
    request = api.JobRequest(api.Definition(GAME, "p.toml"), "lead", "q", max_steps=7, budgets=budgets)
    async with served(root, {LEAD: [says("done")], HELPER: []}) as (_, client):
        created = await client.create_job(request)
        job = await client.get_job(created.job.id)
        await watched(client, job.id)
    told = job.budgets
    assert (told.wall_clock_ms, told.tokens, told.tool_calls) == (600_000, 5000, 9)
    assert told.max_steps == 7


async def test_the_program_reads_questions_log_and_tree_of_a_real_job(root: Path) -> None:
    async def run(*args: str) -> str:
        done = await Ctl(f"unix:{root}/admin/p.sock", root)("job", *args)
        assert done.code == 0, (args, done)
        return done.out

    async with served(root, ASKS) as (daemon, _client):
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        short = question.id.rpartition(".")[2]
        assert "Where?" in await run("questions", record.id)
        assert (await run("answer", record.id, "the middle")).endswith(f"answered {short}\n")
        events = await daemon.events(record.id)
        log = await run("log", record.id)
        assert len(log.splitlines()) == len(events) + 1
        assert f"a person answered: the middle [{short}]" in log
        assert "✓ lead" in await run("tree", record.id)
        # The same answer again, by its name, is no error.
        assert await run("answer", record.id, short, "the middle") == f"answered {short}\n"
