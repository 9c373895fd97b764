"""JSON Schemas of interactive tools: what is wrong with one, found before anybody is asked by it.

Size, depth and references are bounded first, because the check against the meta-schema takes time for each keyword,
and whoever later validates an answer must come to an end: a schema that refers to itself, or that grows by references
to references, would cost more than its text shows.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast

from perstackd.adapters.definition.positions import Path
from perstackd.adapters.definition.table import MAX_TEXT, kind, shown
from perstackd.domain.messages import JsonObject

MAX_DEPTH: Final = 32
MAX_NODES: Final = 5_000
"""Values of one schema, and of what it comes to when its references are written out."""
MAX_EXPANDED_DEPTH: Final = 128
"""With references written out; Python's frames suffice for it."""
MAX_ENTRIES: Final = 256
"""Of an array that is no data: that its entries differ is found out by comparing each with each."""
MAX_PATTERN: Final = 1_000

_Node: TypeAlias = "tuple[object, Path]"
_MAPS: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
"""Keywords whose values are schemas by name: a key in them is no keyword."""
_VALUES: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data: a `$ref` in them is a name like any other."""
_ELSEWHERE: Final = ("$dynamicRef", "$recursiveRef")


class Wrong(NamedTuple):
    """What is wrong, as a sentence about `inputJsonSchema`, and where in it."""

    message: str
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """A schema that can be used, with `type` said; or what is wrong with it. `nodes` is how large it is."""

    schema: "JsonObject | None" = None
    wrong: Wrong | None = None
    nodes: int = 0


def checked(value: object) -> Checked:
    """The schema in a definition's value: JSON in a string, as in the original, or a TOML table."""
    schema, wrong = _from_text(value) if isinstance(value, str) else (value, None)
    wrong = wrong or _shape_problem(schema)
    if wrong or not isinstance(schema, dict):
        return Checked(wrong=wrong)
    nodes = sum(1 for _ in _values(schema))
    if nodes > MAX_NODES:
        return Checked(wrong=Wrong(f"has more than {MAX_NODES:,} values; ask for less at once"))
    if wrong := _walk_problem(schema) or _meta_problem(schema) or _pattern_problem(schema):
        return Checked(wrong=wrong, nodes=nodes)
    return Checked(cast("JsonObject", {"type": "object", **schema}), nodes=nodes)


def _from_text(text: str) -> tuple[object, Wrong | None]:
    if len(text) > MAX_TEXT:
        return None, Wrong(f"has {len(text):,} characters, {MAX_TEXT:,} are allowed")
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once), None
    except RecursionError:
        return None, Wrong(f"is nested deeper than {MAX_DEPTH}")
    except json.JSONDecodeError as error:
        return None, Wrong(f"is not JSON: {error.msg} (its line {error.lineno}, column {error.colno})")
    except ValueError as error:
        return None, Wrong(f"is not JSON: {error}")


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not a number of JSON")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice in one object")
    return found


def _shape_problem(schema: object) -> Wrong | None:
    """What can be said without looking far into it."""
    if schema is None:
        return Wrong("is missing; write the tool's arguments as a JSON Schema of an object")
    if not isinstance(schema, dict):
        return Wrong(f"must be a JSON Schema of an object, not {kind(schema)}")
    if deep := next((path for _, path in _values(schema) if len(path) >= MAX_DEPTH), None):
        return Wrong(f"is nested deeper than {MAX_DEPTH}", deep[:-1])
    if schema.get("type", "object") != "object" or not isinstance(schema.get("properties", {}), dict):
        return Wrong('must describe an object: "type" is "object" and "properties" is one')
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        return Wrong("has a date, a time or a number that JSON does not have")
    return None


def _values(schema: object) -> Iterator[_Node]:
    """Every value in it with its path, breadth first; what is too deep is not looked into."""
    pending: list[_Node] = [(schema, ())]
    while pending:
        value, path = pending.pop()
        yield value, path
        if len(path) < MAX_DEPTH:
            pending.extend((below, (*path, key)) for key, below in _below(value))


