"""perstackctl pool: warm sandboxes, per template."""

from typing import TYPE_CHECKING

import click

from perstackctl.client.values import Pool
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.output import JSON, document, say, table

if TYPE_CHECKING:
    from perstackctl.client.client import Client


@click.group()
def pool() -> None:
    """Pools: warm sandboxes of one template each."""


@pool.command(epilog="\b\nExample:\n  perstackctl pool status")
@output_option
@address_option
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """Show how many sandboxes are ready, at work and on their way, and why refill stands still."""
    found = in_loop(_pools(make_client(ctx)))
    if output == JSON:
        document(found)
        return
    headers = ("TEMPLATE", "IDLE", "CLAIMED", "STARTING", "REMOVING", "WAITING", "MIN", "MAX", "REFILL", "STATUS")
    say(table(headers, [_row(each) for each in found], right=headers[1:8]))


async def _pools(client: "Client") -> tuple[Pool, ...]:
    async with client:
        return await client.pools()


def _row(pool: Pool) -> tuple[object, ...]:
    refill = f"{pool.refill_p50_ms:.0f}/{pool.refill_p99_ms:.0f} ms" if pool.refill_p50_ms else "-"
    failed = f" ({pool.failures} failed starts in a row)" if pool.failures else ""
    halted = f"{pool.halted}{failed}" if pool.halted else "ok"
    numbers = (pool.idle, pool.claimed, pool.starting, pool.removing, pool.waiting, pool.min_idle, pool.max)
    return (pool.template, *numbers, refill, halted)
