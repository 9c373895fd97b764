"""perstackd.toml: what an operator decides. Class defaults < file < environment (PERSTACKD_...) < flags.

Values are frozen and passed once. Unknown keys are errors that name the nearest known key; all problems are told at
once.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from perstackd.adapters.config_section import AbsolutePath, Section
from perstackd.adapters.docker.template_config import TemplateConfig, Templates
from perstackd.adapters.egress.config import EgressConfig
from perstackd.adapters.models.config import ModelsConfig
from perstackd.adapters.secrets.master_key import SOURCE
from perstackd.adapters.workspaces.settings import MIN_NAMED
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import ID_LENGTH
from perstackd.domain.sandbox import Template

DEFAULT_PATH: Final = Path("/etc/perstackd/perstackd.toml")
MAX_SOCKET_PATH: Final = 107


class GrpcConfig(Section):
    """The API."""

    reflection: bool = False


class LogConfig(Section):
    """Logs go to standard error, one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class EngineConfig(Section):
    """The Docker engine."""

    url: str = "unix:///var/run/docker.sock"
    start_deadline_s: float = Field(30, gt=0, le=600)
    call_deadline_s: float = Field(10, gt=0, le=600)

    @field_validator("url")
    @classmethod
    def _socket(cls, url: str) -> str:
        if not url.startswith("unix:///"):
            raise ValueError("must be unix:///PATH, a socket of an engine on this machine")
        return url


class JobsConfig(Section):
    """Bounds on jobs; 0 is none. `answer_margin_ms` is what a sandbox gets beyond its tools' own bounds before it is
    given up. `ask_hold_ms` is how long a run that only waits for people keeps its sandboxes. Money is in millionths of
    a US dollar.
    """

    max_running: int = Field(200, ge=1, le=100_000)
    max_steps: int = Field(100, ge=1, le=100_000)
    max_retries: int = Field(5, ge=0, le=100)
    generation_timeout_ms: int = Field(300_000, ge=1000)
    tool_timeout_ms: int = Field(60_000, ge=1000)
    skill_start_timeout_ms: int = Field(60_000, ge=1000)
    answer_margin_ms: int = Field(30_000, ge=1000, le=600_000)
    drain_s: float = Field(30, ge=0, le=3600)
    keep_days: int = Field(0, ge=0, le=36_500)
    ask_hold_ms: int = Field(60_000, ge=0)
    store_patience_s: float = Field(3600, ge=0, le=604_800)
    max_wall_clock_ms: int = Field(0, ge=0)
    max_tokens: int = Field(0, ge=0)
    max_microdollars: int = Field(0, ge=0)
    max_tool_calls: int = Field(0, ge=0)


class SecretsConfig(Section):
    """Where the key is that seals values at rest: `file:/path`, `systemd:NAME` or `keyring:SERVICE`; empty means
    master.key in the state directory.
    """

    master_key: str = ""

    @field_validator("master_key")
    @classmethod
    def _source(cls, master_key: str) -> str:
        if master_key and not re.fullmatch(SOURCE, master_key):
            raise ValueError("names no master key; write file:/PATH, systemd:NAME or keyring:SERVICE")
        return master_key


class PoolConfig(Section):
    """Watermarks of the machine: below one nothing is kept idle anew. Bytes; 0 means that it is not looked at."""

    min_free_memory: int = Field(512 << 20, ge=0)
    min_free_disk: int = Field(1 << 30, ge=0)


class WorkspacesConfig(Section):
    """Managed and ephemeral workspaces. Their files belong to `uid` on the host. `named_bytes` 0: nothing caps named
    ones.
    """

    uid: int = Field(199_998, ge=1000)
    spare_uid: int = Field(199_999, ge=1000)
    ephemeral_bytes: int = Field(256 << 20, ge=1 << 20)
    ephemeral_inodes: int = Field(65_536, ge=64)
    named_bytes: int = Field(4 << 30, ge=0)
    named_inodes: int = Field(262_144, ge=64)

    @model_validator(mode="after")
    def _possible(self) -> "WorkspacesConfig":
        if 0 < self.named_bytes < MIN_NAMED:
            raise ValueError(f"named_bytes is below {MIN_NAMED}, the least for a file system; 0 means no cap")
        return self


class Config(BaseSettings):
    """The whole file. `version` must be 1."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="PERSTACKD_", env_nested_delimiter="__", case_sensitive=False
    )

    version: Literal[1] = 1
    state_directory: AbsolutePath = Path("/var/lib/perstackd")
    runtime_directory: AbsolutePath = Path("/run/perstackd")
    socket: AbsolutePath | None = None
    socket_group: str = ""
    workspace_roots: tuple[AbsolutePath, ...] = ()
    sandbox_uids: tuple[int, int] = (200_000, 265_535)
    default_template: str = "base"
    skills_template: str = "skills"
    templates: Templates = Field(default_factory=lambda: {"base": TemplateConfig()})
    grpc: GrpcConfig = GrpcConfig()
    log: LogConfig = LogConfig()
    engine: EngineConfig = EngineConfig()
    models: ModelsConfig = ModelsConfig()
    jobs: JobsConfig = JobsConfig()
    egress: EgressConfig = EgressConfig()
    secrets: SecretsConfig = SecretsConfig()
    pool: PoolConfig = PoolConfig()
    workspaces: WorkspacesConfig = WorkspacesConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The constructor's arguments alone: `load` has put the environment between the file and the flags."""
        return (init_settings,)

    @property
    def socket_path(self) -> Path:
        """The admin socket."""
        return self.socket or self.runtime_directory / "perstackd.sock"

    @property
    def key_file(self) -> Path:
        """The master key's file where none is named."""
        return self.state_directory / "master.key"

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if problems := list(_inconsistent(self)):
            raise ValueError("; ".join(problems))
        return self


