"""Answers checked with `jsonschema`, the reference implementation in Python, which the mcp SDK brings along.

A schema comes from a tenant's definition or from a server in a sandbox, so what lets one cost time is left out: regular
expressions (`pattern`, `patternProperties`, `format`) and references, which also could point elsewhere.
"""

from functools import cache
from typing import Any, Final

from perstackd.domain.messages import JsonObject, JsonValue

MAX_DEPTH: Final = 32
_LEFT_OUT: Final = ("pattern", "patternProperties", "format", "$ref", "$dynamicRef", "uniqueItems")


@cache
def _validator() -> tuple[Any, Any]:
    """(the strict one, for schemas; the bounded one, for answers). Imported here: most daemons are never asked, and it
    takes 10 MiB.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    bounded = extend(Draft202012Validator, dict.fromkeys(_LEFT_OUT, lambda *_: None))  # type: ignore[no-untyped-call]
    return Draft202012Validator, bounded


class JsonAnswerSchemas:
    """Implements `AnswerSchemas`."""

    def problem(self, schema: JsonObject, value: JsonValue) -> str:
        if _depth(schema) > MAX_DEPTH or _depth(value) > MAX_DEPTH:
            return f"the answer is nested more than {MAX_DEPTH} deep" if _depth(value) > MAX_DEPTH else ""
        from jsonschema.exceptions import SchemaError, best_match

        strict, bounded = _validator()
        try:
            strict.check_schema(schema)
            error = best_match(bounded(schema).iter_errors(value))
        except SchemaError:
            return ""  # nobody can answer in the shape of what is none
        return "" if error is None else _sentence(error)


def _sentence(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"{place.lstrip('.')[:200] or 'the answer'}: {error.message[:300]}"


def _depth(value: object) -> int:
    """Nesting, without recursion: the value may be deeper than Python's stack."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        below: list[object] = []
        for each in level:
            below += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        level = below
    return depth
