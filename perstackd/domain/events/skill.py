"""What a run's skills do: their servers and the tools that these offer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SkillStarting:
    """A skill's server is being started."""

    skill: str
    type: Literal["skillStarting"] = "skillStarting"


@dataclass(frozen=True, slots=True)
class SkillConnected:
    """A skill's tools are known."""

    skill: str
    server_name: str
    server_version: str
    tools: tuple[str, ...]
    type: Literal["skillConnected"] = "skillConnected"


@dataclass(frozen=True, slots=True)
class SkillToolsChanged:
    """A server now offers other tools than the run was started with; the run keeps its list."""

    skill: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...] = ()
    type: Literal["skillToolsChanged"] = "skillToolsChanged"


@dataclass(frozen=True, slots=True)
class ToolRenamed:
    """A tool is shown to the model by another name than its server's: that was taken, too long, or not legal."""

    skill: str
    tool: str
    shown: str
    type: Literal["toolRenamed"] = "toolRenamed"


@dataclass(frozen=True, slots=True)
class SkillStderr:
    """What a skill's server wrote to its standard error."""

    skill: str
    text: str
    type: Literal["skillStderr"] = "skillStderr"


@dataclass(frozen=True, slots=True)
class SkillDisconnected:
    """A skill's server is gone, or could not be started."""

    skill: str
    detail: str
    type: Literal["skillDisconnected"] = "skillDisconnected"
