"""`[experts.K.skills.NAME]`: the three kinds of skill, and how an expert narrows the built-in one."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from perstackd.adapters.definition.model_choice import read_headers, url_problem
from perstackd.adapters.definition.table import Table, kind, shown
from perstackd.domain import host_pattern
from perstackd.domain.expert import (
    Approval,
    BaseSkill,
    InteractiveSkill,
    InteractiveTool,
    Isolation,
    RemoteSkill,
    Skill,
    StdioSkill,
)
from perstackd.domain.messages import JsonObject

BASE_TOOLS: Final = (
    "appendTextFile",
    "applyPatch",
    "attemptCompletion",
    "clearTodo",
    "createDirectory",
    "deleteDirectory",
    "deleteFile",
    "editTextFile",
    "exec",
    "findFiles",
    "getFileInfo",
    "healthCheck",
    "listDirectory",
    "moveFile",
    "readImageFile",
    "readPdfFile",
    "readTextFile",
    "searchText",
    "todo",
    "writeTextFile",
)

_SHARED_KEYS: Final = ("type", "description", "rule")
_SERVER_KEYS: Final = (
    *_SHARED_KEYS,
    *("pick", "omit", "requiredEnv", "allowedDomains", "isolation", "toolTimeout", "approval", "workspace"),
)
_STDIO_KEYS: Final = (*_SERVER_KEYS, "command", "packageName", "args", "lazyInit")
_REMOTE_KEYS: Final = (*_SERVER_KEYS, "endpoint", "headers")
_INTERACTIVE_KEYS: Final = (*_SHARED_KEYS, "tools")

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,254})\}")
_TOOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_WORKSPACES: Final = ("none", "ro", "rw")


def read_skill(name: str, table: Table, elsewhere: Mapping[str, str]) -> Skill | None:
    """The skill of a table; None when its type is missing or unknown, which is noted."""
    readers: dict[str, tuple[Sequence[str], Callable[[str, Table], Skill]]] = {
        "mcpStdioSkill": (_STDIO_KEYS, _stdio),
        "mcpSseSkill": (_REMOTE_KEYS, _remote),
        "mcpHttpSkill": (_REMOTE_KEYS, _remote),
        "interactiveSkill": (_INTERACTIVE_KEYS, _interactive),
    }
    type_ = table.text("type")
    if type_ not in readers:
        wrong = f"{shown(type_)} is not a type of skill" if type_ else "the skill has no type"
        table.error("type", f"{wrong}; there are {', '.join(readers)}", (type_, tuple(readers)))
        return None
    known, read = readers[type_]
    table.only(known, elsewhere)
    return read(name, table)


def read_base(table: Table, elsewhere: Mapping[str, str]) -> BaseSkill:
    """How `@perstack/base` is narrowed. Its command, package and version are the original's way of naming it."""
    table.only(_STDIO_KEYS, elsewhere)
    base = BaseSkill(_base_names(table, "pick"), _base_names(table, "omit"), _env_names(table), table.text("rule"))
    if base.required_env and "exec" not in base.omit and (not base.pick or "exec" in base.pick):
        table.warning("requiredEnv", "gives these values to whatever this expert runs with exec")
    for key in ("allowedDomains", "isolation", "workspace", "approval"):
        if key in table.values:
            table.warning(key, f"{key} is ignored: the base tools run in the expert's own sandbox")
    return base


def _stdio(name: str, table: Table) -> StdioSkill:
    command, package, args = (
        table.text("command", limit=4096),
        table.text("packageName", limit=1024),
        table.texts("args"),
    )
    if not command.strip():
        table.error("command", "a skill of type mcpStdioSkill needs a command")
    if package and "args" in table.values:
        table.error(
            "packageName", "packageName and args exclude each other: put the package into args, or leave args out"
        )
    env, domains, approval = _env_names(table), _domains(table), _approval(table)
    isolation = _isolation(table, own=bool(env or domains or approval != Approval.NEVER))
    return StdioSkill(
        name=name,
        command=command,
        args=args,
        package=package,
        description=table.text("description"),
        rule=table.text("rule"),
        pick=table.texts("pick"),
        omit=table.texts("omit"),
        required_env=env,
        allowed_domains=domains,
        lazy_init=table.flag("lazyInit"),
        isolation=isolation,
        approval=approval,
        tool_timeout_ms=table.integer("toolTimeout", 0, 1),
        workspace=_workspace(table, isolation),
    )


def _remote(name: str, table: Table) -> RemoteSkill:
    endpoint = table.text("endpoint", limit=2048)
    wrong = url_problem(endpoint, frozenset(), loopback=False) if endpoint else "is empty; a remote skill needs one"
    if wrong:
        table.error("endpoint", f"{shown(endpoint)} {wrong}")
    headers = read_headers(table)
    named = [found for _, value in headers for found in _REFERENCE.findall(value)]
    if table.one_of("workspace", _WORKSPACES, "none") != "none":
        table.warning("workspace", "workspace is ignored: a remote skill has no files of ours")
    return RemoteSkill(
        name=name,
        transport="sse" if table.text("type") == "mcpSseSkill" else "http",
        endpoint=endpoint,
        headers=headers,
        description=table.text("description"),
        rule=table.text("rule"),
        pick=table.texts("pick"),
        omit=table.texts("omit"),
        required_env=tuple(dict.fromkeys((*_env_names(table), *named))),
        allowed_domains=_domains(table),
        isolation=_isolation(table, own=True),
        approval=_approval(table),
        tool_timeout_ms=table.integer("toolTimeout", 0, 1),
    )


def _interactive(name: str, table: Table) -> InteractiveSkill:
    tools = table.table("tools")
    if tools is None or not tools.values:
        table.error("tools", "an interactive skill needs at least one table [….tools.NAME]")
        return InteractiveSkill(name, ())
    read = (_interactive_tool(tool, below) for tool in tools.values if (below := tools.table(tool)) is not None)
    return InteractiveSkill(name, tuple(read), table.text("description"), table.text("rule"))


def _interactive_tool(name: str, table: Table) -> InteractiveTool:
    table.only(("description", "inputJsonSchema"))
    if not _TOOL_NAME.fullmatch(name):
        table.problems.error(
            table.path, f"{shown(name)} is not a tool's name: a letter, then letters, digits, _ and -, ≤ 64"
        )
    return InteractiveTool(name, table.text("description"), _schema(table))


def _schema(table: Table) -> JsonObject:
    """JSON in a string, as in the original, or a TOML table."""
    key = "inputJsonSchema"
    value = table.values.get(key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            table.error(key, f"is not JSON: {shown(str(error))}")
            return {}
    if not isinstance(value, dict):
        what = "is missing" if value is None else f"must be a JSON Schema of an object, not {kind(value)}"
        table.error(key, what)
        return {}
    if value.get("type", "object") != "object" or not isinstance(value.get("properties", {}), dict):
        table.error(key, 'must describe an object: "type" is "object" and "properties" is one')
        return {}
    if not _is_json(value):
        table.error(key, "has a date, a time or a number that JSON does not have")
        return {}
    return cast("JsonObject", value)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _base_names(table: Table, key: str) -> tuple[str, ...]:
    names = table.texts(key)
    for name in names:
        if name not in BASE_TOOLS:
            table.warning(key, f"{shown(name)} is not a base tool", (name, BASE_TOOLS))
    return names


def _env_names(table: Table) -> tuple[str, ...]:
    wrong = "is not the name of an environment variable"
    return table.texts("requiredEnv", problem=lambda name: "" if _ENV_NAME.fullmatch(name) else wrong)


def _domains(table: Table) -> tuple[str, ...]:
    domains = table.texts("allowedDomains", problem=host_pattern.problem)
    return tuple(dict.fromkeys(domain.lower() for domain in domains))


def _isolation(table: Table, *, own: bool) -> Isolation:
    default = Isolation.OWN if own else Isolation.SHARED
    return Isolation(table.one_of("isolation", tuple(Isolation), default.value))


def _workspace(table: Table, isolation: Isolation) -> str:
    """`ro` unless the file says otherwise; empty for a shared skill, which sees what the expert sees."""
    if isolation is Isolation.OWN:
        return table.one_of("workspace", _WORKSPACES, "ro")
    if "workspace" in table.values:
        table.warning(
            "workspace", 'workspace is ignored: the skill shares the expert\'s sandbox; set isolation = "own"'
        )
    return ""


def _approval(table: Table) -> tuple[str, ...] | Approval:
    value = table.values.get("approval", Approval.NEVER.value)
    if isinstance(value, list):
        return table.texts("approval") or Approval.NEVER
    if value in set(Approval):
        return Approval(value)
    table.error("approval", f'must be "never", "always" or an array of tool names, not {shown(value)}')
    return Approval.NEVER
