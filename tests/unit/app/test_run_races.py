"""What happens at the same time in a run: each thing counts once, whoever is first."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from perstackd.app.run_context import RunLimits
from perstackd.domain.budget import Budgets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, ProxyAccess
from perstackd.domain.job import JobState
from perstackd.domain.messages import FinishReason, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.sandbox import SandboxState, Template
from perstackd.domain.session import Assign, Elicit, ElicitAnswer, Order, RoutedCall, TurnOrder
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Entry, Flaky, Held
from tests.unit.app.daemon_in_memory import SKILLS, World, world
from tests.unit.app.test_jobs import LEAD, calls, says
from tests.unit.app.test_people import GAME, MAIL, asked

pytestmark = pytest.mark.anyio
ASK = calls(("q", "askMove", {"question": "Where?"}))
FORMS = MAIL.replace('approval = ["send"]', 'isolation = "own"')


def types_of(events: Sequence[Event]) -> list[str]:
    return [event.payload.type for event in events]


def given(daemon: World, call_id: str) -> int:
    """How often sandboxes were told to make the call."""
    orders = [order for link in daemon.links.made.values() for order in link.orders if isinstance(order, TurnOrder)]
    return sum(call.call_id == call_id for order in orders for call in order.calls)


def claimed(daemon: World, role: str = "") -> ActingRunnerLink:
    """The link of the one sandbox that a run has, or that its skill has."""
    template = "skills" if role else "base"
    (row,) = [row for row in daemon.pool.records() if row.state is SandboxState.CLAIMED and row.template == template]
    link = daemon.links.made[row.id]
    assert isinstance(link, ActingRunnerLink)
    return link


async def until(daemon: World, job_id: str, event_type: str, count: int = 1) -> None:
    with anyio.fail_after(5):
        while types_of([each.event for each in daemon.store.log[job_id]]).count(event_type) < count:  # type: ignore[index]
            await anyio.sleep(0.002)


async def test_calls_of_a_turn_that_came_before_the_fresh_sandbox_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, send = anyio.Event(), ActingRunnerLink.send

    async def late(link: ActingRunnerLink, order: Order) -> None:
        if isinstance(order, Assign) and order.step > 1:
            await gate.wait()
        await send(link, order)

    monkeypatch.setattr(ActingRunnerLink, "send", late)
    turns: dict[str, list[Entry]] = {LEAD: [calls(("e", "exec", {})), ASK, calls(("x", "exec", {})), says("done")]}
    async with world(tmp_path, turns, limits=RunLimits(ask_hold_ms=0)) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        await until(daemon, record.id, "sandboxReleased")
        await daemon.jobs.answer(record.id, question.id, "answer", b'"here"')
        await until(daemon, record.id, "callTools", 3)
        gate.set()
        events = await daemon.events(record.id)
        assert (given(daemon, "e"), given(daemon, "x")) == (1, 1)
    assert "resumeToolCalls" not in types_of(events)


async def test_a_retry_that_waits_while_the_job_is_paused_and_resumed_is_made(tmp_path: Path) -> None:
    busy = PerstackError(Kind.UNAVAILABLE, "model_overloaded", "busy", retryable=True)
    async with world(tmp_path, {LEAD: [Flaky((busy,), says("done"))]}) as daemon:
        record = await daemon.start()
        await until(daemon, record.id, "retry")
        await daemon.jobs.pause(record.id)
        await daemon.jobs.resume(record.id)
        await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED


async def test_a_job_that_waits_for_a_sandbox_is_resumed_without_a_wait(tmp_path: Path) -> None:
    held = Held(says("first"))
    one = Template("base", "perstack/base:latest", min_idle=1, max=1)
    async with world(tmp_path, {LEAD: [held]}, one) as daemon:
        first = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        second = await daemon.start()
        await until(daemon, second.id, "jobQueued")
        place, reason = daemon.jobs.queue(second.id) or (0, "")
        assert (place, bool(reason), daemon.jobs.queue(first.id)) == (1, True, None)
        assert daemon.jobs.counts() == (1, 1)
        with anyio.fail_after(2):
            assert (await daemon.jobs.pause(second.id)).paused
            assert not (await daemon.jobs.resume(second.id)).paused
        held.release.set()
        for job in (first, second):
            await daemon.events(job.id)
            assert (await daemon.jobs.get(job.id)).state is JobState.COMPLETED


async def test_of_two_different_answers_at_once_one_counts_and_the_other_is_told(tmp_path: Path) -> None:
    outcomes: dict[bytes, str] = {}
    async with world(tmp_path, {LEAD: [ASK, says("done")]}) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)

        async def say(content: bytes) -> None:
            try:
                await daemon.jobs.answer(record.id, question.id, "answer", content)
                outcomes[content] = "counts"
            except PerstackError as error:
                outcomes[content] = error.reason

        async with anyio.create_task_group() as people:
            for content in (b'"left"', b'"right"', b'"left" '):
                people.start_soon(say, content)
        await daemon.events(record.id)
        said = str(daemon.models.requests[-1].messages[-1])
    first, other = ("left", "right") if outcomes[b'"left"'] == "counts" else ("right", "left")
    assert {outcomes[content] for content in outcomes if first in content.decode()} == {"counts"}
    assert {outcomes[content] for content in outcomes if other in content.decode()} == {"question_closed"}
    assert (first in said, other in said) == (True, False)


async def test_an_answer_to_a_job_that_is_cancelled_meanwhile_is_told_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [ASK]}, limits=RunLimits(ask_hold_ms=0)) as daemon:
        record = await daemon.start(GAME)
        (question,) = await asked(daemon, record.id)
        await until(daemon, record.id, "sandboxReleased")
        with anyio.fail_after(5), pytest.raises(PerstackError) as caught:  # noqa: PT012 - either may be refused
            await daemon.jobs.cancel(record.id, "")
            await daemon.jobs.answer(record.id, question.id, "answer", b'"here"')
        await daemon.events(record.id)
    assert caught.value.reason in {"question_closed", "run_busy"}


# --- a server's questions ---------------------------------------------------------------------------------------------
def elicit(number: int) -> Elicit:
    return Elicit("a", "mail", number, "Which?", {"type": "object", "properties": {"n": {"type": "integer"}}})


async def test_a_question_is_closed_with_its_sandbox_and_the_next_ones_has_another_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is made again because it is idempotent: its server asks anew, and no old answer may reach it."""
    monkeypatch.setattr("perstackd.domain.tool_calls._repeatable", lambda _: True)
    async with world(tmp_path, {LEAD: [calls(("a", "send", {})), says("done")]}, skills=SKILLS) as daemon:
        daemon.links.tools["mail"] = ("send",)
        daemon.links.tool = lambda _: None
        record = await daemon.start(FORMS)
        await until(daemon, record.id, "callTools")
        first = claimed(daemon, "mail")
        await _running(first)
        first.push(elicit(1))
        (old,) = await asked(daemon, record.id)
        daemon.sandboxes.kill(first.sandbox_id)
        first.lose()
        await until(daemon, record.id, "resumeToolCalls")
        assert await daemon.jobs.questions(record.id) == ()
        second = claimed(daemon, "mail")
        await _running(second)
        second.push(elicit(1))
        (new,) = await asked(daemon, record.id)
        assert (old.question.id, new.question.id) == ("1-1e1", "1-1f2e1")
        with pytest.raises(PerstackError, match="closed"):
            await daemon.jobs.answer(record.id, old.id, "accept", b'{"n":1}')
        await daemon.jobs.answer(record.id, new.id, "accept", b'{"n":2}')
        (told,) = [order for order in second.orders if isinstance(order, ElicitAnswer)]
        assert (told.elicitation, told.content) == (1, '{"n":2}')
        await daemon.jobs.cancel(record.id, "")
        await daemon.events(record.id)


