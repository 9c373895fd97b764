"""The tools and skills that Anthropic runs itself, as a request names them. Pure.

Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/server-tools and
https://platform.claude.com/docs/en/build-with-claude/skills-guide, with the types of the SDK 2.11. The versions chosen
are those whose results come from direct calls: the later ones call each other from within code execution.
"""

from datetime import datetime, timedelta
from typing import Final

from perstackd.adapters.models.provider_document import parsed
from perstackd.adapters.models.provider_errors import model_error
from perstackd.domain.messages import JsonObject, JsonValue, Message, ModelRequest, ProviderPart
from perstackd.domain.provider_tools import options_of, usable

PROVIDER: Final = "anthropic"
CONTAINER: Final = "container"
"""The type of the document that says which container a turn's code ran in. It is ours: no block of the API."""

_TYPES: Final = {
    "codeExecution": ("code_execution_20250825", "code_execution"),
    "webFetch": ("web_fetch_20250910", "web_fetch"),
    "webSearch": ("web_search_20250305", "web_search"),
}
_OPTIONS: Final = {
    "allowedDomains": "allowed_domains",
    "blockedDomains": "blocked_domains",
    "maxContentTokens": "max_content_tokens",
    "maxUses": "max_uses",
}
MAX_CONTENT_TOKENS: Final = 50_000
"""Of a fetched page, unless the definition says otherwise: a page stays in the conversation to its end."""

_LEAST_LIFE: Final = timedelta(minutes=1)


def server_tools(request: ModelRequest) -> list[JsonObject]:
    """The provider's own tools. Raises `model_refused_request` if a tool of the expert has the name of one."""
    names = _names(request)
    options = options_of(request)
    tools = [_tool(name, options.get(name, {})) for name in sorted(names)]
    taken = {str(tool["name"]) for tool in tools} & {spec.name for spec in request.tools}
    if taken:
        name = min(taken)
        what = f"The expert has a tool {name!r}, which is the name of the provider's own: leave one of the two out."
        raise model_error("model_refused_request", what)
    return tools


def container(request: ModelRequest, now: datetime) -> JsonValue:
    """What the request says of the container: its skills, and the one of an earlier turn while that lives; or None."""
    said: JsonObject = {}
    known = _last_container(request.messages, now) if "codeExecution" in _names(request) else ""
    if known:
        said["id"] = known
    if request.provider_skills:
        said["skills"] = [
            {
                "type": "anthropic" if skill.kind == "builtin" else "custom",
                "skill_id": skill.skill_id,
                "version": skill.version or "latest",
            }
            for skill in request.provider_skills
        ]
    return said or None


def _names(request: ModelRequest) -> set[str]:
    names = set(usable(request))
    return names | {"codeExecution"} if request.provider_skills else names  # which skills run in


def _tool(name: str, options: JsonObject) -> JsonObject:
    type_, shown = _TYPES[name]
    tool: JsonObject = {"type": type_, "name": shown}
    if name == "webFetch":
        tool["max_content_tokens"] = MAX_CONTENT_TOKENS
    return tool | {_OPTIONS[key]: value for key, value in options.items() if key in _OPTIONS}


def _last_container(messages: tuple[Message, ...], now: datetime) -> str:
    """Empty when there is none, or when it is gone before the call would end."""
    for message in reversed(messages):
        for part in reversed(message.parts):
            if isinstance(part, ProviderPart) and part.provider == PROVIDER:
                document = parsed(part.document)
                if document.get("type") == CONTAINER:
                    return str(document["id"]) if _lives(str(document.get("expires_at", "")), now) else ""
    return ""


def _lives(until: str, now: datetime) -> bool:
    try:
        return datetime.fromisoformat(until) - now > _LEAST_LIFE
    except (ValueError, TypeError):  # no date, or one of no zone
        return False
