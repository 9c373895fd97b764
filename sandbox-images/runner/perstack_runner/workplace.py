"""What an assignment brings to life in the sandbox: the tree, the base tools, the proxy, the skills; and its end.

Order at the end: skills and calls first (their tasks are cancelled by the loop), then the proxy, then the workspace.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perstack_runner.children import Children
from perstack_runner.clock import LONGEST_HOLD_SECONDS
from perstack_runner.environment import child_environment
from perstack_runner.messages import Assign, Call, Elicited, Progress, Result
from perstack_runner.outward import Outward
from perstack_runner.progress import OutputStream
from perstack_runner.proxy import PORT, Proxy
from perstack_runner.results import failed, from_outcome
from perstack_runner.tools.command import LONGEST_TIMEOUT_MS, Commands
from perstack_runner.tools.toolbox import Toolbox
from perstack_runner.tools.tree import Tree

if TYPE_CHECKING:
    from perstack_runner.skills.skill_set import SkillSet

WORKSPACE_ALIASES: Final = ("/mnt/workspace", "/workspace")
_MARGIN_SECONDS: Final = 3.0
"""Past a tool's own time-out, for ending its processes and for its partial output."""


class Surroundings(NamedTuple):
    """Where the runner is: paths and numbers that tests choose differently."""

    egress_path: str
    landlock_abi: int
    adopts_orphans: bool
    proxy_port: int = PORT
    probe_root: str = "/mnt"


class Workplace:
    """One assignment. Make it with open()."""

    def __init__(self, assign: Assign, toolbox: Toolbox | None, skills: "SkillSet | None", proxy: Proxy) -> None:
        self.assign = assign
        self.skills = skills
        self._toolbox = toolbox
        self._proxy = proxy

    def call_seconds(self, call: Call) -> float:
        """The longest that a call may take before it is stopped from outside."""
        if call.skill and self.skills is not None:
            start = self.skills.start_seconds(call.skill)
            # The skill bounds its calls itself, and stops their clocks while a person is asked: the last resort.
            return self.skills.call_seconds(call.skill) + start + LONGEST_HOLD_SECONDS + _MARGIN_SECONDS
        return (self.assign.limits.tool_timeout_ms or LONGEST_TIMEOUT_MS) / 1000 + _MARGIN_SECONDS

    async def run(self, call: Call, offer: Callable[[Progress], None]) -> Result:
        """Run a call to its result; `offer` gets its output."""
        stream = OutputStream(lambda offset, text: offer(Progress(call.call_id, offset, text)))
        try:
            if call.skill:
                return await self._run_skill(call, stream)
            if self._toolbox is None:
                return failed(call.call_id, "unknown_tool", "this sandbox has no workspace and no base tools")
            return from_outcome(call.call_id, await self._toolbox.run(call.tool, call.arguments, stream.feed), 0)
        finally:
            stream.close()

    async def _run_skill(self, call: Call, stream: OutputStream) -> Result:
        if self.skills is None:
            return failed(call.call_id, "unknown_skill", f"{call.skill}: this sandbox has no skills")

        def show(text: str) -> None:
            stream.feed(text.encode("utf-8", "replace"))

        return await self.skills.run(call, show)

    def begin_turn(self) -> None:
        """A turn's calls are about to run."""
        if self.skills is not None:
            self.skills.elicitations.begin_turn()

    def answer(self, elicited: Elicited) -> None:
        """Hand a person's answer to the server that asked."""
        if self.skills is not None:
            self.skills.elicitations.answer(elicited)

    async def close(self) -> None:
        """Stop the proxy, let go of the workspace."""
        await self._proxy.close()
        if self._toolbox is not None:
            self._toolbox.close()


async def open_workplace(
    assign: Assign,
    children: Children,
    schemas: Mapping[str, Any],
    outward: Outward,
    proxy: Proxy,
) -> Workplace:
    """Open the workspace, with the way out started; skills are made, not started. Raises OSError when one is not
    possible. What was started is the workplace's, or closed when there is none.
    """
    toolbox = None
    if assign.workspace_path:
        try:
            tree = await asyncio.to_thread(Tree, assign.workspace_path, WORKSPACE_ALIASES)
        except OSError:
            await proxy.close()
            raise
        environment = child_environment(os.environ, proxy.port, assign.exec_env)
        commands = Commands(tree, children, environment, assign.limits)
        toolbox = Toolbox(assign.base_tools, tree, commands, schemas)
    skills = await _skills(assign, children, proxy.port, outward) if assign.skills else None
    return Workplace(assign, toolbox, skills, proxy)


async def way_out(surroundings: Surroundings) -> Proxy:
    """The proxy's port, listening. Raises OSError when it cannot."""
    proxy = Proxy(surroundings.egress_path, surroundings.proxy_port)
    await proxy.start()
    return proxy


async def _skills(assign: Assign, children: Children, port: int, outward: Outward) -> "SkillSet":
    def imported() -> "type[SkillSet]":
        from perstack_runner.skills.skill_set import SkillSet

        return SkillSet

    # 60 MiB and half a second: not before it is needed, and not on the loop.
    skill_set = await asyncio.to_thread(imported)
    return skill_set(assign, children, port, outward)
