"""perstackctl job replay --live-tools and --live-model: a new job that does an ended one again, and how it compares."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from perstackctl.client.checkpoints import Difference, LiveReplay, UnrecordedCall
from perstackctl.client.errors import NotFoundError
from perstackctl.client.values import Definition, Job, JobRequest, Parent, ReplayMode, Workspace
from perstackctl.commands.job_show import LIVE
from perstackctl.commands.options import full_job_id
from perstackctl.commands.replay_options import Live
from perstackctl.commands.replay_words import DIVERGED, event_text
from perstackctl.output import JSON, document, note, pairs, say
from perstackctl.request.environment import collect, env_files
from perstackctl.request.workspace import choose

if TYPE_CHECKING:
    from perstackctl.client.client import Client
    from perstackctl.client.running import RunningJob
    from perstackctl.watch.interrupts import Interrupts
    from perstackctl.watch.painter import Painter

_SHOWN = 8


async def replay_live(client: "Client", given: str, live: Live, output: str) -> int:
    """Make the job, follow it to its end, compare, print; returns the exit code."""
    from perstackctl.watch.interrupts import Interrupts

    with Interrupts() as interrupts:
        async with client:
            replayed = await client.get_job(await full_job_id(client, given))
            request = await _request(client, replayed, live)
            interrupts.arm()
            running = await client.run_job(request, include_streaming=_watched(output))
            job = running.created.job
            interrupts.name_job(job.id)
            note(f"job {job.id} replays {replayed.id} ({LIVE[live.mode]})")
            await _follow(client, running, output, interrupts)
            found = await client.logs.compare_replay(job.id)
    if output == JSON:
        document(found)
    else:
        say("\n".join(_lines(found)))
    return 0 if found.same else DIVERGED


async def _request(client: "Client", replayed: Job, live: Live) -> JobRequest:
    env: dict[str, str] = {}
    workspace = Workspace()
    if live.mode is ReplayMode.TOOLS:
        env = await _values(client, replayed, live)
        if live.workspace:
            workspace = await asyncio.to_thread(choose, live.workspace, Path.cwd(), Path.cwd(), read_only=False)
    same = live.mode is ReplayMode.TOOLS and not live.workspace
    return JobRequest(
        definition=Definition(""),
        expert_key="",
        query="",
        workspace=workspace,
        tenant=replayed.tenant,
        idempotency_key=f"perstackctl-{uuid.uuid4()}",
        env=env,
        model=live.model,
        provider=live.provider,
        parent=Parent(replayed.id, same_workspace=same, replay=live.mode),
    )


async def _values(client: "Client", replayed: Job, live: Live) -> dict[str, str]:
    """What the experts require: nothing of it is in the log. Raises InvalidError `env_missing` with all names."""
    names = await _required(client, replayed.id)
    if not names:
        return {}
    stored = await client.secrets.names(replayed.tenant)
    try:
        defined = (await client.logs.get_checkpoint(replayed.id)).env_paths
    except NotFoundError:  # it ended before its first step did
        defined = ()
    return await asyncio.to_thread(_collected, names, live, defined, stored)


def _collected(names: tuple[str, ...], live: Live, defined: tuple[str, ...], stored: frozenset[str]) -> dict[str, str]:
    cwd = Path.cwd()
    return collect(names, env_files(live.env_path, defined, cwd, cwd), os.environ, stored)


async def _required(client: "Client", job_id: str) -> tuple[str, ...]:
    """As the job's first event names them."""
    async with aclosing(client.watch_job(job_id, follow=False)) as batches:
        async for batch in batches:
            for event in batch.events:
                return tuple(json.loads(event.payload).get("requiredEnv", ()))
    return ()


def _watched(output: str) -> bool:
    return output != JSON and sys.stdout.isatty()  # else standard output is for what comes of it


async def _follow(client: "Client", running: "RunningJob", output: str, interrupts: "Interrupts") -> None:
    from perstackctl.watch.follow import Follower

    display = _display(watched=_watched(output))
    job_id = running.created.job.id
    await Follower(client, job_id, display, running=running, interrupts=interrupts, stay=True).run()


def _display(*, watched: bool) -> "Painter":
    from perstackctl.watch.choice import painter
    from perstackctl.watch.plain import PlainLog

    return painter(None) if watched else PlainLog(sys.stderr)


def _lines(found: LiveReplay) -> Iterator[str]:
    if found.same:
        yield f"the same: {found.compared} state events of {found.runs} runs; job {found.job_id}"
        return
    if found.divergence is not None:
        yield _difference(found, found.divergence)
    yield from (_unrecorded(call) for call in found.unrecorded_calls[:_SHOWN])
    if (more := len(found.unrecorded_calls) - _SHOWN) > 0:
        yield f"… and {more} more calls that the record does not know"


def _difference(found: LiveReplay, difference: Difference) -> str:
    where = f"{difference.expert_key}, step {difference.step_number}" if difference.expert_key else "the job"
    places = [
        f"event {seq} of {job_id}"
        for seq, job_id in ((difference.seq, found.replayed_job_id), (difference.made_seq, found.job_id))
        if seq
    ]
    shown = [
        ("Differs", f"{' and '.join(places)} ({where})"),
        ("Field", difference.field),
        ("Recorded", event_text(difference.recorded)),
        ("Made now", event_text(difference.made)),
    ]
    return pairs(shown)


def _unrecorded(call: UnrecordedCall) -> str:
    said = json.dumps(call.arguments, ensure_ascii=False, sort_keys=True)
    return f"Not in the record: {call.tool} {said} ({call.expert_key}, step {call.step_number}, event {call.seq})"
