"""The tools that providers run themselves: which provider has which, by the names and options of a definition.

The names are the original's. What a provider does not have is told, by the parser with its place in the file and by
the model adapters as a note of the turn; it is never left out in silence. Pure.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from perstackd.domain.messages import JsonObject, ModelRequest, ProviderSkill

TOOLS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "anthropic": ("codeExecution", "webFetch", "webSearch"),
        "openai": ("codeInterpreter", "fileSearch", "webSearch"),
        "azure-openai": ("codeInterpreter", "fileSearch", "webSearch", "webSearchPreview"),
    }
)
"""By provider. Every other provider has none."""

KNOWN: Final = (
    *("codeExecution", "codeInterpreter", "enterpriseWebSearch", "fileSearch", "googleMaps", "googleSearch"),
    *("imageGeneration", "urlContext", "webFetch", "webSearch", "webSearchPreview"),
)
"""Names that a definition may use for any provider of the original."""

SKILLS: Final = frozenset({"anthropic"})
"""Providers that keep skills of their own."""

_OPTIONS: Final[Mapping[tuple[str, str], frozenset[str]]] = MappingProxyType(
    {
        ("anthropic", "webSearch"): frozenset({"allowedDomains", "blockedDomains", "maxUses"}),
        ("anthropic", "webFetch"): frozenset({"allowedDomains", "blockedDomains", "maxContentTokens", "maxUses"}),
        ("openai", "webSearch"): frozenset({"allowedDomains"}),
        ("openai", "fileSearch"): frozenset({"maxNumResults", "vectorStoreIds"}),
        ("azure-openai", "webSearch"): frozenset({"allowedDomains"}),
        ("azure-openai", "fileSearch"): frozenset({"maxNumResults", "vectorStoreIds"}),
    }
)
_WHY_NOT: Final = {"imageGeneration": "its images have no way into the workspace"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a provider will not be asked for: where it stands below the expert, and a sentence."""

    path: tuple[str | int, ...]
    message: str


def refusals(
    provider: str,
    tools: Sequence[str],
    options: Mapping[str, object],
    skills: Sequence[ProviderSkill],
    has: Sequence[str] | None = None,
) -> tuple[Refusal, ...]:
    """What of a definition `provider` cannot do. `has` are its tools where they are fewer than `TOOLS` says."""
    own = TOOLS.get(provider, ()) if has is None else has
    return (
        *_tools(provider, own, tools, options),
        *_options(provider, own, tools, options),
        *_skills(provider, skills),
    )


def usable(request: ModelRequest, has: Sequence[str] | None = None) -> tuple[str, ...]:
    """The tools of a request that its provider has, sorted, each once."""
    own = TOOLS.get(request.provider, ()) if has is None else has
    refused = {refusal.path for refusal in _tools(request.provider, own, request.provider_tools, options_of(request))}
    asked = enumerate(request.provider_tools)
    return tuple(sorted({tool for index, tool in asked if ("providerTools", index) not in refused}))


def notes(request: ModelRequest, has: Sequence[str] | None = None) -> tuple[str, ...]:
    """The refusals of a request, as sentences."""
    asked = (request.provider, request.provider_tools, options_of(request), request.provider_skills)
    return tuple(refusal.message for refusal in refusals(*asked, has))


def options_of(request: ModelRequest) -> dict[str, JsonObject]:
    """The options of a request by the names of tools."""
    return cast("dict[str, JsonObject]", json.loads(request.provider_tool_options or "{}"))


def _tools(provider: str, own: Sequence[str], tools: Sequence[str], options: Mapping[str, object]) -> Iterator[Refusal]:
    for index, tool in enumerate(tools):
        if tool not in own:
            have = f"it has {', '.join(own)}" if own else "it has none that can be used here"
            why = _WHY_NOT.get(tool, have)
            yield Refusal(
                ("providerTools", index),
                f"{tool[:64]!r} is no tool of the provider {provider!r} and is left out: {why}",
            )
        elif tool == "fileSearch" and not _option(options, tool, "vectorStoreIds"):
            message = (
                "fileSearch is left out: it needs the stores to search, providerToolOptions.fileSearch.vectorStoreIds"
            )
            yield Refusal(("providerTools", index), message)


def _options(
    provider: str, own: Sequence[str], tools: Sequence[str], options: Mapping[str, object]
) -> Iterator[Refusal]:
    for tool, values in options.items():
        if tool not in tools:
            message = f"the options of {tool[:64]!r} have no effect: providerTools does not name it"
            yield Refusal(("providerToolOptions", tool), message)
        elif tool in own and isinstance(values, Mapping):
            takes = _OPTIONS.get((provider, tool), frozenset())
            for option in values:
                if option not in takes:
                    said = f"it takes {', '.join(sorted(takes))}" if takes else "it takes none"
                    message = (
                        f"{tool} of the provider {provider!r} does not take {option[:64]!r}, which is left out: {said}"
                    )
                    yield Refusal(("providerToolOptions", tool, option), message)


def _skills(provider: str, skills: Sequence[ProviderSkill]) -> Iterator[Refusal]:
    if skills and provider not in SKILLS:
        message = f"the provider {provider!r} has no skills of its own; providerSkills are left out"
        yield Refusal(("providerSkills",), message)


def _option(options: Mapping[str, object], tool: str, option: str) -> object:
    values = options.get(tool)
    return values.get(option) if isinstance(values, Mapping) else None
