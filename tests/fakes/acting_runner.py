"""Runners that do their work: each follows its orders at once, and runs its calls with a function of the test."""

from collections.abc import Callable

from perstackd.domain.ids import SandboxId
from perstackd.domain.messages import TextPart, ToolResultPart, ToolSpec
from perstackd.domain.session import (
    Assign,
    NextTurn,
    Order,
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


class ActingRunnerLink(FakeRunnerLink):
    """Answers orders as an honest runner does; a tool that returns None never answers. `assigned` is what it was
    told.
    """

    assigned: Assign | None = None

    async def send(self, order: Order) -> None:
        await super().send(order)
        links = self._links
        assert isinstance(links, ActingRunnerLinks)
        match order:
            case Assign(step=step):
                self.assigned = order
                self.push(Ready(order.workspace_path))
                self._start(order, StartMode.FIRST)
                self.push(NextTurn(step))
                self._start(order, StartMode.BESIDE)
            case TurnOrder(step=step, calls=calls):
                results = [links.tool(call) for call in calls]
                given = tuple(result for result in results if result is not None)
                if len(given) == len(calls):
                    if calls:
                        self.push(ToolResults(step, given))
                    self.push(NextTurn(step + 1))
            case _:
                pass

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

    async def listen(
        self, sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False
    ) -> FakeRunnerLink:
        await super().listen(sandbox_id, path, token_hash, repeats=repeats)
        link = self.made[sandbox_id] = ActingRunnerLink(sandbox_id, path, self, token_hash)
        return link
