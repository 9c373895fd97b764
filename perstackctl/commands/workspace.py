"""perstackctl workspace: directories that the daemon keeps under a name."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final

import click

from perstackctl.client.errors import InvalidError
from perstackctl.commands.lazy import Nouns
from perstackctl.commands.options import address_option, in_loop, make_client, output_option
from perstackctl.new_file import begin, drop, give_name
from perstackctl.output import JSON, age, document, note, say, table
from perstackctl.sizes import Size, sized
from perstackctl.terminal import line

if TYPE_CHECKING:
    from perstackctl.archives.extracting import Extracted
    from perstackctl.client.client import Client
    from perstackctl.client.workspaces import NamedWorkspace, Uploaded

_PIECE: Final = 256 << 10
_SHOWN: Final = 5
_tenant = click.option("--tenant", default="", help="Whose workspace.  [default: default]")


@click.group(cls=Nouns)
def workspace() -> None:
    """Workspaces that the daemon keeps under a name, for jobs of `run --workspace NAME`.

    What is in one was written by sandboxes: look at it as at a download.
    """


@workspace.command("ls", epilog="\b\nExample:\n  perstackctl workspace ls")
@_tenant
@output_option
@address_option
@click.pass_context
def list_workspaces(ctx: click.Context, tenant: str, output: str) -> None:
    """List workspaces: how full they are, when they were last used, and which jobs have them."""
    found = in_loop(_list(make_client(ctx), tenant))
    if output == JSON:
        document(found)
        return
    headers = ("NAME", "SIZE", "FILES", "MAX SIZE", "MAX FILES", "USED", "JOB")
    say(table(headers, [_row(each) for each in found], right=headers[1:6]))


async def _list(client: "Client", tenant: str) -> "tuple[NamedWorkspace, ...]":
    async with client:
        return await client.workspaces.list(tenant)


def _row(found: "NamedWorkspace") -> tuple[object, ...]:
    least = "" if found.counted else ">"
    job, *others = found.job_ids or ("-",)
    return (
        found.name,
        least + sized(found.bytes),
        f"{least}{found.files}",
        sized(found.max_bytes) if found.max_bytes else "-",
        found.max_files or "-",
        age(found.used_at),
        f"{job} +{len(others)}" if others else job,
    )


@workspace.command(epilog="\b\nExample:\n  perstackctl workspace create notes --quota 500M")
@click.argument("name")
@click.option(
    "--quota",
    metavar="SIZE",
    type=Size(),
    default=0,
    help="The most that it holds, as in 500M or 2G; at most what the daemon's workspaces.named_bytes says.  "
    "[default: just that]",
)
@_tenant
@output_option
@address_option
@click.pass_context
def create(ctx: click.Context, name: str, quota: int, tenant: str, output: str) -> None:
    """Make an empty workspace. A job makes its own when it names one that is not there."""
    made = in_loop(_create(make_client(ctx), name, quota, tenant))
    if output == JSON:
        document(made)
    else:
        say(f"{made.name}: {f'at most {sized(made.max_bytes)}' if made.max_bytes else 'nothing caps it'}")


async def _create(client: "Client", name: str, quota: int, tenant: str) -> "NamedWorkspace":
    async with client:
        return await client.workspaces.create(name, quota, tenant)


_GET_EPILOG: Final = """\b
Examples:
  perstackctl workspace get notes -C ./notes
  perstackctl workspace get notes reports/2026 -o reports.tar
  perstackctl workspace get notes -o - | tar -tvf -
