import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from perstack_runner.tools import catalogue
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.toolbox import DECIDED_BY_DAEMON, IN_PROCESSES, ON_TREE

from perstackd.domain.prompt import _RULES

TOOLS = catalogue.load()


def test_every_tool_of_the_runner_is_in_the_shared_data_and_the_other_way_round() -> None:
    assert sorted(TOOLS) == sorted((*ON_TREE, *IN_PROCESSES, *DECIDED_BY_DAEMON))


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_each_tool_is_complete_and_its_schema_is_one_that_checked_understands(name: str) -> None:
    tool = TOOLS[name]
    assert sorted(tool) == ["description", "idempotent", "inputSchema", "name", "readOnly"]
    assert tool["description"]
    assert tool["idempotent"] or not tool["readOnly"]
    jsonschema.Draft202012Validator.check_schema(tool["inputSchema"])
    _understood(tool["inputSchema"], {"type", "properties", "required"})
    assert set(tool["inputSchema"]["required"]) <= set(tool["inputSchema"]["properties"])


def _understood(schema: dict[str, Any], keywords: set[str]) -> None:
    assert set(schema) <= keywords, schema
    known = {"type", "description", "items", "additionalProperties", "minimum", "maximum", "minLength"}
    for inner in schema.get("properties", {}).values():
        _understood(inner, known)
    for key in ("items", "additionalProperties"):
        if key in schema:
            _understood(schema[key], known)


def test_the_data_is_small_since_each_prompt_carries_it() -> None:
    shown = [{key: tool[key] for key in ("name", "description", "inputSchema")} for tool in TOOLS.values()]
    beyond = ("findFiles", "searchText", "applyPatch", "readArtifact", "searchHistory")
    of_the_original = [tool for tool in shown if tool["name"] not in beyond]
    assert len(of_the_original) == 17
    assert len(json.dumps(of_the_original, separators=(",", ":"))) + len(_RULES) < 6000
    assert len(json.dumps(shown, separators=(",", ":"))) < 7200


def test_the_data_lies_beside_the_protocol() -> None:
    file = Path(__file__).parents[3] / "proto/perstack/v1/base_tools.json"
    assert [tool["name"] for tool in json.loads(file.read_text())] == list(TOOLS)


EXEC = TOOLS["exec"]["inputSchema"]


def test_unknown_names_and_nulls_count_as_absent() -> None:
    raw = json.dumps({"command": "ls", "nonsense": 1, "cwd": None, "args": ["-l"]}).encode()
    assert catalogue.checked(EXEC, raw) == {"command": "ls", "args": ["-l"]}
    assert catalogue.checked(TOOLS["healthCheck"]["inputSchema"], b"") == {}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b"{}", "missing: command"),
        (b'{"command": null}', "missing: command"),
        (b'{"command": []}', "command has to be of type string"),
        (b'{"command": "x", "args": "y"}', "args has to be of type array"),
        (b'{"command": "x", "args": ["y", 1]}', r"args\[1\] has to be of type string"),
        (b'{"command": "x", "env": {"A": 1}}', "env.A has to be of type string"),
        (b'{"command": "x", "timeout": 0}', "timeout has to be at least 1"),
        (b'{"command": "x", "timeout": 1.5}', "timeout has to be of type integer"),
        (b'{"command": "x", "stdout": 1}', "stdout has to be of type boolean"),
    ],
)
def test_what_does_not_fit_is_named(raw: bytes, says: str) -> None:
    with pytest.raises(ToolFailure, match=says) as caught:
        catalogue.checked(EXEC, raw)
    assert caught.value.name == "invalid_arguments"
