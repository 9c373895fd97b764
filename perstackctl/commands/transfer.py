"""perstackctl job export and import: ended jobs as files."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from perstackctl.client.errors import InvalidError
from perstackctl.commands.options import address_option, full_job_id, in_loop, make_client, output_option
from perstackctl.new_file import begin, drop, give_name
from perstackctl.output import JSON, document, say

if TYPE_CHECKING:
    from perstackctl.client.checkpoints import ImportedJob
    from perstackctl.client.client import Client

_PIECE: Final = 512 << 10


@click.command("export", epilog="\b\nExample:\n  perstackctl job export 01JD3Z -f job.jsonl")
@click.argument("job_id", metavar="JOB")
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="A new file.")
@address_option
@click.pass_context
def export(ctx: click.Context, job_id: str, path: Path) -> None:
    """Write an ended job with its events and blobs into one new file, with digests. It holds all that was said."""
    size = in_loop(_export(make_client(ctx), job_id, path))
    say(f"{path}: {size} bytes")


async def _export(client: "Client", given: str, path: Path) -> int:
    async with client:
        job_id, size = await full_job_id(client, given), 0
        file = await asyncio.to_thread(begin, path)
        try:
            async with aclosing(client.logs.export_job(job_id)) as pieces:
                async for piece in pieces:
                    size += await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(give_name, file, path)
        finally:
            await asyncio.to_thread(drop, file)
        return size


@click.command("import", epilog="\b\nExample:\n  perstackctl job import job.jsonl")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--tenant", default="", help="Whose job it becomes.  [default: default]")
@output_option
@address_option
@click.pass_context
def import_(ctx: click.Context, path: Path, tenant: str, output: str) -> None:
    """Read an exported job from FILE. The same job again changes nothing; what does not fit is refused as a whole."""
    found = in_loop(_import(make_client(ctx), path, tenant))
    if output == JSON:
        document(found)
    else:
        say(f"job {found.job.id} was here already, the same" if found.known else f"job {found.job.id} is here now")


async def _import(client: "Client", path: Path, tenant: str) -> "ImportedJob":
    async with client:
        file = await asyncio.to_thread(_open, path)
        try:
            return await client.logs.import_job(_pieces(file), tenant)
        finally:
            await asyncio.to_thread(file.close)


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror}", reason="file_unreadable") from None


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece
