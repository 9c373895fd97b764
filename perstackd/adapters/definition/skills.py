"""`[experts.K.skills.NAME]`: the three kinds of skill, and how an expert narrows the built-in one."""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from perstackd.adapters.definition import schemas
from perstackd.adapters.definition.allowed import Allowed
from perstackd.adapters.definition.model_choice import read_headers, url_problem
from perstackd.adapters.definition.table import Table, shown
from perstackd.domain import host_pattern
from perstackd.domain.expert import (
    BASE_SKILL,
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
from perstackd.domain.tool_names import without_version

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
    "readArtifact",
    "readImageFile",
    "readPdfFile",
    "readTextFile",
    "searchHistory",
    "searchText",
    "todo",
    "writeTextFile",
)

MAX_TOOLS: Final = 128
"""Of one interactive skill."""
MAX_SCHEMA_NODES: Final = 20_000
"""Of all schemas of a definition together, with some for each schema: checking one takes about 0.1 ms."""
SCHEMA_NODES: Final = 8
"""What a schema costs beyond its values."""

_ROUTES: Final = ("http://127.0.0.1:3129/", "http://localhost:3129/")
"""Where a sandbox asks for origin routes."""
_ALWAYS: Final = "attemptCompletion"
_INSTALLERS: Final = frozenset({"npx", "uvx"})
_SHARED_KEYS: Final = ("type", "description", "rule")
_SERVER_KEYS: Final = (
    *_SHARED_KEYS,
    *("pick", "omit", "requiredEnv", "allowedDomains", "isolation", "approval", "workspace"),
    *("startTimeout", "toolTimeout"),
)
_STDIO_KEYS: Final = (*_SERVER_KEYS, "command", "packageName", "args", "lazyInit")
_REMOTE_KEYS: Final = (*_SERVER_KEYS, "endpoint", "headers")
_INTERACTIVE_KEYS: Final = (*_SHARED_KEYS, "tools")

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,254})\}")
_TYPES: Final = ("mcpStdioSkill", "mcpSseSkill", "mcpHttpSkill", "interactiveSkill")
_TOOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_WORKSPACES: Final = ("none", "ro", "rw")


def read_skill(name: str, table: Table, allowed: Allowed, elsewhere: Mapping[str, str]) -> Skill | None:
    """The skill of a table; None when its type is missing or unknown, which is noted."""
    type_ = table.text("type")
    match type_:
        case "mcpStdioSkill":
            table.only(_STDIO_KEYS, elsewhere)
            return _stdio(name, table)
        case "mcpSseSkill" | "mcpHttpSkill":
            table.only(_REMOTE_KEYS, elsewhere)
            return _remote(name, table, allowed)
        case "interactiveSkill":
            table.only(_INTERACTIVE_KEYS, elsewhere)
            return _interactive(name, table)
        case _:
            wrong = f"{shown(type_)} is not a type of skill" if type_ else "the skill has no type"
            table.error("type", f"{wrong}; there are {', '.join(_TYPES)}", (type_, _TYPES))
            return None


def read_base(table: Table, elsewhere: Mapping[str, str]) -> BaseSkill:
    """How `@perstack/base` is narrowed. Its command, package and version are the original's way of naming it."""
    table.only(_STDIO_KEYS, elsewhere)
    base = BaseSkill(_base_names(table, "pick"), _base_names(table, "omit"), _env_names(table), table.text("rule"))
    _check_narrowing(table, base.pick, base.omit)
    if _ALWAYS in base.omit:
        table.warning("omit", f"{_ALWAYS} cannot be taken away: a run ends by it")
    if base.required_env and has_exec(base):
        table.warning("requiredEnv", "gives these values to whatever this expert runs with exec")
    for key in ("allowedDomains", "isolation", "workspace"):
        if key in table.values:
            table.warning(key, f"{key} is ignored: the base tools run in the expert's own sandbox")
    if _approval(table) != Approval.NEVER:
        table.warning(
            "approval", "approval is ignored: the base tools run in the expert's own sandbox, nobody is asked"
        )
    return base


def has_exec(base: BaseSkill) -> bool:
    """Whether an expert can run programs."""
    return "exec" not in base.omit and (not base.pick or "exec" in base.pick)


def check_sharing(table: Table, skill: Skill, base: BaseSkill) -> None:
    """Warn of a skill that is made to share what it would keep to itself."""
    if isinstance(skill, InteractiveSkill) or skill.isolation is not Isolation.SHARED:
        return
    hosts = list(skill.allowed_domains)
    if isinstance(skill, RemoteSkill):
        hosts.append(urlsplit(skill.endpoint).hostname or "its endpoint")
    seen = [f"read {', '.join(skill.required_env)}"] if skill.required_env else []
    seen += [f"reach {', '.join(hosts)}"] if hosts else []
    seen += ["call its server without asking"] if skill.approval != Approval.NEVER else []
    if seen:
        who = "exec and the expert's other skills" if has_exec(base) else "the expert's other skills"
        table.warning("isolation", f"{who} can then {' and '.join(seen)}; leave isolation out to keep them apart")


def _stdio(name: str, table: Table) -> StdioSkill:
    command, package, args = _command(table)
    env, domains, approval = _env_names(table), _domains(table), _approval(table)
    installs = command.rpartition("/")[2] in _INSTALLERS
    isolation = _isolation(table, own=bool(env or domains or approval != Approval.NEVER or installs))
    pick, omit = _narrowing(table, approval)
    return StdioSkill(
        name=name,
        command=command,
        args=args,
        package=package,
        description=table.text("description"),
        rule=table.text("rule"),
        pick=pick,
        omit=omit,
        required_env=env,
        allowed_domains=domains,
        lazy_init=table.flag("lazyInit"),
        isolation=isolation,
        approval=approval,
        tool_timeout_ms=table.integer("toolTimeout", 0, 1),
        start_timeout_ms=table.integer("startTimeout", 0, 1),
        workspace=_workspace(table, isolation),
    )


