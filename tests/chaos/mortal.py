"""A daemon that dies as planned and is started again, a job that lives through it, and what must be true afterwards."""

import json
import signal
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread

from perstackctl.client import (
    Action,
    Answer,
    Client,
    ClientError,
    Definition,
    Job,
    JobRequest,
    JobState,
    Workspace,
    WorkspaceKind,
)
from perstackd.daemon import daemon_id
from tests.chaos.crashing import serve
from tests.e2e.daemon import Daemon, docker
from tests.e2e.skill_servers import PROBE, call, expert, python, stdio, table

JOB_SECONDS: Final = 90
GONE_SECONDS: Final = 30
ANSWER: Final = "all is done"
MADE: Final = ("asked", "child", "exec", "later", "skill")
"""The lines that the job's tools write, each once."""
_ENDED: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.CANCELLED})
_SETTINGS: Final = {"templates.base.min_idle": 2, "templates.skills.min_idle": 1, "templates.skills.max": 8}


@dataclass(slots=True)
class Life:
    """A job and how often its daemon died."""

    request: JobRequest
    job: Job = field(default_factory=lambda: Job("", "", JobState.QUEUED, "", ""))
    events: list[dict[str, Any]] = field(default_factory=list)
    deaths: int = 0

    @property
    def types(self) -> list[str]:
        return [str(event["type"]) for event in self.events]

    @property
    def made(self) -> list[str]:
        """What the job found in its workspace at the end."""
        results = [event for event in self.events if event["type"] == "resolveToolResults"]
        (text,) = results[-1]["results"][0]["content"]
        document = json.loads(text["text"])
        return str(document["content"]).split()


