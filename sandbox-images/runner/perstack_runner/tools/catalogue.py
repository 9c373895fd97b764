"""The base tools' names and schemas: proto/perstack/v1/base_tools.json, the data that the daemon shows to models."""

import json
import os
from collections.abc import Mapping
from typing import Any, Final

import perstack.v1

from perstack_runner.tools.outcome import ToolFailure

_FILE: Final = "base_tools.json"
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def load() -> dict[str, dict[str, Any]]:
    """Tools by name. Reads a file: call it once, before the loop runs. Raises OSError."""
    with open(os.path.join(next(iter(perstack.v1.__path__)), _FILE), encoding="utf-8") as file:  # noqa: PTH118, PTH123
        return {tool["name"]: tool for tool in json.load(file)}


def checked(schema: Mapping[str, Any], raw: bytes) -> dict[str, Any]:
    """The arguments of a call, known names only, held to their schema.

    Understands what base_tools.json uses: type, required, items, additionalProperties, minimum, maximum, minLength.
    null counts as absent.

    Raises:
        ToolFailure: invalid_arguments, naming the argument and what it has to be.
    """
    try:
        given = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise ToolFailure("invalid_arguments", "the arguments are not valid JSON") from None
    if not isinstance(given, dict):
        raise ToolFailure("invalid_arguments", "the arguments have to be a JSON object")
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    arguments = {name: value for name, value in given.items() if name in properties and value is not None}
    missing = [name for name in schema["required"] if name not in arguments]
    if missing:
        raise ToolFailure("invalid_arguments", f"missing: {', '.join(missing)}")
    for name, value in arguments.items():
        _check(name, value, properties[name])
    return arguments


def _check(name: str, value: object, schema: Mapping[str, Any]) -> None:
    expected = schema["type"]
    if not isinstance(value, _TYPES[expected]) or (expected == "integer" and isinstance(value, bool)):
        raise ToolFailure("invalid_arguments", f"{name} has to be of type {expected}")
    match value:
        case bool():
            return
        case int():
            _check_range(name, value, schema)
        case str() if len(value) < schema.get("minLength", 0):
            raise ToolFailure("invalid_arguments", f"{name} must not be empty")
        case list():
            for index, item in enumerate(value):
                _check(f"{name}[{index}]", item, schema["items"])
        case dict():
            for key, item in value.items():
                _check(f"{name}.{key}", item, schema["additionalProperties"])


def _check_range(name: str, value: int, schema: Mapping[str, Any]) -> None:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    if not low <= value <= high:
        bound = f"at least {low}" if value < low else f"at most {high}"
        raise ToolFailure("invalid_arguments", f"{name} has to be {bound}")
