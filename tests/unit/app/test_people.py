"""Questions and approvals: durable, answered once, by the job's caller."""

import json
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from perstackd.app.run_context import RunLimits
from perstackd.app.standing import OpenQuestion
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import Event
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobState
from perstackd.domain.messages import TextPart, ToolResultPart
from perstackd.domain.session import RoutedCall, ToolResults
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Entry
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import SKILLS, Machine, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
GAME = """
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
[experts.lead.skills.player]
type = "interactiveSkill"
[experts.lead.skills.player.tools.askMove]
description = "Ask the player for a move"
inputJsonSchema = '{"type":"object","properties":{"question":{"type":"string"}},"required":["question"]}'
[experts.helper]
instruction = "Help."
[experts.helper.skills.player]
type = "interactiveSkill"
[experts.helper.skills.player.tools.askMove]
description = "Ask the player for a move"
inputJsonSchema = '{"type":"object","properties":{"question":{"type":"string"}},"required":["question"]}'
"""
MAIL = """
[experts.lead]
instruction = "Lead."
[experts.lead.skills.mail]
type = "mcpStdioSkill"
command = "mail-server"
approval = ["send"]
"""


def types_of(events: Sequence[Event]) -> list[str]:
    return [event.payload.type for event in events]


async def asked(daemon: World, job_id: JobId, count: int = 1) -> tuple[OpenQuestion, ...]:
    with anyio.fail_after(5):
        while len(found := await daemon.jobs.questions(job_id)) < count:
            await anyio.sleep(0.002)
    return found


async def test_a_run_asks_and_goes_on_with_the_answer(tmp_path: Path) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("q", "askMove", {"question": "Where?"})), says("done")]}
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        waiting = await daemon.jobs.get(record.id)
        assert (waiting.state, waiting.open_questions, waiting.exit_code) == (JobState.WAITING, 1, 4)
        assert (question.question.message, question.question.tool) == ("Where?", "askMove")
        await daemon.jobs.answer(record.id, question.id, "answer", b'"the middle"')
        events = await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
        assert "the middle" in str(daemon.models.requests[-1].messages)
    assert (ended.state, ended.open_questions) == (JobState.COMPLETED, 0)
    assert {"callInteractiveTool", "questionAnswered"} <= set(types_of(events))


async def test_while_nobody_answers_no_sandbox_is_held_and_the_run_says_so(tmp_path: Path) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("q", "askMove", {"question": "Where?"})), says("done")]}
    async with world(tmp_path, turns, limits=RunLimits(ask_hold_ms=10)) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        with anyio.fail_after(5):
            while any(row.job_id for row in daemon.pool.records()):
                await anyio.sleep(0.002)
        await daemon.jobs.answer(record.id, question.id, "answer", b'"here"')
        events = await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED
    types = types_of(events)
    assert types.count("stopRunByInteractiveTool") == 1
    assert types.index("sandboxReleased") < types.index("questionAnswered")


async def test_several_questions_are_open_at_once_and_answered_in_any_order(tmp_path: Path) -> None:
    both = calls(("a", "askMove", {"question": "One?"}), ("b", "askMove", {"question": "Two?"}))
    async with world(tmp_path, {LEAD: [both, says("done")]}) as daemon:
        record = await daemon.start(GAME)
        first, second = await asked(daemon, record.id, 2)
        await daemon.jobs.answer(record.id, second.id, "answer", b'"2"')
        await daemon.jobs.answer(record.id, first.id, "answer", b'{"question":"1"}')
        await daemon.events(record.id)
        said = str(daemon.models.requests[-1].messages[-1])
    assert said.index('{"question":"1"}') < said.index("'2'")


@pytest.mark.parametrize(
    ("action", "content", "why"),
    [
        ("answer", b"", "not valid"),
        ("answer", b"7", "not valid"),
        ("answer", b'{"other":1}', ""),
        ("answer", b"{", "not JSON"),
        ("approve", b'"x"', "answered with answer"),
    ],
)
async def test_an_answer_that_does_not_fit_leaves_the_question_open(
    tmp_path: Path, action: str, content: bytes, why: str
) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("q", "askMove", {"question": "Where?"})), says("done")]}
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        with pytest.raises(PerstackError) as caught:
            await daemon.jobs.answer(record.id, question.id, action, content)
        assert len(await daemon.jobs.questions(record.id)) == 1
    assert caught.value.reason == "answer_invalid"
    assert why in caught.value.message


