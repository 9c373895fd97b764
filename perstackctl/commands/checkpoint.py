"""perstackctl job checkpoints and checkpoint: where a job's runs stood after each step."""

from typing import TYPE_CHECKING, Any, Final

import click

from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.fitted import Column, columns_of_terminal, fitted
from perstackctl.output import JSON, count, document, pairs, rfc3339, say
from perstackctl.terminal import line
from perstackctl.watch.payload import words

if TYPE_CHECKING:
    from perstackctl.client.checkpoints import Checkpoint, CheckpointContent
    from perstackctl.client.client import Client

_COLUMNS: Final = (
    Column("CHECKPOINT", right=True),
    Column("EXPERT", least=12),
    Column("STEP", right=True),
    Column("STATE"),
    Column("MESSAGES", right=True, misses=2),
    Column("PENDING", right=True, misses=1),
    Column("TOKENS", right=True, misses=3),
    Column("RUN", misses=4),
)
_SHOWN: Final = 400


@click.command(
    epilog="\b\nExamples:\n  perstackctl job checkpoints 01JD3Z\n"
    '  perstackctl run --resume-from 01JD3Z:42 "Try it without the cache"'
)
@click.argument("job_id", metavar="JOB")
@output_option
@address_option
@click.pass_context
def checkpoints(ctx: click.Context, job_id: str, output: str) -> None:
    """List a job's checkpoints: one for each step of each run, named by the number of its event.

    A new job goes on from one with run --resume-from JOB:CHECKPOINT.
    """
    found = in_loop(_list(make_client(ctx), job_id))
    if output == JSON:
        document(found)
        return
    say(fitted(_COLUMNS, [_row(each) for each in found], columns_of_terminal()))


async def _list(client: "Client", given: str) -> "list[Checkpoint]":
    async with client:
        return [each async for each in client.logs.list_checkpoints(await full_job_id(client, given))]


def _row(found: "Checkpoint") -> tuple[object, ...]:
    tokens = count(found.usage.input_tokens + found.usage.output_tokens)
    head = (found.seq, found.expert_key, found.step_number, found.outcome or "going on", found.messages)
    return (*head, found.pending_calls or "", tokens, found.run_id)


@click.command(epilog="\b\nExample:\n  perstackctl job checkpoint 01JD3Z 42 -o json | jq .messages")
@click.argument("job_id", metavar="JOB")
@click.argument("checkpoint", required=False, default="", metavar="[CHECKPOINT]")
@output_option
@address_option
@click.pass_context
def checkpoint(ctx: click.Context, job_id: str, checkpoint: str, output: str) -> None:
    """Show a checkpoint: its history, open calls and todos. CHECKPOINT is its number or RUN/STEP; without it, the last
    one of the coordinator.
    """
    found = in_loop(_get(make_client(ctx), job_id, checkpoint))
    if output == JSON:
        document(found)
    else:
        _show(found)


async def _get(client: "Client", given: str, wanted: str) -> "CheckpointContent":
    async with client:
        return await client.logs.get_checkpoint(await full_job_id(client, given), wanted)


def _show(content: "CheckpointContent") -> None:
    found = content.checkpoint
    delegated = f"{content.call_id} of run {found.parent_run_id}" if found.parent_run_id else ""
    shown = [
        ("Checkpoint", f"{found.job_id}:{found.seq}"),
        ("Run", f"{found.run_id}, step {found.step_number}"),
        ("State", found.outcome or "going on"),
        ("Answers", delegated),
        ("Expert", f"{found.expert_key}@{content.expert_version} ({content.expert_digest})"),
        ("Model", f"{content.provider}/{content.model}"),
        ("Time", rfc3339(found.timestamp_at)),
        ("Tokens", f"{found.usage.input_tokens:,} in, {found.usage.output_tokens:,} out"),
        ("Pending", ", ".join(str(call.get("name")) for call in content.pending)),
        ("Todos", "; ".join(_todo(todo) for todo in content.todos)),
    ]
    say(pairs(shown))
    for message in content.messages:
        say(f"\n{message.get('role')}:")
        for part in message.get("parts", []):
            say(f"  {line(_part(part), _SHOWN)}")


def _todo(todo: dict[str, Any]) -> str:
    return f"{todo.get('id')}: {todo.get('title')}{' (done)' if todo.get('completed') else ''}"


def _part(part: dict[str, Any]) -> str:
    match part.get("type"):
        case "toolCall":
            return f"calls {part.get('name')} {words(part.get('arguments') or {}, _SHOWN)}"
        case "toolResult":
            return f"{part.get('callId')}: {' '.join(_part(item) for item in part.get('content', []))}"
        case "blob":
            return f"[{part.get('mediaType')}, {part.get('size')} bytes]"
        case _:
            return str(part.get("text", part.get("type")))
