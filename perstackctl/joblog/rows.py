"""One readable line for each event, aligned, at any width. Pure: the width is an argument.

From wide to narrow: the number, the time of day (UTC), the time since the job began, who and which step, and what it
says; a narrow terminal gets less of the front. Without a width nothing is cut but what is very long by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from perstackctl.client.values import Event
from perstackctl.output import rfc3339
from perstackctl.terminal import line, width
from perstackctl.watch import payload as p
from perstackctl.watch.trace import Trace
from perstackctl.watch.words import SHORT, words

_WITH_TYPE: Final = 150
_ROOMY: Final = 110
_WITH_CLOCK: Final = 76
_WITH_SEQ: Final = 56
_TYPE: Final = 24
_NAME: Final = 20
_NARROW_NAME: Final = 12


@dataclass(slots=True)
class Rows:
    """Writes the lines of one job. `columns` 0 means as wide as it takes."""

    columns: int
    _day: str = field(default="", init=False)

    def of(self, trace: Trace, event: Event, fields: p.Fields) -> Iterator[str]:
        """The line of an event that `trace` has folded already; a new day has a line of its own before it."""
        day = rfc3339(event.timestamp)[:10]
        if day and day != self._day and self._wide(_WITH_CLOCK):
            self._day = day
            yield f"--- {day} UTC ---"
        said = "; ".join(words(trace, event, fields)) or _unsaid(trace, event, fields)
        yield self._cut(f"{self._front(trace, event)}{said}")

    def _wide(self, least: int) -> bool:
        return not self.columns or self.columns >= least

    def _front(self, trace: Trace, event: Event) -> str:
        cells = []
        if self._wide(_WITH_SEQ):
            cells.append(f"{event.seq:>5}")
        if self._wide(_WITH_CLOCK):
            cells.append(clock(event.timestamp)[: None if self._wide(_ROOMY) else 8])
        cells.append(f"{since(event.timestamp - trace.started_at):>9}")
        if self._wide(_WITH_TYPE):
            cells.append(f"{line(event.type, _TYPE):<{_TYPE}}")
        cells.append(self._who(trace, event))
        return " ".join(cells) + " "

    def _who(self, trace: Trace, event: Event) -> str:
        most = _NAME if self._wide(_ROOMY) else _NARROW_NAME
        if not event.run_id:
            return _padded("job", most + 4)
        indent = " " * min(trace.depth(event.run_id), 6)
        step = f"#{event.step_number}" if event.step_number else ""
        return f"{_padded(indent + line(event.expert_key, most - len(indent)), most)}{step:>4}"

    def _cut(self, text: str) -> str:
        if not self.columns or width(text) <= self.columns:
            return text
        kept, used = 0, 1
        while kept < len(text) and (used := used + width(text[kept])) <= self.columns:
            kept += 1
        return text[:kept].rstrip() + "…"


def _unsaid(trace: Trace, event: Event, fields: p.Fields) -> str:
    """What is not told to somebody who watches, because the next event tells it."""
    if event.type == "sandboxReleased":
        return "gave its sandbox back"
    run = trace.runs.get(event.run_id)
    if run is None:
        return line(event.type, _TYPE)
    if event.type == "callTools":
        calls = p.parts(p.member(fields, "turn"), "parts", "toolCall")
        return f"calls {', '.join(line(p.text(call, 'name'), _NAME) for call in calls)}"
    results = p.items(fields, "results")
    answers = [call for result in results if (call := run.call(p.text(result, "callId"))) is not None]
    told = "; ".join(f"{line(call.name)} answered: {line(call.result, SHORT)}" for call in answers)
    return told or (f"{len(results)} results" if results else "has all results of the step")


def _padded(text: str, most: int) -> str:
    return text + " " * (most - width(text))


def clock(milliseconds: int) -> str:
    """The time of day in UTC, to the millisecond."""
    at = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{at:%H:%M:%S}.{milliseconds % 1000:03d}"


def since(milliseconds: int) -> str:
    """A time since the beginning: +12.345s, +5m02.1s, +3h05m, +2d03h."""
    sign, rest = ("+", milliseconds) if milliseconds >= 0 else ("-", -milliseconds)
    seconds = rest / 1000
    if rest < 60_000:
        return f"{sign}{seconds:.3f}s"
    minutes = rest // 60_000
    if minutes < 60:
        return f"{sign}{minutes}m{rest % 60_000 / 1000:04.1f}s"
    hours = minutes // 60
    return f"{sign}{hours}h{minutes % 60:02d}m" if hours < 48 else f"{sign}{hours // 24}d{hours % 24:02d}h"