async def test_the_same_answer_again_changes_nothing_and_another_is_refused(tmp_path: Path) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("q", "askMove", {"question": "Where?"})), says("done")]}
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        await daemon.jobs.answer(record.id, question.id, "answer", b'"here"')
        await daemon.events(record.id)
        again = await daemon.jobs.answer(record.id, question.id, "answer", b'"here"')
        assert again.question == question.question
        with pytest.raises(PerstackError) as caught:
            await daemon.jobs.answer(record.id, question.id, "answer", b'"there"')
        with pytest.raises(PerstackError) as unknown:
            await daemon.jobs.answer(record.id, "x.1-1", "answer", b'"there"')
    assert (caught.value.reason, unknown.value.reason) == ("question_closed", "question_not_found")


async def test_a_childs_question_reaches_the_caller_of_the_job(tmp_path: Path) -> None:
    turns: dict[str, list[Entry]] = {
        LEAD: [calls(("d", "helper", {"query": "x"})), says("done")],
        HELPER: [calls(("q", "askMove", {"question": "Where?"})), says("told")],
    }
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        assert (question.expert_key, (await daemon.jobs.get(record.id)).state) == ("helper", JobState.WAITING)
        await daemon.jobs.answer(record.id, question.id, "answer", b'"here"')
        await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED


@pytest.mark.parametrize(("action", "made", "seen"), [("approve", 1, "send done"), ("deny", 0, "not today")])
async def test_a_call_that_needs_approval_is_made_only_once_it_is_given(
    tmp_path: Path, action: str, made: int, seen: str
) -> None:
    turn = calls(("r", "read", {}), ("s", "send", {"to": "you"}))
    async with world(tmp_path, {LEAD: [turn, says("done")]}, skills=SKILLS) as daemon:
        daemon.links.tools["mail"] = ("read", "send")
        record = await daemon.start(MAIL)
        (question,) = await asked(daemon, record.id)
        sent = [order for link in daemon.links.made.values() for order in link.orders]
        assert "'send'" not in str([order for order in sent if type(order).__name__ == "TurnOrder"])
        await daemon.jobs.answer(record.id, question.id, action, json.dumps("not today").encode())
        events = await daemon.events(record.id)
        sent = [order for link in daemon.links.made.values() for order in link.orders]
        assert str([o for o in sent if type(o).__name__ == "TurnOrder"]).count("'send'") == made
        assert seen in str(daemon.models.requests[-1].messages[-1])
    assert {"approvalRequested", "approvalDecided"} <= set(types_of(events))


async def test_an_open_question_outlives_the_process(tmp_path: Path) -> None:
    store = FakeStore()
    turns: dict[str, list[Entry]] = {LEAD: [calls(("q", "askMove", {"question": "Where?"})), says("done")]}
    async with world(tmp_path, turns, store=store) as first:
        record = await first.start(GAME, workspace=NAMED)
        (question,) = await asked(first, record.id)
    async with world(tmp_path, turns, machine=Machine.rebooted(tmp_path, store)) as second:
        (again,) = await asked(second, record.id)
        assert (again.id, again.question) == (question.id, question.question)
        await eventually(lambda: not any(row.job_id for row in second.pool.records()))
        await second.jobs.answer(record.id, question.id, "answer", b'"here"')
        await second.events(record.id)
        assert (await second.jobs.get(record.id)).state is JobState.COMPLETED


async def test_a_paused_job_finishes_its_step_and_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}) as daemon:
        paused = anyio.Event()
        record = await daemon.start()

        def pauses(call: RoutedCall) -> None:
            paused.set()

        daemon.links.tool = pauses
        with anyio.fail_after(5):
            await paused.wait()
        assert (await daemon.jobs.pause(record.id)).paused
        assert (await daemon.jobs.pause(record.id)).paused
        (link,) = [link for link in daemon.links.made.values() if getattr(link, "assigned", None)]
        link.push(_done())
        with anyio.fail_after(5):
            while "continueToNextStep" not in str(daemon.store.log[record.id][-1].event.payload.type):
                await anyio.sleep(0.002)
        assert len(daemon.models.requests) == 1
        assert not (await daemon.jobs.resume(record.id)).paused
        events = await daemon.events(record.id)
        with pytest.raises(PerstackError, match="has ended"):
            await daemon.jobs.pause(record.id)
    assert {"jobPaused", "jobResumed"} <= set(types_of(events))


def _done() -> ToolResults:
    return ToolResults(1, (ToolResultPart("a", (TextPart("ok"),)),))
