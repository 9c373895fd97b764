"""Schemas of interactive tools are checked before anybody is asked by them, and checking one always ends."""

import json
import time
from typing import Any

import pytest

from perstackd.adapters.definition.schemas import MAX_NODES, checked


def wrong(value: object) -> str:
    found = checked(value)
    assert found.schema is None
    assert found.wrong is not None
    return found.wrong.message


def nested(depth: int) -> dict[str, Any]:
    return {"properties": {"a": nested(depth - 1)}} if depth else {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"properties": {"type": "string"}, "$ref": {"type": "string"}}},
        {"type": "object", "$defs": {"a": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a"}}},
        {"type": "object", "definitions": {"a/b": {}}, "properties": {"x": {"$ref": "#/definitions/a~1b"}}},
        {"type": "object", "allOf": [{}, {}], "properties": {"x": {"$ref": "#/allOf/1"}}},
        {"type": "object", "properties": {"x": {"const": {"$ref": "#/nowhere"}, "default": {"pattern": "("}}}},
        {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#", "additionalProperties": False},
        {"type": "object", "properties": {"x": {"enum": [f"city {n}" for n in range(1000)]}}},
        {"type": "object", "properties": {"x": {"type": ["string", "null"], "pattern": "^[a-h][1-8]$"}}},
    ],
)
def test_a_good_schema_is_taken_as_text_and_as_a_table(schema: dict[str, Any]) -> None:
    assert checked(schema).schema == schema
    assert checked(json.dumps(schema)).schema == schema


def test_the_type_is_said_when_the_file_does_not() -> None:
    assert checked({"properties": {}}).schema == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "is missing"),
        ("[1]", "must be a JSON Schema of an object, not an array"),
        (True, "must be a JSON Schema of an object, not true or false"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes (its line 1, column 2)"),
        ('{"a": NaN}', "is not JSON: NaN is not a number of JSON"),
        ('{"type": "object", "type": "object"}', "the key 'type' is there twice in one object"),
        ('{"default": 1e400}', "a number that JSON does not have"),
        ({"type": "string"}, "must describe an object"),
        ({"properties": []}, "must describe an object"),
        ({"properties": {"a": {"type": "strng"}}}, "properties.a.type is 'strng', which is no type"),
        ({"properties": {"a": 5}}, "properties.a: 5 is not of type 'object', 'boolean'"),
        ({"required": "a"}, "required: 'a' is not of type 'array'"),
        ({"$schema": 5}, "$schema: 5 is not of type 'string'"),
        ({"properties": {"a": {"pattern": "("}}}, "has the pattern '(', which is not a regular expression"),
        ({"patternProperties": {"[": {}}}, "has the pattern '[', which is not a regular expression"),
        ({"properties": {"a": {"pattern": "x" * 1001}}}, "has 1,001 characters, 1,000 are allowed"),
        ({"properties": {"a": {"$ref": "https://x.example/s"}}}, "only references into itself"),
        ({"properties": {"a": {"$ref": "#anchor"}}}, "only references into itself"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "refers to '#/$defs/b', which it does not have"),
        ({"properties": {"a": {"$dynamicRef": "#a"}}}, "uses $dynamicRef, which is not supported"),
        ({"properties": {"a": {"$ref": "#"}}}, "refers to itself: # -> #"),
        ({"$ref": "#"}, "refers to itself: # -> #"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
            "refers to itself: #/$defs/b -> #/$defs/a -> #/$defs/b",
        ),
        ({"properties": {"properties": {"$ref": "#/properties/properties"}}}, "refers to itself"),
        ({"required": [{"a": n} for n in range(257)]}, "has an array of 257 entries, 256 are allowed"),
        (nested(17), "is nested deeper than 32"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "is nested deeper than 32"),
        ({"properties": {f"p{n}": {"type": "string"} for n in range(MAX_NODES // 2)}}, "has more than 5,000 values"),
        (json.dumps({"description": "x" * 2**20}), "characters, 65,536 are allowed"),
    ],
)
def test_a_schema_that_cannot_be_used_is_one_clear_sentence(value: object, says: str) -> None:
    assert says in wrong(value)


def test_references_that_multiply_are_refused_before_they_are_followed() -> None:
    doubled = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    began = time.process_time()
    assert "comes to more than 5,000 values" in wrong({"$defs": {**doubled, "d40": {}}, "$ref": "#/$defs/d0"})
    assert time.process_time() - began < 5


def test_a_long_chain_of_references_does_not_exhaust_the_stack() -> None:
    chain: dict[str, object] = {f"d{n}": {"not": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(900)}
    assert "nested deeper than 128 with its references written out" in wrong({"$defs": {**chain, "d900": {}}})


def test_the_place_within_a_table_is_told() -> None:
    found = checked({"properties": {"a": {"type": "objct"}}})
    assert found.wrong is not None
    assert found.wrong.path == ("properties", "a", "type")
