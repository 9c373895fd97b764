"""perstackctl job pause, resume and cancel: wishes that the daemon carries out."""

from typing import TYPE_CHECKING

import click

from perstackctl.client.values import Job
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.output import JSON, document, say

if TYPE_CHECKING:
    from perstackctl.client.client import Client


@click.command(epilog="\b\nExample:\n  perstackctl job pause 01JD3Z")
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def pause(ctx: click.Context, job_id: str, output: str) -> None:
    """Let a job rest: its runs finish the step in hand and start no other. Pausing it twice changes nothing."""
    found = in_loop(_pause(make_client(ctx), job_id))
    if output == JSON:
        document(found)
    elif found.state.final:
        say(f"job {found.id} is {found.state.value}")
    else:
        say(f"job {found.id} rests after the step in hand; go on with perstackctl job resume {found.id}")


async def _pause(client: "Client", given: str) -> Job:
    async with client:
        return await client.pause_job(await full_job_id(client, given))


@click.command(epilog="\b\nExample:\n  perstackctl job resume 01JD3Z")
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def resume(ctx: click.Context, job_id: str, output: str) -> None:
    """Let a paused job go on. A job that is not paused stays as it is."""
    found = in_loop(_resume(make_client(ctx), job_id))
    if output == JSON:
        document(found)
    elif found.state.final:
        say(f"job {found.id} is {found.state.value}")
    else:
        say(f"job {found.id} goes on; see it with perstackctl job watch {found.id}")


async def _resume(client: "Client", given: str) -> Job:
    async with client:
        return await client.resume_job(await full_job_id(client, given))


@click.command(epilog="\b\nExample:\n  perstackctl job cancel 01JD3Z --reason 'wrong branch'")
@click.argument("job_id", metavar="JOB")
@click.option("--reason", default="", help="Kept in the job's log.")
@output_option
@address_option
@click.pass_context
def cancel(ctx: click.Context, job_id: str, reason: str, output: str) -> None:
    """Ask for a job's end. Returns before it ended; a job that ended stays as it is."""
    found = in_loop(_cancel(make_client(ctx), job_id, reason))
    if output == JSON:
        document(found)
    elif found.state.final:
        say(f"job {found.id} is {found.state.value}")
    else:
        say(f"job {found.id} is being cancelled; see its end with perstackctl job watch {found.id}")


async def _cancel(client: "Client", given: str, reason: str) -> Job:
    async with client:
        return await client.cancel_job(await full_job_id(client, given), reason)
