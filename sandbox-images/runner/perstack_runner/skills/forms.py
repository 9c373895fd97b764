"""Which forms a server may put before a person: a flat object of primitives, as MCP defines it; and the answers."""

import json
from typing import Any, Final

import mcp_types as mcp

from perstack_runner.messages import Elicited
from perstack_runner.results import canonical

MAX_SCHEMA_BYTES: Final = 16 << 10
_PRIMITIVES: Final = ("string", "number", "integer", "boolean")
_NESTS: Final = ("properties", "items", "$ref", "allOf", "not", "patternProperties")


def form(schema: dict[str, Any]) -> bytes | None:
    """The schema as canonical JSON; None when it is too large, or not a flat object of primitives.

    A choice of several among named values (an array of strings) counts as primitive, as it does in MCP.
    """
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict):
        return None
    if any(key in schema for key in _NESTS if key != "properties") or not all(map(_flat, properties.values())):
        return None
    try:
        json.dumps(schema, allow_nan=False)
        data = canonical(schema)
    except (ValueError, RecursionError):
        return None
    return data if len(data) <= MAX_SCHEMA_BYTES else None


def _flat(field: object) -> bool:
    if not isinstance(field, dict):
        return False
    if field.get("type") == "array":
        choices = field.get("items")
        return isinstance(choices, dict) and ("enum" in choices or "anyOf" in choices) and not _nests(choices)
    return field.get("type") in _PRIMITIVES and not _nests(field)


def _nests(field: dict[str, Any]) -> bool:
    return any(key in field for key in _NESTS)


def filled(answer: Elicited) -> mcp.ElicitResult:
    """A person's answer as the protocol has it; cancelled when it is none."""
    try:
        content = json.loads(answer.content) if answer.action == "accept" else None
        return mcp.ElicitResult.model_validate({"action": answer.action, "content": content})
    except ValueError:
        return mcp.ElicitResult(action="cancel")
