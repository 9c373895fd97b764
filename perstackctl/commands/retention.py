"""perstackctl job rm and erase: jobs that are deleted for good."""

from typing import TYPE_CHECKING

import click

from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.output import JSON, document, note, say

if TYPE_CHECKING:
    from perstackctl.client.client import Client


@click.command(epilog="\b\nExample:\n  perstackctl job rm 01JD3Z 01JD40")
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@output_option
@address_option
@click.pass_context
def rm(ctx: click.Context, job_ids: tuple[str, ...], output: str) -> None:
    """Delete ended jobs for good: events, answers, and the large results that only they had. Workspaces stay."""
    deleted = in_loop(_delete(make_client(ctx), job_ids))
    if output == JSON:
        document(deleted)
    else:
        for job_id in deleted:
            say(job_id)


async def _delete(client: "Client", given: tuple[str, ...]) -> tuple[str, ...]:
    async with client:
        return await client.logs.delete_jobs([await full_job_id(client, each) for each in given])


@click.command(epilog="\b\nExample:\n  perstackctl job erase --tenant default --yes")
@click.option("--tenant", required=True, help="Whose jobs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@address_option
@click.pass_context
def erase(ctx: click.Context, tenant: str, yes: bool) -> int:  # noqa: FBT001 - click's signature
    """Delete all ended jobs of a tenant for good. Ends with 1 when some go on and were left."""
    if not yes:
        click.confirm(f"Delete all ended jobs of the tenant {tenant!r} for good?", abort=True)
    deleted, unfinished = in_loop(_erase(make_client(ctx), tenant))
    say(f"{deleted} jobs deleted")
    if unfinished:
        note(f"{unfinished} jobs go on and were left; cancel them, wait for their end, and erase again")
    return 1 if unfinished else 0


async def _erase(client: "Client", tenant: str) -> tuple[int, int]:
    async with client:
        return await client.logs.erase_tenant(tenant)
