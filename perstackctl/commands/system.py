"""perstackctl system: the daemon itself."""

from typing import TYPE_CHECKING

import click

from perstackctl.client.values import Info
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.output import JSON, age, document, pairs, rfc3339, say

if TYPE_CHECKING:
    from perstackctl.client.client import Client


@click.group(cls=Nouns)
def system() -> None:
    """The daemon and its machine."""


@system.command(epilog="\b\nExample:\n  perstackctl system info -o json | jq -r .lateBindingReason")
@output_option
@address_option
@click.pass_context
def info(ctx: click.Context, output: str) -> None:
    """Show versions, the state of the engine, and what this machine can do."""
    found = in_loop(_info(make_client(ctx)))
    if output == JSON:
        document(found)
        return
    engine = f"{found.engine_version} ({found.engine_state})" if found.engine_version else found.engine_state
    say(
        pairs(
            [
                ("Daemon", f"perstackd {found.version}, {found.state}"),
                ("Started", f"{rfc3339(found.started_at)} ({age(found.started_at)} ago)"),
                ("Jobs", f"{found.running_jobs} running, {found.queued_jobs} queued"),
                ("Engine", engine),
                ("Kernel", f"{found.kernel}, cgroup v{found.cgroup_version}"),
                ("Landlock", f"ABI {found.landlock_abi}" if found.landlock_abi else "none"),
                ("Late binding", "yes" if found.late_binding else f"no: {found.late_binding_reason}"),
                ("Workspace roots", ", ".join(found.workspace_roots) or "none: jobs use named or ephemeral ones"),
                ("State directory", found.state_directory),
                ("Default model", f"{found.default_provider}/{found.default_model}"),
            ]
        )
    )


async def _info(client: "Client") -> Info:
    async with client:
        return await client.info()