def _below(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _walk_problem(schema: Mapping[str, Any]) -> Wrong | None:
    """References lead to somewhere in the schema, never in a circle, and do not multiply."""
    try:
        weight = _weight(schema, _Walk(schema, {}, []), (), names=False)
    except _WalkError as error:
        return error.wrong
    if weight > MAX_NODES:
        return Wrong(f"comes to more than {MAX_NODES:,} values when its references are written out")
    return None


class _WalkError(Exception):
    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.wrong = Wrong(message, path)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The whole schema, what its parts weigh by identity, and the references that are being followed."""

    root: Mapping[str, Any]
    weights: dict[tuple[int, bool], int]
    following: list[str]


def _weight(value: object, walk: _Walk, path: Path, *, names: bool) -> int:
    """Values in and below `value`, references written out. `names`: its keys are names, not keywords."""
    known = walk.weights.get((id(value), names))
    if known is not None:
        return known
    if len(path) > MAX_EXPANDED_DEPTH:
        raise _WalkError(f"is nested deeper than {MAX_EXPANDED_DEPTH} with its references written out", ())
    if isinstance(value, list) and len(value) > MAX_ENTRIES:
        raise _WalkError(f"has an array of {len(value):,} entries, {MAX_ENTRIES} are allowed", path)
    weight = 1
    if isinstance(value, dict) and not names:
        weight += _weight_of_reference(value, walk, path)
    for key, below in _below(value):
        if names or key not in _VALUES:
            weight += _weight(below, walk, (*path, key), names=not names and key in _MAPS)
    walk.weights[id(value), names] = weight
    return weight


def _weight_of_reference(schema: Mapping[str, Any], walk: _Walk, path: Path) -> int:
    for keyword in _ELSEWHERE:
        if keyword in schema:
            raise _WalkError(f"uses {keyword}, which is not supported; use $ref", (*path, keyword))
    reference, here = schema.get("$ref"), (*path, "$ref")
    if not isinstance(reference, str):
        return 0
    if reference in walk.following:
        loop = " -> ".join([*walk.following[walk.following.index(reference) :], reference])
        raise _WalkError(f"refers to itself: {loop[:200]}; write it out as deep as you need it", here)
    walk.following.append(reference)
    weight = _weight(_target(walk.root, reference, here), walk, here, names=False)
    walk.following.pop()
    return weight


def _target(root: Mapping[str, Any], reference: str, path: Path) -> object:
    """What a JSON pointer (RFC 6901) in a fragment leads to."""
    if reference != "#" and not reference.startswith("#/"):
        text = f"refers to {shown(reference)}; only references into itself (#/$defs/NAME) are followed"
        raise _WalkError(text, path)
    found: Any = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise _WalkError(f"refers to {shown(reference)}, which it does not have", path)
    return found


def _meta_problem(schema: dict[str, Any]) -> Wrong | None:
    """Against the meta-schema of 2020-12, by which answers are checked as well, whatever `$schema` says."""
    # Imported here: most definitions have no interactive skill, and this costs 0.1 s.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    return None if error is None else Wrong(f"is not a JSON Schema: {_in_words(error)}", tuple(error.absolute_path))


def _in_words(error: Any) -> str:
    """The library's sentence; the one about alternatives says nothing of them."""
    where = ".".join(str(part) for part in error.absolute_path) or "it"
    if error.validator == "anyOf" and error.absolute_path and error.absolute_path[-1] == "type":
        types = "array, boolean, integer, null, number, object or string"
        return f"{where} is {shown(error.instance)}, which is no type; there are {types}"
    return f"{where}: {error.message if len(error.message) <= 200 else error.message[:197] + '...'}"


def _pattern_problem(schema: Mapping[str, Any]) -> Wrong | None:
    for value, path in _schemas(schema):
        below = value.get("patternProperties")
        patterns = [value.get("pattern"), *(below if isinstance(below, dict) else ())]
        for pattern in patterns:
            if isinstance(pattern, str) and (problem := _pattern_why(pattern)):
                return Wrong(f"has the pattern {shown(pattern)}, which {problem}", path)
    return None


def _schemas(schema: object) -> Iterator[tuple[dict[str, Any], Path]]:
    """The schema and those in it, without names and data."""
    pending: list[tuple[object, Path, bool]] = [(schema, (), False)]
    while pending:
        value, path, names = pending.pop()
        if isinstance(value, dict) and not names:
            yield value, path
        pending.extend(
            (below, (*path, key), not names and key in _MAPS)
            for key, below in _below(value)
            if names or key not in _VALUES
        )


def _pattern_why(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern):,} characters, {MAX_PATTERN:,} are allowed"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    return ""