async def test_a_server_cannot_ask_again_under_a_number_that_was_answered(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls(("a", "send", {})), says("done")]}, skills=SKILLS) as daemon:
        daemon.links.tools["mail"] = ("send",)
        daemon.links.tool = lambda _: None
        record = await daemon.start(FORMS)
        await until(daemon, record.id, "callTools")
        link = claimed(daemon, "mail")
        await _running(link)
        link.push(elicit(1))
        (question,) = await asked(daemon, record.id)
        await daemon.jobs.answer(record.id, question.id, "accept", b'{"n":1}')
        for _ in range(3):
            link.push(elicit(1))
        await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
    assert (ended.state, ended.error_reason) == (JobState.FAILED, "runner_misbehaved")


async def _running(link: ActingRunnerLink) -> None:
    with anyio.fail_after(5):
        while not any(isinstance(order, TurnOrder) and order.calls for order in link.orders):
            await anyio.sleep(0.002)


# --- budgets ----------------------------------------------------------------------------------------------------------
TODO = Turn((ToolCallPart("t", "todo", {"newTodos": ["x"]}),), FinishReason.TOOL_CALLS, Usage(10, 2))


@pytest.mark.parametrize(("budgets", "reason"), [(Budgets(tokens=24), "tokens"), (Budgets(tool_calls=2), "toolCalls")])
async def test_a_turn_whose_calls_are_all_the_daemons_counts_before_the_next_one(
    tmp_path: Path, budgets: Budgets, reason: str
) -> None:
    async with world(tmp_path, {LEAD: [TODO, TODO, TODO, says("done")]}) as daemon:
        record, _ = await daemon.finished(budgets=budgets)
        assert len(daemon.models.requests) == 2
    assert (record.state, record.error_reason) == (JobState.STOPPED, f"budget_{reason}")


async def test_a_turn_of_too_many_calls_is_refused_with_a_word_to_the_model_and_none_is_made(tmp_path: Path) -> None:
    crowd = calls(*((f"c{number}", "exec", {}) for number in range(257)))
    async with world(tmp_path, {LEAD: [crowd, says("done")]}) as daemon:
        _, events = await daemon.finished()
        assert "make at most 256" in str(daemon.models.requests[-1].messages)
        assert given(daemon, "c0") == 0
    (retry,) = [event.payload for event in events if event.payload.type == "retry"]
    assert getattr(retry, "reason", "") == "turn_malformed"


# --- connections ------------------------------------------------------------------------------------------------------
async def test_a_connection_that_lasts_until_the_runs_end_is_in_its_log(tmp_path: Path) -> None:
    toml = FORMS + 'allowedDomains = ["mail.example.com"]\n'
    async with world(tmp_path, {LEAD: [calls(("a", "send", {})), says("done")]}, skills=SKILLS) as daemon:
        daemon.links.tools["mail"] = ("send",)

        def connects(call: RoutedCall) -> ToolResultPart:
            assert daemon.egress.attempt(claimed(daemon, "mail").sandbox_id, "mail.example.com")
            return answered(call)

        daemon.links.tool = connects
        _, events = await daemon.finished(toml)
    (access,) = [event.payload for event in events if isinstance(event.payload, ProxyAccess)]
    assert (access.host, access.reason) == ("mail.example.com", "listener_closed")
