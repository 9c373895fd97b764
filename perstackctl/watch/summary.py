"""Nothing while the job runs, then its runs as a table and the answer."""

import sys
from typing import Final, TextIO

from perstackctl.client.values import Batch, Job
from perstackctl.output import count, elapsed, note, table
from perstackctl.standing import use
from perstackctl.terminal import clean, line
from perstackctl.watch.run_trace import Run
from perstackctl.watch.trace import Trace, fold

_HEADERS: Final = ("EXPERT", "RUN", "OUTCOME", "STEPS", "CALLS", "IN", "OUT", "TOOK")


class Summary:
    """The display of `-o table`."""

    interval = 1.0
    tells_cost = True

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def paint(self, before: Trace, batch: Batch) -> Trace:
        return fold(before, batch)

    def tick(self, trace: Trace, now: int) -> None:
        pass

    def notice(self, text: str) -> None:
        note(text)

    def hold(self) -> None:
        pass

    def go_on(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self, trace: Trace, job: Job | None = None) -> None:
        if trace.runs:
            rows = [_row(trace, run) for run in trace.runs.values()]
            self._out.write(table(_HEADERS, rows, right=("STEPS", "CALLS", "IN", "OUT", "TOOK")) + "\n")
            if job is not None:
                self._out.write(f"\n{use(job)}\n")
        said = trace.answer or trace.message
        if said:
            self._out.write(f"\n{clean(said)}\n")
        self._out.flush()


def _row(trace: Trace, run: Run) -> tuple[object, ...]:
    took = elapsed((run.ended_at or trace.last_at) - run.started_at)
    name = f"{'└ ' * trace.depth(run.id)}{line(run.expert)}"
    usage = run.usage
    return (
        name,
        run.id,
        run.outcome or run.phase,
        run.step,
        run.calls_total,
        count(usage.input_tokens),
        count(usage.output_tokens),
        took,
    )
