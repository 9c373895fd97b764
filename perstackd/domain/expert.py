"""Experts and skills: the values of a perstack.toml, after parsing and before anything runs."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from perstackd.domain.messages import JsonObject, ProviderSkill

BASE_SKILL = "@perstack/base"


class Approval(StrEnum):
    """Whether calls wait for a person."""

    NEVER = "never"
    ALWAYS = "always"


class Isolation(StrEnum):
    """Whether a skill has a sandbox of its own."""

    OWN = "own"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class StdioSkill:
    """An MCP server that speaks over its standard input and output. A time-out of 0 means the daemon's."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    package: str = ""
    description: str = ""
    rule: str = ""
    pick: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    required_env: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    lazy_init: bool = False
    isolation: Isolation = Isolation.SHARED
    approval: tuple[str, ...] | Approval = Approval.NEVER
    tool_timeout_ms: int = 0
    start_timeout_ms: int = 0
    workspace: str = ""


@dataclass(frozen=True, slots=True)
class RemoteSkill:
    """An MCP server at an endpoint: `transport` is `sse` or `http` (streamable HTTP)."""

    name: str
    transport: str
    endpoint: str
    headers: tuple[tuple[str, str], ...] = ()
    description: str = ""
    rule: str = ""
    pick: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    required_env: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    isolation: Isolation = Isolation.OWN
    approval: tuple[str, ...] | Approval = Approval.NEVER
    tool_timeout_ms: int = 0
    start_timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class InteractiveTool:
    """A question that a person answers."""

    name: str
    description: str
    input_schema: JsonObject


@dataclass(frozen=True, slots=True)
class InteractiveSkill:
    """Tools whose results come from the job's caller."""

    name: str
    tools: tuple[InteractiveTool, ...]
    description: str = ""
    rule: str = ""


Skill: TypeAlias = StdioSkill | RemoteSkill | InteractiveSkill


@dataclass(frozen=True, slots=True)
class BaseSkill:
    """How an expert narrows the built-in tools. `required_env` becomes exec's environment."""

    pick: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    required_env: tuple[str, ...] = ()
    rule: str = ""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model answers, and how. Empty strings mean: not said."""

    provider: str = ""
    model: str = ""
    reasoning: str | int = ""
    base_url: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Expert:
    """One role. `max_steps` 0 means no limit of its own. `model_tier` (low, middle, high) counts where `model` names
    none. `provider_tools` and `provider_tool_options`: see `ModelRequest`.
    """

    key: str
    instruction: str
    version: str = "1.0.0"
    description: str = ""
    delegates: tuple[str, ...] = ()
    skills: tuple[Skill, ...] = ()
    base: BaseSkill = BaseSkill()
    tags: tuple[str, ...] = ()
    model: ModelChoice = ModelChoice()
    max_steps: int = 0
    model_tier: str = ""
    provider_tools: tuple[str, ...] = ()
    provider_tool_options: str = ""
    provider_skills: tuple[ProviderSkill, ...] = ()

    @property
    def required_env(self) -> tuple[str, ...]:
        """Names that this expert's skills ask for, sorted, each once."""
        named = (skill.required_env for skill in self.skills if not isinstance(skill, InteractiveSkill))
        return tuple(sorted({*self.base.required_env, *(name for names in named for name in names)}))


@dataclass(frozen=True, slots=True)
class Definition:
    """A whole perstack.toml. Limits that the file does not give are 0; times are milliseconds."""

    source: str
    experts: tuple[Expert, ...]
    model: ModelChoice = ModelChoice()
    template: str = ""
    max_steps: int = 0
    max_retries: int = -1
    timeout_ms: int = 0
    env_paths: tuple[str, ...] = (".env", ".env.local")

    def expert(self, key: str) -> Expert | None:
        """The expert of that key."""
        return next((expert for expert in self.experts if expert.key == key), None)


class Severity(StrEnum):
    """Whether a finding stops a job."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a definition, at a place: 1-based, 0 when there is none."""

    severity: Severity
    message: str
    line: int = 0
    column: int = 0
    key: str = ""
