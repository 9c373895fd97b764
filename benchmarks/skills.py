"""skills: what a skill in a sandbox of its own costs: before the first model call, at each call, and in memory."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.daemon import SKILLS_IMAGE, Daemon, running_daemon
from benchmarks.disk import fsync_p50_ms
from benchmarks.engine import first_pids, mcp_calls_ms
from benchmarks.experts import CALLS
from benchmarks.jobs import Watched, quiet, watched
from benchmarks.options import Options
from benchmarks.processes import CgroupMemory, cgroup_memory
from benchmarks.quantiles import median, spread
from benchmarks.targets import Result, judged

MIN_IDLE: Final = 1
_ASKED: Final = "callTools"
_ANSWERED: Final = "resolveToolResults"
_FIRST_CALL: Final = "startGeneration"
SDK_CALLS: Final = 200
_SKIPPED: Final = 6
"""Steps at a run's beginning, in which the skill's server still starts."""


@dataclass(slots=True)
class Measured:
    """Runs of the three experts, and the warm sandboxes of the skills pool."""

    without: Sequence[Watched]
    with_skill: Sequence[Watched]
    caller: Sequence[Watched]
    warm: Sequence[CgroupMemory]


def measure(options: Options) -> Iterator[Result]:
    """A daemon with two pools; the skill's tools are known from a run before."""
    with running_daemon(options, min_idle=MIN_IDLE, most=6, skills=True) as daemon:
        fsync = fsync_p50_ms(daemon.state)
        measured = asyncio.run(_measured(daemon, options.of(15, 60)))
    plain, skilled = ([run.ms_to(_FIRST_CALL) for run in runs] for runs in (measured.without, measured.with_skill))
    added = {"without_skill": spread(plain), "with_skill": spread(skilled)}
    yield judged("skills.first_call_ms", median(skilled) - median(plain), added)
    base, relayed = _call_ms(measured.caller, 0), _call_ms(measured.caller, 1)
    bare = mcp_calls_ms(SKILLS_IMAGE, SDK_CALLS)[_SKIPPED:]
    how = {"from": "the turn's event to its results' event, at the client", "commits": 1}
    yield judged("skills.base_call_ms", median(base), {**spread(base), **how}, fsync_ms=fsync)
    detail = {"relayed": spread(relayed), "mcp_sdk_alone": spread(bare), **how}
    yield judged("skills.relayed_call_ms", median(relayed) - median(bare), detail, fsync_ms=fsync)
    yield judged("memory.skills_mib", median([each.working_set for each in measured.warm]), {"sandboxes": MIN_IDLE})


async def _measured(daemon: Daemon, count: int) -> Measured:
    runs: dict[str, list[Watched]] = {"one-shot": [], "with-skill": [], "caller": []}
    async with daemon.client() as client:
        await quiet(client, MIN_IDLE)
        skilled = [each.container_id for each in await client.list_sandboxes() if each.template == "skills"]
        warm = [cgroup_memory(pid) for pid in await asyncio.to_thread(first_pids, skilled)]
        for expert in ("one-shot", "with-skill"):
            await watched(client, expert)  # the first one pays for imports, and learns the skill's tools
        for _ in range(count):
            for expert in ("one-shot", "with-skill"):
                await quiet(client, MIN_IDLE)
                runs[expert].append(await watched(client, expert))
        for _ in range(3):
            await quiet(client, MIN_IDLE)
            runs["caller"].append(await watched(client, "caller"))
    return Measured(runs["one-shot"], runs["with-skill"], runs["caller"], warm)


def _call_ms(runs: Sequence[Watched], which: int) -> list[float]:
    """Milliseconds of every second call, beginning with the `which`-th, once the server is up."""
    taken: list[float] = []
    for run in runs:
        asked = [at for at, event in run.events if event.type == _ASKED]
        answered = [at for at, event in run.events if event.type == _ANSWERED]
        pairs = list(zip(asked, answered, strict=True))[: 2 * CALLS]
        taken += [(end - begin) * 1000 for begin, end in pairs[_SKIPPED + which :: 2]]
    return taken
