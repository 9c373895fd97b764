"""A job's workspace, opened and attached in one go."""

from perstackd.domain.workspace import WorkspaceSpec
from tests.integration.workspaces.rig import BOX, FIRST, JOB, TENANT, Rig

EPHEMERAL = WorkspaceSpec()


async def attach(real: Rig, spec: WorkspaceSpec, uid: int = FIRST) -> str:
    """The path at which the workspace now is."""
    slot = real.slot("one")
    await real.workspaces.prepare(slot, FIRST)
    await real.workspaces.open(JOB, TENANT, spec)
    await real.workspaces.attach(JOB, BOX, slot, uid)
    return f"{slot}/workspace"
