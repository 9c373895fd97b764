"""perstackctl job replay and record: what an ended job's log proves, and its model's side as a file."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from perstackctl.commands.options import (
    address_option,
    full_job_id,
    in_loop,
    make_client,
    output_option,
    reconnect_option,
)
from perstackctl.commands.replay_options import live_options, take_live
from perstackctl.commands.replay_words import DIVERGED, event_text
from perstackctl.output import JSON, document, pairs, say

if TYPE_CHECKING:
    from perstackctl.client.checkpoints import Divergence, Replay
    from perstackctl.client.client import Client


@click.command(
    epilog="\b\nExamples:\n  perstackctl job replay 01JD3Z\n  perstackctl job replay 01JD3Z --live-tools -o json\n"
    "  perstackctl job replay 01JD3Z --live-model --model MODEL"
)
@click.argument("job_id", metavar="JOB")
@live_options
@output_option
@reconnect_option
@address_option
@click.pass_context
def replay(ctx: click.Context, /, job_id: str, *, output: str, reconnect: float, **options: Any) -> int:
    """Decide all state events of an ended job anew, from its recorded turns, tool results and answers, and compare.

    Nothing is run and no model is asked, unless one of them shall be live: then a new job does the old one again, with
    its definition, query, limits and hosts. With --live-tools the tools are run, in the same workspace unless
    --workspace says otherwise, and the model's turns are the recorded ones; values that the experts require are needed
    again. With --live-model the model is asked, and its calls get the recorded results of the same calls; nothing is
    run. People's answers are the recorded ones in both.

    Ends with 1 when an event comes out otherwise, and names the first. What happens meanwhile is shown on a terminal,
    else told on standard error; Ctrl-C cancels the new job.
    """
    live = take_live(options)
    if live is not None:
        from perstackctl.commands.replay_live import replay_live

        return in_loop(replay_live(make_client(ctx, reconnect), job_id, live, output))
    found = in_loop(_replay(make_client(ctx, reconnect), job_id))
    if output == JSON:
        document(found)
    elif found.divergence is None:
        say(f"the same: {found.compared} state events of {found.runs} runs, {found.events} events in all")
    else:
        _show(found.divergence)
    return DIVERGED if found.divergence else 0


async def _replay(client: "Client", given: str) -> "Replay":
    async with client:
        return await client.logs.replay_job(await full_job_id(client, given))


def _show(found: "Divergence") -> None:
    where = f"{found.expert_key}, step {found.step_number}, run {found.run_id}" if found.run_id else "the job"
    shown = [
        ("Differs", f"event {found.seq} ({where})"),
        ("Recorded", event_text(found.recorded)),
        ("Made now", event_text(found.made)),
    ]
    say(pairs(shown))


@click.command(epilog="\b\nExample:\n  perstackctl job record 01JD3Z > conversation.jsonl")
@click.argument("job_id", metavar="JOB")
@address_option
@click.pass_context
def record(ctx: click.Context, job_id: str) -> None:
    """Print the model turns of an ended job as a conversation file, which the provider replay answers from.

    The file holds all that was said to the model and by it.
    """
    in_loop(_record(make_client(ctx), job_id))


async def _record(client: "Client", given: str) -> None:
    import asyncio

    async with client, aclosing(client.logs.record_job(await full_job_id(client, given))) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(sys.stdout.buffer.write, piece)
