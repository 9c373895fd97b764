"""Putting hunks into a text: PURE, but for the bound of time. Old lines match exactly, where the header says or next to
it; what lies nearer wins, and of two at the same distance the later, as with patch(1) and a fuzz of 0.

Works on bytes, with finds over the whole text, so that a file of millions of short lines takes no more memory than it
has bytes.
"""

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.patch import Hunk

APPLY_SECONDS: Final = 20.0
MOST_MISFITS: Final = 5
_SHOWN_LINES: Final = 12
_SHOWN_BYTES: Final = 1 << 10


class Misfit(NamedTuple):
    """A hunk that does not fit. `line` is where it should (from 1), `found` what stands there."""

    hunk: int
    line: int
    message: str
    expected: str
    found: str


class Applied(NamedTuple):
    """A patched text, or what did not fit. `moved`: by how many lines hunks, by number, fitted further down."""

    content: bytes
    moved: dict[int, int]
    misfits: tuple[Misfit, ...]


def apply(content: bytes, hunks: Sequence[Hunk]) -> Applied:
    """Put hunks, in order, into `content`. Raises ToolFailure too_large when it takes over 20 s."""
    work = _Text(content, time.monotonic() + APPLY_SECONDS)
    for hunk in hunks:
        work.put(hunk)
        if len(work.misfits) >= MOST_MISFITS:
            break
    return Applied(work.patched(), work.moved, tuple(work.misfits))


class _Text:
    """`self._done` bytes, which are `self._lines` lines, are behind the last hunk."""

    def __init__(self, content: bytes, deadline: float) -> None:
        self._open = bool(content) and not content.endswith(b"\n")
        self._ends_open = self._open
        self._text = content + b"\n" if self._open else content
        self._deadline = deadline
        self._done = self._lines = self._drift = 0
        self._pieces: list[bytes] = []
        self.moved: dict[int, int] = {}
        self.misfits: list[Misfit] = []

    def put(self, hunk: Hunk) -> None:
        self._check_time()
        wanted = max(hunk.start - bool(hunk.old) + self._drift, 0)
        near = self._offset(wanted)
        for variant in _variants(hunk, self._text):
            at = self._find(variant, near) if variant.old else self._gap(variant, wanted, near)
            if at is not None:
                self._replace(variant, at, wanted)
                return
        self.misfits.append(self._misfit(hunk, wanted, near))

    def _offset(self, line: int) -> int:
        """Where a line begins, or the end; never before what is done."""
        at = self._done
        for _ in range(line - self._lines):
            at = self._text.find(b"\n", at) + 1
            if at == 0:
                return len(self._text)
        return at

    def _gap(self, hunk: Hunk, wanted: int, near: int) -> int | None:
        """Where a hunk without old lines goes: behind the line that it names, which has to be there."""
        there = wanted - self._lines <= self._text.count(b"\n", self._done)
        return near if there and self._fits_end(hunk, near) else None

    def _find(self, hunk: Hunk, near: int) -> int | None:
        if self._text.startswith(hunk.old, near) and self._fits_end(hunk, near):
            return near
        before = after = None
        at = self._next(hunk.old, self._done)
        while at is not None:
            if self._fits_end(hunk, at):
                if at > near:
                    after = at
                    break
                before = at
            at = self._next(hunk.old, at + 1)
        if before is None or after is None:
            return after if before is None else before
        nearer = self._text.count(b"\n", before, near) < self._text.count(b"\n", near, after)
        return before if nearer else after

    def _next(self, old: bytes, start: int) -> int | None:
        """The next place at the beginning of a line."""
        self._check_time()
        if start == self._done and self._text.startswith(old, start):
            return start
        at = self._text.find(b"\n" + old, max(start - 1, self._done))
        return None if at < 0 else at + 1

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise ToolFailure("too_large", f"its hunks found no place in {APPLY_SECONDS:.0f} s; use editTextFile")

    def _fits_end(self, hunk: Hunk, at: int) -> bool:
        """A line without a newline is the file's last, and the file is as the hunk says."""
        if not (hunk.old_open or hunk.new_open):
            return True
        return at + len(hunk.old) == len(self._text) and (self._open or not hunk.old_open)

    def _replace(self, hunk: Hunk, at: int, wanted: int) -> None:
        line = self._lines + self._text.count(b"\n", self._done, at)
        if line != wanted:
            self.moved[hunk.number] = line - wanted
        self._drift += line - wanted
        self._pieces += (self._text[self._done : at], hunk.new)
        self._done = at + len(hunk.old)
        self._lines = line + hunk.old.count(b"\n")
        if self._done == len(self._text):
            # Who leaves the last line as it is, and does not speak of its newline, means to leave that too.
            self._ends_open = hunk.new_open or (self._open and hunk.tail_kept and not hunk.old_open)

    def patched(self) -> bytes:
        whole = b"".join((*self._pieces, self._text[self._done :]))
        return whole[:-1] if self._ends_open and whole.endswith(b"\n") else whole

    # --- what did not fit ---------------------------------------------------------------------------------------------
    def _misfit(self, hunk: Hunk, wanted: int, near: int) -> Misfit:
        end = near
        for _ in range(min(hunk.old.count(b"\n"), _SHOWN_LINES)):
            end = self._text.find(b"\n", end) + 1 or len(self._text)
        found = self._text[near : min(end, near + _SHOWN_BYTES)]
        return Misfit(hunk.number, wanted + 1, self._reason(hunk, wanted, found), _shown(hunk.old), _shown(found))

    def _reason(self, hunk: Hunk, wanted: int, found: bytes) -> str:
        if hunk.added and self._next(hunk.new, self._done) is not None:
            return "the old lines do not occur, but the new ones do: it seems to be applied already"
        if hunk.old_open and not self._open:
            return "the patch says that the file has no newline at its end, but it has"
        if not hunk.old:
            return f"the file has no line {hunk.start} to add behind"
        for offset, (old, there) in enumerate(zip(hunk.old.split(b"\n"), found.split(b"\n"), strict=False)):
            if old != there:
                return f"line {wanted + 1 + offset} is {_quoted(there)}, and not {_quoted(old)}"
        return "the old lines do not occur behind the hunk before"


def _variants(hunk: Hunk, text: bytes) -> list[Hunk]:
    """The hunk, and with the other line endings when those are the file's."""
    crlf = b"\r\n" in text
    if crlf and b"\r\n" not in hunk.old + hunk.new:
        other = hunk._replace(old=hunk.old.replace(b"\n", b"\r\n"), new=hunk.new.replace(b"\n", b"\r\n"))
        return [hunk, other] if hunk.old else [other]
    if not crlf and b"\r\n" in hunk.old + hunk.new and text:
        return [hunk._replace(old=hunk.old.replace(b"\r\n", b"\n"), new=hunk.new.replace(b"\r\n", b"\n"))]
    return [hunk]


def _shown(lines: bytes) -> str:
    kept = b"".join(lines.splitlines(keepends=True)[:_SHOWN_LINES])[:_SHOWN_BYTES]
    return kept.decode("utf-8", "replace") + ("" if len(kept) == len(lines) else "[...]")


def _quoted(line: bytes) -> str:
    return repr(line[:120].decode("utf-8", "replace"))
