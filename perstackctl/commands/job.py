"""perstackctl job: list, show, watch and cancel jobs."""

from collections.abc import AsyncIterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.values import EXIT_CODES, Job, JobState, Run, Workspace
from perstackctl.commands.options import (
    address_option,
    full_job_id,
    in_loop,
    make_client,
    output_option,
    reconnect_option,
    watch_output_option,
)
from perstackctl.output import JSON, age, count, document, elapsed, note, pairs, rfc3339, say, table
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_STATES: Final = [state.value for state in JobState if state is not JobState.UNSPECIFIED]
_QUERY: Final = 48


@click.group()
def job() -> None:
    """Jobs: requests that were made, with all that happened in them.

    JOB is a full id, or its beginning (at least 6 characters) when no other job begins so.
    """


@job.command("ls", epilog="\b\nExamples:\n  perstackctl job ls\n  perstackctl job ls --state running -o json")
@click.option("--state", "states", type=click.Choice(_STATES), multiple=True, help="Only these. Repeatable.")
@click.option("--tenant", default="", help="Whose jobs.  [default: default]")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@output_option
@address_option
@click.pass_context
def list_jobs(ctx: click.Context, states: tuple[str, ...], tenant: str, limit: int, output: str) -> None:
    """List jobs, newest first."""
    wanted = tuple(JobState(state) for state in states)
    jobs, more = in_loop(_some_jobs(make_client(ctx), wanted, tenant, limit))
    if output == JSON:
        document(jobs)
        return
    rows = [_row(each) for each in jobs]
    say(table(("ID", "STATE", "EXPERT", "STEPS", "TOKENS", "AGE", "QUERY"), rows, right=("STEPS", "TOKENS")))
    if more:
        note(f"there are more than {limit} jobs; see them with --limit")


async def _some_jobs(client: "Client", states: tuple[JobState, ...], tenant: str, limit: int) -> tuple[list[Job], bool]:
    async with client:
        jobs: AsyncIterator[Job] = client.list_jobs(tenant=tenant, states=states, page_size=min(limit + 1, 1000))
        found: list[Job] = []
        async for each in jobs:
            if len(found) == limit:
                return found, True
            found.append(each)
        return found, False


def _row(job: Job) -> tuple[object, ...]:
    tokens = count(job.usage.input_tokens + job.usage.output_tokens)
    return (job.id, job.state, job.expert_key, job.steps, tokens, age(job.created_at), line(job.query, _QUERY))


@job.command(epilog="\b\nExamples:\n  perstackctl job get 01JD3Z\n  perstackctl job get 01JD3Z -o json | jq -r .answer")
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def get(ctx: click.Context, job_id: str, output: str) -> None:
    """Show one job, with its answer."""
    found = in_loop(_one_job(make_client(ctx), job_id))
    if output == JSON:
        document(found)
    else:
        _show(found)


async def _one_job(client: "Client", given: str) -> Job:
    async with client:
        return await client.get_job(await full_job_id(client, given))


def _show(job: Job) -> None:
    end = job.finished_at
    queue = f"place {job.queue_place}: {job.queue_reason}" if job.queue_place else job.queue_reason
    cached = f", {job.usage.cached_input_tokens:,} of them cached" if job.usage.cached_input_tokens else ""
    say(
        pairs(
            [
                ("Job", job.id),
                ("State", job.state),
                ("Waits", queue),
                ("Why", f"{job.error_message} ({job.error_reason})" if job.error_reason else job.error_message),
                ("Expert", job.expert_key),
                ("Query", line(job.query, 400)),
                ("Model", f"{job.provider}/{job.model}"),
                ("Workspace", workspace(job.workspace)),
                ("Tenant", job.tenant),
                ("Created", f"{rfc3339(job.created_at)} ({age(job.created_at)} ago)"),
                ("Took", elapsed(end - job.created_at) if end else ""),
                ("Runs", f"{job.runs}, {job.steps} steps, {job.last_seq} events"),
                ("Tokens", f"{job.usage.input_tokens:,} in{cached}, {job.usage.output_tokens:,} out"),
                ("Exit code", job.exit_code if job.state.final else ""),
            ]
        )
    )
    if job.answer:
        say(f"\n{job.answer}")


def workspace(value: Workspace) -> str:
    """A workspace for people."""
    place = f"{value.kind.value} {value.value}".strip()
    return f"{place} (read-only)" if value.read_only else place


@job.command(
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

    Ends with the job, with the exit codes of perstackctl run. Ctrl-C leaves; the job goes on.
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
        return await Follower(client, job_id, display, after, streaming=streaming, tail=tail).run()


async def _ended_before(client: "Client", job_id: str, after: int) -> int | None:
    """The exit code of a job that ended with the event `after`: there is nothing more to watch."""
    found = await client.get_job(job_id)
    return EXIT_CODES[found.state] if found.state.final and found.last_seq == after else None


@job.command(epilog="\b\nExample:\n  perstackctl job cancel 01JD3Z --reason 'wrong branch'")
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


@job.command(epilog="\b\nExample:\n  perstackctl job runs 01JD3Z")
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def runs(ctx: click.Context, job_id: str, output: str) -> None:
    """List a job's runs: who delegated to whom, in which sandbox."""
    found = in_loop(_runs(make_client(ctx), job_id))
    if output == JSON:
        document(found)
        return
    depths = _depths(found)
    rows = [_run_row(run, depths[run.id]) for run in found]
    headers = ("EXPERT", "RUN", "STATE", "STEP", "IN", "OUT", "TOOK", "SANDBOX")
    say(table(headers, rows, right=("STEP", "IN", "OUT", "TOOK")))


async def _runs(client: "Client", given: str) -> tuple[Run, ...]:
    async with client:
        return await client.list_runs(await full_job_id(client, given))


def _depths(found: tuple[Run, ...]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for run in found:  # parents come before their children
        depths[run.id] = depths.get(run.parent_run_id, -1) + 1
    return depths


def _run_row(run: Run, depth: int) -> tuple[object, ...]:
    took = elapsed(run.finished_at - run.started_at) if run.finished_at else age(run.started_at)
    return (
        f"{'└ ' * depth}{run.expert_key}",
        run.id,
        run.outcome or run.phase,
        run.step_number,
        count(run.usage.input_tokens),
        count(run.usage.output_tokens),
        took,
        next(islice(reversed(run.sandbox_ids), 1), "-"),
    )
