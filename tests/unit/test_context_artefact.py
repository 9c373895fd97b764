"""Artefacts: names, what is shown of them, pages of lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstackd.domain.context_artefact import Artefact, LinePage, clipped, excerpt, is_text, matching
from perstackd.domain.messages import BlobPart

TEXTS = st.text(alphabet="ab\né漢", max_size=200).map(str.encode)


def paged(data: bytes, first: int, last: int | None, limit: int, size: int) -> LinePage:
    page = LinePage(first, last, limit)
    for start in range(0, len(data), size):
        if not page.feed(data[start : start + size]):
            break
    return page


@given(TEXTS, st.integers(0, 12), st.none() | st.integers(0, 12), st.integers(1, 50))
def test_a_page_has_the_lines_that_were_asked_for_however_the_text_comes(
    data: bytes, first: int, last: int | None, size: int
) -> None:
    wanted = data.splitlines(keepends=True) if b"\r" not in data else []
    page = paged(data, first, last, 10_000, size)
    assert page.text == b"".join(wanted[first:last] if last is None or last > first else []).decode()


@given(TEXTS, st.integers(0, 5), st.integers(1, 30), st.integers(1, 50))
def test_a_page_is_never_larger_than_its_limit_and_its_start_is_right(
    data: bytes, first: int, limit: int, size: int
) -> None:
    page = paged(data, first, None, limit, size)
    rest = b"".join(data.splitlines(keepends=True)[first:])
    assert len(page.text.encode()) <= limit
    assert rest.decode().startswith(page.text)
    assert page.full == (len(rest) > limit)


def test_the_next_page_goes_on_at_the_line_that_was_cut() -> None:
    data = b"".join(b"line %03d\n" % number for number in range(100))
    page = paged(data, 10, None, 95, 64)
    assert (page.full, page.reached) == (True, 20)
    assert page.text.endswith("line 019\nline ")
    assert paged(data, page.reached, None, 95, 64).text.startswith("line 020\n")


@given(st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")), st.integers(1, 20), st.integers(0, 20))
def test_an_excerpt_of_any_text_is_its_head_and_tail_without_half_characters(data: bytes, head: int, tail: int) -> None:
    first, last = data[:head], data[max(head, len(data) - tail) :] if tail else b""
    shown = excerpt(first, last, len(data), data.count(b"\n"))
    if len(first) + len(last) == len(data):
        assert shown == data.decode()
    else:
        assert "left out here" in shown
        assert "\ufffd" not in shown


def test_an_excerpt_says_how_much_is_missing_and_from_which_line_on() -> None:
    data = b"a\nb\nc\nd\ne\n"
    assert excerpt(data[:4], data[-2:], len(data), 5) == (
        "a\nb\n\n[... 4 bytes in 2 lines left out here, from line 2 on ...]\ne\n"
    )


@pytest.mark.parametrize(
    ("media_type", "text"),
    [
        ("text/plain; charset=utf-8", True),
        ("application/json", True),
        ("application/vnd.api+json", True),
        ("image/svg+xml", True),
        ("image/png", False),
        ("application/octet-stream", False),
    ],
)
def test_what_is_text_is_told_by_its_type(media_type: str, text: bool) -> None:
    assert is_text(media_type) is text


def test_an_id_is_a_digest_or_its_beginning() -> None:
    digests = [f"sha256:{'ab' * 31}0{end}" for end in "12"]
    known = {digest: Artefact(BlobPart(digest, 1, "text/plain"), "run", 1, "call") for digest in digests}
    assert len(matching("abababab", known)) == 2
    assert [each.blob.digest for each in matching(digests[0].upper().replace("SHA256", "sha256"), known)] == digests[:1]
    assert matching("cdcdcdcd", known) == []


@given(st.text(max_size=300), st.integers(4, 100))
def test_a_clipped_text_keeps_its_ends(text: str, limit: int) -> None:
    shown = clipped(text, limit)
    assert shown == text or (shown[: limit * 3 // 4] == text[: limit * 3 // 4] and len(shown) <= limit + 60)
