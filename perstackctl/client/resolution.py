"""What a definition says, as values: its findings, its experts, and what a job of it would have."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether a finding stops a job."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a definition: line and column are 1-based, 0 when there is none."""

    severity: Severity
    message: str
    line: int = 0
    column: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedSkill:
    """A skill as a job would have it. `isolation` is own, shared or, for an interactive one, empty; `tools` are those
    that are known without asking a server; `approval` has `*` for all tools."""

    name: str
    type: str = ""
    isolation: str = ""
    target: str = ""
    tools: tuple[str, ...] = ()
    pick: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    required_env: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    workspace: str = ""
    approval: tuple[str, ...] = ()
    tool_timeout_ms: int = 0
    start_timeout_ms: int = 0
    lazy_init: bool = False


@dataclass(frozen=True, slots=True)
class ResolvedExpert:
    """An expert of a definition, pinned by `digest` (sha256:HEX)."""

    key: str
    version: str = ""
    description: str = ""
    delegates: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    digest: str = ""
    skill_details: tuple[ResolvedSkill, ...] = ()
    required_env: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    provider: str = ""
    model: str = ""
    reasoning: str = ""
    max_steps: int = 0
    model_tier: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedLimits:
    """What counts for a job of a definition, the daemon's defaults included."""

    max_steps: int = 0
    max_retries: int = 0
    generation_timeout_ms: int = 0
    tool_timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a job of an expert needs. The expert asked for comes first in `experts`."""

    experts: tuple[ResolvedExpert, ...] = ()
    required_env: tuple[str, ...] = ()
    env_paths: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    provider: str = ""
    model: str = ""
    limits: ResolvedLimits = ResolvedLimits()
    template: str = ""
