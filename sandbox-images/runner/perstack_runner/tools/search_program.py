"""The process behind searchText: a program of its own, so that it can be killed. Imports nothing but the library.

Working directory: what is searched, or the directory of the one file. Standard input: JSON of search.request, one line.
Standard output: one JSON object, {matches, files, truncated?} or {error, message}.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator

TYPE_CHECKING = False  # typing itself would be a fifth of the start-up
if TYPE_CHECKING:
    from typing import Any

FILE_BYTES = 64 << 20
LINE_CHARACTERS = 500
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
            if self.truncated:
                return
            if time.monotonic() > self._deadline:
                self.truncated = "out of time; use a narrower path or glob"
            elif self._wanted(path, name):
                self._file(path, name, directory)

    def _wanted(self, path: str, name: str) -> bool:
        glob = self._request["glob"]
        return not glob or fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(path, glob)

    def _file(self, path: str, name: str, directory: int) -> None:
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=directory)
        except OSError:
            return  # gone, a link, or not ours to read
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            content = file.read(FILE_BYTES)
        if b"\0" in content[:8192]:
            return
        self.files += 1
        self._lines(path, content.decode("utf-8", "replace").split("\n"))

    def _lines(self, path: str, lines: list[str]) -> None:
        around = self._request["context"]
        for index, line in enumerate(lines):
            if self._expression.search(line):
                match: dict[str, Any] = {"file": path, "line": index, "text": line[:LINE_CHARACTERS]}
                if around:
                    match["before"] = [text[:LINE_CHARACTERS] for text in lines[max(0, index - around) : index]]
                    match["after"] = [text[:LINE_CHARACTERS] for text in lines[index + 1 : index + 1 + around]]
                self._keep(match)
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


def _files(skipped: list[str]) -> Iterator[tuple[str, str, int]]:
    for top, directories, names, descriptor in os.fwalk(".", follow_symlinks=False):
        directories[:] = sorted(name for name in directories if name not in skipped)
        for name in sorted(names):
            yield os.path.normpath(f"{top}/{name}"), name, descriptor


def main() -> None:
    """Answer one request."""
    answer: dict[str, Any]
    request = json.loads(sys.stdin.buffer.readline())
    try:
        search = Search(request)
        search.run(request["only"])
        answer = {"matches": search.matches, "files": search.files}
        if search.truncated:
            answer["truncated"] = search.truncated
    except (re.error, RecursionError, OverflowError) as error:
        answer = {"error": "invalid_pattern", "message": f"not a regular expression of Python's: {error}"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
