"""Where hunks fit."""

import difflib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perstack_runner.tools import hunk
from perstack_runner.tools.hunk import Applied
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.patch import Hunk, parse

NO_NEWLINE = "\\ No newline at end of file\n"


def hunks(*bodies: str) -> tuple[Hunk, ...]:
    return parse("--- a/f\n+++ b/f\n" + "".join(bodies))[0].hunks


def applied(content: bytes, *bodies: str) -> Applied:
    return hunk.apply(content, hunks(*bodies))


def patched(content: bytes, *bodies: str) -> bytes:
    result = applied(content, *bodies)
    assert result.misfits == ()
    return result.content


def diff(old: str, new: str, context: int) -> str:
    """As diff -u: what has no newline at its end says so."""
    lines = list(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "a/f", "b/f", n=context))
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}" for line in lines)


texts = st.lists(st.sampled_from(["a\n", "b\n", "\n", "c d\n", "ä\n"]), max_size=30).map("".join)


@settings(deadline=None, max_examples=300)
@given(old=texts, new=texts, context=st.integers(0, 4), cut_old=st.booleans(), cut_new=st.booleans())
def test_what_diff_says_turns_the_old_text_into_the_new_one(
    old: str, new: str, context: int, cut_old: bool, cut_new: bool
) -> None:
    old, new = old[:-1] if cut_old else old, new[:-1] if cut_new else new
    text = diff(old, new, context)
    if text:
        result = hunk.apply(old.encode(), parse(text)[0].hunks)
        assert (result.misfits, result.moved, result.content) == ((), {}, new.encode())


@settings(deadline=None, max_examples=100)
@given(old=texts, new=texts, before=st.integers(0, 20))
def test_with_lines_of_others_before_it_fits_further_down(old: str, new: str, before: int) -> None:
    if text := diff("MARK\n" + old, "MARK\n" + new, 100):
        above = "".join(f"{number}\n" for number in range(before))
        result = hunk.apply(f"{above}MARK\n{old}".encode(), parse(text)[0].hunks)
        assert result.content == f"{above}MARK\n{new}".encode()
        assert result.moved == ({1: before} if before else {})


def test_the_nearest_place_wins_and_of_two_the_later() -> None:
    body = "@@ -5 +5 @@\n-x\n+y\n"
    assert patched(b"x\n1\n2\nx\n4\n5\n6\nx\n", body) == b"x\n1\n2\ny\n4\n5\n6\nx\n"
    assert patched(b"1\n2\nx\n4\n5\n6\nx\n", body) == b"1\n2\nx\n4\n5\n6\ny\n"


def test_later_hunks_move_along_with_earlier_ones_and_never_before_them() -> None:
    text = b"0\n0\n0\na\nb\nx\nb\n"
    result = applied(text, "@@ -1 +1 @@\n-a\n+A\n", "@@ -2 +2 @@\n-b\n+B\n")
    assert (result.content, result.moved) == (b"0\n0\n0\nA\nB\nx\nb\n", {1: 3})
    (misfit,) = applied(b"b\na\n", "@@ -1 +1 @@\n-a\n+A\n", "@@ -2 +2 @@\n-b\n+B\n").misfits
    assert misfit.hunk == 2


def test_only_whole_lines_fit() -> None:
    (misfit,) = applied(b"xa\nax\n", "@@ -1 +1 @@\n-a\n+b\n").misfits
    assert misfit.message == "line 1 is 'xa', and not 'a'"


