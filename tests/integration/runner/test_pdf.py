"""readPdfFile through a whole runner: ranges, what is no document, and documents that are made to hurt."""

import io
import zlib
from pathlib import Path
from typing import Any

import pytest
from perstack_runner.tools import pdf_file
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, StreamObject

from tests.integration.runner.fake_daemon import FakeDaemon, value_of

pytestmark = pytest.mark.anyio


def document(pages: int, *, link_to_last: bool = False, ballast: int = 0, password: str = "") -> bytes:
    """A PDF whose page N says `page N`. With `link_to_last` the first page has a link to the last one."""
    writer = PdfWriter()
    for number in range(1, pages + 1):
        page = writer.add_blank_page(200, 200)
        content = StreamObject()
        content.set_data(b"BT (page %d) Tj ET\n" % number + bytes(ballast))
        page[NameObject("/Contents")] = writer._add_object(content)
    if link_to_last:
        target = ArrayObject([writer.pages[-1].indirect_reference, NameObject("/Fit")])
        link = DictionaryObject({NameObject("/Subtype"): NameObject("/Link"), NameObject("/Dest"): target})
        writer.pages[0][NameObject("/Annots")] = ArrayObject([link])
    if password:
        writer.encrypt(password, algorithm="AES-256")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def written(*objects: bytes) -> bytes:
    """A PDF of these objects, the first its catalogue, with a table that is right."""
    out, offsets = b"%PDF-1.5\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    size = len(objects) + 1
    return out + head + table + b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, len(out))


async def shown(daemon: FakeDaemon, **arguments: Any) -> tuple[dict[str, Any], bytes]:
    """The result's text and the document."""
    (result,) = await daemon.results(1, ("readPdfFile", {"path": "f.pdf", **arguments}))
    assert [part.WhichOneof("kind") for part in result.content] == ["text", "blob"], value_of(result)
    blob = result.content[1].blob
    assert blob.media_type == "application/pdf"
    assert len(daemon.blobs[blob.digest]) == blob.size
    return value_of(result), daemon.blobs[blob.digest]


def texts(data: bytes) -> list[str]:
    pages = PdfReader(io.BytesIO(data)).pages
    return [page.get_contents().get_data().split(b"(")[1].split(b")")[0].decode() for page in pages]  # type: ignore[union-attr]


async def test_a_whole_document_comes_as_it_is(daemon: FakeDaemon, workspace: Path) -> None:
    data = document(3)
    (workspace / "f.pdf").write_bytes(data)
    await daemon.begin(workspace)
    value, blob = await shown(daemon)
    assert value == {"path": "f.pdf", "mimeType": "application/pdf", "pages": "1-3 of 3", "size": len(data)}
    assert blob == data


@pytest.mark.parametrize(
    ("arguments", "pages"),
    [
        ({"fromPage": 2, "toPage": 3}, [2, 3]),
        ({"fromPage": 5}, [5]),
        ({"toPage": 1}, [1]),
        ({"fromPage": 4, "toPage": 99}, [4, 5]),
    ],
)
async def test_a_range_is_cut_out(
    daemon: FakeDaemon, workspace: Path, arguments: dict[str, int], pages: list[int]
) -> None:
    (workspace / "f.pdf").write_bytes(document(5))
    await daemon.begin(workspace)
    value, blob = await shown(daemon, **arguments)
    assert value["pages"] == f"{pages[0]}-{pages[-1]} of 5"
    assert texts(blob) == [f"page {number}" for number in pages]
    assert "truncated" not in value


async def test_a_page_does_not_bring_along_those_that_it_links_to(daemon: FakeDaemon, workspace: Path) -> None:
    data = document(50, link_to_last=True, ballast=10_000)
    (workspace / "f.pdf").write_bytes(data)
    await daemon.begin(workspace)
    _, blob = await shown(daemon, toPage=1)
    assert len(blob) < len(data) / 20


async def test_of_a_long_document_as_many_pages_come_as_a_request_takes(daemon: FakeDaemon, workspace: Path) -> None:
    (workspace / "f.pdf").write_bytes(document(pdf_file.PDF_PAGES + 20))
    await daemon.begin(workspace)
    value, blob = await shown(daemon, fromPage=11)
    assert (value["pages"], value["truncated"]) == (
        "11-110 of 120",
        "stopped at 100 pages; go on with fromPage=111",
    )
    assert len(texts(blob)) == 100


async def test_thirty_megabytes_pass(daemon: FakeDaemon, workspace: Path) -> None:
    data = document(2, ballast=14 << 20)
    (workspace / "f.pdf").write_bytes(data)
    await daemon.begin(workspace)
    _, blob = await shown(daemon)
    assert blob == data