def _command(table: Table) -> tuple[str, str, tuple[str, ...]]:
    """command, packageName, args."""
    command, package = table.text("command", limit=4096).strip(), table.text("packageName", limit=1024)
    args = table.words("args")
    if not command:
        table.error("command", "a skill of type mcpStdioSkill needs a command")
    elif len(command.split()) > 1:
        table.warning("command", "is started as one program with blanks in its name; put arguments into args")
    if package and args:
        message = "packageName and args exclude each other: put the package into args, or leave args out"
        table.error("packageName", message)
    if without_version(package) == BASE_SKILL:
        table.warning("packageName", f"{BASE_SKILL} is built in: name the skill {BASE_SKILL!r} to narrow it")
    return command, package, args


def _remote(name: str, table: Table, allowed: Allowed) -> RemoteSkill:
    endpoint, headers = _endpoint(table, allowed), read_headers(table)
    named = _secrets(table, headers)
    approval = _approval(table)
    pick, omit = _narrowing(table, approval)
    if table.one_of("workspace", _WORKSPACES, "none") != "none":
        table.warning("workspace", "workspace is ignored: a remote skill has no files of ours")
    return RemoteSkill(
        name=name,
        transport="sse" if table.text("type") == "mcpSseSkill" else "http",
        endpoint=endpoint,
        headers=headers,
        description=table.text("description"),
        rule=table.text("rule"),
        pick=pick,
        omit=omit,
        required_env=named,
        allowed_domains=_domains(table),
        isolation=_isolation(table, own=True),
        approval=approval,
        tool_timeout_ms=table.integer("toolTimeout", 0, 1),
        start_timeout_ms=table.integer("startTimeout", 0, 1),
    )


def _endpoint(table: Table, allowed: Allowed) -> str:
    endpoint = table.text("endpoint", limit=2048)
    wrong = url_problem(endpoint, frozenset(), loopback=True) if endpoint else "is empty; a remote skill needs one"
    # An origin route is the operator's to give: whether there is one shows when the skill asks for it.
    routed = endpoint.startswith(_ROUTES)
    plain = not (wrong or routed) and urlsplit(endpoint).scheme == "http"
    if plain and not allowed.loopback_endpoints:
        wrong = "must be https; plain http is for loopback, where egress.allow_addresses of the operator has it"
    elif plain:
        table.warning("endpoint", "is plain http to loopback: that of the sandbox which the skill runs in")
    elif not (wrong or routed) and (why := host_pattern.problem(urlsplit(endpoint).hostname or "")):
        table.warning("endpoint", f"{shown(endpoint)} will not be reached: its host {why}")
    if wrong:
        table.error("endpoint", f"{shown(endpoint)} {wrong}" if endpoint else wrong)
    return "" if wrong else endpoint


def _secrets(table: Table, headers: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Names in the values of headers, each once. What looks like one and is none would be sent as it stands."""
    below = table.table("headers")
    for header, value in headers:
        if below is not None and "${" in _REFERENCE.sub("", value):
            below.error(header, "has a ${ that begins no name of an environment variable; write ${NAME}")
    named = dict.fromkeys(found for _, value in headers for found in _REFERENCE.findall(value))
    for name in _env_names(table):
        if name not in named:
            table.warning(
                "requiredEnv", f"{name} goes nowhere: a remote skill is sent what its headers name as ${{NAME}}"
            )
    return tuple(named)


def _interactive(name: str, table: Table) -> InteractiveSkill:
    tools = table.table("tools")
    if tools is None or not tools.values:
        if tools is not None or "tools" not in table.values:
            table.error("tools", "an interactive skill needs at least one table [….tools.NAME]")
        return InteractiveSkill(name, ())
    if len(tools.values) > MAX_TOOLS:
        table.error("tools", f"has {len(tools.values):,} tools, {MAX_TOOLS:,} are allowed")
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
    """JSON in a string, as in the original, or a TOML table; of a table the place within it is told."""
    key = "inputJsonSchema"
    value = table.values.get(key)
    if table.problems.schema_nodes > MAX_SCHEMA_NODES:
        table.error(
            key, f"is not read: the schemas before it are too large together (about {MAX_SCHEMA_NODES:,} values)"
        )
        return {}
    found = schemas.checked(value)
    table.problems.schema_nodes += found.nodes + SCHEMA_NODES
    if found.wrong is not None:
        inside = found.wrong.path if isinstance(value, dict) else ()
        table.problems.error((*table.path, key, *inside), found.wrong.message)
    return found.schema or {}


def _base_names(table: Table, key: str) -> tuple[str, ...]:
    names = table.texts(key)
    for name in names:
        if name not in BASE_TOOLS:
            table.warning(key, f"{shown(name)} is not a base tool", (name, BASE_TOOLS))
    return names


def _narrowing(table: Table, approval: tuple[str, ...] | Approval) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """pick and omit. Whether the server has such tools is known once it runs."""
    pick, omit = table.texts("pick"), table.texts("omit")
    _check_narrowing(table, pick, omit)
    for name in approval if isinstance(approval, tuple) else ():
        if name in omit or (pick and name not in pick):
            table.warning("approval", f"{shown(name)} is not among the tools that pick and omit leave")
    return pick, omit


def _check_narrowing(table: Table, pick: Sequence[str], omit: Sequence[str]) -> None:
    for name in pick:
        if name in omit:
            table.warning("pick", f"{shown(name)} is in omit as well, and omit counts first")


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
