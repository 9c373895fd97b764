"""Search for words: the same hits however a text comes, bounded whatever is looked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstackd.domain.context_search import LINE_SHOWN, PIECE, LineSearch, terms_of


def searched(text: str, pattern: str, context: int = 0, limit: int = 100, size: int = 7) -> LineSearch:
    search = LineSearch(terms_of(pattern), context, limit)
    for start in range(0, len(text), size):
        if not search.feed(text[start : start + size]):
            break
    search.end()
    return search


@given(
    st.text(alphabet="abAB \n", max_size=200), st.sampled_from(["a", "ab", "a b", '"a b"', "AB aa"]), st.integers(1, 99)
)
def test_the_hits_are_the_lines_that_have_all_words(text: str, pattern: str, size: int) -> None:
    terms = terms_of(pattern)
    lines = text.split("\n")
    expected = [number for number, line in enumerate(lines) if all(term in line.lower() for term in terms)]
    assert [hit.line for hit in searched(text, pattern, size=size).hits] == expected


@given(st.lists(st.sampled_from(["x", "needle", "y"]), max_size=30), st.integers(0, 3), st.integers(1, 40))
def test_a_hit_comes_with_the_lines_around_it(lines: list[str], context: int, size: int) -> None:
    for hit in searched("\n".join(lines), "needle", context, size=size).hits:
        assert hit.lines == lines[max(0, hit.line - context) : hit.line + context + 1]


def test_no_more_hits_are_looked_for_than_were_wanted() -> None:
    search = searched("needle\n" * 1000, "needle", context=1, limit=3, size=100)
    assert [hit.line for hit in search.hits] == [0, 1, 2]
    assert search.hits[2].lines == ["needle"] * 3


def test_a_line_without_end_is_searched_and_shown_in_part() -> None:
    text = "x" * (5 * PIECE) + "needle" + "x" * (3 * PIECE)
    (hit,) = searched(text, "needle", size=PIECE).hits
    assert hit.line == 0
    assert hit.piece == 5
    assert "needle" in hit.lines[0]
    assert len(hit.lines[0]) <= LINE_SHOWN + 6


@pytest.mark.parametrize(
    ("pattern", "terms"),
    [
        ("Disk FULL", ("disk", "full")),
        ('error "no space left" now', ("error", "no space left", "now")),
        ("a a a", ("a",)),
        ("(a+)+$", ("(a+)+$",)),
        ('half "open phrase', ("half", "open phrase")),
    ],
)
def test_a_pattern_is_words_and_phrases(pattern: str, terms: tuple[str, ...]) -> None:
    assert terms_of(pattern) == terms


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("", "no words"), ('""', "no words"), ("x" * 257, "256 characters"), ("a b c d e f g h i", "8 words")],
)
def test_what_is_no_pattern_is_said(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        terms_of(pattern)
