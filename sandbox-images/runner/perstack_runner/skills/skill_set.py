"""All skills of an assignment: where each lives, and which one a call is for."""

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from perstack_runner.children import Children
from perstack_runner.elicitations import Elicitations
from perstack_runner.environment import NO_USER_CONFIGURATION, child_environment, home_directory
from perstack_runner.messages import Assign, Call, Result, SkillOrder
from perstack_runner.outward import Outward
from perstack_runner.results import failed
from perstack_runner.skills.http_client import Way
from perstack_runner.skills.server import Place, Setting
from perstack_runner.skills.skill import Shared, Skill
from perstack_runner.tools.outcome import ToolFailure

SLOT: Final = "/mnt"
"""Where a workspace is mounted; hidden from a skill that has none, whatever is there."""
_NOISY: Final = ("mcp", "client", "httpx2", "httpcore2")

Owner = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class SkillSet:
    """The skills by name. Runs nothing by itself: the caller owns one task per skill."""

    def __init__(self, assign: Assign, children: Children, proxy_port: int, outward: Outward) -> None:
        for name in _NOISY:  # what they log holds what servers said, and the sandbox's log is not to
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.elicitations = Elicitations(outward.elicit)
        shared = Shared(children, assign.limits, self.elicitations, outward.report)
        self._skills = {
            order.name: Skill(order, _setting(order, assign.workspace_path, proxy_port), shared)
            for order in assign.skills
        }

    def owners(self) -> list[tuple[str, Owner]]:
        """For each skill, in the assignment's order, its name and what owns it until it is cancelled."""
        return [(name, partial(drive, skill)) for name, skill in self._skills.items()]

    def call_seconds(self, skill: str) -> float:
        """How long a call of this skill may take, with the wait for its server."""
        return self._skills[skill].call_seconds() if skill in self._skills else 1.0

    def start_seconds(self, skill: str) -> float:
        """How long this skill's server may take to start."""
        return self._skills[skill].start_seconds() if skill in self._skills else 1.0

    async def run(self, call: Call, progress: Callable[[str], None]) -> Result:
        """Run a call to its result; a failure is a result too. Its duration is the caller's to fill in."""
        try:
            if call.skill not in self._skills:
                raise ToolFailure("unknown_skill", f"{call.skill}: this sandbox has no such skill")
            arguments = _arguments(call.arguments)
            answer = await self._skills[call.skill].call(call.call_id, call.tool, arguments, progress)
        except ToolFailure as failure:
            return failed(call.call_id, failure.name, failure.message)
        return Result(call.call_id, answer.parts, answer.is_error)


def _arguments(raw: bytes) -> dict[str, object]:
    try:
        arguments = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise ToolFailure("invalid_arguments", "the arguments are not valid JSON") from None
    if not isinstance(arguments, dict):
        raise ToolFailure("invalid_arguments", "the arguments have to be a JSON object")
    return arguments


def _setting(order: SkillOrder, workspace: str, port: int) -> Setting:
    """Beside the expert's shell a skill starts in the workspace. One of its own, or without a workspace, starts in an
    empty directory and has an empty home: package runners obey what they find where they start.
    """
    told = (("PERSTACK_WORKSPACE", workspace),) if workspace else ()
    private = order.private or not workspace
    more = (*NO_USER_CONFIGURATION, *told) if private else told
    return Setting(
        environment=child_environment(os.environ, port, more),
        place=_Private().place if private else lambda: Place(workspace),
        hidden="" if workspace else SLOT,
        root=workspace,
        way=Way(port, os.environ.get("SSL_CERT_FILE", "")),
    )


class _Private:
    """A home and a working directory of a skill's own, made when its server first starts, and kept for later ones."""

    def __init__(self) -> None:
        self._made = Place("")

    def place(self) -> Place:
        """Both. Blocking."""
        if not self._made.directory:
            top = tempfile.mkdtemp(prefix="skill-", dir=home_directory())  # its mode is 0700
            made = Place(os.path.join(top, "work"), os.path.join(top, "home"))  # noqa: PTH118 - pathlib gains nothing here
            for path in made:
                os.mkdir(path, mode=0o700)  # noqa: PTH102
            self._made = made
        return self._made


async def drive(skill: Skill, settled: Callable[[], None]) -> None:
    """Own a skill until cancelled; `settled` is called once, when its first start came to an end."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(skill.run())
        await skill.settled.wait()
        settled()
        await running