"""


@workspace.command(epilog=_GET_EPILOG)
@click.argument("name")
@click.argument("path", default="")
@click.option("-o", "--output", "file", metavar="FILE", default="", help="A new tar file; - for standard output.")
@click.option("-C", "--directory", metavar="DIR", type=click.Path(path_type=Path), help="Unpack into this directory.")
@_tenant
@address_option
@click.pass_context
def get(ctx: click.Context, /, name: str, file: str, directory: Path | None, **where: str) -> None:
    """Copy workspace NAME, or the directory or file PATH of it, out of the daemon.

    With -C, links that would leave the directory are not made, and nothing is written through a link.
    """
    if bool(file) == (directory is not None):
        raise click.UsageError("say where to: -o FILE for an archive, or -C DIR to unpack it")
    if file == "-" and sys.stdout.isatty():
        raise InvalidError("an archive is not for a terminal; give -o FILE", reason="is_a_terminal")
    wanted = (name, where["path"], where["tenant"])
    if directory is not None:
        _tell(in_loop(_extract(make_client(ctx), wanted, directory)), directory)
    elif file == "-":
        in_loop(_copy(make_client(ctx), wanted, sys.stdout.buffer))
    else:
        say(f"{file}: {sized(in_loop(_save(make_client(ctx), wanted, Path(file))))}")


def _tell(done: "Extracted", directory: Path) -> None:
    for name in done.left_out[:_SHOWN]:
        note(f"{line(name)} was left out: a link or a name that leaves the directory, or no plain file")
    if len(done.left_out) > _SHOWN:
        note(f"{len(done.left_out) - _SHOWN} more were left out")
    say(f"{directory}: {_entries(done.files)}")


async def _copy(client: "Client", wanted: tuple[str, str, str], to: "BinaryIO | IO[bytes]") -> int:
    size = 0
    async with client, aclosing(client.workspaces.download(*wanted)) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(to.write, piece)
            size += len(piece)
    await asyncio.to_thread(to.flush)
    return size


async def _save(client: "Client", wanted: tuple[str, str, str], path: Path) -> int:
    file = await asyncio.to_thread(begin, path)
    try:
        size = await _copy(client, wanted, file)
        await asyncio.to_thread(give_name, file, path)
    finally:
        await asyncio.to_thread(drop, file)
    return size


async def _extract(client: "Client", wanted: tuple[str, str, str], into: Path) -> "Extracted":
    """The whole archive first: what is cut off on its way changes nothing."""
    from perstackctl.archives.extracting import extract

    with tempfile.TemporaryFile() as file:
        await _copy(client, wanted, file)
        file.seek(0)
        return await asyncio.to_thread(extract, file, into)


_PUT_EPILOG: Final = """\b
Examples:
  perstackctl workspace put notes ./notes
  perstackctl workspace put notes reports.tar reports/2026
  tar -cf - src | perstackctl workspace put code -
"""


@workspace.command(epilog=_PUT_EPILOG)
@click.argument("name")
@click.argument("source")
@click.argument("path", default="")
@_tenant
@output_option
@address_option
@click.pass_context
def put(ctx: click.Context, /, name: str, source: str, output: str, **where: str) -> None:
    """Copy SOURCE, a directory, a tar file or - for standard input, into workspace NAME, or its directory PATH.

    All or nothing: an archive with absolute paths, .., links that leave its tree, devices, or more than the workspace
    holds is refused. Files of the same name are replaced, directories merged.
    """
    done = in_loop(_put(make_client(ctx), source, (name, where["path"], where["tenant"])))
    if output == JSON:
        document(done)
    else:
        say(f"{name}: {_entries(done.files)}, {sized(done.bytes)}")


def _entries(number: int) -> str:
    return "1 file or directory" if number == 1 else f"{number:,} files and directories"


async def _put(client: "Client", source: str, where: tuple[str, str, str]) -> "Uploaded":
    name, path, tenant = where
    pieces = await asyncio.to_thread(_opened, source)
    async with client, aclosing(_read(pieces)) as archive:
        return await client.workspaces.upload(name, archive, path, tenant)


def _opened(source: str) -> Generator[bytes, None, None]:
    from perstackctl.archives.packing import packed

    if source != "-" and Path(source).is_dir():
        return packed(Path(source))
    try:
        return _file(sys.stdin.buffer if source == "-" else Path(source).open("rb"))
    except OSError as error:
        raise InvalidError(f"{source} cannot be read: {error.strerror}", reason="file_unreadable") from None


def _file(file: "BinaryIO | IO[bytes]") -> Generator[bytes, None, None]:
    with file:
        while piece := file.read(_PIECE):
            yield piece


async def _read(pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
    """In one thread of its own, so that it is closed behind a piece that was still being read."""
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "archive")
    try:
        while piece := await loop.run_in_executor(thread, next, pieces, b""):
            yield piece
    finally:
        await loop.run_in_executor(thread, pieces.close)
        thread.shutdown(wait=False)


@workspace.command(epilog="\b\nExample:\n  perstackctl workspace rm notes --yes")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_tenant
@address_option
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], yes: bool, tenant: str) -> None:  # noqa: FBT001 - click's signature
    """Delete workspaces with all that is in them, for good. Refused while a job has one."""
    if not yes:
        click.confirm(f"Delete {', '.join(names)} with all that is in them for good?", abort=True)
    in_loop(_remove(make_client(ctx), names, tenant))


async def _remove(client: "Client", names: tuple[str, ...], tenant: str) -> None:
    async with client:
        for name in names:
            await client.workspaces.remove(name, tenant)
            say(name)
