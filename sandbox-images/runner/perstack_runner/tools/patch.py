"""A unified diff as values: PURE. Reads what git and diff print, and what models write in their manner.

Where the counts of a hunk's header do not fit its lines, the lines count: models miscount, and since old lines have to
match the file exactly, nothing is guessed by it. Our own parser, because the libraries for this (unidiff, whatthepatch)
refuse such a hunk or drop lines of it, and know neither quoted paths nor what to do with the result.

Source: git-diff(1), "Generating patch text with -p"; GNU diffutils, "Detailed Description of Unified Format".
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from perstack_runner.tools.outcome import ToolFailure

MOST_FILES: Final = 100
_HUNK: Final = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_ESCAPE: Final = re.compile(rb'\\([abtnvfr"\\]|[0-3][0-7]{2})')
_ESCAPES: Final = dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))
_PLAIN_MODES: Final = {"100644": False, "100755": True}
_NOWHERE: Final = "/dev/null"


class Hunk(NamedTuple):
    """Replace `old` by `new`, whole lines, at about line `start` (from 1; 0 or the line before, when `old` is empty).

    `old_open`, `new_open`: the last line is the file's last, and without a newline there; it has one in here.
    `tail_kept`: the last line is on both sides. `number` counts from 1, `line` is the header's in the patch.
    """

    number: int
    line: int
    start: int
    old: bytes
    new: bytes
    old_open: bool
    new_open: bool
    tail_kept: bool
    added: int
    removed: int


class FilePatch(NamedTuple):
    """What happens to one file. `source` is empty when it is created, `target` when it is deleted.

    `executable` is None when the permissions stay, or are a new file's.
    """

    source: str
    target: str
    hunks: tuple[Hunk, ...]
    executable: bool | None = None

    @property
    def path(self) -> str:
        """By which name to speak of it."""
        return self.source or self.target


def parse(text: str) -> tuple[FilePatch, ...]:
    """The files of a patch, in order; text around them is passed over.

    Raises:
        ToolFailure: invalid_patch, naming the line; binary_patch.
    """
    files = _Parser(text.split("\n")).files()
    if not files:
        raise ToolFailure("invalid_patch", "no file in it: each begins with the lines `--- a/PATH` and `+++ b/PATH`")
    if len(files) > MOST_FILES:
        raise ToolFailure("invalid_patch", f"{len(files)} files, and one patch has {MOST_FILES} at most")
    paths = [path for file in files for path in dict.fromkeys((file.source, file.target)) if path]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ToolFailure("invalid_patch", f"{twice}: is in the patch twice; put all its hunks below one header")
    return tuple(files)


class _Section:
    """A file as far as it is read. `names` are None while unknown, empty for /dev/null."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.names: list[str | None] = [None, None]
        self.hunks: list[Hunk] = []
        self.renamed: list[str | None] = [None, None]
        self.created = self.deleted = False
        self.executable: bool | None = None

    def may_be(self, names: set[str]) -> bool:
        """Whether names that come now can be those of this file: git's first lines may have told them already."""
        known = {*self.names, *self.renamed} - {None}
        return not known or names <= known

    def finished(self) -> FilePatch:
        source, target = (new if new is not None else old for old, new in zip(self.names, self.renamed, strict=True))
        if source is None or target is None:
            raise _invalid(self.line, "a file without its names: give the lines `--- a/PATH` and `+++ b/PATH`")
        source, target = "" if self.created else source, "" if self.deleted else target
        if source and target and source != target and None in self.renamed:
            raise _invalid(
                self.line, f"{source} and {target} differ; a rename has the lines `rename from`, `rename to`"
            )
        changes = self.hunks or source != target or self.executable is not None
        if not changes or not (source or target):
            raise _invalid(self.line, f"{source}: no hunk follows")
        return FilePatch(source, target, tuple(self.hunks), self.executable)


class _Parser:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0
        self._section: _Section | None = None
        self._files: list[FilePatch] = []

    def files(self) -> list[FilePatch]:
        while self._at < len(self._lines):
            line = self._lines[self._at].removesuffix("\r")
            if line.startswith("diff --git "):
                self._begin().names = _git_names(line)
            elif _names_follow(self._lines, self._at):
                self._take_names()
                continue
            elif line.startswith("@@"):
                self._take_hunk(line)
                continue
            elif self._section is not None and not self._section.hunks:
                _take_header(self._section, line, self._at + 1)
            self._at += 1
        self._end()
        return self._files

    def _begin(self) -> _Section:
        self._end()
        self._section = _Section(self._at + 1)
        return self._section

    def _end(self) -> None:
        if self._section is not None:
            self._files.append(self._section.finished())
            self._section = None

    def _take_names(self) -> None:
        old, new = (_name(self._lines[at].removesuffix("\r")[4:]) for at in (self._at, self._at + 1))
        if all(name.startswith(prefix) or name == _NOWHERE for name, prefix in ((old, "a/"), (new, "b/"))):
            old, new = (name if name == _NOWHERE else name[2:] for name in (old, new))
        section = self._section
        if section is None or section.hunks or not section.may_be({old, new} - {_NOWHERE}):
            section = self._begin()
        section.created |= old == _NOWHERE
        section.deleted |= new == _NOWHERE
        section.names = [old, new]
        self._at += 2

    def _take_hunk(self, header: str) -> None:
        section, line = self._section, self._at + 1
        if section is None:
            raise _invalid(line, "a hunk without a file: give the lines `--- a/PATH` and `+++ b/PATH` before it")
        found = _HUNK.match(header)
        if found is None:
            raise _invalid(line, f"not a hunk's header, which is `@@ -LINE,COUNT +LINE,COUNT @@`: {header[:80]}")
        start, old, _, new = (int(number) if number else 1 for number in found.groups())
        end = _counted(self._lines, line, old, new) or _recounted(self._lines, line)
        hunk = _hunk(len(section.hunks) + 1, line, start, self._lines[line:end])
        if not hunk.old and not hunk.new:
            raise _invalid(line, "a hunk without lines")
        section.hunks.append(hunk)
        self._at = end


