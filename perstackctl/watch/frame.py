"""One picture of a job for a terminal: the tree of its runs, in as many lines and columns as there are. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from perstackctl.output import count, elapsed
from perstackctl.terminal import clean, line, width
from perstackctl.watch.run_trace import Run, ToolCall
from perstackctl.watch.trace import Trace
from perstackctl.watch.words import question_words

_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPIN_MS: Final = 100
_GUIDE: Final = 4
_MARKS: Final = {
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "stopped": ("■", "yellow"),
    "cancelled": ("■", "yellow"),
    "refused": ("✗", "red"),
}
_PHASES: Final = {
    "waiting": "waits",
    "preparing": "prepares",
    "generating": "thinks",
    "retrying": "tries again",
    "calling": "works",
    "delegating": "delegates",
    "asking": "asks",
    "resolving": "works",
    "finishing": "works",
    "result": "answers",
}


@dataclass(frozen=True, slots=True)
class Detail:
    """How much of a run is shown: lines of calls and of text below it, and how many runs that ended."""

    calls: int
    text: int
    ended_runs: int


_DETAILS: Final = (
    Detail(6, 4, 50),
    Detail(4, 3, 20),
    Detail(3, 2, 10),
    Detail(2, 1, 5),
    Detail(1, 1, 3),
    Detail(1, 0, 1),
    Detail(0, 0, 1),
    Detail(0, 0, 0),
)


@dataclass(frozen=True, slots=True)
class Size:
    """Columns and lines of a terminal."""

    columns: int
    lines: int


def frame(trace: Trace, now: int, size: Size) -> RenderableType:
    """The job at `now` (milliseconds since the epoch), with as much detail as fits; lines are never wrapped."""
    for detail in _DETAILS:
        rows = _Rows(trace, now, size.columns, detail)
        tree, used = rows.tree()
        if used < size.lines:
            return tree
    return _Rows(trace, now, size.columns, _DETAILS[-1]).first_lines(size.lines - 1)


@dataclass(slots=True)
class _Rows:
    """Builds one frame and counts its lines."""

    trace: Trace
    now: int
    columns: int
    detail: Detail
    used: int = 1

    def tree(self) -> tuple[Tree, int]:
        root = Tree(self._job(), guide_style="dim")
        self._runs(root, "", 1)
        return root, self.used

    def first_lines(self, most: int) -> RenderableType:
        """For a terminal that is lower than there are runs at work: those that fit, without a tree."""
        active = [run for run in self.trace.runs.values() if not run.outcome]
        shown = [self._run(run, 0) for run in active[: max(0, most - 2)]]
        more = [Text(f"… {len(active) - len(shown)} more runs", "dim")] if len(active) > len(shown) else []
        return Group(*[self._job(), *shown, *more][: max(1, most)])

    def _job(self) -> Text:
        trace = self.trace
        end = trace.last_at if trace.outcome else max(self.now, trace.last_at)
        usage = trace.usage
        state = trace.outcome or _standing(trace)
        return self._fitted(
            0,
            Text("job ", "dim") + Text(trace.job_id or "…", "bold"),
            [
                _styled(state, _MARKS.get(trace.outcome, ("", "yellow"))[1]),
                _styled(elapsed(end - trace.started_at) if trace.started_at else "", "cyan"),
                _styled(_tokens(usage.input_tokens, usage.output_tokens), "dim"),
            ],
        )

    def _runs(self, node: Tree, parent_id: str, depth: int) -> None:
        runs = self.trace.children(parent_id)
        ended = [run.id for run in runs if run.outcome and parent_id]
        hidden = set(ended[: max(0, len(ended) - self.detail.ended_runs)])
        if hidden:
            self._add(node, Text(f"… {len(hidden)} runs that ended", "dim"))
        for run in runs:
            if run.id in hidden:
                continue
            branch = self._add(node, self._run(run, depth))
            self._below(branch, run, depth + 1)
            self._runs(branch, run.id, depth + 1)

    def _add(self, node: Tree, text: Text) -> Tree:
        self.used += text.plain.count("\n") + 1
        return node.add(text)

    def _run(self, run: Run, depth: int) -> Text:
        mark, style = _MARKS.get(run.outcome, (_SPINNER[self.now // _SPIN_MS % len(_SPINNER)], "cyan"))
        end = run.ended_at or max(self.now, run.started_at)
        phase = run.outcome or _PHASES.get(run.phase, run.phase)
        if run.step and not run.outcome:
            phase += f" #{run.step}"
        return self._fitted(
            depth,
            Text(f"{mark} ", style) + Text(line(run.expert), "bold"),
            [
                _styled(phase, style),
                _styled(elapsed(end - run.started_at), "cyan"),
                _styled(_tokens(run.usage.input_tokens, run.usage.output_tokens), "dim"),
                _styled(_why(run), "yellow" if not run.outcome else style),
            ],
        )

    def _below(self, branch: Tree, run: Run, depth: int) -> None:
        if run.outcome:
            return
        for call in _shown_calls(run, self.detail.calls):
            output = self._tail("" if call.ended_at else call.output.text, depth + 1, "dim")
            self._add(branch, Text("\n  ").join([self._call(call, depth), *output]))
        if reason := list(self._tail(run.said if run.questions else "", depth, "")):
            self._add(branch, Text("\n").join(reason))
        for question in run.questions[: max(1, self.detail.calls)]:
            asked = [_styled(f"[{line(question.short_id, 24)}]", "dim")]
            words = Text("? ", "yellow") + Text(line(question_words(question), 300))
            self._add(branch, self._fitted(depth, words, asked))
        style = "dim italic" if run.stream.kind == "streamReasoning" else ""
        said = list(self._tail(run.stream.text, depth, style))
        if said:
            self._add(branch, Text("\n").join(said))

    def _call(self, call: ToolCall, depth: int) -> Text:
        ok = ("✗", "red") if call.is_error else ("✓", "green")
        mark, style = ok if call.ended_at else ("•", "cyan")
        took = elapsed((call.ended_at or max(self.now, call.started_at)) - call.started_at)
        head = Text(f"{mark} ", style) + Text(line(call.name))
        wrong = line(call.result, 200) if call.is_error else ""
        return self._fitted(depth, head, [_styled(took, "cyan"), _styled(wrong or line(call.arguments, 200), "dim")])

    def _tail(self, text: str, depth: int, style: str) -> Iterator[Text]:
        """The last lines of a text as the terminal would break them."""
        room = max(10, self.columns - depth * _GUIDE - 2)
        if not text or not self.detail.text:
            return
        recent = clean(text[-room * (self.detail.text + 1) * 4 :]).expandtabs(4)
        broken = [piece for row in recent.splitlines() for piece in _broken(row, room)]
        for row in broken[-self.detail.text :]:
            yield Text(row, style, no_wrap=True, overflow="ellipsis")

    def _fitted(self, depth: int, text: Text, rest: Iterable[Text]) -> Text:
        """The first words, and of the others as many as there is room for; the last one may be cut."""
        room = self.columns - depth * _GUIDE
        for words in rest:
            left = room - text.cell_len - 2
            if not words.plain or left < min(8, words.cell_len):
                continue
            if words.cell_len > left:
                words.truncate(left, overflow="ellipsis")
            text = text + Text("  ") + words
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def _styled(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True)


def _tokens(incoming: int, outgoing: int) -> str:
    return f"{count(incoming)}↑ {count(outgoing)}↓" if incoming or outgoing else ""


def _standing(trace: Trace) -> str:
    if trace.queue:
        return f"waits, {line(trace.queue, 60)}"
    if trace.stalled:
        return "waits for an answer"
    return "paused" if trace.paused else "running"


def _why(run: Run) -> str:
    if run.outcome:
        return line(run.detail, 200) if run.outcome != "completed" else ""
    return line(run.note, 200)


def _shown_calls(run: Run, most: int) -> tuple[ToolCall, ...]:
    """The calls that run, then the latest that ended; delegations are shown as runs."""
    own = [call for call in run.calls if not call.expert]
    running = [call for call in own if not call.ended_at][:most]
    ended = [call for call in own if call.ended_at]
    kept = {call.id for call in (*running, *ended[max(0, len(ended) - (most - len(running))) :])}
    return tuple(call for call in own if call.id in kept)


def _broken(row: str, room: int) -> Iterator[str]:
    """A row in pieces that fit, broken after a blank where there is one."""
    while row:
        end, used = 0, 0
        while end < len(row) and used + (step := width(row[end])) <= room:
            end, used = end + 1, used + step
        if end < len(row):
            end = row.rfind(" ", 0, end) + 1 or max(1, end)
        yield row[:end].rstrip()
        row = row[end:]
