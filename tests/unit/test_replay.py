"""The law, executed again over logs that it made, and over logs that were changed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.app.job_request import JobParent
from perstackd.app.run_context import RunLimits
from perstackd.domain.budget import Budgets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    CallTools,
    CompleteRun,
    ContinueToNextStep,
    Event,
    JobFinished,
    ResolveToolResults,
    Retry,
    StartGeneration,
)
from perstackd.domain.messages import FinishReason, ToolCallPart, Turn, Usage
from perstackd.domain.replay import Replay, replay
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Entry, Flaky, Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import TEAM, Machine, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
ASKS = """
[experts.lead]
instruction = "Lead."
[experts.lead.skills.people]
type = "interactiveSkill"
[experts.lead.skills.people.tools.ask]
description = "Ask"
inputJsonSchema = '{"type": "object"}'
"""
CUT = Turn((ToolCallPart("x", "exec", {}),), FinishReason.LENGTH, Usage(1, 1))
BUSY = PerstackError(Kind.UNAVAILABLE, "model_overloaded", "busy", retryable=True, fields={"retry_after_ms": "7"})
TODO = calls(("t", "todo", {"newTodos": ["x"]}), ("e", "exec", {}))
PLANS: list[tuple[str, str, dict[str, object]]] = [(f"d{n}", "helper", {"query": "plan"}) for n in range(4)]

SCRIPTS: dict[str, tuple[dict[str, Sequence[Entry]], dict[str, Any]]] = {
    "tools": ({LEAD: [calls(("a", "exec", {}), ("b", "readTextFile", {})), says("done")]}, {}),
    "unheard of": ({LEAD: [calls(("a", "nothing", {})), says("done")]}, {}),
    "todos refuse completion": (
        {LEAD: [TODO, calls(("c", "attemptCompletion", {})), calls(("d", "clearTodo", {})), says("done")]},
        {},
    ),
    "completion asks for a text": ({LEAD: [calls(("c", "attemptCompletion", {})), says("done")]}, {}),
    "children": (
        {
            LEAD: [calls(*PLANS, ("e", "exec", {})), says("done")],
            HELPER: [calls(("a", "exec", {})), calls(("b", "exec", {})), says("the plan")],
        },
        {},
    ),
    "a child fails": ({LEAD: [calls(("d", "helper", {"query": "plan"})), says("done")], HELPER: []}, {}),
    "step limit with children": (
        {
            LEAD: [calls(*PLANS), says("done")],
            HELPER: [calls(("a", "exec", {})), calls(("b", "exec", {})), calls(("c", "exec", {})), says("late")],
        },
        {"budgets": Budgets(max_steps=7)},
    ),
    "tokens": ({LEAD: [calls((str(n), "exec", {})) for n in range(9)]}, {"budgets": Budgets(tokens=30)}),
    "tokens of turns that need nobody": (
        {LEAD: [calls((str(n), "todo", {"newTodos": [str(n)]})) for n in range(9)]},
        {"budgets": Budgets(tokens=24)},
    ),
    "tool calls": ({LEAD: [calls((str(n), "exec", {})) for n in range(9)]}, {"budgets": Budgets(tool_calls=2)}),
    "retries": ({LEAD: [Flaky((BUSY, BUSY), says("done"))]}, {}),
    "the model fails": ({LEAD: [calls(("a", "exec", {}))]}, {}),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_law_makes_the_same_log_again(tmp_path: Path, name: str) -> None:
    turns, request = SCRIPTS[name]
    async with world(tmp_path, turns) as daemon:
        record, events = await daemon.finished(**request)
    again = replay(events)
    assert again.divergence is None
    assert (again.events, again.runs) == (record.last_seq, record.runs)
    assert again.facts >= 3


async def test_a_cut_turn_and_an_empty_one_are_retried_again(tmp_path: Path) -> None:
    toml = "maxRetries = 1\n" + TEAM
    async with world(tmp_path, {LEAD: [CUT]}) as daemon:
        _, events = await daemon.finished(toml)
    assert [event.payload.reason for event in events if isinstance(event.payload, Retry)]
    assert replay(events).divergence is None
    async with world(tmp_path, {LEAD: [Turn((), FinishReason.STOP)]}) as daemon:
        record, events = await daemon.finished(toml)
    assert record.error_reason == "empty_turn"
    assert replay(events).divergence is None


async def test_a_cancelled_job_a_restarted_one_and_one_with_lost_calls_replay(tmp_path: Path) -> None:
    store, named = FakeStore(), WorkspaceSpec(WorkspaceKind.NAMED, "kept")
    first_turn = calls(("a", "exec", {}), ("b", "readTextFile", {}))
    async with world(tmp_path, {LEAD: [first_turn]}, store=store) as daemon:
        begun = anyio.Event()
        daemon.links.tool = lambda _: begun.set()
        record = await daemon.start(workspace=named)
        with anyio.fail_after(5):
            await begun.wait()
    held = Held(says("never"))
    machine = Machine.rebooted(tmp_path, store)
    async with world(tmp_path, {LEAD: [first_turn, held]}, machine=machine) as daemon:
        with anyio.fail_after(5):
            await held.reached.wait()
        await daemon.jobs.cancel(record.id, "enough")
        events = await daemon.events(record.id)
    assert {"resumeToolCalls", "stopRunByCancel"} <= {event.payload.type for event in events}
    assert replay(events).divergence is None


async def test_questions_parked_runs_and_branches_replay(tmp_path: Path) -> None:
    script: list[Entry] = [calls(("q", "ask", {"question": "which?"}), ("e", "exec", {})), says("done"), says("more")]
    async with world(tmp_path, {LEAD: script}, limits=RunLimits(ask_hold_ms=1)) as daemon:
        record = await daemon.start(ASKS)
        with anyio.fail_after(5):
            while "stopRunByInteractiveTool" not in {e.event.payload.type for e in daemon.store.log[record.id]}:
                await anyio.sleep(0.01)
        (question,) = await daemon.jobs.questions(record.id)
        await daemon.jobs.answer(record.id, question.id, "answer", b'"this"')
        events = await daemon.events(record.id)
        further = await daemon.start("", "", query="and?", parent=JobParent(record.id))
        more = await daemon.events(further.id)
    assert replay(events).divergence is None
    assert replay(more).divergence is None
    assert (replay(more).runs, more[-1].payload.type) == (1, "jobFinished")


@pytest.fixture
async def log(tmp_path: Path) -> list[Event]:
    async with world(tmp_path, {LEAD: [TODO, calls(("d", "clearTodo", {})), says("done")]}) as daemon:
        _, events = await daemon.finished()
    return events


def changed(events: Sequence[Event], kind: type, **fields: Any) -> tuple[list[Event], int]:
    """The log with its first event of that kind changed, and where that is."""
    place = next(place for place, event in enumerate(events) if isinstance(event.payload, kind))
    news = list(events)
    news[place] = replace(news[place], payload=replace(news[place].payload, **fields))
    return news, news[place].seq


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ContinueToNextStep, {"step": 3}),
        (ResolveToolResults, {"todos": None}),
        (ResolveToolResults, {"results": ()}),
        (CompleteRun, {"text": "something else"}),
        (CompleteRun, {"usage": Usage(1, 1)}),
        (JobFinished, {"answer": "something else"}),
        (JobFinished, {"exit_code": 1}),
    ],
)
async def test_what_the_law_would_not_have_written_is_named(
    log: list[Event], kind: type, fields: dict[str, Any]
) -> None:
    news, seq = changed(log, kind, **fields)
    found = replay(news).divergence
    assert news != log
    assert found is not None
    assert (found.seq, type(found.recorded)) == (seq, kind)
    assert found.made != found.recorded


async def test_a_changed_turn_shows_at_the_first_fact_that_follows_from_it(log: list[Event]) -> None:
    news, seq = changed(log, CallTools, turn=calls(("t", "todo", {"newTodos": ["other"]}), ("e", "exec", {})))
    found = replay(news).divergence
    assert found is not None
    assert found.seq > seq
    assert isinstance(found.recorded, ResolveToolResults)
    assert isinstance(found.made, ResolveToolResults)
    assert "other" in str(found.made)


async def test_a_missing_and_an_extra_event_are_found(log: list[Event]) -> None:
    place = next(place for place, event in enumerate(log) if isinstance(event.payload, ContinueToNextStep))
    missing = replay([*log[:place], *log[place + 1 :]]).divergence
    assert missing is not None
    assert isinstance(missing.recorded, StartGeneration)
    twice = replay([*log[: place + 1], log[place], *log[place + 1 :]]).divergence
    assert twice is not None
    assert twice.made != twice.recorded
    cut = replay([event for event in log if not isinstance(event.payload, CompleteRun)]).divergence
    assert cut is not None
    assert (type(cut.recorded), cut.made) == (JobFinished, None)


async def test_a_log_without_runs_replays(log: list[Event]) -> None:
    assert replay([]) == Replay(0, 0, 0, None)
    assert replay(log[:1]) == Replay(1, 0, 0, None)
