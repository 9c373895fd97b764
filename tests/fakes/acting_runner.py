"""Runners that do their work: each follows its orders at once, and runs its calls with a function of the test.

A runner outlives its link, as a sandbox outlives a daemon that is killed: over the next link it says again what was not
acknowledged, and leaves aside what it was told before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from perstackd.domain.ids import SandboxId
from perstackd.domain.messages import TextPart, ToolResultPart, ToolSpec
from perstackd.domain.session import (
    Ask,
    Assign,
    Hello,
    LinkLost,
    NextTurn,
    Order,
    Progress,
    Ready,
    RoutedCall,
    SkillPhase,
    SkillReport,
    StartMode,
    ToolResults,
    TurnOrder,
)
from tests.fakes.runner_link import FakeRunnerLink, FakeRunnerLinks
from tests.fakes.workspaces import FakeWorkspaces

Tool = Callable[[RoutedCall], ToolResultPart | None]


def answered(call: RoutedCall) -> ToolResultPart:
    """Every call succeeds."""
    return ToolResultPart(call.call_id, (TextPart(f"{call.tool} done"),))


@dataclass(slots=True)
class ActingRunner:
    """What a runner knows: `kept` is not acknowledged, `question` has no turn yet, `running` is at work."""

    kept: list[Ask] = field(default_factory=list)
    question: NextTurn | None = None
    assigned: Assign | None = None
    running: TurnOrder | None = None
    step: int = 0


class ActingRunnerLink(FakeRunnerLink):
    """Answers orders as an honest runner does; a tool that returns None does not answer before `complete`."""

    repeats = False

    @property
    def runner(self) -> ActingRunner:
        """Who is at the other end."""
        links = self._links
        assert isinstance(links, ActingRunnerLinks)
        return links.runners.setdefault(self.sandbox_id, ActingRunner())

    @property
    def assigned(self) -> Assign | None:
        """What it was told."""
        return self.runner.assigned

    def push(self, ask: Ask) -> None:
        if not isinstance(ask, Progress | LinkLost):
            self.runner.kept.append(ask)
        if isinstance(ask, NextTurn):
            self.runner.question = ask
        super().push(ask)

    def acknowledge(self, position: int) -> None:
        before = self.acknowledged
        super().acknowledge(position)
        del self.runner.kept[: self.acknowledged - before]

    async def hello(self, deadline: float) -> Hello:
        hello = await super().hello(deadline)
        if self._expected_hash:
            runner = self.runner
            kept, runner.kept = runner.kept if self.repeats else [], []
            if runner.question is not None and runner.question not in kept:
                kept = [runner.question, *kept]
            for ask in kept:
                self.push(ask)
        return hello

    async def send(self, order: Order) -> None:
        await super().send(order)
        match order:
            case Assign() if self.runner.assigned is None:
                self._take_over(order)
            case TurnOrder(step=step) if self.runner.running is None and step >= self.runner.step:
                self.runner.running, self.runner.question, self.runner.step = order, None, step
                self.complete()
            case _:
                pass

    def _take_over(self, order: Assign) -> None:
        self.runner.assigned, self.runner.step = order, order.step
        self.push(Ready(order.workspace_path))
        self._start(order, StartMode.FIRST)
        self.push(NextTurn(order.step))
        self._start(order, StartMode.BESIDE)

    def complete(self) -> None:
        """Run the calls of the turn in hand; they are reported once all of them have answered."""
        runner, links = self.runner, self._links
        assert isinstance(links, ActingRunnerLinks)
        turn = runner.running
        assert turn is not None
        results = [links.tool(call) for call in turn.calls]
        given = tuple(result for result in results if result is not None)
        if len(given) == len(turn.calls):
            runner.running, runner.step = None, turn.step + 1
            if turn.calls:
                self.push(ToolResults(turn.step, given))
            self.push(NextTurn(runner.step))

    def _start(self, order: Assign, mode: StartMode) -> None:
        links = self._links
        assert isinstance(links, ActingRunnerLinks)
        for skill in order.skills:
            if skill.start is mode:
                tools = tuple(ToolSpec(name, name, {"type": "object"}) for name in links.tools.get(skill.name, ()))
                self.push(SkillReport(skill.name, SkillPhase.CONNECTED, tools, "", skill.name, "1"))


class ActingRunnerLinks(FakeRunnerLinks):
    """`tool` runs every call of every sandbox; `tools` are the names that each skill's server offers."""

    def __init__(self, workspaces: FakeWorkspaces) -> None:
        super().__init__(workspaces)
        self.tool: Tool = answered
        self.tools: dict[str, tuple[str, ...]] = {}
        self.runners: dict[SandboxId, ActingRunner] = {}

    async def listen(
        self, sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False
    ) -> FakeRunnerLink:
        await super().listen(sandbox_id, path, token_hash, repeats=repeats)
        link = self.made[sandbox_id] = ActingRunnerLink(sandbox_id, path, self, token_hash)
        link.repeats = repeats
        return link
