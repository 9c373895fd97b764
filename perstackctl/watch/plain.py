"""A log: one line per thing as it happens, for terminals without cursor movement, for CI and for reading afterwards."""

import sys
from collections import deque
from collections.abc import Iterator
from typing import Final, TextIO

from perstackctl.client.values import Batch, Event, Job
from perstackctl.output import note
from perstackctl.standing import use
from perstackctl.terminal import clean, line
from perstackctl.watch import payload as p
from perstackctl.watch.trace import Trace, fold_event, fold_piece
from perstackctl.watch.words import words

# What says nothing new to somebody who watches; perstackctl job log has them all.
_QUIET: Final = frozenset(
    {
        "jobAdmitted",
        "initializeRuntime",
        "proxyAccess",
        "resumeToolCalls",
        "finishAllToolCalls",
        "continueToNextStep",
        "stopRunByDelegate",
        "stopRunByInteractiveTool",
    }
)
_HELD_LINES: Final = 10_000


def lines(trace: Trace, event: Event) -> Iterator[str]:
    """The lines of an event; `trace` has it folded already. Events that say nothing new to a reader have none."""
    fields = p.fields_of(event)
    if event.type in _QUIET:
        return
    stamp = f"{(event.timestamp - trace.started_at) / 1000:9.3f}s"
    run = trace.runs.get(event.run_id)
    step = f" #{event.step_number}" if event.step_number else ""
    who = f"{'  ' * trace.depth(run.id)}{line(run.expert)}{step}: " if run else ""
    yield from (f"{stamp}  {who}{said}" for said in words(trace, event, fields))


class PlainLog:
    """The display that prints `lines`, and the answer below them. While it is held its lines wait."""

    interval = 1.0
    tells_cost = True

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._held = False
        self._waiting: deque[str] = deque()

    def paint(self, before: Trace, batch: Batch) -> Trace:
        for event in batch.events:
            before = fold_event(before, event)
            self._waiting.extend(lines(before, event))
        if not self._held or len(self._waiting) > _HELD_LINES:
            self._print()
        for piece in batch.pieces:
            before = fold_piece(before, piece)
        return before

    def tick(self, trace: Trace, now: int) -> None:
        pass

    def notice(self, text: str) -> None:
        note(text)

    def hold(self) -> None:
        self._held = True

    def go_on(self) -> None:
        self._held = False
        self._print()

    def abandon(self) -> None:
        pass

    def close(self, trace: Trace, job: Job | None = None) -> None:
        self._print()
        if job is not None:
            self._out.write(f"{'':10}  {use(job)}\n")
        if trace.answer:
            self._out.write(f"\n{clean(trace.answer)}\n")
        self._out.flush()

    def _print(self) -> None:
        while self._waiting:
            self._out.write(self._waiting.popleft() + "\n")
        self._out.flush()
