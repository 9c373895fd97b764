"""What a log adds up to, run by run, in memory that grows with the runs and not with the events. Pure.

Above: job log --summary and job tree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from perstackctl.client.values import Event, Usage
from perstackctl.watch import payload as p
from perstackctl.watch.run_trace import Run
from perstackctl.watch.trace import Trace, fold_event

MOST_TOOLS: Final = 64
OTHERS: Final = "(others)"


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run. `outcome` is empty while it goes on; `phase` says where it stands then. Times are milliseconds."""

    id: str
    parent_id: str
    expert: str
    depth: int
    query: str
    outcome: str
    phase: str
    detail: str
    steps: int
    usage: Usage
    duration_ms: int
    questions: int
    tools: Mapping[str, int]
    failed_tools: Mapping[str, int]

    @property
    def state(self) -> str:
        """How it ended, or that it has not."""
        return self.outcome or ("asks" if self.questions else self.phase)


@dataclass(slots=True)
class Tally:
    """Folds a log."""

    trace: Trace = field(default_factory=Trace)
    _tools: dict[str, dict[str, int]] = field(default_factory=dict, init=False)
    _failed: dict[str, dict[str, int]] = field(default_factory=dict, init=False)

    def add(self, event: Event, fields: p.Fields) -> None:
        """The next event of the log."""
        self.trace = fold_event(self.trace, event)
        run = self.trace.runs.get(event.run_id)
        if run is None:
            return
        if event.type == "callTools":
            for call in p.parts(p.member(fields, "turn"), "parts", "toolCall"):
                _count(self._tools.setdefault(run.id, {}), p.text(call, "name"))
        for result in p.items(fields, "results"):
            self._result(run, result)

    def _result(self, run: Run, result: p.Fields) -> None:
        call = run.call(p.text(result, "callId")) if result.get("isError") is True else None
        if call is not None:
            _count(self._failed.setdefault(run.id, {}), call.name)

    def runs(self, now: int) -> Iterator[RunLine]:
        """The runs, each followed by those that it started; `now` is for those that go on."""
        yield from self._below("", 0, now)

    def _below(self, run_id: str, depth: int, now: int) -> Iterator[RunLine]:
        for run in self.trace.children(run_id):
            yield self._line(run, depth, now)
            if depth < len(self.trace.runs):
                yield from self._below(run.id, depth + 1, now)

    def _line(self, run: Run, depth: int, now: int) -> RunLine:
        return RunLine(
            id=run.id,
            parent_id=run.parent_id,
            expert=run.expert,
            depth=depth,
            query=run.query,
            outcome=run.outcome,
            phase=run.phase,
            detail=run.detail,
            steps=run.step,
            usage=run.usage,
            duration_ms=max(0, self._end(run, now) - run.started_at),
            questions=len(run.questions),
            tools=self._tools.get(run.id, {}),
            failed_tools=self._failed.get(run.id, {}),
        )

    def _end(self, run: Run, now: int) -> int:
        return run.ended_at or (self.trace.last_at if self.trace.outcome else max(now, self.trace.last_at))


def _count(counts: dict[str, int], name: str) -> None:
    key = name if name in counts or len(counts) < MOST_TOOLS else OTHERS
    counts[key] = counts.get(key, 0) + 1


def document(run: RunLine) -> dict[str, Any]:
    """A run as JSON knows it."""
    usage = run.usage
    return {
        "runId": run.id,
        "parentRunId": run.parent_id,
        "expertKey": run.expert,
        "query": run.query,
        "outcome": run.outcome or None,
        "phase": run.phase,
        "detail": run.detail,
        "steps": run.steps,
        "usage": {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "cachedInputTokens": usage.cached_input_tokens,
            "reasoningTokens": usage.reasoning_tokens,
        },
        "durationMs": run.duration_ms,
        "openQuestions": run.questions,
        "toolCalls": dict(run.tools),
        "failedToolCalls": dict(run.failed_tools),
    }
