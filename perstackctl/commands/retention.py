"""perstackctl job rm and erase: jobs that are deleted for good, and all of a tenant."""

from typing import TYPE_CHECKING

import click

from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.output import JSON, document, note, say

if TYPE_CHECKING:
    from perstackctl.client.client import Client
    from perstackctl.client.logs import ErasedTenant


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


_ERASE_EPILOG = """\b
Examples:
  perstackctl job erase --tenant default
  perstackctl job erase --tenant default --jobs-only --yes
"""


@click.command(epilog=_ERASE_EPILOG)
@click.option("--tenant", required=True, help="Who is erased.")
@click.option("--jobs-only", is_flag=True, help="Stored secrets and named workspaces stay.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@address_option
@click.pass_context
def erase(ctx: click.Context, /, *, tenant: str, jobs_only: bool, yes: bool) -> int:
    """Delete all that is kept of a tenant for good: ended jobs, stored secrets, named workspaces.

    What something still needs is left and said: jobs that go on, the secrets while any does, workspaces that are in
    use. Keys of providers and values of origin routes are the operator's, directories of the host whose they are: they
    stay. Ends with 1 when something was left.
    """
    what = "all ended jobs" if jobs_only else "all ended jobs, stored secrets and named workspaces"
    if not yes:
        click.confirm(f"Delete {what} of the tenant {tenant!r} for good?", abort=True)
    done = in_loop(_erase(make_client(ctx), tenant, jobs_only=jobs_only))
    say(f"{done.jobs} jobs deleted" + ("" if jobs_only else f", {done.secrets} secrets, {done.workspaces} workspaces"))
    if done.unfinished:
        note(f"{done.unfinished} jobs go on and were left; cancel them, wait for their end, and erase again")
    for each in done.left:
        note(f"left: {each}")
    return 1 if done.unfinished or done.left else 0


async def _erase(client: "Client", tenant: str, *, jobs_only: bool) -> "ErasedTenant":
    async with client:
        return await client.logs.erase_tenant(tenant, jobs_only=jobs_only)
