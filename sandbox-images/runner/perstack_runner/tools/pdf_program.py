"""The process behind readPdfFile: a hostile document takes its memory and its time, not the runner's.

Standard input: the file. Arguments: the JSON of pdf_file.request. Standard output: one line of JSON, {from, to, pages,
size}, and behind it the `size` bytes of a PDF with these pages; or a line {error, message} alone. Nothing is printed
when the kernel ended it.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys

TYPE_CHECKING = False  # typing itself would be a fifth of the start-up
if TYPE_CHECKING:
    from typing import Any

    from pypdf import PdfReader


class Unreadable(Exception):  # noqa: N818 - as ToolFailure: an answer for the model
    """A document that cannot be shown: the failure's name, and what to do."""


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.argv[1])
    _bound(request["memory"], request["seconds"])
    sys.path += (
        path for path in request["libraries"] if path not in sys.path
    )  # -I -S leave the standard library alone
    try:
        header, document = _answer(request, sys.stdin.buffer.read(request["bytes"] + 1))
    except Unreadable as error:
        header, document = {"error": error.args[0], "message": error.args[1]}, b""
    except MemoryError:
        message = f"this needs more than {request['memory'] >> 20} MiB of memory; ask for fewer pages"
        header, document = {"error": "pdf_failed", "message": message}, b""
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    sys.stdout.buffer.write(document)


def _bound(memory: int, seconds: float) -> None:
    for limit, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, int(seconds)), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123 - the first to go, not the runner
        file.write("1000")


def _answer(request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    if len(content) > request["bytes"]:
        raise Unreadable("file_too_large", "the file grew while it was read; try again")
    repaired: list[str] = []
    reader = _reader(content, repaired)
    pages = _page_count(reader)
    first = request["from"]
    if first > pages:
        raise Unreadable("invalid_arguments", f"fromPage is {first}, but the document has {pages} pages")
    last = min(request["to"] or pages, pages, first + request["most"] - 1)
    whole = (first, last) == (1, pages) and not repaired
    document = content if whole else _cut(reader, first, last)
    if len(document) > request["result"]:
        size, most = len(document) / (1 << 20), request["result"] >> 20
        message = f"pages {first}-{last} take {size:.1f} MiB, and a document is shown up to {most} MiB; ask for fewer"
        raise Unreadable("result_too_large", message)
    return {"from": first, "to": last, "pages": pages, "size": len(document)}, document


def _reader(content: bytes, repaired: list[str]) -> PdfReader:
    """`repaired` gets what the reader had to put right, now or later."""
    for name in ("cryptography", "Crypto"):  # only to decrypt, which is not done; they take long to import
        sys.modules[name] = None  # type: ignore[assignment]  # import machinery: None means "cannot be imported"
    import logging

    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError:
        message = "the sandbox's image has no PDF library; ask the operator to build it again"
        raise Unreadable("pdf_failed", message) from None
    noting = logging.Handler()
    noting.emit = lambda record: repaired.append(record.name)  # type: ignore[method-assign]
    logging.getLogger("pypdf").addHandler(noting)
    try:
        reader = PdfReader(io.BytesIO(content))
        encrypted = reader.is_encrypted
    except (DependencyError, NotImplementedError):
        encrypted = True
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(error) from None
    if encrypted:
        raise Unreadable("pdf_encrypted", "the document is encrypted; ask for a copy without a password")
    return reader


def _page_count(reader: PdfReader) -> int:
    try:
        pages = len(reader.pages)
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(error) from None
    if not pages:
        raise Unreadable("no_pages", "the document has no pages")
    return pages


def _cut(reader: PdfReader, first: int, last: int) -> bytes:
    from pypdf import PdfWriter

    try:
        writer = PdfWriter()
        writer.append(reader, pages=(first - 1, last), import_outline=False)
        target = io.BytesIO()
        writer.write(target)
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(error) from None
    return target.getvalue()


def _damaged(error: Exception) -> Unreadable:
    detail = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
    return Unreadable("pdf_damaged", f"the document is damaged: {detail}; a program may repair it through exec")


if __name__ == "__main__":
    main()
    sys.stdout.buffer.flush()
    os._exit(0)  # what a large document left takes longer to give back than to forget
