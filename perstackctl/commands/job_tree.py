"""perstackctl job tree: who delegated to whom, and what came of it, from the job's log."""

import json
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import click

from perstackctl.client.values import Job
from perstackctl.commands.job_log import events_of
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.fitted import Column, columns_of_terminal, fitted
from perstackctl.joblog.tally import RunLine, Tally, document
from perstackctl.output import JSON, count, elapsed, plain, say
from perstackctl.standing import state, use
from perstackctl.terminal import escaped_json, line
from perstackctl.watch.trace import Trace

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_COLUMNS: Final = (
    Column("EXPERT", least=16),
    Column("OUTCOME"),
    Column("STEPS", right=True),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("TOOK", right=True),
    Column("WHAT", least=8, misses=1),
)
_MARKS: Final = {"completed": "✓", "failed": "✗", "stopped": "■", "cancelled": "■", "": "•"}


@click.command(
    epilog="\b\nExamples:\n  perstackctl job tree 01JD3Z\n  perstackctl job tree 01JD3Z -o json | jq '.runs[]'"
)
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def tree(ctx: click.Context, job_id: str, output: str) -> None:
    """Show a job's delegations as a tree: each run's expert, outcome, steps, tokens and time.

    A job that still runs is shown as it is now; • marks the runs that go on. The costs are the whole job's.
    """
    found, runs = in_loop(_tree(make_client(ctx), job_id))
    if output == JSON:
        text = json.dumps(_document(found, runs), indent=2, ensure_ascii=False)
        sys.stdout.write((escaped_json(text) if sys.stdout.isatty() else text) + "\n")
        return
    say(f"job {found.id}  {state(found)}  {use(found)}")
    if runs:
        say(fitted(_COLUMNS, list(_rows(runs)), columns_of_terminal()))


async def _tree(client: "Client", given: str) -> tuple[Job, list[RunLine]]:
    async with client:
        job = await client.get_job(await full_job_id(client, given))
        tally = Tally(Trace(started_at=job.created_at))
        async with aclosing(events_of(client, job)) as events:
            async for event, fields in events:
                tally.add(event, fields)
    return job, list(tally.runs(int(time.time() * 1000)))


def _rows(runs: list[RunLine]) -> list[tuple[object, ...]]:
    return [
        (
            f"{guide}{_MARKS.get(run.outcome, '■')} {line(run.expert)}",
            run.state,
            run.steps,
            count(run.usage.input_tokens),
            count(run.usage.output_tokens),
            elapsed(run.duration_ms),
            line(run.detail if run.outcome not in {"", "completed"} else run.query, 60),
        )
        for guide, run in zip(_guides(runs), runs, strict=True)
    ]


def _guides(runs: list[RunLine]) -> list[str]:
    """The lines of the tree in front of each run; runs stand below those that started them."""
    guides: list[str] = []
    more: list[bool] = []  # for each depth, whether another run of that depth follows below the same parent
    for run in reversed(runs):
        last = not (len(more) > run.depth and more[run.depth])
        above = ["│ " if depth < len(more) and more[depth] else "  " for depth in range(1, run.depth)]
        guides.append("".join(above) + (("└ " if last else "├ ") if run.depth else ""))
        more = [*more[: run.depth], *[False] * (run.depth - len(more)), True]
    return guides[::-1]


def _document(job: Job, runs: list[RunLine]) -> dict[str, Any]:
    """The job, and its runs inside those that started them."""
    nodes: dict[str, dict[str, Any]] = {run.id: document(run) | {"delegations": []} for run in runs}
    roots: list[dict[str, Any]] = []
    for run in runs:
        parent = nodes.get(run.parent_id)
        (parent["delegations"] if parent is not None and run.depth else roots).append(nodes[run.id])
    return {
        "jobId": job.id,
        "state": plain(job.state),
        "paused": job.paused,
        "openQuestions": job.open_questions,
        "steps": job.steps,
        "toolCalls": job.tool_calls,
        "costMicrodollars": job.cost_microdollars if job.cost_known else None,
        "runs": roots,
    }
