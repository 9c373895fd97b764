"""What people, stores and archives hold: definitions, environment files, events, tar streams."""

import io
import json
import tempfile
import typing
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

from perstackctl.client.errors import InvalidError
from perstackctl.request.environment import EnvFile, look_up
from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.adapters.store import codec
from perstackd.adapters.workspaces.tar_reader import Entry, TarReader
from perstackd.domain.errors import PerstackError
from perstackd.domain.events import SCHEMA, Payload
from tests.fuzz.bounds import fuzz


def expect(reason: str, *reasons: str) -> None:
    assert reason in reasons


# --- perstack.toml --------------------------------------------------------------------------------------------------
KEYS = [
    "experts", "model", "runtime", "maxSteps", "timeout", "envPath", "provider", "providerName", "instruction",
    "version", "delegates", "skills", "type", "command", "packageName", "args", "pick", "omit", "requiredEnv",
    "allowedDomains", "endpoint", "isolation", "approval", "tags", "reasoning", "a", "@org/b", "", "é", "a.b", "0",
]  # fmt: skip
WORDS = [
    "mcpStdioSkill", "mcpSseSkill", "mcpHttpSkill", "interactiveSkill", "npx", "own", "always", "1.0.0", "^1.0.0",
    "*.example.com", "https://a.example/mcp", "http://127.0.0.1/", "${X}", "a", "b", "@org/b", "", "\x00", "\ud7ff",
]  # fmt: skip
SCALARS = (
    st.sampled_from(WORDS)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.integers(-(2**70), 2**70)
    | st.booleans()
    | st.floats()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
PIECES = st.sampled_from(
    ["[", "]", "[[", "]]", "{", "}", "=", ",", ".", '"', "'", '"""', "'''", "\n", "\r\n", "#", "\\", "\\u00", " ", "\t",
     "experts", "experts.a", "instruction", "skills", "1979-05-27T07:32:00Z", "0x", "1e999", "nan", "true", "9" * 30]
)  # fmt: skip


def toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value).replace("\x7f", "\\u007f")
        case _:
            return str(value)


@st.composite
def definitions(draw: st.DrawFn) -> str:
    """A file of one expert with anything in any place."""
    top = draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
    expert = draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
    skill = draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
    top.pop("experts", None)
    expert.pop("skills", None)
    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in top.items()]
    lines += ["[experts.e]", *(f"{json.dumps(key)} = {toml(value)}" for key, value in expert.items())]
    lines += ["[experts.e.skills.s]", *(f"{json.dumps(key)} = {toml(value)}" for key, value in skill.items())]
    return "\n".join(lines)


@fuzz(definitions() | st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=300))
def test_a_definition_is_read_or_its_problems_are_told(text: str) -> None:
    found = TomlDefinitions().parse(text, "perstack.toml")
    assert found.definition is not None or found.errors
    lines = text.replace("\r\n", "\n").count("\n") + 1
    for finding in found.findings:
        assert finding.message
        assert 0 <= finding.line <= lines


@fuzz(PIECES, PIECES, st.integers(1, 3000), part=0.5)
def test_no_repetition_makes_a_definition_take_long(first: str, second: str, times: int) -> None:
    TomlDefinitions().parse((first + second) * times, "perstack.toml")


# --- .env -----------------------------------------------------------------------------------------------------------
LINES = st.sampled_from(
    ["A=1", "export A=x", "A='", 'A="\\n"', "A=${B}", "=x", "A", "#", "\ufeff", "\0", "B=\\", "A: 1"]
)


@fuzz(st.binary(max_size=200) | st.lists(LINES, max_size=12).map(lambda lines: "\n".join(lines).encode()))
def test_an_environment_file_is_read_or_refused_and_tells_no_value(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="perstack-fuzz-") as directory:
        file = EnvFile(Path(directory) / ".env", required=True)
        file.path.write_bytes(data)
        try:
            found = look_up(("A", "B"), (file,), {})
        except InvalidError as error:
            expect(error.reason, "file_unreadable", "too_large", "not_utf8")
            return
    assert set(found.values) <= {"A", "B"}
    assert all(isinstance(value, str) for value in found.values.values())


# --- events ---------------------------------------------------------------------------------------------------------
TYPES = sorted(typing.get_args(typing.get_type_hints(cls)["type"])[0] for cls in typing.get_args(Payload))
FIELDS = [
    "type",
    "stepNumber",
    "host",
    "port",
    "results",
    "calls",
    "turn",
    "parts",
    "usage",
    "reason",
    "text",
    "callId",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(TYPES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=10,
)


@fuzz(
    st.sampled_from([*TYPES, "futureEvent", ""]),
    st.integers(-1, SCHEMA + 2),
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)).map(
        lambda pair: json.dumps({**pair[1], "type": pair[0]}).encode()
    ),
)
def test_a_stored_document_is_an_event_or_refused(kind: str, schema: int, document: bytes) -> None:
    try:
        payload = codec.decode(kind, schema, document)
    except PerstackError as error:
        expect(error.reason, "event_newer", "store_corrupt")
        return
    assert codec.decode(kind, schema, codec.encode(payload)) == payload


@fuzz(st.integers(1, 3000), st.sampled_from(["[", '{"a":', '["']))
def test_a_deep_document_is_refused(depth: int, opening: str) -> None:
    with suppress(PerstackError):
        codec.decode_document(SCHEMA, (opening * depth).encode())


# --- tar ------------------------------------------------------------------------------------------------------------
@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """An archive with some bytes changed; checksums are put right again in half of its headers."""
    import tarfile

    buffer = io.BytesIO()
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as writing:
        for _ in range(draw(st.integers(0, 4))):
            entry = tarfile.TarInfo(draw(st.text("ab/.é", min_size=1, max_size=150 if form != 0 else 60)))
            entry.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]))
            entry.size = draw(st.integers(0, 1100)) if entry.type == tarfile.REGTYPE else 0
            entry.linkname = draw(st.text("ab/.", max_size=120)) if entry.type in {b"1", b"2"} else ""
            writing.addfile(entry, io.BytesIO(b"x" * entry.size))
    data = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
        header = at - at % 512
        if draw(st.booleans()):
            data[header + 148 : header + 156] = b" " * 8
            data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
    return bytes(data)


@fuzz(archives() | st.binary(max_size=2000), st.integers(1, 700))
def test_an_archive_is_read_or_refused_however_it_arrives(data: bytes, piece: int) -> None:
    assert read(data, piece) == read(data, 1 << 20)


def read(data: bytes, piece: int) -> tuple[object, ...]:
    """Entries and their content, and how it ended."""
    reader, entries, content = TarReader(), list[Entry](), bytearray()
    try:
        for at in range(0, len(data), piece):
            for part in reader.feed(data[at : at + piece]):
                if isinstance(part, Entry):
                    entries.append(part)
                else:
                    content += part
        reader.finish()
    except PerstackError as error:
        expect(error.reason, "archive_invalid", "archive_refused")
        return (*entries, bytes(content), error.reason)
    return (*entries, bytes(content), "read")
