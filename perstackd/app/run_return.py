"""A run that an earlier process began comes back into the sandboxes that it had, or gives up all of them."""

import anyio
import structlog

from perstackd.app.errors import single_errors
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_party import RunParty
from perstackd.app.warm_pool import Lease
from perstackd.domain.assignment import own_skills
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import SandboxReleased

_log = structlog.get_logger()


async def come_back(services: RunServices, context: JobContext, plan: RunPlan, step: int) -> RunParty | None:
    """All of the run's sandboxes, with their workspaces and ways out; None when there were none, or when one is not
    there: then what did come back is given up, which is in the log on return. Waits for runners as long as the pool
    does.

    Raises as JobLog.append and Fences.raised do.
    """
    held = plan.sandboxes.held
    if not held:
        return None
    party = RunParty(services, context, plan)
    try:
        _admit(party, plan, await services.pool.returns.leases([each.sandbox_id for each in held]))
        async with single_errors(), anyio.create_task_group() as steps:
            for member in party.members.values():
                steps.start_soon(party.move_back, member)
    except PerstackError as error:
        _log.warning("a run goes on in fresh sandboxes", run_id=plan.run_id, why=error.message)
        await _give_up(services, context, plan, step, ("lost", f"perstackd was restarted: {error.message}"))
        return None
    except anyio.get_cancelled_exc_class():
        if context.stop.command is not None:  # else they are the next process's to come back into
            with anyio.CancelScope(shield=True):
                await _give_up(services, context, plan, step, ("cancelled", ""))
        raise
    return party


async def _give_up(services: RunServices, context: JobContext, plan: RunPlan, step: int, why: tuple[str, str]) -> None:
    held = [each.sandbox_id for each in plan.sandboxes.held]
    services.pool.returns.give_up(held)
    await services.pool.fences.raised(plan.run_id, plan.fence + 1)
    await context.log.append([(plan.origin(step), SandboxReleased(each, *why)) for each in held])


def _admit(party: RunParty, plan: RunPlan, leases: tuple[Lease, ...]) -> None:
    """Make the sandboxes members, with what the log tells of each. Raises PerstackError UNAVAILABLE `link_lost`."""
    sandboxes = plan.sandboxes
    found = {lease.record.id: lease for lease in leases}
    skills = {skill.name: skill for skill in own_skills(plan.expert)}
    wanted = {"", *skills}
    if {each.place for each in sandboxes.held} != wanted or len(found) < len(wanted):
        message = f"{len(found)} of the run's {len(wanted)} sandboxes came back"
        raise PerstackError(Kind.UNAVAILABLE, "link_lost", message)
    for each in sandboxes.held:
        member = party.add(found[each.sandbox_id], skills.get(each.place))
        member.go_on(each, sandboxes)
