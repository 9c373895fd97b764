"""Search for words in long texts. Words and no expressions: whatever is looked for, a text is gone through once."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

PIECE: Final = 32 << 10
"""Characters that are looked at in one go; between two of them others have their turn."""
MAX_PATTERN: Final = 256
MAX_TERMS: Final = 8
LINE_SHOWN: Final = 300
_OVERLAP: Final = MAX_PATTERN


@dataclass(slots=True)
class Hit:
    """A line with all the words; `lines` are it and those around it."""

    line: int
    lines: list[str]
    piece: int = 0
    awaits: int = 0


def terms_of(pattern: str) -> tuple[str, ...]:
    """The words of a pattern in lower case; what stands in double quotes is one.

    Raises:
        ValueError: with a sentence for the model.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern may have {MAX_PATTERN} characters")
    quoted = pattern.split('"')
    found = [word for place, part in enumerate(quoted) for word in ([part] if place % 2 else part.split())]
    terms = tuple(dict.fromkeys(word.lower() for word in found if word.strip()))
    if not terms:
        raise ValueError("the pattern has no words")
    if len(terms) > MAX_TERMS:
        raise ValueError(f"the pattern may have {MAX_TERMS} words; put a phrase in double quotes")
    return terms


@dataclass(slots=True)
class LineSearch:
    """One text, in pieces. Hits are found in `hits`, at most `limit`; lines count from 0."""

    terms: tuple[str, ...]
    context: int
    limit: int
    hits: list[Hit] = field(default_factory=list)
    _line: int = field(default=0, init=False)
    _carry: str = field(default="", init=False)
    _pieces: int = field(default=0, init=False)
    _before: deque[str] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        self._before = deque(maxlen=self.context)

    def feed(self, text: str) -> bool:
        """Look at the next piece; whether another one is wanted."""
        text = self._carry + text
        whole, _, self._carry = text.rpartition("\n")
        if len(text) > len(self._carry):
            self._look(whole)
        if len(self._carry) > PIECE:  # a line without end: words that stand far apart in it are not found together
            self._check(self._carry)
            self._carry = self._carry[-_OVERLAP:]
        self._pieces += 1
        return not self.full or any(hit.awaits for hit in self.hits)

    def end(self) -> list[Hit]:
        """The text is over; its hits."""
        if self._carry:
            self._look(self._carry)
            self._carry = ""
        return self.hits

    @property
    def full(self) -> bool:
        """Whether there are as many hits as were wanted."""
        return len(self.hits) >= self.limit

    def _look(self, whole: str) -> None:
        lowered = whole.lower()
        waiting = any(hit.awaits for hit in self.hits[-self.context - 1 :])
        if not waiting and not all(term in lowered for term in self.terms):
            self._pass(whole)
            return
        for line in whole.split("\n"):
            self._check(line)
            self._before.append(line[:LINE_SHOWN])
            self._line += 1

    def _pass(self, whole: str) -> None:
        self._line += whole.count("\n") + 1
        if self.context:
            self._before.extend(line[:LINE_SHOWN] for line in whole.rsplit("\n", self.context)[-self.context :])

    def _check(self, line: str) -> None:
        for hit in self.hits[-self.context - 1 :]:
            if hit.awaits:
                hit.lines.append(line[:LINE_SHOWN])
                hit.awaits -= 1
        lowered = line.lower()
        again = bool(self.hits) and self.hits[-1].line == self._line
        if self.full or again or not all(term in lowered for term in self.terms):
            return
        self.hits.append(
            Hit(self._line, [*self._before, _around(line, lowered, self.terms)], self._pieces, self.context)
        )


def _around(line: str, lowered: str, terms: tuple[str, ...]) -> str:
    """The part of a long line in which its words are."""
    if len(line) <= LINE_SHOWN:
        return line
    first = max(0, min(lowered.find(term) for term in terms) - LINE_SHOWN // 4)
    return f"{'...' if first else ''}{line[first : first + LINE_SHOWN]}..."
