"""The base tools of one assignment: which there are, held to their schemas, run where they belong."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from perstack_runner import VERSION
from perstack_runner.threads import Threads
from perstack_runner.tools import catalogue, directory, file_entry, search, text_file
from perstack_runner.tools.attachments import Attachments
from perstack_runner.tools.command import Commands
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.output import Feed
from perstack_runner.tools.tree import Tree

_THREADS: Final = 8
_STARTED: Final = time.monotonic()

OnTree = Callable[[Tree, dict[str, Any]], Outcome]


def _health(_tree: Tree, _arguments: dict[str, Any]) -> Outcome:
    return Outcome(
        {"status": "ok", "version": VERSION, "uptimeSeconds": round(time.monotonic() - _STARTED), "pid": os.getpid()}
    )


def _apply_patch(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    from perstack_runner.tools import patch_files  # few runs patch, and a warm runner is to stay small

    return patch_files.apply(tree, arguments)


ON_TREE: Final[Mapping[str, OnTree]] = {
    "readTextFile": text_file.read,
    "writeTextFile": text_file.write,
    "appendTextFile": text_file.append,
    "editTextFile": text_file.edit,
    "readImageFile": file_entry.read_image,
    "getFileInfo": file_entry.info,
    "moveFile": file_entry.move,
    "deleteFile": file_entry.delete,
    "listDirectory": directory.list_items,
    "createDirectory": directory.create,
    "deleteDirectory": directory.delete,
    "findFiles": search.find,
    "applyPatch": _apply_patch,
    "healthCheck": _health,
}
IN_PROCESSES: Final = ("exec", "searchText", "readPdfFile")
DECIDED_BY_DAEMON: Final = ("attemptCompletion", "todo", "clearTodo", "readArtifact", "searchHistory")
"""In the catalogue, never run here."""


class Toolbox:
    """The tools that the expert may use. Give it back with close()."""

    def __init__(self, allowed: tuple[str, ...], tree: Tree, commands: Commands, schemas: Mapping[str, Any]) -> None:
        self._allowed = frozenset(allowed) - frozenset(DECIDED_BY_DAEMON)
        self._tree = tree
        self._commands = commands
        self._schemas = schemas
        self._threads = Threads(_THREADS, "tool")
        self._attached = Attachments()

    async def run(self, tool: str, raw: bytes, feed: Feed) -> Outcome:
        """Run a call to its outcome; whatever a tool cannot do is an outcome too. Cancelling ends its processes."""
        try:
            if tool not in self._allowed:
                raise ToolFailure("unknown_tool", f"{tool}: this expert has no such tool")
            arguments = catalogue.checked(self._schemas[tool]["inputSchema"], raw)
            with self._attached:
                return self._attached.kept(await self._run(tool, arguments, feed))
        except ToolFailure as failure:
            return failure.outcome()

    async def _run(self, tool: str, arguments: dict[str, Any], feed: Feed) -> Outcome:
        match tool:
            case "exec":
                return await self._commands.execute(arguments, feed)
            case "searchText":
                return await self._commands.programs.search(arguments)
            case "readPdfFile":
                return await self._commands.programs.read_pdf(arguments)
            case _:
                return await self._apart(ON_TREE[tool], arguments)

    async def _apart(self, work: OnTree, arguments: dict[str, Any]) -> Outcome:
        try:
            return await self._threads.run(lambda: _on_tree(work, self._tree, arguments))
        except BlockingIOError as error:
            raise from_os_error(error) from None

    def close(self) -> None:
        """Let go of the workspace. Threads that are at work end with the process."""
        self._threads.close()
        self._tree.close()


def _on_tree(work: OnTree, tree: Tree, arguments: dict[str, Any]) -> Outcome:
    try:
        return work(tree, arguments)
    except OSError as error:
        raise from_os_error(error, str(arguments.get("path", arguments.get("source", "")))) from None
