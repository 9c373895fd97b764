"""readPdfFile: a document, or some of its pages, as an attachment. The cutting is done by pdf_program.py."""

import json
import os
import sys
from typing import Any, Final

from perstack_runner.messages import Blob
from perstack_runner.results import MEDIA_BYTES
from perstack_runner.tools.outcome import Outcome, ToolFailure
from perstack_runner.tools.tree import Tree

PDF_BYTES: Final = 30 << 20
PDF_PAGES: Final = 100
"""Of one call: what the providers take in one request with their usual models."""
PDF_SECONDS: Final = 20.0
MEMORY_BYTES: Final = 512 << 20
"""Address space of the program; the interpreter and the library take 80 MiB of it."""
ANSWER_BYTES: Final = MEDIA_BYTES + (4 << 10)
_HEADER_BYTES: Final = 1024  # readers look for %PDF- in the first kilobyte, so some files have something before it
_MEDIA_TYPE: Final = "application/pdf"


def request(arguments: dict[str, Any]) -> str:
    """What pdf_program.py takes as its argument. Raises ToolFailure invalid_arguments."""
    first, last = arguments.get("fromPage", 1), arguments.get("toPage", 0)
    if last and last < first:
        raise ToolFailure("invalid_arguments", f"toPage ({last}) lies before fromPage ({first})")
    fields = {
        "libraries": [path for path in sys.path if path.startswith("/")],
        "from": first,
        "to": last,
        "most": PDF_PAGES,
        "bytes": PDF_BYTES,
        "result": MEDIA_BYTES,
        "seconds": PDF_SECONDS,
        "memory": MEMORY_BYTES,
    }
    return json.dumps(fields)


def opened(tree: Tree, path: str) -> int:
    """A descriptor of the file, at its beginning.

    Raises:
        ToolFailure: file_too_large, not_a_pdf, and as Tree.place.
        OSError: as open(2).
    """
    with tree.place(path) as place:
        descriptor = tree.open_file(place, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if size > PDF_BYTES:
            message = f"{path}: {size / (1 << 20):.1f} MiB, and PDF files are read up to {PDF_BYTES >> 20} MiB"
            raise ToolFailure("file_too_large", f"{message}; split it with a program through exec")
        if b"%PDF-" not in os.pread(descriptor, _HEADER_BYTES, 0):
            raise ToolFailure("not_a_pdf", f"{path}: not a PDF file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def answer(raw: bytearray, path: str, arguments: dict[str, Any]) -> Outcome:
    """The program's answer as an outcome; empties `raw`. Raises ToolFailure when it is none, or names a fault."""
    end = raw.find(b"\n")
    header: dict[str, Any] = json.loads(raw[:end]) if end >= 0 else {}
    if "error" in header:
        raise ToolFailure(header["error"], f"{path}: {header['message']}")
    del raw[: end + 1]
    if header.get("size") != len(raw):
        message = f"{path}: the document could not be read with {MEMORY_BYTES >> 20} MiB in {PDF_SECONDS:.0f} s"
        raise ToolFailure("pdf_failed", f"{message}; ask for fewer pages")
    document = bytes(raw)
    raw.clear()
    first, last, pages = header["from"], header["to"], header["pages"]
    value = {"path": path, "mimeType": _MEDIA_TYPE, "pages": f"{first}-{last} of {pages}", "size": len(document)}
    if last < min(arguments.get("toPage", pages), pages):
        value["truncated"] = f"stopped at {PDF_PAGES} pages; go on with fromPage={last + 1}"
    return Outcome(value, Blob(document, _MEDIA_TYPE))
