"""The process behind searchText: a program of its own, so that it can be killed. Imports nothing but the library.

Working directory: what is searched, or the directory of the one file. Standard input: JSON of search.request, one line.
Standard output: one JSON object, {matches, files, truncated?} or {error, message}. Files are read in blocks, so that
their size costs time but no memory.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import resource
import stat
import sys
import time
from collections.abc import Iterator

TYPE_CHECKING = False  # typing itself would be a fifth of the start-up
if TYPE_CHECKING:
    from typing import Any

BLOCK_BYTES = 1 << 20
LINE_BYTES = 4 << 20
"""What is searched of a line."""
LINE_CHARACTERS = 500
_LEAD_CHARACTERS = 100
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Search:
    """One search: where it stands, and when it has enough."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._expression = re.compile(request["pattern"], re.IGNORECASE if request["ignoreCase"] else 0)
        self._deadline = time.monotonic() + request["seconds"] * 0.9
        self._size = 0
        self.files = 0
        self.matches: list[dict[str, Any]] = []
        self.truncated = ""

    def run(self, only: str) -> None:
        """Search the file `only` of the working directory, or everything below when it is empty."""
        if only:
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
            self._file(only, only, directory)
            return
        for path, name, directory in _files(self._request["skipped"]):
            self._check_time(path)
            if self.truncated:
                return
            if self._wanted(path, name):
                self._file(path, name, directory)

    def _check_time(self, path: str) -> None:
        if time.monotonic() > self._deadline:
            self.truncated = self.truncated or f"out of time at {path}; use a narrower path or glob"

    def _wanted(self, path: str, name: str) -> bool:
        glob = self._request["glob"]
        return not glob or fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(path, glob)

    def _file(self, path: str, name: str, directory: int) -> None:
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=directory)
        except OSError:
            return  # gone, a link, or not ours to read
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and b"\0" not in os.pread(descriptor, 8192, 0):
                self.files += 1
                self._lines(path, descriptor)
        finally:
            os.close(descriptor)

    def _lines(self, path: str, descriptor: int) -> None:
        """Search a window of lines that moves on by blocks; those at its end wait for what follows them."""
        around = self._request["context"]
        window: list[str] = []
        first = at = 0
        for lines in _blocks(descriptor):
            window += lines
            end = max(at, len(window) - around) if lines else len(window)
            for index in range(at, end):
                found = self._expression.search(window[index])
                if found is not None:
                    match = _match(window[index], found.start(), _context(window, index, around))
                    self._keep({"file": path, "line": first + index, **match})
                    if self.truncated:
                        return
            done = max(0, end - around)
            del window[:done]
            first, at = first + done, end - done
            self._check_time(f"{path}, line {first + at}")
            if self.truncated:
                return

    def _keep(self, match: dict[str, Any]) -> None:
        if len(self.matches) >= self._request["limit"]:
            self.truncated = f"more than {self._request['limit']} matches; use a narrower pattern, path or glob"
            return
        self._size += len(json.dumps(match))
        if self._size > self._request["bytes"]:
            self.truncated = "the answer is full; use a narrower pattern, path or glob"
            return
        self.matches.append(match)


def _match(line: str, start: int, context: dict[str, list[str]]) -> dict[str, Any]:
    if len(line) <= LINE_CHARACTERS:
        return {"text": line, **context}
    lead = max(0, start - _LEAD_CHARACTERS)
    return {"text": line[lead : lead + LINE_CHARACTERS], "column": start, **context}


def _context(window: list[str], index: int, around: int) -> dict[str, list[str]]:
    if not around:
        return {}
    before, after = window[max(0, index - around) : index], window[index + 1 : index + 1 + around]
    return {name: [text[:LINE_CHARACTERS] for text in lines] for name, lines in (("before", before), ("after", after))}


def _blocks(descriptor: int) -> Iterator[list[str]]:
    """The file's lines, some at a time, and an empty list at its end."""
    rest = b""
    skipping = False
    while block := os.read(descriptor, BLOCK_BYTES):
        if skipping:
            _, newline, block = block.partition(b"\n")
            skipping = not newline
        rest += block
        whole, newline, rest = rest.rpartition(b"\n")
        if newline:
            yield _decoded(whole)
        elif len(rest) > LINE_BYTES:
            yield _decoded(rest[:LINE_BYTES])
            rest, skipping = b"", True
    if rest:
        yield _decoded(rest)
    yield []


def _decoded(lines: bytes) -> list[str]:
    return lines.decode("utf-8", "replace").split("\n")


def _files(skipped: list[str]) -> Iterator[tuple[str, str, int]]:
    for top, directories, names, descriptor in os.fwalk(".", follow_symlinks=False):
        directories[:] = sorted(name for name in directories if name not in skipped)
        for name in sorted(names):
            yield os.path.normpath(f"{top}/{name}"), name, descriptor


def _bound(memory: int, seconds: float) -> None:
    limits = ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_CORE, 0))
    for limit, most in limits:
        resource.setrlimit(limit, (most, most))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123 - the first to go, not the runner
        file.write("1000")


def main() -> None:
    """Answer one request."""
    answer: dict[str, Any]
    request = json.loads(sys.stdin.buffer.readline())
    _bound(request["memory"], request["seconds"])
    try:
        search = Search(request)
        search.run(request["only"])
        answer = {"matches": search.matches, "files": search.files}
        if search.truncated:
            answer["truncated"] = search.truncated
    except (re.error, RecursionError, OverflowError) as error:
        answer = {"error": "invalid_pattern", "message": f"not a regular expression of Python's: {error}"}
    except MemoryError:
        message = (
            f"it needs more than {request['memory'] >> 20} MiB of memory; use a simpler pattern or a narrower path"
        )
        answer = {"error": "search_failed", "message": message}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
