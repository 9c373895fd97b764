"""perstackctl job watch: a job as it happens."""

from typing import TYPE_CHECKING

import click

from perstackctl.client.values import EXIT_CODES
from perstackctl.commands.options import (
    address_option,
    full_job_id,
    in_loop,
    make_client,
    reconnect_option,
    watch_output_option,
)

if TYPE_CHECKING:
    from perstackctl.client.client import Client


@click.command(
    epilog="\b\nExamples:\n  perstackctl job watch 01JD3Z\n  perstackctl job watch 01JD3Z --after 120 -o text\n"
    "  perstackctl job watch 01JD3Z --no-follow -o json > log.jsonl"
)
@click.argument("job_id", metavar="JOB")
@click.option("--after", metavar="SEQ", type=click.IntRange(0), default=0, help="Begin after this event.")
@click.option("--no-follow", is_flag=True, help="End when the log has been read, do not wait for more.")
@watch_output_option
@click.option("--stream", is_flag=True, help="With JSON lines: also the pieces of text as they arrive.")
@reconnect_option
@address_option
@click.pass_context
def watch(
    ctx: click.Context,
    job_id: str,
    after: int,
    *,
    no_follow: bool,
    output: str | None,
    stream: bool,
    reconnect: float,
) -> int:
    """Show what happens in a job, from its first event on, before, during and after it ran.

    Ends with the job, with the exit codes of perstackctl run. What the job asks is shown, and answered elsewhere
    (perstackctl job answer). Ctrl-C leaves; the job goes on.
    """
    client = make_client(ctx, reconnect)
    return in_loop(_watch(client, job_id, after, output, stream=stream, tail=not no_follow))


async def _watch(client: "Client", given: str, after: int, output: str | None, *, stream: bool, tail: bool) -> int:
    from perstackctl.watch.choice import painter, streams
    from perstackctl.watch.follow import Follower

    async with client:
        job_id = await full_job_id(client, given)
        code = await _ended_before(client, job_id, after) if after else None
        if code is not None:
            return code
        display, streaming = painter(output), streams(output, wanted=stream)
        return await Follower(client, job_id, display, after, streaming=streaming, tail=tail, stay=True).run()


async def _ended_before(client: "Client", job_id: str, after: int) -> int | None:
    """The exit code of a job that ended with the event `after`: there is nothing more to watch."""
    found = await client.get_job(job_id)
    return EXIT_CODES[found.state] if found.state.final and found.last_seq == after else None
