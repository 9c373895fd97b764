import json

import pytest
from perstack_runner.convert import ask_to_pb
from perstack_runner.messages import Blob, BlobRef, Limits, Part, Result, Structured, Text, ToolResults
from perstack_runner.results import (
    CHUNK_BYTES,
    MAX_PARTS,
    MEDIA_BYTES,
    TURN_BLOB_BYTES,
    canonical,
    failed,
    from_outcome,
    pack,
)
from perstack_runner.tools.outcome import Outcome

pytestmark = pytest.mark.anyio
LIMITS = Limits(inline_result_bytes=1000, result_bytes=10_000)


def result(*parts: Part) -> Result:
    return Result("c", parts)


async def test_what_fits_stays_inline() -> None:
    given = result(Text("x" * 1000), Structured(b"{}"))
    packed = await pack(3, (given,), LIMITS)
    assert packed.chunks == ()
    assert packed.report == ToolResults(3, (given,))


async def test_what_is_over_goes_up_in_ordered_chunks_once() -> None:
    data = b"\x01" * (CHUNK_BYTES * 2 + 5)
    limits = Limits(inline_result_bytes=10, result_bytes=1 << 20)
    packed = await pack(1, (result(Blob(data, "image/png")), result(Blob(data, "image/png"))), limits)
    assert [(chunk.offset, len(chunk.data), chunk.last) for chunk in packed.chunks] == [
        (0, CHUNK_BYTES, False),
        (CHUNK_BYTES, CHUNK_BYTES, False),
        (2 * CHUNK_BYTES, 5, True),
    ]
    first, second = (r.content[0] for r in packed.report.results)
    assert first == second
    assert isinstance(first, BlobRef)
    assert (first.size, first.digest) == (len(data), packed.chunks[0].digest)


async def test_text_over_a_results_limit_is_cut_with_a_note_and_anything_else_is_left_out() -> None:
    packed = await pack(1, (result(Text("ä" * 10_000)), result(Blob(b"x" * 10_001, "application/zip"))), LIMITS)
    blob, note = packed.report.results[0].content
    assert isinstance(blob, BlobRef)
    assert blob.size == 10_000
    assert note == Text("[truncated: 20000 bytes, 10000 of them are kept]")
    (left_out,) = packed.report.results[1].content
    assert left_out == Text("[left out: 10001 bytes of application/zip, over the limit of a result]")


@pytest.mark.parametrize("media_type", ["image/png", "application/pdf"])
async def test_an_image_or_a_document_is_bounded_by_the_turn_alone(media_type: str) -> None:
    packed = await pack(1, (result(Text("x" * 900), Blob(b"x" * MEDIA_BYTES, media_type)),), LIMITS)
    assert [type(part) for part in packed.report.results[0].content] == [Text, BlobRef]
    (over,) = (await pack(1, (result(Blob(b"x" * (MEDIA_BYTES + 1), media_type)),), LIMITS)).report.results[0].content
    assert isinstance(over, Text)


async def test_the_blobs_of_a_turn_are_bounded() -> None:
    limits = Limits(result_bytes=TURN_BLOB_BYTES)
    results = tuple(result(Blob(bytes([n]) * (TURN_BLOB_BYTES // 2), "image/png")) for n in range(3))
    packed = await pack(1, results, limits)
    kinds = [type(r.content[0]) for r in packed.report.results]
    assert kinds == [BlobRef, BlobRef, Text]
    assert sum(len(chunk.data) for chunk in packed.chunks) == TURN_BLOB_BYTES


async def test_an_empty_blob_is_one_chunk() -> None:
    packed = await pack(1, (result(Blob(b"", "text/plain")),), LIMITS)
    assert [(chunk.data, chunk.last) for chunk in packed.chunks] == [(b"", True)]


async def test_more_parts_than_anybody_reads_are_left_out() -> None:
    packed = await pack(1, (result(*[Text("x")] * (MAX_PARTS + 3)),), LIMITS)
    content = packed.report.results[0].content
    assert len(content) == MAX_PARTS + 1
    assert content[-1] == Text("[3 more parts were left out]")


async def test_a_result_with_both_notes_has_no_more_parts_than_the_link_carries() -> None:
    parts = [*[Text("x")] * (MAX_PARTS - 1), Text("x" * 20_000), *[Text("x")] * 1000]
    packed = await pack(1, (result(*parts),), LIMITS)
    content = packed.report.results[0].content
    assert len(content) == 64
    assert [text.text[:10] for text in content[-2:] if isinstance(text, Text)] == ["[truncated", "[1000 more"]


async def test_names_that_are_no_utf8_can_be_sent() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    made = from_outcome("c", Outcome({"name": name}), 7)
    message = ask_to_pb(ToolResults(1, (made,)), 1)
    assert json.loads(message.tool_results.results[0].content[0].text) == {"name": "caf\ufffd\ufffd\ufffd"}
    assert canonical({"b": name, "a": 1}).startswith(b'{"a":1,"b":"caf')


def test_a_failure_has_the_form_that_every_tool_has() -> None:
    made = failed("c", "timeout", "too late", 9)
    assert made == Result("c", (Text('{"error":"timeout","message":"too late"}', "application/json"),), True, 9)


def test_a_blob_that_did_not_go_up_is_not_sent() -> None:
    with pytest.raises(ValueError, match="before the result"):
        ask_to_pb(ToolResults(1, (result(Blob(b"x", "image/png")),)), 1)