def _inconsistent(config: Config) -> Iterator[str]:
    longest = len(str(config.runtime_directory / "s" / ("x" * ID_LENGTH) / "gw" / "runner.sock").encode())
    if longest > MAX_SOCKET_PATH:
        yield f"runtime_directory makes socket paths of {longest} bytes, {MAX_SOCKET_PATH} work: choose a shorter one"
    if len(str(config.socket_path).encode()) > MAX_SOCKET_PATH:
        yield f"socket is longer than {MAX_SOCKET_PATH} bytes"
    low, high = config.sandbox_uids
    if not 1000 <= low < high <= 2**31:
        yield "sandbox_uids must be [low, high] with 1000 <= low < high"
    if config.default_template not in config.templates:
        yield f"default_template {config.default_template!r} is not among the templates ({', '.join(config.templates)})"
    if "skills_template" in config.model_fields_set and config.skills_template not in config.templates:
        yield f"skills_template {config.skills_template!r} is not among the templates ({', '.join(config.templates)})"
    yield from _clashing_uids(config)
    most = sum(section.max for section in config.templates.values())
    if high - low + 1 < most:
        yield f"sandbox_uids has {high - low + 1} uids, but the templates' max add up to {most} sandboxes"
    state, runtime = config.state_directory, config.runtime_directory
    if state == runtime or state in runtime.parents or runtime in state.parents:
        yield f"state_directory {state} and runtime_directory {runtime} must not be the same, nor one in the other"
    if config.models.default_provider == "replay" and config.models.replay.file is None:
        yield "models.default_provider is replay, but models.replay.file names no conversation"


def _clashing_uids(config: Config) -> Iterator[str]:
    low, high = config.sandbox_uids
    uids = {
        "workspaces.uid": config.workspaces.uid,
        "workspaces.spare_uid": config.workspaces.spare_uid,
        "egress.uid": config.egress.uid,
    }
    for name, uid in uids.items():
        if low <= uid <= high:
            yield f"{name} {uid} lies among sandbox_uids: a sandbox would have its rights"
    if len(set(uids.values())) < len(uids):
        yield f"{', '.join(uids)} must be three different uids, not {', '.join(map(str, uids.values()))}"


def template(name: str, config: TemplateConfig) -> Template:
    """The domain's value of a configured template."""
    return Template(name=name, **config.model_dump())


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the file (the default one may be missing), the environment and the overrides.

    Raises:
        PerstackError: NOT_FOUND `config_not_found`; INVALID `config_invalid` with all problems, one a line.
    """
    values = _merged(_read(path), _environment())
    for dotted, value in (overrides or {}).items():
        _set(values, dotted.split("."), value)
    try:
        return Config(**values)
    except ValidationError as error:
        where = str(path or DEFAULT_PATH)
        problems = "\n".join(f"{where}: {line}" for line in _problems(error))
        raise PerstackError(Kind.INVALID, "config_invalid", problems) from error


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads((path or DEFAULT_PATH).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if path is None:
            return {}
        message = f"there is no configuration file {path}; perstackd config show prints one with all defaults"
        raise PerstackError(Kind.NOT_FOUND, "config_not_found", message) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PerstackError(Kind.INVALID, "config_invalid", f"{path or DEFAULT_PATH}: {error}") from error


def _environment() -> dict[str, Any]:
    """The values of PERSTACKD_ variables that name a key; JSON where the key holds more than one value."""
    try:
        return EnvSettingsSource(Config)()
    except SettingsError as error:
        names = ", ".join(sorted(name for name in os.environ if name.upper().startswith("PERSTACKD_")))
        message = f"environment: {error}; lists and tables are written as JSON (set are: {names})"
        raise PerstackError(Kind.INVALID, "config_invalid", message) from error


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        both = isinstance(known, dict) and isinstance(value, Mapping)
        merged[key] = _merged(known, value) if both and isinstance(known, dict) else value
    return merged


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    *tables, last = keys
    for key in tables:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            message = f"--set {'.'.join(keys)}: {key} is a value and has no keys below it"
            raise PerstackError(Kind.INVALID, "config_invalid", message)
    values[last] = value


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"{where}: there is no such key{_nearest(problem['loc'])}"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            yield f"{where}: {text}" if where else text


def _nearest(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        model = _inner(model, str(part))
    near = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(model.model_fields))}"


def _inner(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The model of a section; the names of templates are the operator's."""
    field = model.model_fields.get(name)
    if field is None:
        return model
    candidates = (field.annotation, *get_args(field.annotation))
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), model)