def _take_header(section: _Section, line: str, number: int) -> None:
    """What git writes between a file's first line and its names."""
    for prefix, side in (("rename from ", 0), ("rename to ", 1)):
        if line.startswith(prefix):
            section.renamed[side] = _name(line[len(prefix) :])
    if line.startswith(("GIT binary patch", "Binary files ")):
        raise ToolFailure("binary_patch", f"line {number} of the patch: binary files cannot be patched")
    if line.startswith("copy from "):
        raise _invalid(number, "copies are not made; create the file, or copy it with exec")
    mode = re.fullmatch(r"(old|new|new file|deleted file) mode (\d+)", line)
    if mode is None:
        return
    if mode[2] not in _PLAIN_MODES:
        raise _invalid(number, f"mode {mode[2]}: only regular files are patched")
    section.created |= mode[1] == "new file"
    section.deleted |= mode[1] == "deleted file"
    if mode[1] in ("new", "new file"):
        section.executable = _PLAIN_MODES[mode[2]] or (None if section.created else False)


# --- names ------------------------------------------------------------------------------------------------------------
def _names_follow(lines: Sequence[str], at: int) -> bool:
    return lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ ")


def _git_names(line: str) -> list[str | None]:
    """Both names of `diff --git a/X b/X`, when they are the same: others stand in the lines that follow."""
    rest = line.removeprefix("diff --git ")
    middle = len(rest) // 2
    names = [_name(rest[:middle]), _name(rest[middle + 1 :])]
    if names[0].startswith("a/") and names[1].startswith("b/"):
        names = [name[2:] for name in names]
    return [names[0], names[0]] if names[0] == names[1] and rest[middle : middle + 1] == " " else [None, None]


def _name(text: str) -> str:
    """A path, unquoted, without the time that diff puts behind a tab."""
    if not (text.startswith('"') and text.rstrip().endswith('"') and len(text) > 1):
        return text.partition("\t")[0].rstrip(" ")
    quoted = text.rstrip()[1:-1].encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(_unescaped, quoted).decode("utf-8", "surrogateescape")


def _unescaped(escape: "re.Match[bytes]") -> bytes:
    code = escape[1]
    return bytes((int(code, 8) if len(code) == 3 else _ESCAPES[code[0]],))


# --- hunks ------------------------------------------------------------------------------------------------------------
def _counted(lines: Sequence[str], at: int, old: int, new: int) -> int | None:
    """Where the hunk ends that begins at `at`, when it has as many lines as its header says and no more."""
    while old > 0 or new > 0:
        sign = lines[at][:1] if at < len(lines) else "end"
        if sign not in ("", "\r", " ", "-", "+", "\\"):
            return None
        old -= sign not in ("+", "\\")
        new -= sign not in ("-", "\\")
        at += 1
    if old < 0 or new < 0:
        return None
    if at < len(lines) and lines[at].startswith("\\"):
        at += 1
    more = at < len(lines) and lines[at][:1] in (" ", "-", "+") and not _names_follow(lines, at)
    return None if more and lines[at].rstrip() != "--" else at  # git format-patch ends with a signature below `-- `


def _recounted(lines: Sequence[str], at: int) -> int:
    """Where it ends by its lines alone: before the next header, or a line that belongs to no hunk."""
    end = at
    while end < len(lines) and lines[end][:1] in ("", " ", "-", "+", "\\") and not _names_follow(lines, end):
        end += 1
    while end > at and not lines[end - 1]:
        end -= 1
    return end


def _hunk(number: int, line: int, start: int, body: Sequence[str]) -> Hunk:
    sides: tuple[list[str], list[str]] = ([], [])
    is_open = [False, False]
    last: tuple[int, ...] = ()
    for offset, text in enumerate(body):
        if text.startswith("\\"):
            for side in last:
                is_open[side] = True
            continue
        last = {"-": (0,), "+": (1,)}.get(text[:1], (0, 1))
        if any(is_open[side] for side in last):
            raise _invalid(line + offset, "a line follows the one that has no newline at the end of the file")
        for side in last:
            sides[side].append(text[1:] + "\n")
    try:
        old, new = ("".join(side).encode() for side in sides)
    except UnicodeEncodeError:
        raise _invalid(line, "half of a surrogate pair, which is no text") from None
    added, removed = (sum(text.startswith(sign) for text in body) for sign in ("+", "-"))
    return Hunk(number, line, start, old, new, is_open[0], is_open[1], last == (0, 1), added, removed)


def _invalid(line: int, message: str) -> ToolFailure:
    return ToolFailure("invalid_patch", f"line {line} of the patch: {message}")
