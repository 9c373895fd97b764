"""`providerTools`, `providerToolOptions`, `providerSkills`: what an expert asks of its provider beside the model."""

import json
import re
from collections.abc import Callable
from typing import Any, Final

from perstackd.adapters.definition.positions import Path
from perstackd.adapters.definition.table import Problems, Table, kind, shown
from perstackd.domain.expert import Definition, Expert
from perstackd.domain.messages import JsonObject, JsonValue, ProviderSkill
from perstackd.domain.provider_tools import KNOWN, TOOLS, refusals

PROVIDER_KEYS: Final = ("modelTier", "providerTools", "providerSkills", "providerToolOptions")
BUILTIN_SKILLS: Final = ("docx", "pdf", "pptx", "xlsx")
MAX_TOOLS: Final = 32
MAX_SKILLS: Final = 8
"""What Anthropic takes in one request."""
MAX_DOMAINS: Final = 100

_SKILL_KEYS: Final = ("type", "skillId", "version", "name", "definition")
_SKILL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.*-]{0,252})(/[!-~]{0,512})?")
_NUMBERS: Final = ("maxUses", "maxContentTokens", "maxNumResults")
_DOMAINS: Final = ("allowedDomains", "blockedDomains")
_OPTIONS: Final = {
    "webSearch": ("maxUses", *_DOMAINS),
    "webFetch": ("maxUses", "maxContentTokens", *_DOMAINS),
    "fileSearch": ("vectorStoreIds", "maxNumResults"),
}


def read_tools(table: Table) -> tuple[str, ...]:
    """The names of `providerTools`, each once. Whether the provider has them is told by `check_providers`."""
    return table.texts("providerTools", limit=MAX_TOOLS)


def read_options(table: Table) -> str:
    """`providerToolOptions` as canonical JSON; empty without any."""
    options = table.table("providerToolOptions")
    if options is None:
        return ""
    options.only(tuple(_OPTIONS))
    found: JsonObject = {}
    for tool in options.values:
        below = options.table(tool) if tool in _OPTIONS else None
        if below is not None and (values := _options(below, _OPTIONS[tool])):
            found[tool] = values
    return json.dumps(found, ensure_ascii=False, sort_keys=True, separators=(",", ":")) if found else ""


def read_skills(table: Table) -> tuple[ProviderSkill, ...]:
    """The skills of `providerSkills` that a provider can be asked for."""
    listed: Any = table.values.get("providerSkills", [])
    if not isinstance(listed, list):
        table.error("providerSkills", f"must be an array of tables, not {kind(listed)}")
        return ()
    if len(listed) > MAX_SKILLS:
        table.error("providerSkills", f"has {len(listed):,} entries, {MAX_SKILLS} are allowed")
        return ()
    read = (_skill(table, index, value) for index, value in enumerate(listed))
    return tuple(dict.fromkeys(skill for skill in read if skill is not None))


def check_providers(definition: Definition, problems: Problems, problem: Callable[[str], str] = lambda _: "") -> None:
    """Warn of what the provider that the file names cannot do, also of one that this daemon does not have. One that is
    not named is the daemon's affair.
    """
    _check_there(("provider",), definition.model.provider, problems, problem)
    for expert in definition.experts:
        _check_there(("experts", expert.key, "provider"), expert.model.provider, problems, problem)
        provider = expert.model.provider or definition.model.provider
        if provider and not problem(provider):
            _check(expert, provider, problems)
        else:
            _check_names(expert, problems)


def _check_there(path: Path, provider: str, problems: Problems, problem: Callable[[str], str]) -> None:
    """A warning, since a job may name another provider."""
    if provider and (why := problem(provider)):
        problems.warning((*path, "providerName"), why)


def _check(expert: Expert, provider: str, problems: Problems) -> None:
    options = json.loads(expert.provider_tool_options or "{}")
    for refusal in refusals(provider, expert.provider_tools, options, expert.provider_skills):
        named = refusal.path[0] == "providerTools" and isinstance(refusal.path[1], int)
        tool = expert.provider_tools[int(refusal.path[1])] if named else ""
        near = (tool, TOOLS.get(provider, ())) if tool and tool not in KNOWN else None
        problems.warning(("experts", expert.key, *refusal.path), refusal.message, near)


def _check_names(expert: Expert, problems: Problems) -> None:
    for index, tool in enumerate(expert.provider_tools):
        if tool not in KNOWN:
            path = ("experts", expert.key, "providerTools", index)
            problems.warning(path, f"no provider has a tool {shown(tool)}; it is left out", (tool, KNOWN))


def _options(table: Table, known: tuple[str, ...]) -> JsonObject:
    table.only(known)
    found: JsonObject = {}
    for key in table.values:
        value = _option(table, key) if key in known else None
        if value:
            found[key] = value
    if all(found.get(key) for key in _DOMAINS):
        table.error("blockedDomains", "allowedDomains and blockedDomains exclude each other: leave one of them out")
    return found


def _option(table: Table, key: str) -> JsonValue:
    if key in _NUMBERS:
        return table.integer(key, 0, 1)
    if key in _DOMAINS:
        return list(table.texts(key, limit=MAX_DOMAINS, problem=_domain_problem))
    return list(table.texts(key, limit=MAX_TOOLS))


def _domain_problem(domain: str) -> str:
    return "" if _DOMAIN.fullmatch(domain) else "is not a domain; write it as example.com, without https://"


def _skill(table: Table, index: int, value: object) -> ProviderSkill | None:
    path = (*table.path, "providerSkills", index)
    if not isinstance(value, dict):
        table.problems.error(path, f"must be a table, not {kind(value)}")
        return None
    below = Table(value, path, table.problems)
    below.only(_SKILL_KEYS)
    match below.one_of("type", ("builtin", "custom"), ""):
        case "builtin":
            skill_id = below.one_of("skillId", BUILTIN_SKILLS, "")
            if "skillId" not in value:
                table.problems.error(path, f"a builtin skill needs a skillId: {', '.join(BUILTIN_SKILLS)}")
        case "custom":
            skill_id = below.matching("skillId", _SKILL_ID, "the id of a skill")
            if "skillId" not in value:
                _untold(below)
        case _:
            skill_id = ""
            if "type" not in value:
                table.problems.error(path, "the skill has no type: builtin or custom")
    version = below.matching("version", _SKILL_ID, "a version of a skill")
    return ProviderSkill(str(value["type"]), skill_id, version) if skill_id else None


def _untold(table: Table) -> None:
    """The original's way: a name and a definition. No provider takes a definition within a request."""
    name = table.text("name", limit=1024)
    called = f"the custom skill {shown(name)}" if name else "a custom skill"
    message = f"{called} is left out: a provider takes it by its id; upload it there, and name it as skillId"
    table.problems.warning(table.path, message)
