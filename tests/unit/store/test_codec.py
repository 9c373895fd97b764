"""Documents of events and records: canonical, small, and readable for ever."""

import importlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.adapters.store import codec
from perstackd.domain import events
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import SCHEMA, CallTools, FinishToolCall, Payload, ResolveToolResults, SkillStderr
from perstackd.domain.job import JobRecord
from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.sandbox import SandboxRecord

FIXTURES = Path(__file__).parent / "fixtures"
PAYLOADS: tuple[type, ...] = typing.get_args(Payload)


class _Json:
    """Stands for the domain's JSON value while hints are read."""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def strategy(hint: Any) -> st.SearchStrategy[Any]:
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(), int: st.integers(), bool: st.booleans(), type(None): st.none(), _Json: JSON
    }  # fmt: skip
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, typing.NewType):
        return strategy(hint.__supertype__)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in {typing.Union, types.UnionType}:
        return st.one_of([strategy(arg) for arg in args])
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(strategy(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(strategy(arg) for arg in args))
    if origin in {dict, Mapping}:
        return st.dictionaries(st.text(), JSON, max_size=4)
    if is_dataclass(hint):
        return record_strategy(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    return simple[hint]


def record_strategy(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls, localns={"JsonValue": _Json})
    return st.builds(cls, **{field.name: strategy(hints[field.name]) for field in fields(cls)})


@pytest.mark.parametrize("cls", PAYLOADS, ids=lambda cls: str(cls.__name__))
def test_every_payload_comes_back_as_it_was_written(cls: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(record_strategy(cls))
    def comes_back(payload: Payload) -> None:
        document = codec.encode(payload)
        read = codec.decode(payload.type, SCHEMA, document)
        # repr tells 1 from 1.0 and True, and 0.0 from -0.0, which == does not.
        assert (read, repr(_plain(read))) == (payload, repr(_plain(payload)))
        assert codec.encode(read) == document

    comes_back()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value), sort_keys=True))


@pytest.mark.parametrize("cls", PAYLOADS, ids=lambda cls: str(cls.__name__))
def test_every_document_is_canonical_json(cls: type) -> None:
    @settings(max_examples=20, deadline=None)
    @given(record_strategy(cls))
    def is_canonical(payload: Payload) -> None:
        document = codec.encode(payload)
        again = json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert document == again.encode()
        assert json.loads(document)["type"] == payload.type

    is_canonical()


@settings(max_examples=60, deadline=None)
@given(record_strategy(JobRecord))
def test_job_records_come_back(record: JobRecord) -> None:
    assert codec.decode_job(codec.encode_job(record)) == record


@settings(max_examples=60, deadline=None)
@given(record_strategy(SandboxRecord))
def test_sandbox_records_come_back(record: SandboxRecord) -> None:
    assert codec.decode_sandbox(codec.encode_sandbox(record)) == record


def test_keys_are_camel_case_and_defaults_are_left_out() -> None:
    results = (ToolResultPart("c1", (TextPart("done"),)),)
    assert codec.encode(ResolveToolResults(results)) == (
        b'{"results":[{"callId":"c1","content":[{"text":"done","type":"text"}],"type":"toolResult"}],'
        b'"type":"resolveToolResults"}'
    )
    assert codec.encode(FinishToolCall()) == b'{"type":"finishToolCall"}'


def test_an_empty_list_that_is_not_the_default_is_kept() -> None:
    payload = ResolveToolResults((), todos=())
    assert codec.decode(payload.type, SCHEMA, codec.encode(payload)) == payload


def test_integers_above_two_to_the_53_keep_every_digit() -> None:
    assert b'"n":18446744073709551617' in codec.encode(_call({"n": (1 << 64) + 1}))


def test_characters_outside_ascii_are_written_as_they_are() -> None:
    assert "\u00fcn\u00ee\U0001f600".encode() in codec.encode(SkillStderr("s", "\u00fcn\u00ee\U0001f600"))


def test_a_lone_surrogate_becomes_the_replacement_character_in_document_and_value() -> None:
    document, payload = codec.stored_payload(_call({"text": "a\ud800b"}))
    assert payload == _call({"text": "a\ufffdb"})
    assert codec.decode("callTools", SCHEMA, document) == payload


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**5000, {1, 2}], ids=["nan", "inf", "digits", "set"])
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(PerstackError, match="callTools cannot be written") as caught:
        codec.encode(_call({"n": value}))
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "payload_invalid")


