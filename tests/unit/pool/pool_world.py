"""Jobs that delegate, played out against the planner: whatever the planner does is checked, whatever may happen next
can be chosen.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from perstackd.domain import pool
from perstackd.domain.ids import JobId, RunId, SandboxId
from perstackd.domain.pool import MAX_DEPTH, Expire, Halt, Hand, PoolState, Seat, Stage, Start, WaitingClaim
from perstackd.domain.pool_plan import Planned, plan
from perstackd.domain.sandbox import Template

Event = tuple[str, Callable[[], None]]


@dataclass(frozen=True)
class Task:
    """A run: the pools of the sandboxes that it needs at once, and the runs that it delegates to, one by one or all."""

    needs: Sequence[str]
    children: tuple["Task", ...] = ()
    parallel: bool = True


@dataclass(eq=False)
class Run:
    task: Task
    job: JobId
    depth: int
    created_at: int
    parent: "Run | None" = None
    claims: dict[int, str] = field(default_factory=dict)
    seats: list[tuple[str, SandboxId]] = field(default_factory=list)
    asked: int = 0
    done: int = 0

    @property
    def party(self) -> int:
        return min(self.claims)

    @property
    def owner(self) -> pool.Owner:
        return self.depth, self.job, RunId(f"r{self.party}")


@dataclass
class Mishaps:
    """How often each may happen."""

    failures: int = 0
    losses: int = 0
    stuck_removals: int = 0
    cancels: int = 0


@dataclass
class World:
    templates: Mapping[str, Template]
    mishaps: Mishaps = field(default_factory=Mishaps)
    states: dict[str, PoolState] = field(default_factory=dict)
    waiting: list[Run] = field(default_factory=list)
    running: list[Run] = field(default_factory=list)
    owners: dict[pool.Owner, Run] = field(default_factory=dict)
    open_jobs: int = 0
    numbers: int = 0
    now: float = 0.0
    peak: Counter[str] = field(default_factory=Counter)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def begin(self, run: Run) -> None:
        run.claims = {self.number(): name for name in run.task.needs}
        self.waiting.append(run)
        self.owners[run.owner] = run
        group = run.party if len(run.claims) > 1 else 0
        for number, name in run.claims.items():
            claim = WaitingClaim(number, run.job, run.depth, run.created_at, run.owner[2], group)
            self.states[name] = pool.arrived(self.states[name], claim)

    # --- the planner's part -----------------------------------------------------------------------------------------
    def advance(self) -> None:
        planned = plan(self.states, self.templates, self.now, self.states)
        self.check_order(planned)
        for name, action in planned:
            self.act(name, action)
        self.check_seats()
        again = plan(self.states, self.templates, self.now, self.states)
        assert not any(isinstance(action, Hand | Expire) for _, action in again)

    def act(self, name: str, action: pool.Action) -> None:
        state = self.states[name]
        match action:
            case Hand(claim_id=claim_id, sandbox_id=sandbox_id):
                run = next(run for run in self.waiting if claim_id in run.claims)
                seat = next(seat for seat in state.seats if seat.sandbox_id == sandbox_id)
                assert seat.stage is Stage.IDLE
                assert seat.level == 0 or seat.owner == run.owner
                assert run.claims[claim_id] == name
                self.states[name] = pool.handed(state, action, self.now)
                run.seats.append((name, sandbox_id))
                if len(run.seats) == len(run.claims):
                    self.waiting.remove(run)
                    self.running.append(run)
            case Expire(sandbox_id=sandbox_id):
                self.states[name] = pool.removing(state, sandbox_id, self.now)
            case Halt():
                self.states[name] = pool.halted(state, action)
            case Start(count=count, level=level, job_id=job_id, run_id=run_id):
                for _ in range(count):
                    seat = Seat(SandboxId(f"s{self.number()}"), Stage.STARTING, self.now, level, job_id, run_id)
                    self.states[name] = pool.launched(self.states[name], seat)

    def check_seats(self) -> None:
        assert not any(run.seats for run in self.waiting), "all or none"
        reserve: list[Seat] = []
        for name, state in self.states.items():
            seats = [seat for seat in state.seats if seat.stage is not Stage.QUARANTINED]
            above = [seat for seat in seats if seat.level]
            assert len(seats) - len(above) <= self.templates[name].max
            for owner, count in Counter(seat.owner for seat in above).items():
                assert count <= self.owners[owner].task.needs.count(name)
            self.peak[name] = max(self.peak[name], len(seats))
            reserve += above
        assert len({seat.job_id for seat in reserve}) <= 1
        owners = {seat.owner for seat in reserve}
        assert len({level for level, _, _ in owners}) == len(owners) <= MAX_DEPTH, "one run for each level"
        assert sum(state.count(Stage.STARTING) for state in self.states.values()) <= pool.MAX_STARTS

    def check_order(self, planned: Sequence[Planned]) -> None:
        """Nobody takes a sandbox that is there for one before, and the first is served as soon as it can be."""
        if any(state.halted for state in self.states.values()):
            return
        handed = {action.sandbox_id: action.claim_id for _, action in planned if isinstance(action, Hand)}
        queue = sorted(self.waiting, key=lambda run: (run.depth == 0, run.party))
        unserved = [run for run in queue if run.party not in handed.values()]
        for name, state in self.states.items():
            idle = [seat for seat in state.seats if seat.stage is Stage.IDLE]
            left = sum(seat.level == 0 and seat.sandbox_id not in handed for seat in idle)
            regular = {handed.get(seat.sandbox_id) for seat in idle if seat.level == 0}
            last = max((at for at, run in enumerate(queue) if regular & set(run.claims)), default=0)
            before = [run for run in queue[:last] if run in unserved]
            assert sum(self.lacks(run, name) for run in before) <= left, "first come, first served"
        if unserved:
            assert any(self.lacks(unserved[0], name) > self.free(name, handed) for name in self.states)

    def lacks(self, run: Run, name: str) -> int:
        """Sandboxes that it needs of the pool beside what is idle for it alone."""
        own = sum(seat.stage is Stage.IDLE and seat.owner == run.owner for seat in self.states[name].seats)
        return run.task.needs.count(name) - own

    def free(self, name: str, handed: Mapping[SandboxId, int]) -> int:
        seats = self.states[name].seats
        return sum(seat.stage is Stage.IDLE and not seat.level and seat.sandbox_id not in handed for seat in seats)

    # --- what may happen --------------------------------------------------------------------------------------------
    def possible(self) -> list[Event]:
        """Without mishaps when there is nothing else: what goes on must not depend on them."""
        events = [event for name in self.states for event in self.of_pool(name)]
        for run in self.running:
            if run.done == len(run.task.children):
                events.append(("finish", lambda run=run: self.finish(run)))  # type: ignore[misc]
            elif run.asked < len(run.task.children) and (run.task.parallel or run.asked == run.done):
                events.append(("delegate", lambda run=run: self.delegate(run)))  # type: ignore[misc]
        if events and self.mishaps.cancels:
            events += [("cancel", lambda run=run: self.cancel(run)) for run in self.waiting]  # type: ignore[misc]
        return events

    def of_pool(self, name: str) -> list[Event]:
        events: list[Event] = []
        for seat in self.states[name].seats:
            if seat.stage is Stage.STARTING:
                events.append(("start", lambda seat=seat: self.started(name, seat)))  # type: ignore[misc]
            if seat.stage is Stage.REMOVING:
                events.append(("remove", lambda seat=seat: self.gone(name, seat)))  # type: ignore[misc]
            if seat.stage is Stage.IDLE and self.mishaps.losses:
                events.append(("lose", lambda seat=seat: self.lost(name, seat)))  # type: ignore[misc]
        return events

    def started(self, name: str, seat: Seat) -> None:
        if self.mishaps.failures:
            self.mishaps.failures -= 1
            self.states[name] = pool.failed(self.states[name], seat.sandbox_id, "told to", self.now)
        else:
            self.states[name] = pool.settled(self.states[name], seat.sandbox_id, 1.0, self.now)

    def gone(self, name: str, seat: Seat) -> None:
        if self.mishaps.stuck_removals:
            self.mishaps.stuck_removals -= 1
            self.states[name] = pool.quarantined(self.states[name], seat.sandbox_id, self.now)
        else:
            self.states[name] = pool.removed(self.states[name], seat.sandbox_id)

    def lost(self, name: str, seat: Seat) -> None:
        self.mishaps.losses -= 1
        self.states[name] = pool.lost(self.states[name], seat.sandbox_id, "told to", self.now)

    def delegate(self, run: Run) -> None:
        child = Run(run.task.children[run.asked], run.job, run.depth + 1, run.created_at, run)
        run.asked += 1
        self.begin(child)

    def cancel(self, run: Run) -> None:
        self.mishaps.cancels -= 1
        self.waiting.remove(run)
        for number, name in run.claims.items():
            self.states[name] = pool.left(self.states[name], number)
        self.over(run)

    def finish(self, run: Run) -> None:
        self.running.remove(run)
        for name, sandbox_id in run.seats:
            self.states[name] = pool.removing(self.states[name], sandbox_id, self.now)
        self.over(run)

    def over(self, run: Run) -> None:
        if run.parent is None:
            self.open_jobs -= 1
        else:
            run.parent.done += 1


def world(templates: Sequence[Template], jobs: Sequence[Task], mishaps: Mishaps | None = None) -> World:
    made = World({each.name: each for each in templates}, mishaps or Mishaps())
    made.states = {each.name: PoolState() for each in templates}
    made.open_jobs = len(jobs)
    for number, task in enumerate(jobs):
        made.begin(Run(task, JobId(f"j{number}"), 0, number))
    return made


def play(made: World, choose: Callable[[int], int] = lambda _: 0) -> World:
    """Until nothing can happen any more; time passes only when nothing else does, as for a pause after a failure."""
    for _ in range(20_000):
        made.advance()
        events = made.possible()
        if events:
            events[choose(len(events))][1]()
        elif any(state.retry_at > made.now for state in made.states.values()):
            made.now = min(state.retry_at for state in made.states.values() if state.retry_at > made.now)
        else:
            return made
    raise AssertionError("it goes on for ever")
