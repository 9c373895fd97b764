"""exec: a program of the model's choice as a child, with bounded output and a bound of time."""

import json
import signal
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from perstack_runner.children import Child, Children, Spec
from perstack_runner.messages import Blob, Limits
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.output import Feed, Output, within
from perstack_runner.tools.program import Programs
from perstack_runner.tools.tree import Tree

DEFAULT_TIMEOUT_MS: Final = 60_000
LONGEST_TIMEOUT_MS: Final = 3_600_000
SHOWN_BYTES: Final = 32 << 10
_LAST_OUTPUT_SECONDS: Final = 0.5


class Commands:
    """Runs programs below a workspace, with one environment. `programs` are those of our own, without it."""

    def __init__(self, tree: Tree, children: Children, environment: Mapping[str, str], limits: Limits) -> None:
        self._tree = tree
        self._children = children
        self._environment = dict(environment)
        self._limits = limits
        self.programs = Programs(tree, children)

    async def execute(self, arguments: dict[str, Any], feed: Feed) -> Outcome:
        """Run a program to its end or its time-out. What it leaves running ends with it; also when this is cancelled.

        Raises:
            ToolFailure: invalid_arguments, command_not_found, path_outside_workspace, process_limit_reached.
        """
        if not arguments["command"]:
            raise ToolFailure("invalid_arguments", "command must not be empty")
        output = Output(self._limits.result_bytes, feed)
        try:
            child = await self._start(arguments, output)
            try:
                timed_out = not await within(child.exited, self._timeout(arguments) / 1000)
            finally:
                clean = await self._children.end(child)
            await within(output.ended, _LAST_OUTPUT_SECONDS)
        finally:
            output.close()
        return self._outcome(arguments, child, output, timed_out=timed_out, clean=clean)

    def _timeout(self, arguments: dict[str, Any]) -> int:
        asked: int = arguments.get("timeout", DEFAULT_TIMEOUT_MS)
        return min(asked, self._limits.tool_timeout_ms or LONGEST_TIMEOUT_MS, LONGEST_TIMEOUT_MS)

    async def _start(self, arguments: dict[str, Any], output: Output) -> Child:
        command, where = arguments["command"], arguments.get("cwd") or arguments.get("workspacePath") or "."
        stdout, stderr = (
            output.writer if arguments.get(name, True) else subprocess.DEVNULL for name in ("stdout", "stderr")
        )
        environment = {**self._environment, **arguments.get("env", {})}
        argv = [command, *arguments.get("args", [])]
        try:
            spec = Spec(argv, environment, lambda: self._directory(where), stdout=stdout, stderr=stderr)
            return await self._children.start(spec)
        except FileNotFoundError:
            raise ToolFailure(
                "command_not_found", f"{command}: not in PATH or in {where}, or its interpreter is missing"
            ) from None
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
