"""exec and searchText: programs that run as children, with bounded output and a bound of time."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from perstack_runner.children import Child, Children, Spec, executable
from perstack_runner.messages import Blob, Limits
from perstack_runner.tools import search
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.tree import Tree

DEFAULT_TIMEOUT_MS: Final = 60_000
LONGEST_TIMEOUT_MS: Final = 3_600_000
SHOWN_BYTES: Final = 32 << 10
_READ_BYTES: Final = 64 << 10
_FLOOD_PAUSE_SECONDS: Final = 0.001
_LAST_OUTPUT_SECONDS: Final = 0.5
_TAIL_BYTES: Final = SHOWN_BYTES // 2

Feed = Callable[[bytes], None]


class Output:
    """A pipe's content: the first `kept` bytes and the last 16 KiB, however much comes. Read on the loop, not blocking.

    Past `kept` it reads at most 64 MiB/s, so that a program that floods does not keep the loop busy.
    """

    def __init__(self, kept: int, feed: Feed) -> None:
        self._kept = kept
        self._feed = feed
        self._tail = bytearray()
        self._loop = asyncio.get_running_loop()
        self.head = bytearray()
        self.total = 0
        self.ended = asyncio.Event()
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._reader, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._take(data)
        if self.total > self._kept:
            self._loop.remove_reader(self._reader)
            self._loop.call_later(_FLOOD_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._reader >= 0:
            self._loop.add_reader(self._reader, self._read)

    def _take(self, data: bytes) -> None:
        room = self._kept - len(self.head)
        if room > 0:
            self.head += data[:room]
        self._tail += data[-_TAIL_BYTES:]
        del self._tail[:-_TAIL_BYTES]
        self.total += len(data)
        self._feed(data)

    def close_writer(self) -> None:
        """Close our end of the pipe's writing side. Idempotent."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self.close_writer()
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
        self.ended.set()

    def shown(self, limit: int) -> str:
        """All of it, or head and tail with the number of bytes between, about `limit` bytes in all."""
        if self.total <= min(limit, len(self.head)):
            return self.head.decode("utf-8", "replace")
        head, tail = bytes(self.head[: limit // 2]), bytes(self._tail[-(limit // 2) :])
        left_out = self.total - len(head) - len(tail)
        note = f"\n[... {left_out} bytes left out ...]\n"
        return head.decode("utf-8", "replace") + note + tail.decode("utf-8", "replace")


class Commands:
    """Runs programs below a workspace, with one environment."""

    def __init__(self, tree: Tree, children: Children, environment: Mapping[str, str], limits: Limits) -> None:
        self._tree = tree
        self._children = children
        self._environment = dict(environment)
        self._limits = limits

    async def execute(self, arguments: dict[str, Any], feed: Feed) -> Outcome:
        """Run a program to its end or its time-out. What it leaves running ends with it; also when this is cancelled.

        Raises:
            ToolFailure: invalid_arguments, command_not_found, path_outside_workspace, process_limit_reached.
        """
        output = Output(self._limits.result_bytes, feed)
        try:
            child = await self._start(arguments, output)
            try:
                timed_out = not await _within(child.exited, self._timeout(arguments) / 1000)
            finally:
                clean = await self._children.end(child)
            await _within(output.ended, _LAST_OUTPUT_SECONDS)
        finally:
            output.close()
        return self._outcome(arguments, child, output, timed_out=timed_out, clean=clean)

    def _timeout(self, arguments: dict[str, Any]) -> int:
        asked: int = arguments.get("timeout", DEFAULT_TIMEOUT_MS)
        return min(asked, self._limits.tool_timeout_ms or LONGEST_TIMEOUT_MS, LONGEST_TIMEOUT_MS)

    async def _start(self, arguments: dict[str, Any], output: Output) -> Child:
        command, where = arguments["command"], arguments.get("cwd") or arguments.get("workspacePath") or "."
        wanted = {
            name: output.writer if arguments.get(name, True) else subprocess.DEVNULL for name in ("stdout", "stderr")
        }
        environment = {**self._environment, **arguments.get("env", {})}
        argv = [command, *arguments.get("args", [])]
        try:
            return await self._children.start(Spec(argv, environment, lambda: self._directory(where), **wanted))
        except FileNotFoundError:
            raise ToolFailure("command_not_found", f"{command}: no such program in PATH or in {where}") from None
        except BlockingIOError as error:
            raise from_os_error(error, command) from None
        except (ValueError, OSError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise ToolFailure("command_failed", f"{command}: could not be started: {text}") from None
        finally:
            output.close_writer()

    def _directory(self, path: str) -> int:
        try:
            with self._tree.place(path) as place:
                return self._tree.open_directory(place)
        except OSError as error:
            raise from_os_error(error, path) from None

    def _outcome(
        self, arguments: dict[str, Any], child: Child, output: Output, *, timed_out: bool, clean: bool
    ) -> Outcome:
        value: dict[str, Any] = {}
        if timed_out:
            milliseconds = self._timeout(arguments)
            message = f"Command timed out after {milliseconds} ms; it and its processes were ended"
            value = {"error": "timeout", "message": message}
        value["output"] = ""
        code = child.returncode
        if not timed_out and code is not None:
            value["exitCode"] = code if code >= 0 else 128 - code
            if code < 0:
                value["signal"] = _signal_name(-code)
        if not clean:
            value["note"] = "some of its processes could not be ended"
        complete = self._show(value, output)
        attachment = None if complete else Blob(bytes(output.head), "text/plain; charset=utf-8")
        return Outcome(value, attachment, is_error=timed_out)

    def _show(self, value: dict[str, Any], output: Output) -> bool:
        """Put output into `value`, less of it while it does not fit into an inline result; whether it is all of it."""
        limit = min(SHOWN_BYTES, self._limits.inline_result_bytes)
        while limit > 64:
            value["output"] = output.shown(limit)
            # Escaping in JSON can make it six times as long.
            if (
                len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
                <= self._limits.inline_result_bytes
            ):
                break
            limit = limit * 3 // 4
        return output.total <= limit

    async def search(self, arguments: dict[str, Any], _feed: Feed) -> Outcome:
        """Search text in a process of its own. Raises ToolFailure search_timeout when the pattern takes for ever."""
        output = Output(search.SEARCH_ANSWER_BYTES, lambda _: None)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            program = str(Path(search.__file__).with_name("search_program.py"))
            argv = (executable(), "-I", "-S", program)
            spec = Spec(
                argv, self._environment, lambda: self._ask(arguments, writer), stdin=reader, stdout=output.writer
            )
            finished = await self._answered(spec, output)
        finally:
            output.close()
            for descriptor in (reader, writer):
                os.close(descriptor)
        if not finished:
            message = f"no answer in {search.SEARCH_SECONDS:.0f} s; use a simpler pattern or a narrower path"
            raise ToolFailure("search_timeout", message)
        return search.answer(bytes(output.head), arguments.get("path", "."))

    async def _answered(self, spec: Spec, output: Output) -> bool:
        try:
            child = await self._children.start(spec)
        except BlockingIOError as error:
            raise from_os_error(error) from None
        output.close_writer()
        try:
            return await _within(output.ended, search.SEARCH_SECONDS)
        finally:
            await self._children.end(child)

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


def _fill_pipe(writer: int, content: bytes) -> None:
    # A pipe holds 64 KiB, and nobody reads yet. The program reads one line, since the writer stays open in here.
    os.set_blocking(writer, False)
    if len(content) >= _READ_BYTES:
        raise ToolFailure("invalid_arguments", f"pattern and glob are over {_READ_BYTES >> 10} KiB")
    os.write(writer, content + b"\n")


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
