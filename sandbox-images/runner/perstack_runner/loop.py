"""The runner at work: feeds orders to machine.py and does what it says, in order.

Owns every task. The order at the end: no more calls, no more skills (each has its bound), the workplace, the link.
"""

import asyncio
import os
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final, assert_never

from perstack_runner import machine
from perstack_runner.calls import RunningCalls
from perstack_runner.children import Children
from perstack_runner.link import Link, LinkGone
from perstack_runner.log import log
from perstack_runner.machine import AnswerProbe, AskTurn, Leave, Report, RunCalls, SayReady, TakeOver
from perstack_runner.messages import (
    Acknowledged,
    Assign,
    CancelCalls,
    Elicit,
    Elicited,
    Failure,
    Finish,
    Hello,
    NextTurn,
    Order,
    Probe,
    ProbeResult,
    Ready,
    Refused,
    Rejected,
    SkillState,
    ToolResults,
    Turn,
    Welcome,
)
from perstack_runner.outward import Outward
from perstack_runner.proxy import Proxy
from perstack_runner.results import pack
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.tree import Tree
from perstack_runner.workplace import Surroundings, Workplace, open_workplace, way_out

PROBE_BYTES: Final = 4 << 10
STOP_SECONDS: Final = 6.0
FLUSH_SECONDS: Final = 1.0


