"""perstackctl pool: warm sandboxes, per template."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import click

from perstackctl.client.values import Pool
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.fitted import WIDE, Column, fitted, room
from perstackctl.output import JSON, document, say
from perstackctl.standing import counted
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.client.client import Client

_COLUMNS: Final = (
    Column("TEMPLATE", least=8),
    *(Column(header, right=True) for header in ("IDLE", "CLAIMED")),
    *(Column(header, right=True, misses=2) for header in ("STARTING", "REMOVING")),
    *(Column(header, right=True) for header in ("WAITING", "MIN")),
    Column("WANTED", right=True, misses=2),
    Column("MAX", right=True),
    Column("REFILL", misses=1),
    Column("STATUS"),
)


@click.group(cls=Nouns)
def pool() -> None:
    """Pools: warm sandboxes of one template each."""


@pool.command(epilog="\b\nExample:\n  perstackctl pool status")
@output_option
@address_option
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """Show how many sandboxes are ready, at work and on their way, and why refill stands still.

    WANTED are kept idle now: what the claims of the last minute ask for, between MIN and MAX.
    """
    found = in_loop(_pools(make_client(ctx)))
    if output == JSON:
        document(found)
        return
    say(fitted(_COLUMNS, [_row(each) for each in found], room() or WIDE))
    for told in standing_still(found):
        say(f"\n{told}")


pool.add_command(
    click.Command(
        "ls", params=status.params, callback=status.callback, help=status.help, epilog=status.epilog, hidden=True
    )
)


async def _pools(client: "Client") -> tuple[Pool, ...]:
    async with client:
        return await client.pools()


def standing_still(pools: Iterable[Pool]) -> Iterator[str]:
    """A line for each pool whose refill stands still, with the reason."""
    return (f"{each.template} stands still: {_why(each)}" for each in pools if each.halted)


def _row(pool: Pool) -> tuple[object, ...]:
    refill = f"{pool.refill_p50_ms:.0f}/{pool.refill_p99_ms:.0f} ms" if pool.refill_p50_ms else "-"
    counts = (pool.idle, pool.claimed, pool.starting, pool.removing, pool.waiting)
    bounds = (pool.min_idle, pool.wanted_idle, pool.max)
    return (pool.template, *counts, *bounds, refill, "halted" if pool.halted else "ok")


def _why(pool: Pool) -> str:
    return line(pool.halted) + (f" ({counted(pool.failures, 'failed start')} in a row)" if pool.failures else "")
