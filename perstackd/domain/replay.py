"""A job's law, executed again over its own log: from each recorded turn, result and word of a person, what must follow
is decided anew and compared with what was written. No model, no sandbox, no clock.

What came from outside is taken from the facts themselves (`recorded_cause`); all else in them is the law's and must
come out equal. Two inputs are not in the log and are taken as they were: the prices of models, and how far the job's
other runs had come when a run decided (anything between this run's last fact and the one in hand).
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from perstackd.domain.budget import Tally
from perstackd.domain.commands import Command, Generated, Summarised
from perstackd.domain.events import (
    CallTools,
    ContinueToNextStep,
    Event,
    HistoryInherited,
    JobCreated,
    JobFinished,
    JobPaused,
    JobResumed,
    RunPayload,
    StartRun,
)
from perstackd.domain.ids import RunId
from perstackd.domain.job import EXIT_CODES, JobState
from perstackd.domain.messages import Usage
from perstackd.domain.recorded_cause import cause_of
from perstackd.domain.run import decide
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import RunState

_LOOK_AHEAD: Final = 64  # facts of one decision; a turn whose calls all want approval makes the most


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event that the law makes otherwise: what is recorded, and what is made of the same inputs. `made` is
    None when nothing is; `recorded` when something is missing after the event `seq`.
    """

    seq: int
    run_id: RunId
    expert_key: str
    step: int
    recorded: RunPayload | JobFinished | None
    made: RunPayload | JobFinished | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it: how many events were read, how many of them are state events of runs, of how many runs."""

    events: int
    facts: int
    runs: int
    divergence: Divergence | None


def replay(events: Sequence[Event]) -> Replay:
    """Execute the law again. `events` are all those of a job that ended, in order."""
    runs: dict[RunId, list[Event]] = {}
    for event in events:
        if isinstance(event.payload, RUN_FACTS):
            runs.setdefault(event.origin.run_id, []).append(event)
    timeline = _timeline(events)
    found = [diverging for facts in runs.values() if (diverging := _run(facts, timeline)) is not None]
    if not found and (diverging := _end(events, runs)) is not None:
        found.append(diverging)
    first = min(found, key=lambda each: each.seq, default=None)
    return Replay(len(events), sum(map(len, runs.values())), len(runs), first)


@dataclass(frozen=True, slots=True)
class _Timeline:
    """What the whole job had used after each event that changed it."""

    seqs: list[int]
    tallies: list[Tally]

    def between(self, after: int, before: int) -> Iterator[Tally]:
        """Tallies that held at some moment from the event `after` to the one before `before`, the latest first."""
        last = bisect_left(self.seqs, before) - 1
        while last >= 0:
            yield self.tallies[last]
            if self.seqs[last] <= after:
                return
            last -= 1


def _timeline(events: Iterable[Event]) -> _Timeline:
    timeline = _Timeline([0], [Tally()])
    states: dict[RunId, RunState] = {}
    for event in events:
        tally = _counted(timeline.tallies[-1], event, states)
        if tally != timeline.tallies[-1]:
            timeline.seqs.append(event.seq)
            timeline.tallies.append(tally)
    return timeline


def _counted(tally: Tally, event: Event, states: dict[RunId, RunState]) -> Tally:
    match event.payload:
        case JobCreated(budgets=budgets):
            return replace(tally, budgets=budgets)
        case JobPaused():
            return replace(tally, paused=True)
        case JobResumed():
            return replace(tally, paused=False)
        case payload if isinstance(payload, RUN_FACTS):
            return _used(tally, event.origin.run_id, payload, states)
        case _:
            return tally


def _used(tally: Tally, run_id: RunId, fact: RunPayload, states: dict[RunId, RunState]) -> Tally:
    before = states.get(run_id, RunState())
    state = states[run_id] = evolve(before, fact)
    steps = tally.steps + isinstance(fact, StartRun | ContinueToNextStep)
    calls = tally.tool_calls + (len(fact.turn.calls) if isinstance(fact, CallTools) else 0)
    return replace(tally, steps=steps, tool_calls=calls, tokens=tally.tokens + _tokens(state.usage - before.usage))


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens


def _run(events: Sequence[Event], timeline: _Timeline) -> Divergence | None:
    """The first divergence of one run."""
    facts: list[RunPayload] = [event.payload for event in events]  # type: ignore[misc]
    state, place = RunState(), 0
    while place < len(facts):
        if isinstance(facts[place], HistoryInherited):
            state, place = evolve(state, facts[place]), place + 1
            continue
        since = events[place - 1].seq if place else 0
        command = cause_of(state, facts[place])
        ahead = facts[place : place + _LOOK_AHEAD]
        made = _decided(state, command, ahead, timeline.between(since, events[place].seq))
        for offset, fact in enumerate(made or [None]):
            if place + offset == len(facts):
                return _diverging(events[-1], None, fact)
            if facts[place + offset] != fact:
                return _diverging(events[place + offset], facts[place + offset], fact)
            state = evolve(state, facts[place + offset])
        place += len(made)
    return None


def _decided(
    state: RunState, command: Command | None, recorded: Sequence[RunPayload], tallies: Iterable[Tally]
) -> Sequence[RunPayload]:
    """What follows from the command: under the tally that makes it so when one does, else under the latest."""
    first: Sequence[RunPayload] | None = None
    if command is None:
        return ()
    for tally in chain.from_iterable(_priced(_with(command, tally)) for tally in tallies):
        made = decide(state, command, tally)
        if made and tuple(recorded[: len(made)]) == made:
            return made
        first = made if first is None else first
    return first or ()


def _with(command: Command, tally: Tally) -> Tally:
    """The turn or the summary in hand counts when it is decided upon."""
    if not isinstance(command, Generated | Summarised):
        return tally
    calls = len(command.turn.calls) if isinstance(command, Generated) else 0
    return tally.plus(_tokens(command.turn.usage), 0, calls)


def _priced(tally: Tally) -> Iterator[Tally]:
    """The job's money is not in its log: it may have been spent or not."""
    yield tally
    if tally.budgets.microdollars:
        yield replace(tally, microdollars=tally.budgets.microdollars)


def _diverging(event: Event, recorded: RunPayload | None, made: RunPayload | None) -> Divergence:
    origin = event.origin
    return Divergence(event.seq, origin.run_id, origin.expert_key, origin.step, recorded, made)


def _end(events: Sequence[Event], runs: dict[RunId, list[Event]]) -> Divergence | None:
    """A job that says it is completed must have its coordinator's answer; every end has its exit code."""
    last = events[-1] if events else None
    if last is None or not isinstance(last.payload, JobFinished):
        return None
    recorded = last.payload
    made: JobFinished | None = replace(recorded, exit_code=EXIT_CODES[JobState(recorded.outcome)])
    if made is not None and recorded.outcome == JobState.COMPLETED:
        ends = [_ended(facts) for facts in runs.values() if not facts[0].origin.parent_run_id]
        answer = next((state.end.text for state in reversed(ends) if state.end is not None), None)
        made = replace(made, answer=answer) if answer is not None else None
    if made == recorded:
        return None
    return Divergence(last.seq, RunId(""), "", 0, recorded, made)


def _ended(facts: Iterable[Event]) -> RunState:
    state = RunState()
    for event in facts:
        state = evolve(state, event.payload)  # type: ignore[arg-type]
    return state
