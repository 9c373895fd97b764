"""searchText and readPdfFile: programs of our own as children, for work that a hostile input could make endless.

They get no secret: their environment is empty but for the locale. Few run at a time, since each takes memory.
"""

import asyncio
import os
from pathlib import Path
from typing import Any, Final

from perstack_runner.children import Children, Spec, executable
from perstack_runner.tools import pdf_file, search
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.output import Output, within
from perstack_runner.tools.tree import Tree

MOST_SEARCHES: Final = 4
MOST_DOCUMENTS: Final = 2
_ENVIRONMENT: Final = {"LANG": "C.UTF-8"}  # names of files as the runner reads them
_PIPE_BYTES: Final = 64 << 10


class Programs:
    """Runs them below one workspace. Cancelling a call ends its process."""

    def __init__(self, tree: Tree, children: Children) -> None:
        self._tree = tree
        self._children = children
        self._searches = asyncio.Semaphore(MOST_SEARCHES)
        self._documents = asyncio.Semaphore(MOST_DOCUMENTS)

    async def search(self, arguments: dict[str, Any]) -> Outcome:
        """Search text. Raises ToolFailure, search_timeout when the pattern takes for ever."""
        path = arguments.get("path", ".")
        async with self._searches:
            output = Output(search.SEARCH_ANSWER_BYTES, _unseen)
            reader, writer = os.pipe2(os.O_CLOEXEC)
            try:
                argv = _argv("search_program.py")
                spec = Spec(argv, _ENVIRONMENT, lambda: self._ask(arguments, writer), reader, output.writer)
                finished = await self._answered(spec, output, search.SEARCH_SECONDS)
            finally:
                output.close()
                for descriptor in (reader, writer):
                    os.close(descriptor)
        if not finished:
            message = f"no answer in {search.SEARCH_SECONDS:.0f} s; use a simpler pattern or a narrower path"
            raise ToolFailure("search_timeout", message)
        return search.answer(bytes(output.head), path)

    def _ask(self, arguments: dict[str, Any], writer: int) -> int:
        """Write the request for the program, and open its directory: the searched one, or that of the one file."""
        path = arguments.get("path", ".")
        try:
            with self._tree.place(path) as place:
                try:
                    directory, only = self._tree.open_directory(place), ""
                except NotADirectoryError:
                    directory, only = os.dup(place.directory), place.name
        except OSError as error:
            raise from_os_error(error, path) from None
        try:
            _fill_pipe(writer, search.request(arguments, only))
        except ToolFailure:
            os.close(directory)
            raise
        return directory

    async def read_pdf(self, arguments: dict[str, Any]) -> Outcome:
        """Pages of a document. Raises ToolFailure, pdf_timeout when it takes for ever."""
        path, request = arguments["path"], pdf_file.request(arguments)
        async with self._documents:
            output = Output(pdf_file.ANSWER_BYTES, _unseen)
            document = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                argv = (*_argv("pdf_program.py"), request)
                spec = Spec(argv, _ENVIRONMENT, lambda: self._hand_over(path, document), document, output.writer)
                finished = await self._answered(spec, output, pdf_file.PDF_SECONDS)
            finally:
                output.close()
                os.close(document)
        if not finished:
            message = f"{path}: not read in {pdf_file.PDF_SECONDS:.0f} s; ask for fewer pages"
            raise ToolFailure("pdf_timeout", message)
        return await asyncio.to_thread(pdf_file.answer, output.head, path, arguments)

    def _hand_over(self, path: str, descriptor: int) -> int:
        """Make `descriptor` one of the file, on the starting thread, and open a directory that is not the workspace."""
        try:
            file = pdf_file.opened(self._tree, path)
        except OSError as error:
            raise from_os_error(error, path) from None
        try:
            os.dup2(file, descriptor, inheritable=False)
        finally:
            os.close(file)
        return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    async def _answered(self, spec: Spec, output: Output, seconds: float) -> bool:
        try:
            child = await self._children.start(spec)
        except OSError as error:
            raise from_os_error(error) from None
        output.close_writer()
        try:
            return await within(output.ended, seconds)
        finally:
            await self._children.end(child)


def _argv(program: str) -> tuple[str, ...]:
    return (executable(), "-I", "-S", str(Path(__file__).with_name(program)))


def _unseen(_data: bytes) -> None:
    """What these programs print is for the runner."""


def _fill_pipe(writer: int, content: bytes) -> None:
    # A pipe holds 64 KiB, and nobody reads yet. The program reads one line, since the writer stays open in here.
    os.set_blocking(writer, False)
    if len(content) >= _PIPE_BYTES:
        raise ToolFailure("invalid_arguments", f"pattern and glob are over {_PIPE_BYTES >> 10} KiB")
    os.write(writer, content + b"\n")
