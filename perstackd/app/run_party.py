"""The sandboxes of one run: its expert's and one for each skill that has its own. Claimed together, moved into, given
back. What happens inside is the run worker's affair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import structlog

from perstackd.app.egress_rules import occupant_of, rules_of
from perstackd.app.errors import single_errors
from perstackd.app.job_log import JOB, Entry, running
from perstackd.app.reach import Reach
from perstackd.app.run_context import JobContext, RunLimits, RunPlan, RunServices
from perstackd.app.run_inbox import MAX_ACCESSES, access_event
from perstackd.app.run_member import RunMember
from perstackd.app.run_patience import Patience
from perstackd.app.store_trouble import PatientBlobs
from perstackd.app.unforeseen import unforeseen
from perstackd.app.warm_pool import ClaimRequest, Lease
from perstackd.domain.assignment import (
    ServedSkill,
    base_secrets,
    mount_of,
    own_skills,
    shared_skills,
    skill_secrets,
    start_ms,
)
from perstackd.domain.counters import proven, told
from perstackd.domain.dispatch import EXPERT
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import JobAdmitted, Payload, SandboxAssigned
from perstackd.domain.run_sandboxes import role_of
from perstackd.ports.egress import EgressAccess, EgressRule
from perstackd.ports.package_indexes import GRANT, PackageIndexes
from perstackd.ports.sandboxes import EndCause

CLOSED: Final = "listener_closed"  # the proxy's word for what it ended because we closed the way out
CLOSE_SECONDS: Final = 0.5
END_TRIES: Final = 10
END_SECONDS: Final = 0.1
_log = structlog.get_logger()


class RunParty:
    """Claimed with `gather`; `note_assignment` and `move_in` before anything of the tenant enters; `give_back` at the
    end, whatever happened.
    """

    def __init__(self, services: RunServices, context: JobContext, plan: RunPlan) -> None:
        self.members: dict[str, RunMember] = {}
        self.step = 1
        self.env: Mapping[str, str] = {}
        self._cut: list[EgressAccess] = []
        self._services = services
        self._context = context
        self._plan = plan

    async def gather(self, fence: int, waiting: Callable[[int, str], None]) -> None:
        """Claim all of them, or none; nothing runs in earlier ones by then. Raises as WarmPool.claim_together and
        Fences.raised do.
        """
        context, expert = self._context, self._plan.expert
        if fence > 1:
            await self._services.pool.fences.raised(self._plan.run_id, fence)
        request = ClaimRequest(
            tenant=context.tenant,
            job_id=context.job_id,
            run_id=self._plan.run_id,
            template=context.template,
            depth=self._plan.depth,
            fence=fence,
            job_created_at=context.created_at,
        )
        skills = own_skills(expert)
        requests = [request, *(replace(request, template=context.skills_template, role=skill.name) for skill in skills)]
        leases = await self._services.pool.claim_together(requests, waiting)
        for skill, lease in zip((None, *skills), leases, strict=True):
            self.add(lease, skill)

    def add(self, lease: Lease, skill: ServedSkill | None) -> RunMember:
        """Make a sandbox a member, of the expert itself or of a skill."""
        context, blobs = self._context, PatientBlobs(self._services.blobs, self._context.log.trouble)
        patience = _patience(shared_skills(self._plan.expert) if skill is None else (skill,), context.limits)
        member = RunMember(lease, skill, context.limits, patience, blobs, scrubber=context.scrubber)
        self.members[member.place] = member
        return member

    def release_secrets(self) -> None:
        """Look up the values that the expert requires, now that its sandboxes are claimed, and have them scrubbed from
        what these say. Raises PerstackError PRECONDITION `secret_missing`, `seal_broken`.
        """
        context = self._context
        self.env = self._services.secrets.released(context.tenant, self._plan.expert, context.env)
        context.scrubber.learn(self.env)

    def holds(self, sandbox_id: str) -> bool:
        """Whether the sandbox is one of these."""
        return any(member.lease.record.id == sandbox_id for member in self.members.values())

    def saw(self, access: EgressAccess) -> None:
        """One of them tried to connect somewhere, or was connected until now: what came after the run had ended. What
        it was about to try when its way out was closed was not denied.
        """
        if len(self._cut) < MAX_ACCESSES and (access.allowed or access.reason != CLOSED):
            self._cut.append(access)

    @property
    def expert(self) -> RunMember:
        """The one that runs the loop."""
        return self.members[EXPERT]

    async def move_in(self, member: RunMember) -> None:
        """Claim durable, workspace attached, way out open: at the same time, so that it is one wait for the disk.
        Raises the first failure; the lease is still to be given back.
        """
        async with single_errors(), anyio.create_task_group() as steps:
            steps.start_soon(self._context.log.trouble.persist, partial(self._services.pool.confirm, member.lease))
            steps.start_soon(self._attach, member)
            steps.start_soon(self._let_out, member)

    async def move_back(self, member: RunMember) -> None:
        """As `move_in`, for a sandbox that is the run's already: what is mounted is looked at, the way out opened."""
        mount = "rw" if member.skill is None else mount_of(member.skill)
        record, slot = member.lease.record, member.lease.slot
        if mount != "none":
            workspaces, job_id = self._services.workspaces, self._context.job_id
            await workspaces.take_over(job_id, record.id, slot, record.uid, read_only=mount == "ro")
        await self._let_out(member)

    def leave_behind(self) -> None:
        """The sandboxes stay as they are, workspaces and all, for the process that takes the run up."""
        for member in self.members.values():
            self._services.pool.keep(member.lease)

    async def give_back(self, step: int, unheard: Sequence[Payload], *, cancelled: bool) -> Sequence[Entry]:
        """Give the sandboxes back, whatever else goes wrong; not to be interrupted. Nothing runs in them on return.
        Where the run does not know how a sandbox ended the engine is asked. Returns what is to be written of it, after
        `unheard`, which was still to be.
        """
        ended: dict[str, Payload] = {}
        with anyio.CancelScope(shield=True):
            async with single_errors(), anyio.create_task_group() as leaving:
                leaving.start_soon(self._close_ways_out)
                for member in self.members.values():
                    leaving.start_soon(self._give_up, member, cancelled, ended)
        cut = map(access_event, self._context.scrubber.value(self._cut))
        released = (ended[place] for place in self.members)
        origin = self._plan.origin(step)
        return [(origin, payload) for payload in (*unheard, *cut, *released)]

    async def _give_up(self, member: RunMember, cancelled: bool, ended: dict[str, Payload]) -> None:  # noqa: FBT001 - of a task
        cause, detail = "unknown", ""
        try:
            cause, detail = member.known_cause(cancelled=cancelled) or await self.cause(member.lease)
        except Exception as error:  # the others are given back all the same
            self._unforeseen(error, member.lease)
        ended[member.place] = member.released(cause, detail)
        await self._end(member.lease)
        await self._services.pool.release(member.lease, cause)

    async def _end(self, lease: Lease) -> None:
        """What runs in it, so that the workspace is nobody's when the job has ended, whatever the engine does."""
        try:
            await self._services.pool.fences.halt(lease.record)
        except PerstackError as error:  # its removal goes on trying
            _log.error("a sandbox could not be ended", sandbox_id=lease.record.id, why=error.message)
        except Exception as error:
            self._unforeseen(error, lease)

    async def _close_ways_out(self) -> None:
        """What was connected is reported while somebody knows whose it is; not waited for long: processes must end."""
        with anyio.move_on_after(CLOSE_SECONDS):
            async with anyio.create_task_group() as closing:
                for member in self.members.values():
                    closing.start_soon(self._close_way_out, member.lease)

    async def _close_way_out(self, lease: Lease) -> None:
        try:
            await self._services.egress.close(lease.record.id)
        except (PerstackError, OSError) as error:  # the pool closes it again, as often as it takes
            _log.warning("way out not closed", sandbox_id=lease.record.id, error=str(error))
        except Exception as error:
            self._unforeseen(error, lease)

    def _unforeseen(self, error: Exception, lease: Lease) -> None:
        """Logged; what is left to do is done all the same."""
        unforeseen(self._services.clock, error, sandbox_id=lease.record.id)

    async def cause(self, lease: Lease) -> tuple[str, str]:
        """How it ended: (cause, detail). As the engine knows it, else as the kernel's counters prove it. Unknown is
        allowed, a guess is not.
        """
        cause, detail, exit_code = await self._told_by_engine(lease)
        recent = await self._services.pool.counting.recent(lease.record)
        said = "; ".join(filter(None, (self._context.scrubber.text(detail), told(recent))))
        return proven(cause, exit_code, recent), said or f"exit code {exit_code}"

    async def _told_by_engine(self, lease: Lease) -> tuple[str, str, int]:
        """The link breaks a moment before the engine has seen the container end: a running one is asked for again."""
        try:
            end = await self._services.pool.end(lease)
            for _ in range(END_TRIES):
                if end.cause is not EndCause.RUNNING:
                    break
                await anyio.sleep(END_SECONDS)
                end = await self._services.pool.end(lease)
        except PerstackError as error:
            return "unknown", error.message, 0
        cause = {EndCause.RUNNING: "linkLost", EndCause.GONE: "lost"}.get(end.cause, end.cause.value)
        return cause, end.detail, end.exit_code

    # --- moving in --------------------------------------------------------------------------------------------------
    async def _attach(self, member: RunMember) -> None:
        mount = "rw" if member.skill is None else mount_of(member.skill)
        if mount == "none":
            return
        record, slot = member.lease.record, member.lease.slot
        workspaces, job_id = self._services.workspaces, self._context.job_id
        await workspaces.attach(job_id, record.id, slot, record.uid, read_only=mount == "ro")

    async def _let_out(self, member: RunMember) -> None:
        occupant = occupant_of(self._plan.expert, member.skill)
        await self._services.egress.allow(member.lease.record.id, self.rules(member), occupant)

    def rules(self, member: RunMember) -> list[EgressRule]:
        """Where a sandbox may connect to; sorted, each once."""
        granted = member.lease.template.grant == GRANT
        indexes = self._services.package_indexes if granted else PackageIndexes()
        reach = Reach(self._services.reach.policy, indexes)
        return rules_of(self._plan.expert, member.skill, self._context.allow_domains, reach)

    async def note_assignment(self, step: int, *, admit: bool) -> None:
        """Write who has which sandbox, and which secrets enter; with `admit` the job is admitted. The sandboxes begin
        with `step`.
        """
        self.step = step
        env, expert = self.env, self._plan.expert
        payloads: list[Payload] = []
        for member in self.members.values():
            record, template = member.lease.record, member.lease.template.name
            role = role_of(member.place)
            payloads.append(SandboxAssigned(record.id, record.container_id, record.fence, template, role))
            hosted = shared_skills(expert) if member.skill is None else (member.skill,)
            payloads += base_secrets(expert, env) if member.skill is None else ()
            payloads += [secret for skill in hosted for secret in skill_secrets(skill, env)]
        entries: list[Entry] = [(self._plan.origin(step), payload) for payload in payloads]
        if admit:
            await self._context.log.append([(JOB, JobAdmitted()), *entries], running)
        else:
            await self._context.log.append(entries)


def _patience(skills: Sequence[ServedSkill], limits: RunLimits) -> Patience:
    """With a sandbox in which these are served."""
    tool_ms = max((skill.tool_timeout_ms for skill in skills), default=0)
    usual_ms = limits.skill_start_timeout_ms
    longest_ms = max((start_ms(skill, usual_ms) for skill in skills), default=usual_ms)
    return Patience(limits, max(tool_ms, limits.tool_timeout_ms), longest_ms)
