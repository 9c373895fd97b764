"""Jobs of a daemon that was interrupted, and what the next one makes of them."""

from collections.abc import Mapping, Sequence

import anyio

from perstackd.app.standing import OpenQuestion
from perstackd.app.warm_pool import PoolLimits
from perstackd.domain.events import Event, SandboxAssigned
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.sandbox import SandboxState
from perstackd.domain.session import RoutedCall
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Entry
from tests.unit.app.daemon_in_memory import Machine, World

SOON = PoolLimits(return_seconds=0.2)
SKILLED = (
    '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills.web]\ntype="mcpStdioSkill"\ncommand="web"\n'
    'allowedDomains=["example.com"]\n'
)


def claimed(daemon: World) -> list[ActingRunnerLink]:
    """The links of sandboxes that runs have, by the order of their claims."""
    rows = [row for row in daemon.pool.records() if row.state is SandboxState.CLAIMED and row.job_id]
    links = [daemon.links.made[row.id] for row in rows]
    return [link for link in links if isinstance(link, ActingRunnerLink)]


def hanging(daemon: World, *names: str) -> anyio.Event:
    """Calls of these tools do not answer; set once one was made."""
    begun = anyio.Event()

    def tool(call: RoutedCall) -> ToolResultPart | None:
        if call.tool not in names:
            return answered(call)
        begun.set()
        return None

    daemon.links.tool = tool
    return begun


async def left_in_a_call(machine: Machine, turns: Mapping[str, Sequence[Entry]]) -> tuple[JobRecord, ActingRunnerLink]:
    """The job of a daemon that was interrupted while its only sandbox was at a call of exec, and that one's link."""
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
        (link,) = claimed(first)
    return record, link


async def ended(daemon: World, job_id: JobId) -> list[Event]:
    """The events of a job that came to its end, without a gap and in one sandbox."""
    events = await daemon.events(job_id)
    record = await daemon.jobs.get(job_id)
    assert record.state is JobState.COMPLETED, record.error_message
    assert [event.seq for event in events] == list(range(1, record.last_seq + 1))
    return events


async def asked(daemon: World, job_id: JobId, count: int) -> Sequence[OpenQuestion]:
    """The open questions, once there are so many."""
    with anyio.fail_after(5):
        while len(found := await daemon.jobs.questions(job_id)) != count:
            await anyio.sleep(0.001)
    return found


def assigned(events: Sequence[Event]) -> int:
    return sum(isinstance(event.payload, SandboxAssigned) for event in events)
