"""perstackctl job runs: a job's runs as the daemon keeps them."""

from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.values import Run
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.fitted import Column, columns_of_terminal, fitted
from perstackctl.output import JSON, age, count, document, elapsed, say

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_COLUMNS: Final = (
    Column("EXPERT", least=12),
    Column("RUN"),
    Column("STATE"),
    Column("STEP", right=True),
    Column("IN", right=True, misses=2),
    Column("OUT", right=True, misses=3),
    Column("TOOK", right=True, misses=1),
    Column("SANDBOX", misses=4),
)


@click.command(epilog="\b\nExample:\n  perstackctl job runs 01JD3Z")
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
    say(fitted(_COLUMNS, rows, columns_of_terminal()))


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