@pytest.mark.parametrize(
    ("content", "body", "result"),
    [
        (b"", "@@ -0,0 +1 @@\n+a\n", b"a\n"),
        (b"", f"@@ -0,0 +1 @@\n+a\n{NO_NEWLINE}", b"a"),
        (b"1\n2\n", "@@ -1,0 +2 @@\n+a\n", b"1\na\n2\n"),
        (b"1\n2\n", "@@ -0,0 +1 @@\n+a\n", b"a\n1\n2\n"),
        (b"1\n2", "@@ -2,0 +3 @@\n+a\n", b"1\n2\na\n"),
        (b"1\n", "@@ -1 +0,0 @@\n-1\n", b""),
        # Who does not speak of the missing newline means to leave it, unless the last line is another.
        (b"1\n2", "@@ -1,2 +1,2 @@\n-1\n+a\n 2\n", b"a\n2"),
        (b"1\n2", "@@ -1,2 +1,2 @@\n 1\n-2\n+a\n", b"1\na\n"),
        (b"1\n2", f"@@ -2 +2 @@\n-2\n{NO_NEWLINE}+a\n{NO_NEWLINE}", b"1\na"),
        (b"1\n2\n", f"@@ -2 +2 @@\n-2\n+a\n{NO_NEWLINE}", b"1\na"),
        (b"1\n2\n3\n4\n5", "@@ -1 +1 @@\n-1\n+a\n", b"a\n2\n3\n4\n5"),
        # Line endings are the file's.
        (b"1\r\n2\r\n", "@@ -1,2 +1,3 @@\n 1\n+a\n 2\n", b"1\r\na\r\n2\r\n"),
        (b"1\r\n2\r\n", "@@ -1,0 +2 @@\n+a\n", b"1\r\na\r\n2\r\n"),
        (b"1\n2\n", "@@ -1,2 +1,3 @@\r\n 1\r\n+a\r\n 2\r\n", b"1\na\n2\n"),
        (b"1\xff\n2\n", "@@ -2 +2 @@\n-2\n+a\n", b"1\xff\na\n"),
    ],
)
def test_ends_of_files_and_of_lines(content: bytes, body: str, result: bytes) -> None:
    assert patched(content, body) == result


@pytest.mark.parametrize(
    ("content", "body", "says"),
    [
        (b"1\n2\n3\n", "@@ -2,2 +2,2 @@\n 2\n-x\n+y\n", "line 3 is '3', and not 'x'"),
        (b"1\n", "@@ -9 +9 @@\n-x\n+y\n", "line 9 is '', and not 'x'"),
        (b"1\n", "@@ -5,0 +6 @@\n+y\n", "no line 5 to add behind"),
        (b"1\n2\n", f"@@ -2 +2 @@\n-2\n{NO_NEWLINE}+x\n", "no newline at its end, but it has"),
        (b"1\ny\n", "@@ -1,2 +1,2 @@\n 1\n-x\n+y\n", "applied already"),
    ],
)
def test_what_does_not_fit_is_shown_with_what_stands_there(content: bytes, body: str, says: str) -> None:
    (misfit,) = applied(content, body).misfits
    assert says in misfit.message


def test_a_misfit_shows_as_many_lines_as_the_hunk_has_up_to_a_bound() -> None:
    (misfit,) = applied(b"1\n2\n3\n4\n", "@@ -2,2 +2,2 @@\n-x\n-y\n+z\n").misfits
    assert (misfit.line, misfit.expected, misfit.found) == (2, "x\ny\n", "2\n3\n")
    long = "".join(f"-{'x' * 900}\n" for _ in range(50))
    (misfit,) = applied(b"y" * 100_000 + b"\n", f"@@ -1,50 +0,0 @@\n{long}").misfits
    assert len(misfit.expected) < 1100
    assert len(misfit.found) <= 1100


def test_no_more_than_a_few_misfits_are_looked_at() -> None:
    bodies = (f"@@ -{n} +{n} @@\n-x{n}\n+y\n" for n in range(1, 50))
    assert len(applied(b"1\n" * 100, *bodies).misfits) == hunk.MOST_MISFITS


def test_many_lines_that_are_the_same_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunk, "APPLY_SECONDS", 0.5)
    text = b"a\n" * 2_000_000
    bodies = [f"@@ -{n} +{n} @@\n-a\n-b\n" for n in range(1, 5)]
    started = time.process_time()
    assert len(applied(text, *bodies).misfits) == 4
    with pytest.raises(ToolFailure, match="found no place in"):
        applied(text, "@@ -4000000,3 +1,0 @@\n-a\n-a\n-a\n", *["@@ -999999999 +1,0 @@\n-a\n"] * 4000)
    assert time.process_time() - started < 20