class Mortal:
    """The daemon of all lives of a test module."""

    def __init__(self, home: Path) -> None:
        self.daemon = Daemon(home, dict(_SETTINGS), main=serve)
        self.measured: list[tuple[int, str]] = []
        self._number = 0
        self._toml = _definition()
        self.daemon.start()
        for name, turns in _scripts().items():
            self.daemon.script(name, *turns)

    @property
    def home(self) -> Path:
        return self.daemon.home

    def boundaries(self) -> list[tuple[int, str]]:
        """Every write so far: the how manieth of its place, and the place."""
        lines = (self.home / "boundaries").read_text().splitlines()
        return [(int(number), place) for number, place in (line.split(" ", 1) for line in lines)]

    def close(self) -> None:
        """Stop it; one that is dead is started for that, so that what it left goes too."""
        (self.home / "plan").unlink(missing_ok=True)
        if not self.daemon.process.is_alive():
            self.daemon.start()
        self.daemon.stop()

    async def live(self, *plan: str) -> Life:
        """One job, while its daemon dies where the plan says, one line a process, and is started again each time."""
        (self.home / "plan").write_text("\n".join(plan)) if plan else None
        request = self._request()
        return await self.end(Life(request))

    async def killed(self) -> Life:
        """A job that has its sandboxes and is at work, with its events so far; its daemon is dead."""
        life = Life(self._request())
        async with Client(f"unix:{self.daemon.socket}") as client:
            life.job = (await client.create_job(life.request)).job
        with anyio.fail_after(JOB_SECONDS):
            while "callTools" not in life.types:
                await anyio.sleep(0.02)
                life.events = await self.events(life.job.id)
        await anyio.to_thread.run_sync(self.daemon.stop, signal.SIGKILL)
        return life

    async def end(self, life: Life) -> Life:
        """The job, looked after until its end, whatever its daemon does."""
        with anyio.fail_after(JOB_SECONDS):
            while life.job.state not in _ENDED:
                life.deaths += await self.revive()
                with suppress(ClientError):  # it may die at any moment
                    await self._tend(life)
        (self.home / "plan").unlink(missing_ok=True)
        life.deaths += await self.revive()
        life.events = await self.events(life.job.id)
        return life

    def _request(self) -> JobRequest:
        self._number += 1
        return JobRequest(
            definition=Definition(f"# {self._number}\n{self._toml}", "perstack.toml"),
            expert_key="solo",
            query="do it",
            workspace=Workspace(WorkspaceKind.NAMED, f"chaos{self._number}"),
            idempotency_key=f"life-{self._number}",
        )

    async def revive(self) -> int:
        """Start the daemon anew when it is dead; how often that was needed."""
        if self.daemon.process.is_alive():
            return 0
        try:
            await anyio.to_thread.run_sync(self.daemon.start)
        except AssertionError:
            if self.daemon.process.exitcode != -signal.SIGKILL:  # else it died as planned while it started
                raise
        return 1

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """All of a job's, in order."""
        client = Client(f"unix:{self.daemon.socket}")
        async with client, aclosing(cast("Any", client.watch_job(job_id, follow=False))) as batches:
            found = [event async for batch in batches for event in batch.events]
        return [{**json.loads(event.payload), "type": event.type, "seq": event.seq} for event in found]

    async def _tend(self, life: Life) -> None:
        """Look after the job, as its caller does, for as long as the daemon lives."""
        async with Client(f"unix:{self.daemon.socket}", timeout=5) as client:
            life.job = (await client.create_job(life.request)).job
            while life.job.state not in _ENDED:
                for question in await client.list_questions(life.job.id):
                    await client.pause_job(life.job.id)
                    await client.resume_job(life.job.id)
                    answer = Answer.of(Action.ANSWER, "yes")
                    await client.answer_question(life.job.id, question.id, answer)
                await anyio.sleep(0.03)
                life.job = await client.get_job(life.job.id)

    # --- what is left ------------------------------------------------------------------------------------------------
    async def orphans(self) -> dict[str, Any]:
        """What is there of sandboxes and is nobody's, given the time that a removal takes; empty when there is none."""
        deadline = time.monotonic() + GONE_SECONDS
        while found := await self._orphans():
            if time.monotonic() > deadline:
                return found
            await anyio.sleep(0.1)
        return {}

    async def _orphans(self) -> dict[str, Any]:
        async with Client(f"unix:{self.daemon.socket}") as client:
            known = await client.list_sandboxes()
            info = await client.info()
        label = f"label=dev.perstack.daemon={daemon_id(self.home / 'state')}"
        containers = set(docker("ps", "-aq", "--no-trunc", "--filter", label).split())
        run = self.home / "run"
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        found = {
            "claimed": [each.id for each in known if each.job_id],
            "containers": sorted(containers - {each.container_id for each in known}),
            "directories": sorted({path.name for path in (run / "s").iterdir()} - {each.id for each in known}),
            "mounts": [mount for mount in mounts if mount.startswith((f"{run}/s/", f"{run}/eph"))],
            "sockets": [str(path) for path in run.glob("s/*/gw/runner.sock")],
            "jobs": info.running_jobs + info.queued_jobs,
        }
        return {kind: what for kind, what in found.items() if what}


def gapless(events: Sequence[dict[str, Any]]) -> bool:
    return [event["seq"] for event in events] == list(range(1, len(events) + 1))


# --- the job ----------------------------------------------------------------------------------------------------------
def _append(line: str) -> str:
    return f"open('/mnt/workspace/made', 'a').write('{line}\\n')"


def _definition() -> str:
    own = {"isolation": "own"}
    toml = expert("solo", delegates=["helper"])
    toml += stdio("solo", "writer", PROBE, "write_line", workspace="rw", **own)
    toml += stdio("solo", "clock", PROBE, "tick", workspace="none", **own)
    toml += table('experts."solo".skills."person"', type="interactiveSkill")
    toml += table(
        'experts."solo".skills."person".tools."askPerson"',
        description="Ask",
        inputJsonSchema='{"type":"object","properties":{"question":{"type":"string"}}}',
    )
    return toml + expert("helper")


def _scripts() -> dict[str, list[dict[str, Any]]]:
    """No call but the last is read-only or idempotent."""
    return {
        "solo": [
            {"calls": [python("e1", _append("exec")), call("s1", "write_line", code=_append("skill"))]},
            {"calls": [call("d1", "helper", query="help")]},
            {"calls": [call("q1", "askPerson", question="May I?"), python("e2", _append("asked"))]},
            {"calls": [python("e1", _append("later"))]},
            {"calls": [call("r1", "readTextFile", path="made")]},
            {"text": ANSWER},
        ],
        "helper": [{"calls": [python("e1", _append("child"))]}, {"text": "helped"}],
    }
