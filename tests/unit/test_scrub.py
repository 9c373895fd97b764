"""The net: every form of a value is found wherever it stands, split however it may be, and nothing else is changed."""

import base64
import json
import re
import time
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.domain.scrub import MIN_BYTES, NOTHING, Net, forms, net, net_of_bytes

VALUE = 'pä$$ "w/rd"<&>\nline+2'
LABEL = "[secret TOKEN]"
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=MIN_BYTES, max_size=40)
AROUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def streamed(found: Net, pieces: list[str]) -> str:
    held, passed = "", ""
    for piece in pieces:
        more, held = found.fed(held, piece)
        passed += more
    return passed + found.text(held)


WRITTEN: dict[str, Callable[[str], str]] = {
    "raw": lambda value: value,
    "url": lambda value: quote(value, safe=""),
    "url, lower": lambda value: re.sub("%..", lambda match: match[0].lower(), quote(value, safe="")),
    "path": lambda value: quote(value),  # noqa: PLW0108 - of a text
    "form": lambda value: quote_plus(value),  # noqa: PLW0108 - of a text
    "json": lambda value: json.dumps(value)[1:-1],
    "json, no ascii": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "json in json": lambda value: json.dumps(json.dumps({"a": value})),
    "json, slashes": lambda value: json.dumps(value)[1:-1].replace("/", "\\/"),
    "json, markup": lambda value: json.dumps({"a": value}).translate({60: "\\u003c", 62: "\\u003e", 38: "\\u0026"}),
}


@pytest.mark.parametrize("form", list(WRITTEN))
def test_each_form_of_a_value_is_replaced(form: str) -> None:
    text = WRITTEN[form](VALUE)
    cleaned = net({VALUE: "TOKEN"}).text(f"<{text}>")
    assert LABEL in cleaned
    assert not any(each in cleaned for each in forms(VALUE))


@settings(max_examples=200, deadline=None)
@given(VALUES, AROUND, AROUND)
def test_base64_of_a_value_is_found_in_every_alignment(value: str, before: str, after: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(f"{before}{value}{after}".encode()).decode()
        assert LABEL in net({value: "TOKEN"}).text(text)


@settings(max_examples=200, deadline=None)
@given(VALUES, AROUND, AROUND, st.lists(st.integers(0, 100), max_size=6))
def test_a_stream_is_cleaned_as_the_whole_text_is(value: str, before: str, after: str, cuts: list[int]) -> None:
    found = net({value: "TOKEN"})
    whole = f"{before}{value}{after}{before}"
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    pieces = [whole[a:b] for a, b in pairwise(places)]
    assert streamed(found, pieces) == found.text(whole)


def test_every_cut_of_a_stream_in_two_is_mended() -> None:
    found = net({VALUE: "TOKEN", "another-secret": "OTHER", "another-secret-longer": "LONGER"})
    for form in (*forms(VALUE), "another-secret", "another-secret-longer"):
        whole = f"xx{form}yy{form}"
        for cut in range(len(whole)):
            assert streamed(found, [whole[:cut], whole[cut:]]) == found.text(whole)
        assert streamed(found, list(whole)) == found.text(whole)


def test_only_what_may_begin_a_value_is_held_back() -> None:
    found = net({"token-1234567890": "TOKEN"})
    assert found.fed("", "all is well\n") == ("all is well\n", "")
    assert found.fed("", "the token-12") == ("the ", "token-12")
    assert found.fed("token-12", "34") == ("", "token-1234")
    assert found.fed("token-1234", " and on") == ("token-1234 and on", "")
    long = "s" * 40 + "e" * 65_000
    passed, held = net({long: "LONG"}).fed("", "x" * 100_000 + "s" * 39)
    assert (len(passed), held) == (100_000, "s" * 39)


def test_the_longest_value_wins_where_two_begin() -> None:
    found = net({"password": "SHORT", "password-and-more": "LONG"})
    assert found.text("password-and-more password") == "[secret LONG] [secret SHORT]"
    assert streamed(found, ["password", "-and", "-more pass", "word"]) == "[secret LONG] [secret SHORT]"


@pytest.mark.parametrize(("value", "known"), [("1234567", False), ("12345678", True), ("äöü1", False), ("äöüß", True)])
def test_values_of_fewer_than_eight_bytes_are_left_alone(value: str, known: bool) -> None:
    assert bool(net({value: "PIN"})) is known


def test_a_text_without_a_value_is_the_same_object_and_an_empty_net_holds_nothing_back() -> None:
    text = "nothing of interest here"
    assert net({VALUE: "TOKEN"}).text(text) is text
    assert NOTHING.text(text) is text
    assert NOTHING.fed("", text) == (text, "")
    assert not NOTHING


def test_bytes_are_cleaned_without_being_text() -> None:
    blob = b"\xff\xfe\x00" + VALUE.encode() + b"\x80" + base64.b64encode(VALUE.encode())
    cleaned = net_of_bytes({VALUE: "TOKEN"}).text(blob.decode("latin-1")).encode("latin-1")
    assert cleaned.startswith(b"\xff\xfe\x00[secret TOKEN]\x80[secret TOKEN]")


def test_a_net_shows_no_value() -> None:
    assert "token-1234567890" not in repr(net({"token-1234567890": "TOKEN"}))


def test_a_hostile_text_costs_about_as_much_as_any_other() -> None:
    """Beginnings of a long value over and over: a bound that a quadratic search would miss by far."""
    found = net({"a" * 30_000 + "b" + "a" * 30_000: "LONG"})
    begun = time.process_time()
    for _ in range(20):
        found.fed("a" * 50_000, "a" * 200_000)
    assert time.process_time() - begun < 10
