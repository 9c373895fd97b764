"""Ended jobs, and jobs that do them again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perstackd.app.job_request import JobParent
from perstackd.app.live_replay import compared
from perstackd.domain.events import Event
from perstackd.domain.job import JobRecord
from perstackd.domain.job_comparison import Comparison
from perstackd.domain.messages import TextPart, ToolResultPart
from perstackd.domain.reenactment import ReplayMode
from perstackd.domain.replay import replay
from perstackd.domain.session import RoutedCall
from tests.fakes.models import Entry
from tests.unit.app.daemon_in_memory import TEAM, Machine, World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.test_people import asked

ALL = """
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
[experts.lead.skills.people]
type = "interactiveSkill"
[experts.lead.skills.people.tools.ask]
description = "Ask"
inputJsonSchema = '{"type": "object"}'
[experts.helper]
instruction = "Help."
"""
Turns = dict[str, Sequence[Entry]]
TURNS: Turns = {
    LEAD: [
        calls(("a", "exec", {"n": 1}), ("b", "exec", {"n": 1})),
        calls(("d", "helper", {"query": "plan"}), ("e", "helper", {"query": "plan"}), ("c", "exec", {"n": 2})),
        calls(("q", "ask", {"question": "Where?"})),
        says("done"),
    ],
    HELPER: [calls(("x", "exec", {"n": 3})), says("the plan")],
}


class Counting:
    """Tools whose results tell which call of them it is."""

    def __init__(self, first: int = 0) -> None:
        self.count = first

    def __call__(self, call: RoutedCall) -> ToolResultPart:
        self.count += 1
        return ToolResultPart(call.call_id, (TextPart(f"result {self.count}"),))


async def recorded(daemon: World, toml: str = ALL, answer: bytes = b'"there"', **changes: Any) -> JobRecord:
    """An ended job that asked one question."""
    record = await daemon.start(toml, **changes)
    if toml is not TEAM:
        (question,) = await asked(daemon, record.id)
        await daemon.jobs.answer(record.id, question.id, "answer", answer)
    await daemon.events(record.id)
    return record


async def replayed(
    daemon: World, record: JobRecord, mode: ReplayMode, *, same: bool = True, **changes: Any
) -> tuple[JobRecord, list[Event], Comparison]:
    """A job that does another again, once it ended. Its own log is one that the law makes."""
    parent = JobParent(record.id, "", same, mode)
    again, events = await daemon.finished("", "", **{"parent": parent, "query": "", **changes})
    assert replay(events).divergence is None
    return again, events, (await compared(daemon.store, again.id))[1]


async def one_after_the_other(
    path: Path, before: Mapping[str, Sequence[Entry]], after: Mapping[str, Sequence[Entry]], mode: ReplayMode
) -> tuple[World, JobRecord, list[Event], Comparison]:
    """Recorded by one daemon, replayed by the next with another model."""
    machine = Machine(path)
    async with world(path, before, machine=machine) as daemon:
        daemon.links.tool = Counting()
        record = await recorded(daemon)
    async with world(path, after, machine=machine) as daemon:
        return daemon, *await replayed(daemon, record, mode)
