"""A server's content as the runner's parts: every kind that the protocol has, and what repeats."""

import base64
import json
from typing import Any, get_args

import mcp_types as mcp
import pytest
from perstack_runner.messages import Blob, Part, SkillOrder, Structured, Text
from perstack_runner.skills.content import result_parts, tool_specs

DATA = base64.b64encode(b"\x00\x01data").decode()


def parts(*content: dict[str, Any], structured: Any = None) -> tuple[Part, ...]:
    result = {"content": content, **({} if structured is None else {"structuredContent": structured})}
    return result_parts(mcp.CallToolResult.model_validate(result, by_name=False))


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_every_kind_of_content_is_kept() -> None:
    link = {"type": "resource_link", "uri": "file:///y", "name": "y", "mimeType": "text/plain"}
    made = parts(
        text("t"),
        {"type": "image", "data": DATA, "mimeType": "image/png"},
        {"type": "audio", "data": DATA, "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
        {"type": "resource", "resource": {"uri": "file:///b", "blob": DATA, "mimeType": "application/gzip"}},
        {"type": "resource", "resource": {"uri": "file:///c", "blob": DATA}},
        link,
    )
    assert made[:-1] == (
        Text("t"),
        Blob(b"\x00\x01data", "image/png"),
        Blob(b"\x00\x01data", "audio/wav"),
        Text("inside"),
        Blob(b"\x00\x01data", "application/gzip"),
        Blob(b"\x00\x01data", "application/octet-stream"),
    )
    assert isinstance(made[-1], Text)
    assert json.loads(made[-1].text) == link
    assert len(get_args(mcp.ContentBlock)) == 5, "a kind that this test does not have"


def test_data_and_media_types_that_are_none_are_said_so() -> None:
    broken, strange = parts(
        {"type": "image", "data": "???", "mimeType": "image/png"},
        {"type": "audio", "data": DATA, "mimeType": "audio/wav\r\nX: y"},
    )
    assert broken == Text("[left out: the server's data of image/png is not valid base64]")
    assert strange == Blob(b"\x00\x01data", "application/octet-stream")


@pytest.mark.parametrize(
    ("content", "structured"),
    [
        ([text('{"b": 1, "a": [2]}')], {"a": [2], "b": 1}),
        ([text("note"), text('{"a":1}')], {"a": 1}),
        ([text("plain")], {"result": "plain"}),
        ([text("3")], {"result": 3}),
        ([text("one"), text("2"), text('{"a":1}')], {"result": ["one", 2, {"a": 1}]}),
        ([text("inside\n")], {"content": "inside\n"}),
    ],
)
def test_structured_content_that_the_text_says_comes_once(content: list[dict[str, Any]], structured: Any) -> None:
    assert parts(*content, structured=structured) == tuple(Text(each["text"]) for each in content)


@pytest.mark.parametrize(
    ("content", "structured"),
    [
        ([], {"a": 1}),
        ([text("a summary")], {"a": 1}),
        ([text("42")], {"answer": 42}),
        ([text("one")], {"result": ["one", "two"]}),
        ([text("[" * 100_000)], {"a": 1}),
    ],
)
def test_structured_content_that_says_more_is_kept_beside_the_text(
    content: list[dict[str, Any]], structured: Any
) -> None:
    *texts, last = parts(*content, structured=structured)
    assert texts == [Text(each["text"]) for each in content]
    assert last == Structured(json.dumps(structured, separators=(",", ":")).encode())


def test_numbers_that_json_does_not_have_stay_text() -> None:
    assert parts(structured={"a": float("inf")}) == (Text('{"a": Infinity}'),)


def tool(name: str, **fields: Any) -> mcp.Tool:
    return mcp.Tool.model_validate({"name": name, "inputSchema": {"type": "object"}, **fields}, by_name=False)


@pytest.mark.parametrize(
    ("tools", "order", "says"),
    [
        ([tool("a"), tool("a")], {}, "more than once: a; omit them"),
        ([tool("")], {}, "a tool without a name"),
        ([tool("x" * 257)], {}, "257 characters"),
        ([tool("a")], {"pick": ("b",)}, "pick or omit names no tool of the server: b; it has a"),
        ([tool("a", description="d" * (1 << 20))], {}, "pick fewer tools"),
    ],
)
def test_a_list_that_cannot_be_offered_says_what_to_do(tools: list[mcp.Tool], order: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tool_specs(SkillOrder("s", **order), tools)


def test_what_is_left_out_is_not_looked_at() -> None:
    tools = [tool("a"), tool("a"), tool(""), tool("b", annotations={"readOnlyHint": True})]
    (spec,) = tool_specs(SkillOrder("s", pick=("b",)), tools)
    assert (spec.name, spec.read_only, spec.idempotent) == ("b", True, False)
