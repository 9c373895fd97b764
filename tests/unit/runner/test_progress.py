import asyncio

import pytest
from perstack_runner.progress import PENDING_BYTES, OutputStream

pytestmark = pytest.mark.anyio


async def test_output_is_joined_and_its_characters_are_not_torn() -> None:
    sent: list[tuple[int, str]] = []
    first = asyncio.Event()

    def send(offset: int, text: str) -> None:
        sent.append((offset, text))
        first.set()

    stream = OutputStream(send)
    for byte in "zwölf".encode()[:3]:
        stream.feed(bytes([byte]))
    async with asyncio.timeout(5):
        await first.wait()
    stream.feed("zwölf".encode()[3:])
    stream.close()
    assert [text for _, text in sent] == ["zw", "ölf"]


async def test_a_flood_is_left_out_and_the_offset_tells_the_gap() -> None:
    sent: list[tuple[int, str]] = []
    stream = OutputStream(lambda offset, text: sent.append((offset, text)))
    for _ in range(100):
        stream.feed(b"x" * PENDING_BYTES)
    stream.feed(b"end")
    stream.close()
    ((offset, text),) = sent
    assert len(text) == PENDING_BYTES
    assert offset + len(text) == 100 * PENDING_BYTES + 3
    assert text.endswith("xend")


async def test_nothing_is_sent_after_the_end_or_without_output() -> None:
    sent: list[tuple[int, str]] = []
    OutputStream(lambda offset, text: sent.append((offset, text))).close()
    assert sent == []
