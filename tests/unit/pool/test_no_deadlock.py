"""Jobs that delegate at random, over two pools, played out against the planner in random order: all finish."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.domain import pool
from perstackd.domain.ids import JobId, SandboxId
from perstackd.domain.pool import MAX_DEPTH, Expire, Halt, Hand, PoolState, Seat, Stage, Start, WaitingClaim
from perstackd.domain.sandbox import Template


@dataclass(frozen=True)
class Task:
    """A run: the pool that it needs, and the runs that it delegates to, one by one or all at once."""

    template: str
    children: tuple["Task", ...] = ()
    parallel: bool = True


@dataclass(eq=False)
class Run:
    task: Task
    job: JobId
    depth: int
    created_at: int
    parent: "Run | None" = None
    sandbox: SandboxId | None = None
    asked: int = 0
    done: int = 0
    claim: int = 0


@dataclass
class World:
    """Everything that can happen next is a pair of a name and what it is about."""

    templates: dict[str, Template]
    states: dict[str, PoolState]
    runs: dict[int, Run] = field(default_factory=dict)
    claimed: list[Run] = field(default_factory=list)
    open_jobs: int = 0
    numbers: int = 0
    now: float = 0.0
    peak: dict[str, int] = field(default_factory=dict)
    failures_left: int = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def begin(self, run: Run) -> None:
        run.claim = self.number()
        self.runs[run.claim] = run
        claim = WaitingClaim(run.claim, run.job, run.depth, run.created_at)
        self.states[run.task.template] = pool.arrived(self.states[run.task.template], claim)

    def advance(self) -> None:
        for name, template in self.templates.items():
            among = pool.shared(self.states, self.templates, self.now)
            for action in pool.plan(self.states[name], template, self.now, among):
                self.act(name, action)
            self.check(name)

    def act(self, name: str, action: pool.Action) -> None:
        state = self.states[name]
        match action:
            case Hand(claim_id=claim_id, sandbox_id=sandbox_id):
                self.states[name] = pool.handed(state, action, self.now)
                run = self.runs.pop(claim_id)
                run.sandbox = sandbox_id
                self.claimed.append(run)
            case Expire(sandbox_id=sandbox_id):
                self.states[name] = pool.removing(state, sandbox_id, self.now)
            case Halt():
                self.states[name] = pool.halted(state, action)
            case Start(count=count, level=level, job_id=job_id):
                for _ in range(count):
                    seat = Seat(SandboxId(f"s{self.number()}"), Stage.STARTING, self.now, level, job_id)
                    self.states[name] = pool.launched(self.states[name], seat)

    def check(self, name: str) -> None:
        seats = [seat for seat in self.states[name].seats if seat.stage is not Stage.QUARANTINED]
        reserve = [seat for seat in seats if seat.level]
        assert len(seats) - len(reserve) <= self.templates[name].max
        assert len({seat.level for seat in reserve}) == len(reserve) <= MAX_DEPTH
        everywhere = [seat for state in self.states.values() for seat in state.seats if seat.level]
        assert len({seat.job_id for seat in everywhere if seat.stage is not Stage.QUARANTINED}) <= 1
        assert sum(state.count(Stage.STARTING) for state in self.states.values()) <= pool.MAX_STARTS
        self.peak[name] = max(self.peak.get(name, 0), len(seats))

    def possible(self) -> list[tuple[str, object]]:
        events: list[tuple[str, object]] = []
        for name, state in self.states.items():
            events += [(f"start:{name}", seat) for seat in state.seats if seat.stage is Stage.STARTING]
            events += [(f"remove:{name}", seat) for seat in state.seats if seat.stage is Stage.REMOVING]
        for run in self.claimed:
            if run.done == len(run.task.children):
                events.append(("finish", run))
            elif run.asked < len(run.task.children) and (run.task.parallel or run.asked == run.done):
                events.append(("delegate", run))
        return events

    def happen(self, event: tuple[str, object]) -> None:
        match event:
            case (str() as what, Seat() as seat) if what.startswith("start:"):
                name = what.removeprefix("start:")
                if self.failures_left:
                    self.failures_left -= 1
                    self.states[name] = pool.failed(self.states[name], seat.sandbox_id, "told to", self.now)
                else:
                    self.states[name] = pool.settled(self.states[name], seat.sandbox_id, 1.0, self.now)
            case (str() as what, Seat() as seat):
                name = what.removeprefix("remove:")
                self.states[name] = pool.removed(self.states[name], seat.sandbox_id)
            case ("delegate", Run() as run):
                child = Run(run.task.children[run.asked], run.job, run.depth + 1, run.created_at, run)
                run.asked += 1
                self.begin(child)
            case ("finish", Run() as run):
                self.finish(run)

    def finish(self, run: Run) -> None:
        assert run.sandbox is not None
        self.claimed.remove(run)
        self.states[run.task.template] = pool.removing(self.states[run.task.template], run.sandbox, self.now)
        if run.parent is None:
            self.open_jobs -= 1
        else:
            run.parent.done += 1


def world(templates: list[Template], jobs: list[Task], failures: int = 0) -> World:
    made = World({each.name: each for each in templates}, {each.name: PoolState() for each in templates})
    made.failures_left = failures
    made.open_jobs = len(jobs)
    for number, task in enumerate(jobs):
        made.begin(Run(task, JobId(f"j{number}"), 0, number))
    return made


def play(made: World, choose: "st.DataObject | None" = None) -> World:
    """Until nothing can happen any more; time passes only when nothing else does, as for a pause after a failure."""
    for _ in range(20_000):
        made.advance()
        events = made.possible()
        if events:
            made.happen(events[choose.draw(st.integers(0, len(events) - 1))] if choose else events[0])
        elif any(state.retry_at > made.now for state in made.states.values()):
            made.now = min(state.retry_at for state in made.states.values() if state.retry_at > made.now)
        else:
            return made
    raise AssertionError("it goes on for ever")


def trees(depth: int) -> st.SearchStrategy[Task]:
    children = st.just(()) if depth == 0 else st.lists(trees(depth - 1), max_size=2).map(tuple)
    return st.builds(Task, st.sampled_from(["a", "b"]), children, st.booleans())


def test_with_two_places_ten_jobs_that_each_delegate_all_finish() -> None:
    made = play(world([Template("a", "image", min_idle=2, max=2)], [Task("a", (Task("a"),))] * 10))
    assert made.open_jobs == 0
    assert made.peak["a"] == 3


def test_with_one_place_a_chain_of_the_greatest_depth_finishes_in_max_and_the_levels() -> None:
    task = Task("a")
    for _ in range(MAX_DEPTH):
        task = Task("a", (task,))
    made = play(world([Template("a", "image", min_idle=1, max=1)], [task] * 3))
    assert made.open_jobs == 0
    assert made.peak["a"] == 1 + MAX_DEPTH


def test_two_jobs_that_need_each_others_pool_both_finish() -> None:
    there = Task("a", (Task("b", (Task("a"),)),))
    back = Task("b", (Task("a", (Task("b"),)),))
    made = play(world([Template("a", "image", max=1), Template("b", "image", max=1)], [there, back]))
    assert made.open_jobs == 0


def test_failed_starts_delay_but_do_not_lock() -> None:
    made = play(world([Template("a", "image", max=1)], [Task("a", (Task("a"),))] * 2, failures=9))
    assert made.open_jobs == 0


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(trees(3), min_size=1, max_size=6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    idle=st.integers(0, 2),
    failures=st.integers(0, 4),
    data=st.data(),
)
def test_whatever_the_order_all_jobs_finish_within_max_and_the_levels(
    jobs: list[Task], sizes: tuple[int, int], idle: int, failures: int, data: st.DataObject
) -> None:
    templates = [Template(name, "image", min_idle=idle, max=size) for name, size in zip("ab", sizes, strict=True)]
    made = play(world(templates, jobs, failures), data)
    assert made.open_jobs == 0
    assert all(made.peak[each.name] <= each.max + MAX_DEPTH for each in templates)
