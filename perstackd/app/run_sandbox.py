"""A run's sandbox: claimed, moved into, given back. What happens inside is the run worker's affair."""

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from perstackd.app.errors import single_errors
from perstackd.app.job_log import JOB, Entry, running
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_opening import egress_rules
from perstackd.app.warm_pool import ClaimRequest, Lease
from perstackd.domain.assignment import released_secrets
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import JobAdmitted, Payload, SandboxAssigned, SandboxReleased
from perstackd.ports.egress import EgressRule
from perstackd.ports.sandboxes import EndCause

END_TRIES: Final = 10
END_SECONDS: Final = 0.1
_log = structlog.get_logger()


class RunSandbox:
    """The one sandbox of one run. `step` of its events is given by the worker."""

    def __init__(self, services: RunServices, context: JobContext, plan: RunPlan) -> None:
        self._services = services
        self._context = context
        self._plan = plan

    async def claim(self, waiting: Callable[[int, str], None]) -> Lease:
        """Raises as WarmPool.claim does."""
        context, plan = self._context, self._plan
        request = ClaimRequest(
            tenant=context.tenant,
            job_id=context.job_id,
            run_id=plan.run_id,
            template=context.template,
            depth=plan.depth,
            fence=1,
            job_created_at=context.created_at,
        )
        return await self._services.pool.claim(request, waiting)

    async def move_in(self, lease: Lease) -> None:
        """Claim and assignment durable, workspace attached, way out open: at the same time, so that it is one wait for
        the disk. Only then may anything of the tenant enter. Raises the first failure; the lease is still to be given
        back.
        """
        record = lease.record
        async with single_errors(), anyio.create_task_group() as steps:
            steps.start_soon(self._services.pool.confirm, lease)
            steps.start_soon(self._services.workspaces.attach, self._context.job_id, record.id, lease.slot, record.uid)
            steps.start_soon(self._let_out, lease)
            steps.start_soon(self._note_assignment, lease)

    async def give_back(
        self, lease: Lease, known: tuple[str, str] | None, step: int, unheard: Sequence[Payload]
    ) -> None:
        """Give the sandbox back, whatever else goes wrong; not to be interrupted. `known` is (cause, detail) of its
        end when the run knows it, else the engine is asked; `unheard` are events that were still to be written.
        """
        with anyio.CancelScope(shield=True):
            cause, detail = "unknown", ""
            try:
                cause, detail = known or await self.cause(lease)
            finally:
                await self._services.pool.release(lease, cause)
            origin = self._plan.origin(step)
            payloads: tuple[Payload, ...] = (*unheard, SandboxReleased(lease.record.id, cause, detail))
            try:
                await self._context.log.append([(origin, payload) for payload in payloads])
            except PerstackError as error:
                _log.error("a sandbox's release is not in the log", run_id=self._plan.run_id, reason=error.reason)

    async def cause(self, lease: Lease) -> tuple[str, str]:
        """How it ended, as the engine knows it: (cause, detail). Unknown is allowed, a guess is not.

        The link breaks a moment before the engine has seen the container end, so a running one is asked for again.
        """
        try:
            end = await self._services.pool.end(lease)
            for _ in range(END_TRIES):
                if end.cause is not EndCause.RUNNING:
                    break
                await anyio.sleep(END_SECONDS)
                end = await self._services.pool.end(lease)
        except PerstackError as error:
            return "unknown", error.message
        cause = {EndCause.RUNNING: "linkLost", EndCause.GONE: "lost"}.get(end.cause, end.cause.value)
        return cause, end.detail or f"exit code {end.exit_code}"

    async def _let_out(self, lease: Lease) -> None:
        rules = egress_rules(self._plan.expert, self._context.allow_domains)
        if rules:
            await self._services.egress.allow(lease.record.id, [EgressRule(host) for host in rules])

    async def _note_assignment(self, lease: Lease) -> None:
        """With the coordinator's sandbox the job is admitted."""
        record, origin = lease.record, self._plan.origin(1)
        assigned = SandboxAssigned(record.id, record.container_id, record.fence, lease.template.name)
        payloads: tuple[Payload, ...] = (assigned, *released_secrets(self._plan.expert, self._context.env))
        entries: list[Entry] = [(origin, payload) for payload in payloads]
        if self._plan.depth == 0:
            await self._context.log.append([(JOB, JobAdmitted()), *entries], running)
        else:
            await self._context.log.append(entries)