class Runner:
    """One session, from Hello to Finish."""

    def __init__(self, socket_path: str, hello: Hello, surroundings: Surroundings, schemas: Mapping[str, Any]) -> None:
        self._surroundings = surroundings
        self._schemas = schemas
        self._session = machine.Session()
        self._children = Children(surroundings.landlock_abi, adopts_orphans=surroundings.adopts_orphans)
        self._link = Link(socket_path, hello, self._take)
        self._proxy: Proxy | None = None
        self._workplace: Workplace | None = None
        self._calls: RunningCalls | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._left = asyncio.Event()
        self.exit_code = 0

    async def run(self) -> int:
        """Serve the session to its end; the exit code: 0 finished, 1 could not go on, 3 no daemon any more."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            link = group.create_task(self._serve_link())
            await self._left.wait()
            await self._stop()
            self._link.close()
            await asyncio.wait((link,), timeout=FLUSH_SECONDS)
            link.cancel()
        return self.exit_code

    def leave(self, code: int = 0) -> None:
        """Come to an end, as after Finish. Idempotent; the first code holds."""
        if not self._left.is_set():
            self.exit_code = code
            self._left.set()

    async def _serve_link(self) -> None:
        """What an assignment needs of the runner is there before it calls: a claim should wait for the tree alone."""
        try:
            await self._make_ready()
            await self._link.run()
        except LinkGone as gone:
            log(str(gone))
            self.leave(3)

    async def _make_ready(self) -> None:
        await asyncio.to_thread(os.getpid)  # the first call makes a thread, which takes longer than opening a tree
        try:
            self._proxy = await way_out(self._surroundings)
        except OSError as error:
            log(f"the proxy's port cannot be used yet: {error.strerror}")

    async def _stop(self) -> None:
        """Cancel calls and skills, and wait for their bounded ends."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            if late:
                log(f"{len(late)} tasks did not end in {STOP_SECONDS:.0f} s")
        if self._workplace is not None:
            await self._workplace.close()
        elif self._proxy is not None:
            await self._proxy.close()
        self._children.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None or self._left.is_set():
            work.close()
            return
        task = self._group.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A fault of the runner itself ends it with a cause that the daemon is told."""
        try:
            await work
        except Exception as error:
            await self._fail("runner_failed", f"the runner failed: {type(error).__name__}")

    async def _fail(self, reason: str, message: str) -> None:
        log(f"{reason}: {message}")
        self._link.send(Failure(reason, message))
        await self._link.flush(FLUSH_SECONDS)
        self.leave(1)

    # --- orders in ----------------------------------------------------------------------------------------------------
    def _take(self, order: Order) -> None:
        match order:
            case Welcome():
                self._decide(machine.Welcomed())
            case Probe() | Assign() | Turn() | Finish():
                self._decide(order)
            case CancelCalls(call_ids=call_ids):
                if self._calls is not None:
                    self._calls.cancel(call_ids)
            case Elicited():
                if self._workplace is not None:
                    self._workplace.answer(order)
            case Refused(counter=counter, reason=reason):
                log(f"message {counter} was refused: {reason}")
            case Acknowledged() | Rejected():
                return  # the link's own matter
            case _:
                assert_never(order)

    def _decide(self, event: machine.Event) -> None:
        self._session, actions = machine.decide(self._session, event)
        for action in actions:
            self._do(action)

    def _do(self, action: machine.Action) -> None:
        match action:
            case AnswerProbe(path=path):
                self._start(self._probe(path))
            case TakeOver(assign=assign):
                self._start(self._take_over(assign))
            case SayReady():
                self._say_ready()
            case AskTurn(step=step):
                self._link.send(NextTurn(step))
            case RunCalls(turn=turn):
                self._run_calls(turn)
            case Report(step=step, results=results):
                self._link.send(ToolResults(step, results))
            case Leave(reason=reason):
                log(f"finished: {reason}")
                self.leave(0)
            case _:
                assert_never(action)

    # --- work ---------------------------------------------------------------------------------------------------------
    async def _probe(self, path: str) -> None:
        content = await asyncio.to_thread(read_probe, self._surroundings.probe_root, path)
        self._link.send(ProbeResult(content))

    async def _take_over(self, assign: Assign) -> None:
        try:
            proxy = self._proxy = self._proxy or await way_out(self._surroundings)
            outward = Outward(self._report_skill, self._elicit)
            self._workplace = await open_workplace(assign, self._children, self._schemas, outward, proxy)
        except OSError as error:
            message = f"the workspace or the proxy's port cannot be used: {error.strerror or type(error).__name__}"
            await self._fail("workplace_unavailable", message)
            return
        self._decide(machine.TakenOver())

    def _say_ready(self) -> None:
        workplace = self._workplace
        if workplace is None:
            return
        self._calls = RunningCalls(lambda call: workplace.run(call, self._link.offer), workplace.call_seconds)
        self._link.send(Ready(workplace.assign.workspace_path))
        if workplace.skills is not None:
            for name, owning in workplace.skills.owners():
                self._start(owning(partial(self._decide, machine.SkillSettled(name))))

    def _run_calls(self, turn: Turn) -> None:
        calls, workplace = self._calls, self._workplace
        if calls is not None and workplace is not None:
            workplace.begin_turn()
            calls.begin(turn)
            self._start(self._results(calls, turn))

    async def _results(self, calls: RunningCalls, turn: Turn) -> None:
        """Run a turn's calls; their blobs go up before the report that the machine then asks for."""
        results = await calls.results(turn)
        workplace = self._workplace
        if workplace is None:
            return
        packed = await pack(turn.step, results, workplace.assign.limits)
        for chunk in packed.chunks:
            self._link.send(chunk)
        self._decide(machine.CallsEnded(turn.step, packed.report.results))

    def _report_skill(self, news: SkillState) -> None:
        if self._session.phase in machine.WORKING:
            self._link.send(news)

    def _elicit(self, question: Elicit) -> bool:
        if self._session.phase != "running":
            return False
        self._link.send(question)
        return True


def read_probe(root: str, path: str) -> bytes | None:
    """The first 4 KiB of a regular file below `root`, walked without leaving it; None when there is none. Blocking."""
    try:
        tree = Tree(root)
        try:
            with tree.place(path) as place:
                descriptor = tree.open_file(place, os.O_RDONLY)
        finally:
            tree.close()
    except (OSError, ToolFailure):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(PROBE_BYTES)