@pytest.mark.parametrize("depth", [150, 100_000])
def test_deep_nesting_is_refused_when_written_since_it_could_not_be_read(depth: int) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(PerstackError) as caught:
        codec.encode(_call({"n": nested}))
    assert caught.value.kind is Kind.INVALID
    assert caught.value.reason == ("payload_too_deep" if depth == 150 else "payload_invalid")


def test_brackets_inside_text_are_not_nesting() -> None:
    payload = _call({'\\"[': '[{"' * 500, "n": [[["]"]]]})
    assert codec.decode("callTools", SCHEMA, codec.encode(payload)) == payload


def test_wide_documents_are_not_deep() -> None:
    payload = _call({"n": [[number] for number in range(500)]})
    assert codec.decode("callTools", SCHEMA, codec.encode(payload)) == payload


def test_the_deepest_document_that_is_written_is_read() -> None:
    nested: Any = "x"
    for _ in range(codec.MAX_DEPTH - 5):
        nested = [nested]
    payload = _call({"n": nested})
    assert codec.decode("callTools", SCHEMA, codec.encode(payload)) == payload


def test_a_document_of_a_later_schema_is_refused() -> None:
    with pytest.raises(PerstackError) as caught:
        codec.decode("jobAdmitted", SCHEMA + 1, b'{"type":"jobAdmitted"}')
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "event_newer")


def test_a_type_that_a_later_version_added_is_told_apart_from_damage() -> None:
    with pytest.raises(PerstackError) as caught:
        codec.decode("jobTeleported", SCHEMA, b'{"type":"jobTeleported"}')
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "event_newer")


def test_a_field_of_a_later_minor_version_is_left_out() -> None:
    document = b'{"jazz":1,"skill":"s","text":"t","type":"skillStderr"}'
    assert codec.decode("skillStderr", SCHEMA, document) == SkillStderr("s", "t")


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"{", b'{"type":"jobAdmitted"}', b'{"type":"skillStderr"}', b"\xff"],
)
def test_what_is_no_document_of_the_type_is_corrupt(document: bytes) -> None:
    with pytest.raises(PerstackError) as caught:
        codec.decode("skillStderr", SCHEMA, document)
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "store_corrupt")


def test_a_corrupt_document_is_not_shown_in_the_error() -> None:
    with pytest.raises(PerstackError) as caught:
        codec.decode("skillStderr", SCHEMA, b'{"skill":["s3cret-value"],"type":"skillStderr","text":""}')
    assert "s3cret" not in str(caught.value)


def _stored_examples() -> list[tuple[int, dict[str, Any]]]:
    lines = [
        (version, json.loads(line))
        for version in range(1, SCHEMA + 1)
        for line in (FIXTURES / f"events-v{version}.jsonl").read_text().splitlines()
    ]
    return [(version, line) for version, line in lines]


def test_every_type_has_a_stored_example_of_every_schema_version() -> None:
    stored = {(version, line["type"]) for version, line in _stored_examples()}
    ours = {next(field.default for field in fields(cls) if field.name == "type") for cls in PAYLOADS}
    assert {type_ for version, type_ in stored if version == SCHEMA} == ours


@pytest.mark.parametrize(
    ("version", "line"), _stored_examples(), ids=lambda value: value["name"] if isinstance(value, dict) else str(value)
)
def test_a_stored_example_still_has_its_meaning(version: int, line: dict[str, Any]) -> None:
    payload = codec.decode(line["type"], version, line["document"].encode())
    now = json.loads(json.dumps(asdict(payload)))
    # Fields may be added; those of then have the values of then, so a changed default is seen too.
    assert _within(line["value"], now)


def _within(then: Any, now: Any) -> bool:
    if isinstance(then, dict):
        return isinstance(now, dict) and all(key in now and _within(value, now[key]) for key, value in then.items())
    if isinstance(then, list):
        return isinstance(now, list) and len(then) == len(now) and all(map(_within, then, now))
    return type(then) is type(now) and bool(then == now)


def test_all_payload_classes_of_the_domain_are_in_the_union() -> None:
    modules = [importlib.import_module(f"{events.__name__}.{found.name}") for found in iter_modules(events.__path__)]
    tagged = {
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type)
        and is_dataclass(cls)
        and any(field.name == "type" and field.default is not MISSING for field in fields(cls))
    }
    of_events = {cls for cls in tagged if cls.__module__ in {module.__name__ for module in modules}}
    assert of_events == set(PAYLOADS)
    assert {getattr(events, cls.__name__) for cls in of_events} == of_events, "import it in the package"


def _call(arguments: dict[str, Any]) -> CallTools:
    return CallTools(Turn((ToolCallPart("c1", "exec", arguments),), FinishReason.TOOL_CALLS, Usage(10, 2)))
