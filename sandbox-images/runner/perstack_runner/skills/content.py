"""A server's answers as the runner's values. Nothing in them is trusted: bounded, decoded, typed."""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeGuard

import mcp_types as mcp

from perstack_runner.messages import Blob, Part, SkillOrder, Structured, Text, ToolSpec
from perstack_runner.results import canonical, clean

MAX_TOOLS: Final = 1_000
MAX_NAME: Final = 256
"""Characters of a tool's name that the link carries."""
MAX_LIST_BYTES: Final = 960 << 10
"""Of a tool list: with its message it has to stay below the link's 1 MiB."""
_BYTES: Final = "application/octet-stream"
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9.+-]{1,60}/[A-Za-z0-9.+-]{1,60}(;[ -~]{1,60})?")


def tool_specs(order: SkillOrder, tools: Sequence[mcp.Tool]) -> tuple[ToolSpec, ...]:
    """The tools that the skill keeps: omit first, then pick; no pick means all.

    Raises:
        ValueError: a name in pick or omit that the server does not have, a kept tool that cannot be offered, or a list
        that is too large, with the remedy.
    """
    names = {tool.name for tool in tools}
    unknown = sorted({*order.pick, *order.omit} - names)
    if unknown:
        raise ValueError(f"pick or omit names no tool of the server: {', '.join(unknown)}; it has {_some(names)}")
    kept = [tool for tool in tools if tool.name not in order.omit and (not order.pick or tool.name in order.pick)]
    specs = tuple(_spec(tool) for tool in kept)
    twice = sorted(name for name, count in Counter(spec.name for spec in specs).items() if count > 1)
    if twice:
        raise ValueError(f"the server lists these tools more than once: {', '.join(twice[:20])[:1000]}; omit them")
    size = sum(len(spec.name) + len(spec.description.encode()) + len(spec.input_schema) + 16 for spec in specs)
    if size > MAX_LIST_BYTES:
        raise ValueError(f"the tool list is {size} bytes, the bound is {MAX_LIST_BYTES}; pick fewer tools")
    return specs


def _some(names: set[str]) -> str:
    shown = sorted(names)[:20]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _spec(tool: mcp.Tool) -> ToolSpec:
    hints = tool.annotations or mcp.ToolAnnotations()
    name = clean(tool.name)
    if not name.strip():
        raise ValueError("the server lists a tool without a name; pick the others")
    if len(name) > MAX_NAME:
        shown = f"{name[:40]}..."
        raise ValueError(f"a tool's name is {len(name)} characters, the bound is {MAX_NAME}: {shown}; pick others")
    if not _finite(tool.input_schema):
        raise ValueError(f"the input schema of {name} has a number that JSON does not have; omit this tool")
    return ToolSpec(
        name=name,
        description=clean(tool.description or ""),
        input_schema=canonical(tool.input_schema),
        read_only=bool(hints.read_only_hint),
        idempotent=bool(hints.idempotent_hint),
    )


def _finite(value: object) -> bool:
    """Whether `value` is JSON: the SDK's parser also takes NaN and infinities, the daemon's does not."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def result_parts(result: mcp.CallToolResult) -> tuple[Part, ...]:
    """A result's content in order, then its structured content, unless the text says it. Much of it takes time."""
    parts = [_part(block) for block in result.content]
    value = result.structured_content
    if value is not None and not _says(value, [block.text for block in result.content if _is_text(block)]):
        parts.append(Structured(canonical(value)) if _finite(value) else Text(clean(json.dumps(value))))
    return tuple(parts)


def size(result: mcp.CallToolResult) -> int:
    """About how many bytes of text and data it holds."""
    return sum(len(getattr(block, "text", "")) + len(getattr(block, "data", "")) for block in result.content)


def _is_text(block: mcp.ContentBlock) -> TypeGuard[mcp.TextContent]:
    return isinstance(block, mcp.TextContent)


def _says(value: object, texts: Sequence[str]) -> bool:
    """Whether the texts hold `value`: as JSON, as the protocol asks; or, as widely used servers write it, what stands
    alone under `result` or `content`, as it is or item by item.
    """
    alone = value
    if isinstance(value, dict) and value.keys() in ({"result"}, {"content"}):
        (alone,) = value.values()
    if isinstance(alone, list) and len(alone) == len(texts) and all(map(_is_same, alone, texts)):
        return True
    return any(_is_same(value, text) or _is_same(alone, text) for text in texts)


def _is_same(value: object, text: str) -> bool:
    if isinstance(value, str) and value == text:
        return True
    try:
        return bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False


def _part(block: mcp.ContentBlock) -> Part:
    match block:
        case mcp.TextContent(text=text):
            return Text(clean(text))
        case mcp.ImageContent(data=data, mime_type=media_type) | mcp.AudioContent(data=data, mime_type=media_type):
            return _blob(data, media_type)
        case mcp.EmbeddedResource(resource=mcp.TextResourceContents(text=text)):
            return Text(clean(text))
        case mcp.EmbeddedResource(resource=mcp.BlobResourceContents(blob=data, mime_type=media_type)):
            return _blob(data, media_type or _BYTES)
        case _:
            return Text(clean(block.model_dump_json(by_alias=True, exclude_none=True)), "application/json")


def _blob(data: str, media_type: str) -> Part:
    kind = media_type.lower() if _MEDIA_TYPE.fullmatch(media_type) else _BYTES
    try:
        return Blob(base64.b64decode(data, validate=True), kind)
    except (binascii.Error, ValueError):
        return Text(f"[left out: the server's data of {kind} is not valid base64]")
