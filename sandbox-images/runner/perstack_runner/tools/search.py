"""Looking things up: files by glob on a thread, text by regular expression in a process that can be killed.

A regular expression can take for ever and holds the interpreter while it does, so none of a model's runs in here.
"""

import fnmatch
import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from perstack_runner.tools.outcome import Outcome, ToolFailure
from perstack_runner.tools.tree import MAX_DEPTH, Tree

FIND_LIMIT: Final = 200
FIND_SECONDS: Final = 20.0
FIND_ENTRIES: Final = 500_000
SEARCH_SECONDS: Final = 20.0
SEARCH_ANSWER_BYTES: Final = 1 << 20
SEARCH_MEMORY: Final = 384 << 20
SKIPPED: Final = (".git", "node_modules")


def find(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Paths, below `path`, of files that match, in order of the walk; bounded in number, entries looked at and time."""
    start, pattern = arguments.get("path", "."), arguments["pattern"].strip("/")
    limit = arguments.get("limit", FIND_LIMIT)
    segments = tuple(part for part in pattern.split("/") if part)
    if not segments or len(segments) > MAX_DEPTH or ".." in segments:
        raise ToolFailure("invalid_arguments", "pattern has to be a glob below path, such as src/**/*.py")
    with tree.place(start) as place:
        root = tree.open_directory(place)
    skipped = tuple(name for name in SKIPPED if name not in segments)
    walk = _Walk(time.monotonic() + FIND_SECONDS, skipped)
    found = []
    try:
        for path in walk.files(root, ()):
            if matches(path, segments):
                found.append("/".join(path))
                if len(found) > limit:
                    break
    finally:
        os.close(root)
    value: dict[str, Any] = {"path": start, "files": found[:limit]}
    if len(found) > limit or walk.cut:
        value["truncated"] = walk.cut or f"more than {limit} files match; use a narrower pattern or path"
    return Outcome(value)


class _Walk:
    """A depth-first walk by descriptors that follows no link; `cut` says why it is not complete."""

    def __init__(self, deadline: float, skipped: tuple[str, ...]) -> None:
        self._deadline = deadline
        self._skipped = skipped
        self._seen = 0
        self.cut = ""

    def files(self, directory: int, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        with os.scandir(directory) as entries:
            looked_at = islice(entries, FIND_ENTRIES - self._seen + 1)  # a directory may have millions
            listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in looked_at)
        for name, is_directory in listed:
            self._seen += 1
            if self._seen > FIND_ENTRIES or time.monotonic() > self._deadline:
                self.cut = f"stopped after {self._seen} entries; use a narrower path"
                return
            if not is_directory:
                yield (*above, name)
            elif name not in self._skipped:
                yield from self._below(directory, (*above, name))

    def _below(self, directory: int, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(path) > MAX_DEPTH:
            self.cut = f"stopped at {MAX_DEPTH} levels of directories; use a narrower path"
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            inner = os.open(path[-1], flags, dir_fd=directory)
        except OSError:
            return  # gone, swapped for a link, or not ours to read: not a place to look in
        try:
            yield from self.files(inner, path)
        finally:
            os.close(inner)


def matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a glob by segments matches; `**` spans any number of them. Linear in the product of both lengths."""
    reachable = {0}
    for part in path:
        reachable = _expand(reachable, pattern)
        following = {at for at in reachable if at < len(pattern) and pattern[at] == "**"}
        following |= {
            at + 1
            for at in reachable
            if at < len(pattern) and pattern[at] != "**" and fnmatch.fnmatchcase(part, pattern[at])
        }
        reachable = following
    return len(pattern) in _expand(reachable, pattern)


def _expand(reachable: set[int], pattern: tuple[str, ...]) -> set[int]:
    expanded = set(reachable)
    for at in sorted(reachable):
        position = at
        while position < len(pattern) and pattern[position] == "**":
            position += 1
            expanded.add(position)
    return expanded


def request(arguments: dict[str, Any], only: str) -> bytes:
    """What search_program.py reads from its standard input; `only` names the one file to search."""
    fields = {
        "pattern": arguments["pattern"],
        "only": only,
        "glob": arguments.get("glob", ""),
        "context": arguments.get("context", 0),
        "ignoreCase": arguments.get("ignoreCase", False),
        "limit": arguments.get("limit", 100),
        "skipped": SKIPPED,
        "seconds": SEARCH_SECONDS,
        "memory": SEARCH_MEMORY,
        "bytes": SEARCH_ANSWER_BYTES // 2,
    }
    return json.dumps(fields).encode()


def answer(raw: bytes, path: str) -> Outcome:
    """The program's answer as an outcome. Raises ToolFailure when it is none, or names a fault of the pattern."""
    try:
        value = json.loads(raw)
    except ValueError:
        raise ToolFailure(
            "search_failed", "the search ended without an answer; use a narrower path or pattern"
        ) from None
    if "error" in value:
        raise ToolFailure(value["error"], value["message"])
    return Outcome({"path": path, **value})
