"""perstackctl job ls and get: jobs as the daemon keeps them."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.values import Job, JobState, ReplayMode, Workspace
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.fitted import Column, columns_of_terminal, fitted
from perstackctl.output import JSON, age, count, document, elapsed, note, pairs, rfc3339, say
from perstackctl.standing import cost, limits, state
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_STATES: Final = [state.value for state in JobState if state is not JobState.UNSPECIFIED]
_QUERY: Final = 48
LIVE: Final = {ReplayMode.MODEL: "live model", ReplayMode.TOOLS: "live tools"}
"""How a job replays another, for people."""
_COLUMNS: Final = (
    Column("ID"),
    Column("STATE"),
    Column("EXPERT", least=12),
    Column("STEPS", right=True, misses=2),
    Column("CALLS", right=True, misses=4),
    Column("TOKENS", right=True, misses=3),
    Column("COST", right=True),
    Column("AGE"),
    Column("QUERY", least=8, misses=1),
)


@click.command("ls", epilog="\b\nExamples:\n  perstackctl job ls\n  perstackctl job ls --state waiting -o json")
@click.option("--state", "states", type=click.Choice(_STATES), multiple=True, help="Only these. Repeatable.")
@click.option("--tenant", default="", help="Whose jobs.  [default: default]")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@output_option
@address_option
@click.pass_context
def list_jobs(ctx: click.Context, states: tuple[str, ...], tenant: str, limit: int, output: str) -> None:
    """List jobs, newest first.

    Behind the state stands how many questions are open, or which limit stopped the job. A narrow terminal gets fewer
    columns.
    """
    wanted = tuple(JobState(state) for state in states)
    jobs, more = in_loop(_some_jobs(make_client(ctx), wanted, tenant, limit))
    if output == JSON:
        document(jobs)
        return
    say(fitted(_COLUMNS, [_row(each) for each in jobs], columns_of_terminal()))
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
    head = (job.id, state(job), job.expert_key, job.steps, count(job.tool_calls), tokens)
    told = f"[replay] {job.query}" if job.replay else job.query
    return (*head, cost(job), age(job.created_at), line(told, _QUERY))


@click.command(
    epilog="\b\nExamples:\n  perstackctl job get 01JD3Z\n  perstackctl job get 01JD3Z -o json | jq -r .answer"
)
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
    say(pairs([*_standing(job), *_making(job), *_use(job)]))
    if job.answer:
        say(f"\n{job.answer}")


def _standing(job: Job) -> Iterator[tuple[str, object]]:
    queue = f"place {job.queue_place}: {job.queue_reason}" if job.queue_place else job.queue_reason
    asked = f"{job.open_questions} question{'' if job.open_questions == 1 else 's'}"
    yield "Job", job.id
    yield "State", state(job)
    yield "Waits", queue
    yield "Asks", f"{asked}: perstackctl job questions {job.id}" if job.open_questions else ""
    yield "Why", f"{job.error_message} ({job.error_reason})" if job.error_reason else job.error_message


def _making(job: Job) -> Iterator[tuple[str, object]]:
    yield "Expert", job.expert_key
    yield "Query", line(job.query, 400)
    yield "Replays", f"{job.parent_job_id} ({LIVE[job.replay]})" if job.replay else ""
    yield "Goes on from", f"{job.parent_job_id}:{job.parent_seq}" if job.parent_job_id and not job.replay else ""
    yield "Model", f"{job.provider}/{job.model}"
    yield "Workspace", workspace(job.workspace)
    yield "Tenant", job.tenant
    yield "Created", f"{rfc3339(job.created_at)} ({age(job.created_at)} ago)"


def _use(job: Job) -> Iterator[tuple[str, object]]:
    cached = f", {job.usage.cached_input_tokens:,} of them cached" if job.usage.cached_input_tokens else ""
    yield "Took", elapsed(job.finished_at - job.created_at) if job.finished_at else ""
    yield "Runs", f"{job.runs}, {job.steps} steps, {job.tool_calls} tool calls, {job.last_seq} events"
    yield "Tokens", f"{job.usage.input_tokens:,} in{cached}, {job.usage.output_tokens:,} out"
    yield "Cost", cost(job)
    yield "Limits", limits(job.budgets)
    yield "Exit code", job.exit_code if job.state.final else ""


def workspace(value: Workspace) -> str:
    """A workspace for people."""
    place = f"{value.kind.value} {value.value}".strip()
    return f"{place} (read-only)" if value.read_only else place