@pytest.mark.parametrize(
    ("content", "arguments", "error", "says"),
    [
        (None, {}, "not_found", "f.pdf"),
        (b"", {}, "not_a_pdf", "f.pdf: not a PDF"),
        (b"text\n" * 1000, {}, "not_a_pdf", "f.pdf: not a PDF"),
        (b"%PDF-1.7\nnothing else", {}, "pdf_damaged", "the document is damaged"),
        (document(3)[:-300], {}, "pdf_damaged", "the document is damaged"),
        (document(0), {}, "no_pages", "no pages"),
        (document(2, password="x"), {}, "pdf_encrypted", "encrypted"),
        (document(2), {"fromPage": 3}, "invalid_arguments", "has 2 pages"),
        (document(2), {"fromPage": 2, "toPage": 1}, "invalid_arguments", "lies before"),
        (document(2), {"fromPage": 0}, "invalid_arguments", "at least 1"),
        (document(1) + bytes(31 << 20), {}, "file_too_large", "31.0 MiB, and PDF files are read up to 30 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_shown_is_named(
    daemon: FakeDaemon,
    workspace: Path,
    content: bytes | None,
    arguments: dict[str, int],
    error: str,
    says: str,
) -> None:
    if content is not None:
        (workspace / "f.pdf").write_bytes(content)
    await daemon.begin(workspace)
    value = await daemon.value(1, "readPdfFile", path="f.pdf", **arguments)
    assert value["error"] == error
    assert says in value["message"]


async def test_a_directory_a_fifo_and_a_path_outside_are_refused(daemon: FakeDaemon, workspace: Path) -> None:
    import os

    os.mkfifo(workspace / "fifo")
    (workspace / "out").symlink_to("/etc/passwd")
    await daemon.begin(workspace)
    calls = [("readPdfFile", {"path": path}) for path in (".", "fifo", "out", "/etc/passwd", "a\0b")]
    errors = [value_of(result)["error"] for result in await daemon.results(1, *calls)]
    outside = "path_outside_workspace"
    assert errors == ["is_a_directory", "not_a_file", outside, outside, "invalid_path"]


BOMB = zlib.compress(bytes(200 << 20), 9)
PAGES = b"<</Type/Pages/Count 1/Kids[3 0 R]>>"
HOSTILE = {
    "a page tree in a circle": written(b"<</Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R]>>"),
    "arrays in arrays": written(b"<</Pages 2 0 R>>", b"<</Type/Pages/Kids" + b"[" * 500_000 + b">>"),
    "a bomb of objects": written(
        b"<</Pages 2 0 R>>",
        b"<</Type/ObjStm/N 99999999/First 9/Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(BOMB), BOMB),
    ),
    "a bomb in a page": written(
        b"<</Pages 2 0 R>>",
        PAGES,
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(BOMB), BOMB),
    ),
    "many objects and no table": b"%PDF-1.4\n" + b"1 0 obj<<>>stream\n" * 100_000,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_document_costs_the_runner_nothing(
    program: FakeDaemon, workspace: Path, content: bytes
) -> None:
    (workspace / "f.pdf").write_bytes(content)
    await program.begin(workspace)
    pid = (await program.value(1, "healthCheck"))["pid"]
    before = _peak(pid)
    (result,) = await program.results(2, ("readPdfFile", {"path": "f.pdf"}))
    value = value_of(result)
    assert value.get("error") in (None, "pdf_damaged", "no_pages", "pdf_timeout", "pdf_failed")
    assert _peak(pid) - before < 16 << 10


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def test_one_that_takes_too_long_or_too_much_memory_is_ended(
    daemon: FakeDaemon, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "slow.pdf").write_bytes(b"%PDF-1.4\n" + b"1 0 obj\n<<>>\nendobj\n" * 1_400_000)
    (workspace / "big.pdf").write_bytes(document(2, ballast=14 << 20))
    await daemon.begin(workspace)
    monkeypatch.setattr(pdf_file, "MEMORY_BYTES", 100 << 20)
    value = await daemon.value(1, "readPdfFile", path="big.pdf", toPage=1)
    assert value["error"] == "pdf_failed"
    assert "100 MiB" in value["message"]
    monkeypatch.setattr(pdf_file, "MEMORY_BYTES", 512 << 20)
    monkeypatch.setattr(pdf_file, "PDF_SECONDS", 1.0)
    value = await daemon.value(2, "readPdfFile", path="slow.pdf")
    assert value["error"] in ("pdf_timeout", "pdf_failed")  # the clock or the processor's limit, whichever is first
    assert (await daemon.value(3, "healthCheck"))["status"] == "ok"


async def test_a_turn_carries_as_many_images_and_documents_as_fit(daemon: FakeDaemon, workspace: Path) -> None:
    (workspace / "i.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(14 << 20))
    (workspace / "j.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(15 << 20)[8:])
    await daemon.begin(workspace)
    results = await daemon.results(1, *[("readImageFile", {"path": "i.png"})] * 3)
    values = [value_of(result) for result in results]
    assert sorted(value.get("error", "") for value in values) == ["", "", "turn_full"]
    (full,) = (value for value in values if "error" in value)
    assert full["message"] == "i.png: 14.0 MiB, but of 32 MiB for one turn 28.0 are taken; try it next"
    assert "error" not in await daemon.value(2, "readImageFile", path="j.png")
