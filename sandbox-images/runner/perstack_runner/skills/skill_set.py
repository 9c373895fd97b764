"""All skills of an assignment: where each lives, and which one a call is for."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from perstack_runner.children import Children
from perstack_runner.environment import child_environment, home_directory
from perstack_runner.messages import Assign, Result, SkillOrder
from perstack_runner.results import failed
from perstack_runner.skills.server import Setting
from perstack_runner.skills.skill import Report, Skill
from perstack_runner.tools.outcome import ToolFailure

Owner = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class SkillSet:
    """The skills by name. Runs nothing by itself: the caller owns one task per skill."""

    def __init__(
        self, assign: Assign, children: Children, proxy_port: int, own: Mapping[str, str], report: Report
    ) -> None:
        self._skills = {
            order.name: Skill(order, _setting(index, order, assign, proxy_port, own), children, assign.limits, report)
            for index, order in enumerate(assign.skills)
        }

    def owners(self) -> list[tuple[str, Owner]]:
        """For each skill, in the assignment's order, its name and what owns it until it is cancelled."""
        return [(name, partial(drive, skill)) for name, skill in self._skills.items()]

    def call_seconds(self, skill: str) -> float:
        """How long a call of this skill may take, with the wait for its server."""
        return self._skills[skill].call_seconds() if skill in self._skills else 1.0

    async def run(self, skill: str, tool: str, raw: bytes, progress: Callable[[str], None], call_id: str) -> Result:
        """Run a call to its result; a failure is a result too. Its duration is the caller's to fill in."""
        try:
            if skill not in self._skills:
                raise ToolFailure("unknown_skill", f"{skill}: this sandbox has no such skill")
            answer = await self._skills[skill].call(tool, _arguments(raw), progress)
        except ToolFailure as failure:
            return failed(call_id, failure.name, failure.message)
        return Result(call_id, answer.parts, answer.is_error)


def _arguments(raw: bytes) -> dict[str, object]:
    try:
        arguments = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise ToolFailure("invalid_arguments", "the arguments are not valid JSON") from None
    if not isinstance(arguments, dict):
        raise ToolFailure("invalid_arguments", "the arguments have to be a JSON object")
    return arguments


def _setting(index: int, order: SkillOrder, assign: Assign, port: int, own: Mapping[str, str]) -> Setting:
    """A sandbox with base tools is the expert's own, and its skills share the workspace.

    In a skill's own sandbox working directory and home are private and empty: package runners obey what they find
    where they start.
    """
    shared = bool(assign.base_tools) and bool(assign.workspace_path)
    private = f"{home_directory()}/skills/{index}"
    home = "" if shared else private
    directory = assign.workspace_path if shared else private
    environment = child_environment(own, port, order.env, home)
    return Setting(environment, lambda: _opened(directory, make=not shared), assign.workspace_path)


def _opened(path: str, *, make: bool) -> int:
    if make:
        os.makedirs(path, mode=0o700, exist_ok=True)  # noqa: PTH103 - runs where a child is started, pathlib gains nothing
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


async def drive(skill: Skill, settled: Callable[[], None]) -> None:
    """Own a skill until cancelled; `settled` is called once, when its first start came to an end."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(skill.run())
        await skill.settled.wait()
        settled()
        await running
