import json
from typing import Any

import pytest
from perstack_runner.messages import Elicited
from perstack_runner.skills.forms import MAX_SCHEMA_BYTES, filled, form


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    "schema",
    [
        of(),
        of(a={"type": "string", "minLength": 1, "format": "email", "default": "x"}),
        of(a={"type": "integer"}, b={"type": "number", "minimum": 0}, c={"type": "boolean"}),
        of(a={"type": "string", "enum": ["x", "y"], "enumNames": ["X", "Y"]}),
        of(a={"type": "string", "oneOf": [{"const": "x", "title": "X"}]}),
        of(a={"type": "array", "items": {"type": "string", "enum": ["x"]}, "minItems": 1}),
        of(a={"type": "array", "items": {"anyOf": [{"const": "x", "title": "X"}]}}),
        {**of(), "required": ["a"], "$schema": "https://json-schema.org/draft/2020-12/schema"},
    ],
)
def test_a_flat_object_of_primitives_is_a_form_as_canonical_json(schema: dict[str, Any]) -> None:
    data = form(schema)
    assert data is not None
    assert json.loads(data) == schema
    assert data == json.dumps(schema, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "string", "properties": {}},
        {"type": "object", "properties": [1]},
        of(a=True),
        of(a={}),
        of(a={"type": ["string", "null"]}),
        of(a={"type": "object", "properties": {}}),
        of(a={"type": "string", "properties": {}}),
        of(a={"$ref": "#"}),
        of(a={"type": "array", "items": {"type": "string"}}),
        of(a={"type": "array", "items": {"enum": ["x"], "items": {}}}),
        {**of(), "$ref": "#"},
        {**of(), "allOf": [of()]},
        of(a={"type": "number", "maximum": float("inf")}),
        of(a={"type": "string", "title": "t" * MAX_SCHEMA_BYTES}),
    ],
)
def test_anything_else_is_none(schema: dict[str, Any]) -> None:
    assert form(schema) is None


def test_a_persons_answer_keeps_its_types() -> None:
    answer = filled(Elicited(1, "accept", b'{"a":"1","b":1,"c":1.5,"d":true,"e":["x"],"f":null}'))
    assert answer.action == "accept"
    assert answer.content == {"a": "1", "b": 1, "c": 1.5, "d": True, "e": ["x"], "f": None}
    assert answer.content["d"] is True
    assert filled(Elicited(1, "decline")).content is None


@pytest.mark.parametrize("answer", [("accept", b"["), ("accept", b'{"a":{"b":1}}'), ("maybe", b""), ("accept", b"[]")])
def test_what_is_no_answer_cancels(answer: tuple[str, bytes]) -> None:
    assert filled(Elicited(1, *answer)).model_dump(include={"action", "content"}) == {
        "action": "cancel",
        "content": None,
    }
